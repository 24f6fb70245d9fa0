//! Which drivers there are. One task owns them all and joins each, so that none can end in silence; it talks to nobody but the drivers
//! and is never kept waiting.

use super::driver::{self, Inbox};
use super::{Wanted, members};
use crate::again::Again;
use crate::context::Context;
use anyhow::bail;
use crds::member::PipelineMember;
use crds::switch::names::PIPELINE_LABEL;
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Reconciles that may be ahead of the board; it takes them at once.
const WAITING: usize = 64;

/// Namespace and name of a pipeline.
type Key = (String, String);

enum Command {
    Drive(Box<Wanted>),
    Announce(Box<Wanted>, bool),
    Forget(Key),
    Leave,
}

/// How a reconcile tells the board of its pipeline.
#[derive(Clone)]
pub struct Switches(mpsc::Sender<Command>);

impl Switches {
    /// The pipeline has two or more backends: its driver is started, or told what has changed.
    pub async fn drive(&self, wanted: Wanted) {
        self.send(Command::Drive(Box::new(wanted))).await;
    }

    /// What is about to be brought about. Its driver hears at once of other backends: none must be switched to that pods are just losing. And
    /// where a switch is under way, and nobody drives it, it goes on before all else: writes may be held.
    pub async fn announce(&self, wanted: Wanted, moves: bool) {
        self.send(Command::Announce(Box::new(wanted), moves)).await;
    }

    /// The pipeline is gone, or has one backend: there is nothing to switch.
    pub async fn forget(&self, namespace: &str, name: &str) {
        self.send(Command::Forget((namespace.to_owned(), name.to_owned()))).await;
    }

    /// The process ends: what cannot be finished at once is taken back, and then the board ends.
    pub async fn leave(&self) {
        self.send(Command::Leave).await;
    }

    async fn send(&self, command: Command) {
        // A board that has ended ends the process: nobody is left who has to know.
        let _ = self.0.send(command).await;
    }
}

pub struct Board {
    commands: mpsc::Receiver<Command>,
}

struct Driver {
    wanted: watch::Sender<Arc<Wanted>>,
    inbox: Arc<Inbox>,
}

struct Drivers {
    context: Arc<Context>,
    running: HashMap<Key, Driver>,
    tasks: JoinSet<()>,
    leaving: watch::Sender<bool>,
}

impl Board {
    pub fn new() -> (Switches, Board) {
        let (sender, commands) = mpsc::channel(WAITING);
        (Switches(sender), Board { commands })
    }

    /// Runs until it is told to leave, and every driver has left.
    pub async fn run(mut self, context: Arc<Context>, namespace: Option<String>) -> anyhow::Result<()> {
        let mut member_events = std::pin::pin!(member_events(&context, namespace.as_deref()));
        let mut state_events = std::pin::pin!(state_events(&context, namespace.as_deref()));
        let mut drivers = Drivers { context, running: HashMap::new(), tasks: JoinSet::new(), leaving: watch::Sender::new(false) };
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Drive(wanted)) => drivers.drive(*wanted),
                    Some(Command::Announce(wanted, moves)) => drivers.announce(*wanted, moves),
                    Some(Command::Forget(key)) => drop(drivers.running.remove(&key)),
                    Some(Command::Leave) => break,
                    None => bail!("nobody is left who could say what is to be switched"),
                },
                Some(event) = member_events.next() => drivers.member(event),
                Some(event) = state_events.next() => drivers.state(event),
                Some(ended) = drivers.tasks.join_next() => ended?,
            }
        }
        drivers.leaving.send_replace(true);
        loop {
            tokio::select! {
                Some(event) = member_events.next() => drivers.member(event),
                Some(event) = state_events.next() => drivers.state(event),
                ended = drivers.tasks.join_next() => match ended {
                    Some(ended) => ended?,
                    None => return Ok(()),
                },
            }
        }
    }
}

