//! Pods played by a test: there is no kubelet, so a test says that a pod runs and answers a switch as the pod would, with the gate and
//! the reader that the runtime has.

use crate::world::*;
use anyhow::{Context, Result, ensure};
use crds::Role;
use crds::member::{Answer, PipelineMember, Reports};
use crds::runtime_config::{CONFIG_FILE, RuntimeConfig};
use crds::switch::names::{PIPELINE_LABEL, STATE_FILE, state_config_map};
use crds::switch::{Admit, Gate, Limits, Phase, Reader, Source, Stamp, SwitchState, Verdict};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How a played pod behaves; a test may change it at any time.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// It has finished to connect to the target.
    pub prepares: bool,
    /// Why the target cannot be used.
    pub refuses: Option<String>,
    /// What is in flight gets its outcome.
    pub settles: bool,
    /// Every partition is read to its seal.
    pub drains: bool,
}

pub struct Played {
    pub name: String,
    behaviour: watch::Sender<Behaviour>,
    task: JoinHandle<Result<()>>,
    pauses: Arc<Mutex<Vec<Duration>>>,
}

impl Played {
    pub fn change(&self, change: impl FnOnce(&mut Behaviour)) {
        self.behaviour.send_modify(change);
    }

    /// From each Hold that the pod has heard of to what came after it.
    pub fn pauses(&self) -> Vec<Duration> {
        self.pauses.lock().unwrap().clone()
    }

    /// It answers nothing any more; its member and its pod stay.
    pub fn falls_silent(&self) {
        self.task.abort();
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Place {
    pub fn members(&self) -> Api<PipelineMember> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Plays every pod of `shop`: sorted by name, so the API's come first.
    pub async fn play(&self) -> Result<Vec<Played>> {
        let mut played = Vec::new();
        let mut pods = self.pods().list(&ListParams::default()).await?.items;
        pods.sort_by_key(Pod::name_any);
        for pod in pods {
            played.push(self.play_one(&pod).await?);
        }
        Ok(played)
    }

    pub async fn play_one(&self, pod: &Pod) -> Result<Played> {
        let (name, role) = (pod.name_any(), role_of(pod)?);
        let started = pod.creation_timestamp().context("a pod has a time")?.0.to_string();
        let running = json!({"status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": role.name(), "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": started}}}],
        }});
        self.pods().patch_status(&name, &PatchParams::default(), &Patch::Merge(&running)).await?;
        let map = self.get("ConfigMap", "shop-config").await?;
        let config: RuntimeConfig = serde_json::from_str(map["data"][CONFIG_FILE].as_str().context("no configuration")?)?;
        let member: PipelineMember = serde_json::from_value(json!({
            "apiVersion": "orderpipeline.dev/v1alpha1", "kind": "PipelineMember",
            "metadata": {
                "name": name, "labels": {PIPELINE_LABEL: "shop"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod.uid()}],
            },
            "spec": {
                "pipeline": "shop", "role": format!("{role:?}"),
                "pod": {"name": name, "uid": pod.uid(), "containerStartedAt": started}, "brokers": config.brokers(),
            },
        }))?;
        self.members().create(&PostParams::default(), &member).await?;
        let (behaviour, changes) = watch::channel(Behaviour { prepares: true, refuses: None, settles: true, drains: true });
        let pauses = Arc::new(Mutex::new(Vec::new()));
        let actor = Actor {
            members: self.members(),
            states: Api::namespaced(self.client.clone(), &self.namespace),
            name: name.clone(),
            worker: role == Role::Worker,
            gate: Gate::new(Default::default(), limits(), Duration::ZERO),
            reader: None,
            in_flight: None,
            held: None,
            pauses: pauses.clone(),
            said: (None, None),
        };
        Ok(Played { name, behaviour, task: tokio::spawn(actor.act(changes)), pauses })
    }

    pub async fn state(&self) -> Result<SwitchState> {
        let map = self.get("ConfigMap", &state_config_map("shop")).await?;
        Ok(SwitchState::parse(map["data"][STATE_FILE].as_str().context("no state")?)?)
    }

    /// Waits until the state of the switch is as described.
    pub async fn until_state(&self, what: &str, holds: impl Fn(&SwitchState) -> bool) -> Result<SwitchState> {
        let parse = |map: &serde_json::Value| SwitchState::parse(map["data"][STATE_FILE].as_str()?).ok();
        let map = self.until("ConfigMap", &state_config_map("shop"), what, |map| parse(map).is_some_and(|state| holds(&state))).await?;
        parse(&map).context("no state")
    }
}

fn role_of(pod: &Pod) -> Result<Role> {
    let component = pod.labels().get("app.kubernetes.io/component").map(String::as_str);
    Role::ALL.into_iter().find(|role| Some(role.name()) == component).context("a pod of no role")
}

fn limits() -> Limits {
    Limits { purge_after: Duration::from_secs(3600), cut_off_after: Duration::from_secs(3600) }
}

