//! Consumer groups: carries what `balance` decides to the members, and waits for releases.

use super::balance::{Balance, MemberId, Moves};
use super::core::locked;
use crate::broker::Partition;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

pub struct Groups {
    by_name: Mutex<HashMap<String, Arc<Group>>>,
    release_within: Duration,
}

impl Groups {
    pub fn new(release_within: Duration) -> Groups {
        Groups { by_name: Mutex::default(), release_within }
    }

    pub fn get(&self, name: &str) -> Arc<Group> {
        let mut groups = locked(&self.by_name);
        if let Some(group) = groups.get(name) {
            return group.clone();
        }
        let group = Arc::new_cyclic(|this| Group {
            this: this.clone(),
            name: name.into(),
            gate: tokio::sync::Mutex::new(()),
            release_within: self.release_within,
            state: Mutex::default(),
            runtime: Handle::current(),
        });
        groups.insert(name.into(), group.clone());
        group
    }
}

pub struct Group {
    this: Weak<Group>,
    pub name: String,
    /// Held from the check that a committer owns a partition to the end of its write, and by the next owner while it reads the commits:
    /// so no commit slips in behind the back of the next owner.
    pub gate: tokio::sync::Mutex<()>,
    release_within: Duration,
    state: Mutex<State>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    balance: Balance,
    news: BTreeMap<MemberId, Mailbox>,
    last_member: MemberId,
}

struct Mailbox {
    news: VecDeque<News>,
    wake: Arc<Notify>,
}

/// What a member is to be told next.
pub enum News {
    Assigned(Vec<Partition>),
    Revoked { partitions: Vec<Partition>, release: oneshot::Sender<()> },
    Lost(Vec<Partition>),
}

impl Group {
    /// `wake` is notified whenever there is news.
    pub fn join(&self, partitions: BTreeSet<Partition>, wake: Arc<Notify>) -> MemberId {
        let mut state = locked(&self.state);
        state.last_member += 1;
        let member = state.last_member;
        state.news.insert(member, Mailbox { news: VecDeque::new(), wake });
        let moves = state.balance.join(member, partitions);
        self.carry_out(&mut state, moves);
        member
    }

    pub fn leave(&self, member: MemberId) {
        let mut state = locked(&self.state);
        if state.news.remove(&member).is_some() {
            let moves = state.balance.leave(member);
            self.carry_out(&mut state, moves);
        }
    }

    pub fn holds(&self, member: MemberId, partition: &Partition) -> bool {
        locked(&self.state).balance.holds(member, partition)
    }

    /// The next news. An assignment stays the next one until it is [`taken`](Group::taken), since whoever hears of it has to read on,
    /// and may be cut off in between.
    pub fn next_news(&self, member: MemberId) -> Option<News> {
        let mut state = locked(&self.state);
        let news = &mut state.news.get_mut(&member)?.news;
        match news.front()? {
            News::Assigned(partitions) => Some(News::Assigned(partitions.clone())),
            News::Revoked { .. } | News::Lost(_) => news.pop_front(),
        }
    }

    /// The assignment has been taken; false when the member has left meanwhile.
    pub fn taken(&self, member: MemberId) -> bool {
        locked(&self.state).news.get_mut(&member).is_some_and(|mailbox| mailbox.news.pop_front().is_some())
    }

    fn carry_out(&self, state: &mut State, moves: Moves) {
        for (member, partitions) in moves.assigned {
            tell(state, member, News::Assigned(partitions));
        }
        for (member, partitions) in moves.revoked {
            let (release, released) = oneshot::channel();
            tell(state, member, News::Revoked { partitions: partitions.clone(), release });
            let Some(group) = self.this.upgrade() else { continue };
            self.runtime.spawn(async move {
                let in_time = timeout(group.release_within, released).await.is_ok();
                group.released(member, &partitions, in_time);
            });
        }
    }

    fn released(&self, member: MemberId, partitions: &[Partition], in_time: bool) {
        let mut state = locked(&self.state);
        if !in_time {
            lose(&mut state, member, partitions);
        }
        let moves = state.balance.released(member, partitions);
        self.carry_out(&mut state, moves);
    }
}

fn tell(state: &mut State, member: MemberId, news: News) {
    if let Some(mailbox) = state.news.get_mut(&member) {
        mailbox.news.push_back(news);
        mailbox.wake.notify_one();
    }
}

/// A member that does not release in time has lost the partitions; one that has not even heard of it need not be asked any more.
fn lose(state: &mut State, member: MemberId, partitions: &[Partition]) {
    let Some(mailbox) = state.news.get_mut(&member) else { return };
    let unheard = mailbox.news.iter_mut().find(|news| matches!(news, News::Revoked { partitions: asked, .. } if asked == partitions));
    match unheard {
        Some(news) => *news = News::Lost(partitions.into()),
        None => mailbox.news.push_back(News::Lost(partitions.into())),
    }
    mailbox.wake.notify_one();
}