impl Drivers {
    fn announce(&mut self, wanted: Wanted, moves: bool) {
        let driver = self.running.get(&(wanted.namespace.clone(), wanted.name.clone()));
        match driver.filter(|driver| driver.wanted.borrow().uid == wanted.uid) {
            Some(driver) if driver.wanted.borrow().config.backends != wanted.config.backends => self.drive(wanted),
            None if moves => self.drive(wanted),
            _ => {}
        }
    }

    fn drive(&mut self, wanted: Wanted) {
        let key = (wanted.namespace.clone(), wanted.name.clone());
        if let Some(driver) = self.running.get(&key)
            && driver.wanted.borrow().uid == wanted.uid
        {
            driver.wanted.send_if_modified(|known| {
                let changed = **known != wanted;
                if changed {
                    *known = Arc::new(wanted);
                }
                changed
            });
            return;
        }
        // The driver of a pipeline of the same name that is gone ends when its sender does.
        let (sender, receiver) = watch::channel(Arc::new(wanted));
        let inbox = Arc::new(Inbox::default());
        self.tasks.spawn(driver::run(self.context.clone(), inbox.clone(), receiver, self.leaving.subscribe()));
        self.running.insert(key, Driver { wanted: sender, inbox });
    }

    fn member(&self, event: Result<Event<DynamicObject>, watcher::Error>) {
        match event {
            Ok(Event::Apply(member)) => self.of(&member, |inbox| inbox.member(&member.name_any(), members::wrote(&member, true))),
            Ok(Event::InitApply(member)) => self.of(&member, |inbox| inbox.member(&member.name_any(), members::wrote(&member, false))),
            Ok(Event::Delete(member)) => self.of(&member, |inbox| inbox.member(&member.name_any(), members::left(&member))),
            Ok(Event::Init) => {}
            // What has gone meanwhile is told of by nobody.
            Ok(Event::InitDone) => self.running.values().for_each(|driver| driver.inbox.wake.notify_one()),
            Err(error) => tracing::warn!(%error, "the watch on PipelineMembers broke off and is taken up again"),
        }
    }

    fn state(&self, event: Result<Event<PartialObjectMeta<ConfigMap>>, watcher::Error>) {
        match event {
            Ok(Event::Apply(map) | Event::InitApply(map)) => self.of(&map, |inbox| inbox.state(map.resource_version())),
            Ok(Event::Delete(map)) => self.of(&map, |inbox| inbox.state(None)),
            Ok(Event::Init) => {}
            // Any of them may have been deleted meanwhile: each is read again.
            Ok(Event::InitDone) => self.running.values().for_each(|driver| driver.inbox.state(None)),
            Err(error) => tracing::warn!(%error, "the watch on the states of switches broke off and is taken up again"),
        }
    }

    fn of<K: ResourceExt>(&self, object: &K, hear: impl FnOnce(&Inbox)) {
        let Some(pipeline) = object.labels().get(PIPELINE_LABEL) else { return };
        if let Some(driver) = self.running.get(&(object.namespace().unwrap_or_default(), pipeline.clone())) {
            hear(&driver.inbox);
        }
    }
}

fn labelled() -> watcher::Config {
    watcher::Config::default().labels(PIPELINE_LABEL)
}

fn member_events(context: &Context, namespace: Option<&str>) -> impl Stream<Item = Result<Event<DynamicObject>, watcher::Error>> + use<> {
    let (client, resource) = (context.client.clone(), ApiResource::erase::<PipelineMember>(&()));
    let api = match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    watcher::watcher(api, labelled()).backoff(Again::soon())
}

fn state_events(
    context: &Context,
    namespace: Option<&str>,
) -> impl Stream<Item = Result<Event<PartialObjectMeta<ConfigMap>>, watcher::Error>> + use<> {
    let client = context.client.clone();
    let api: Api<PartialObjectMeta<ConfigMap>> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    watcher::watcher(api, labelled()).backoff(Again::soon())
}