struct Actor {
    members: Api<PipelineMember>,
    states: Api<ConfigMap>,
    name: String,
    worker: bool,
    gate: Gate,
    reader: Option<Reader>,
    /// A message that gets no outcome while the pod does not settle.
    in_flight: Option<u64>,
    held: Option<Instant>,
    pauses: Arc<Mutex<Vec<Duration>>>,
    said: (Option<Answer>, Option<Reports>),
}

impl Actor {
    async fn act(mut self, mut changes: watch::Receiver<Behaviour>) -> Result<()> {
        self.gate.joined();
        let config = watcher::Config::default().fields("metadata.name=shop-switch");
        let mut events = std::pin::pin!(watcher(self.states.clone(), config).default_backoff().applied_objects());
        loop {
            tokio::select! {
                Some(event) = events.next() => if let Ok(map) = event { self.hear(&map).await?; },
                changed = changes.changed() => changed?,
            }
            let behaviour = changes.borrow_and_update().clone();
            self.behave(&behaviour);
            self.say().await?;
        }
    }

    async fn hear(&mut self, map: &ConfigMap) -> Result<()> {
        // The first one by a quorum read: the pod is a member already.
        let (source, map) = match self.gate.state() {
            None => (Source::Quorum, self.states.get("shop-switch").await?),
            Some(_) => (Source::Watch, map.clone()),
        };
        let text = map.data.as_ref().and_then(|data| data.get(STATE_FILE)).context("no state")?;
        let Ok(state) = SwitchState::parse(text).map(Arc::new) else { return Ok(()) };
        if self.gate.observe(source, &state, Duration::ZERO) {
            match (state.phase(), self.held) {
                (Phase::Hold { .. }, None) => self.held = Some(Instant::now()),
                (Phase::Hold { .. }, Some(_)) | (_, None) => {}
                (_, Some(since)) => {
                    self.pauses.lock().unwrap().push(since.elapsed());
                    self.held = None;
                }
            }
            self.reader = Some(match self.reader.take() {
                Some(mut reader) => {
                    reader.obey(state);
                    reader
                }
                None => {
                    let mut reader = Reader::new(Default::default(), state);
                    reader.reads(["orders".to_owned()]); // all that the document has
                    reader
                }
            });
        }
        Ok(())
    }

    fn behave(&mut self, behaviour: &Behaviour) {
        let Some(state) = self.gate.state().cloned() else { return };
        if self.gate.to_prepare().is_some() && behaviour.prepares {
            let verdict = behaviour.refuses.clone().map_or(Verdict::Ready, Verdict::Refused);
            self.gate.prepared(&state, verdict);
        }
        match (behaviour.settles, self.in_flight) {
            (true, Some(epoch)) => {
                self.gate.settled(epoch);
                self.in_flight = None;
            }
            (false, None) => {
                if let Admit::Pass(opening) = self.gate.admit() {
                    self.in_flight = Some(opening.epoch);
                }
            }
            _ => {}
        }
        let Some(reader) = self.reader.as_mut().filter(|_| self.worker) else { return };
        let closed: Vec<u64> = reader.to_seal().map(|open| open.epoch).collect();
        closed.into_iter().for_each(|epoch| reader.sealed(epoch));
        if behaviour.drains {
            let note = Stamp { lineage: state.lineage(), epoch: state.active().epoch }.to_string();
            reader.look_at_drain([Some(note.as_str())]);
        }
    }

    async fn say(&mut self) -> Result<()> {
        let reports = self.reader.as_ref().filter(|_| self.worker).and_then(Reader::reports);
        let says = (self.gate.answer().or(self.said.0.clone()), reports.or(self.said.1.clone()));
        if says != self.said {
            let patch = json!({"spec": {"answer": says.0, "reports": says.1}});
            self.members.patch(&self.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            self.said = says;
        }
        Ok(())
    }
}

/// `shop` with a second broker, and the pods of it.
pub fn shop_with_two(hold_deadline: &str) -> String {
    shop().replace(
        "  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]\n",
        &format!(
            "  backend: kafka\n  backends: [{{name: kafka, kafka: {{bootstrapServers: 'kafka:9092'}}}}, \
             {{name: next, kafka: {{bootstrapServers: 'next:9092'}}}}]\n  switching: {{holdDeadline: {hold_deadline}}}\n"
        ),
    )
}

/// A pipeline with two brokers whose pods run and obey.
pub async fn running(namespace: &str, hold_deadline: &str) -> Result<(Place, Vec<Played>)> {
    let place = Place::new(namespace).await?;
    place.apply(&shop_with_two(hold_deadline))?;
    place.until_pods("shop-api", 2).await?;
    place.until_pods("shop-worker", 1).await?;
    place.until_state("there is a first one", |state| *state.phase() == Phase::Steady).await?;
    let played = place.play().await?;
    ensure!(played.len() == 3, "{} pods", played.len());
    place.until_condition("shop", "Ready", "True", "Ready").await?;
    Ok((place, played))
}
