//! Who has to answer, and what they have said: as listed by a quorum read, and as the watch has told since. So nothing is read while
//! writes are held: such a list may have to wait a tenth of a second for the API server's own cache.

use super::{Listing, Member, Pod, Rule, Rules, SwitchState, counts};
use crate::member::{MemberPod, PipelineMemberSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member's object as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Written {
    /// Its resourceVersion. None: older than any other.
    pub version: Option<u64>,
    /// None: it cannot be read, so it has said nothing and is waited for.
    pub said: Option<Arc<PipelineMemberSpec>>,
}

impl Written {
    fn pod(&self) -> Option<&MemberPod> {
        self.said.as_ref().map(|said| &said.pod)
    }
}

/// What the watch has told of a member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Heard {
    /// `in_order`: delivered after all that happened before. Not so what a watch tells first when it is taken up again.
    Wrote { object: Written, in_order: bool },
    /// Shut for good, or gone with its pod.
    Left { version: Option<u64> },
}

/// The members of a pipeline as they were listed, and what was heard since.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Roll {
    rules: Rules,
    lineage: Arc<str>,
    /// Nothing is missing that happened before this revision was written.
    after: u64,
    /// All that the watch has told since before the list was begun has been or will be heard here.
    followed: bool,
    listed: BTreeMap<Arc<str>, Listed>,
    strangers: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Listed {
    object: Written,
    counts: bool,
}

impl Roll {
    /// By a quorum read that was begun when revision `after` was written already. Who is missing counts, unless the pods are looked at
    /// too.
    pub fn listed(rules: Rules, lineage: Arc<str>, after: u64, members: impl IntoIterator<Item = (Arc<str>, Written)>) -> Roll {
        let listed = members.into_iter().map(|(name, object)| (name, Listed { object, counts: true }));
        Roll { rules, lineage, after, followed: false, listed: listed.collect(), strangers: Vec::new() }
    }

    /// If what the watch tells has been kept since before the list was begun, and will be heard here.
    pub fn followed(self, followed: bool) -> Roll {
        Roll { followed, ..self }
    }

    /// Who has gone is not waited for. The pods are looked at after the members were listed, so that a new one is not taken for one that
    /// is gone. `strangers`: pods that will never be members and may write, since they were made before there was a second backend.
    pub fn look_at(&mut self, pod: impl Fn(&MemberPod) -> Option<Pod>, strangers: Vec<Arc<str>>) {
        for listed in self.listed.values_mut() {
            if let Some(member) = listed.object.pod() {
                listed.counts = counts(self.rules, member, pod(member).as_ref());
            }
        }
        self.strangers = strangers;
    }

    /// What was written before the list is in it.
    ///
    /// An answer that is heard in order proves more: it was written after the revision that it answers, and all that was written before
    /// it has been heard before it. So a list that is followed is as good as one that was begun when that revision was written.
    pub fn hear(&mut self, name: &Arc<str>, heard: Heard) {
        let (version, object) = match heard {
            Heard::Left { version } => (version, None),
            Heard::Wrote { object, in_order } => {
                self.after = self.after.max(self.answered(&object, in_order));
                (object.version, Some(object))
            }
        };
        match (self.listed.get_mut(name), object) {
            (Some(listed), _) if version <= listed.object.version => {}
            (Some(_), None) => drop(self.listed.remove(name)),
            (Some(listed), Some(object)) => {
                // Another container than the one that was looked at counts until it is looked at.
                listed.counts |= listed.object.pod() != object.pod();
                listed.object = object;
            }
            (None, Some(object)) if self.rules.keep(Rule::ListAfterHold) => {
                self.listed.insert(name.clone(), Listed { object, counts: true });
            }
            (None, _) => {}
        }
    }

    /// The revision that this proves to have been written before it.
    fn answered(&self, object: &Written, in_order: bool) -> u64 {
        let proves = self.followed && (in_order || !self.rules.keep(Rule::ProvenInOrder));
        let answer = object.said.as_ref().filter(|_| proves).and_then(|said| said.answer.as_ref());
        answer.filter(|answer| *answer.lineage == *self.lineage).map_or(0, |answer| answer.revision)
    }

    /// Whether this is, or is going to be, a list of this phase.
    pub fn will_do(&self, state: &SwitchState) -> bool {
        state.same_lineage(&self.lineage) && (self.after >= state.since() || self.followed) && !self.listed.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub fn said(&self) -> impl Iterator<Item = &PipelineMemberSpec> {
        self.listed.values().filter_map(|listed| listed.object.said.as_deref())
    }

    /// Those that count and take the names of backends for other brokers than these, see [`crate::runtime_config::RuntimeConfig::brokers`].
    pub fn elsewhere(&self, brokers: &str) -> Vec<Arc<str>> {
        let other = |listed: &Listed| {
            let said = listed.object.said.as_ref().and_then(|said| said.brokers.as_deref());
            listed.counts && said.is_some_and(|said| said != brokers)
        };
        self.listed.iter().filter(|(_, listed)| other(listed)).map(|(name, _)| name.clone()).collect()
    }

    pub fn strangers(&self) -> &[Arc<str>] {
        &self.strangers
    }

    /// None: of another lineage.
    pub fn listing(&self, state: &SwitchState) -> Option<Listing> {
        if !state.same_lineage(&self.lineage) {
            return None;
        }
        let members = self.listed.iter().map(|(name, Listed { object, counts })| Member {
            name: name.clone(),
            counts: *counts,
            answer: object.said.as_ref().and_then(|said| said.answer.clone()),
            reports: object.said.as_ref().and_then(|said| said.reports.clone()),
        });
        // They cannot answer, so they hold the switch up until they are gone.
        let strangers = self.strangers.iter().map(|name| Member { name: name.clone(), counts: true, answer: None, reports: None });
        let unproven = self.followed && !self.rules.keep(Rule::ProvenByAnswer);
        Some(Listing { after: if unproven { state.since() } else { self.after }, members: members.chain(strangers).collect() })
    }
}
