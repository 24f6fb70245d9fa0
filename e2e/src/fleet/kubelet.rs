//! A kubelet for one namespace: every pod is a process of this machine, with the files, the token and the variables that its
//! container would have. A process that ends is started again; a pod that is deleted is told to end.

use super::machine::Machine;
use super::service::Ready;
use super::{KEY, NAMESPACE, PIPELINE};
use crate::bed::{ControlPlane, Room, free_port, lead_through};
use crate::product::Product;
use crate::proxy::{Proxy, Way};
use anyhow::{Context, Result};
use crds::switch::names::{STATE_FILE, state_config_map};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const LOOK: Duration = Duration::from_millis(200);
/// What pods mount is brought up to date every so many looks: later than a watch tells, as by a real kubelet.
const LOOKS_TO_MOUNT: u64 = 5;
/// Before a process that has ended is started again.
const AGAIN: Duration = Duration::from_millis(500);

pub struct Kubelet {
    node: Arc<Node>,
    looking: JoinHandle<()>,
}

/// What the kubelet leaves undone for now.
#[derive(Default)]
struct Undone {
    /// What pods mount stays as it is.
    mounts: AtomicBool,
    /// That a container runs again is not told.
    told_starts: AtomicBool,
    /// Containers that have ended are not started: they have ended too often.
    starts: AtomicBool,
}

struct Running {
    role: String,
    port: u16,
    kubeconfig: PathBuf,
    /// Between it and the API server.
    wire: Option<Proxy>,
    uid: String,
    process: Option<Product>,
    /// The API server has not heard yet that it was started.
    untold: bool,
    ended: Option<Instant>,
    restarts: u32,
    told_to_end: bool,
    ready: bool,
}

/// One pod, as it is now.
#[derive(Clone, Debug)]
pub struct Container {
    pub pod: String,
    pub role: String,
    pub url: String,
    pub ready: bool,
    pub restarts: u32,
}

impl Kubelet {
    /// `wired`: each pod reaches the API server through a proxy of its own.
    pub fn start(cluster: &ControlPlane, client: Client, room: Arc<Room>, service: Ready, wired: bool) -> Result<Kubelet> {
        let mut machine = Machine::new(&client);
        let node = Arc::new(Node {
            kubeconfig: cluster.kubeconfig(),
            bind: cluster.binder(),
            client,
            room,
            service,
            pods: Mutex::default(),
            undone: Undone::default(),
            wires: wired.then(|| Mutex::new(Way::Open)),
        });
        let looks = node.clone();
        let looking = tokio::spawn(async move {
            for number in 0_u64.. {
                let looked = async {
                    machine.say().await?;
                    looks.look(&machine, number.is_multiple_of(LOOKS_TO_MOUNT)).await
                };
                if let Err(error) = looked.await {
                    eprintln!("kubelet: {error:#}");
                }
                sleep(LOOK).await;
            }
        });
        Ok(Kubelet { node, looking })
    }

    pub fn containers(&self) -> Vec<Container> {
        let container = |(pod, r): (&String, &Running)| Container {
            pod: pod.clone(),
            role: r.role.clone(),
            url: format!("http://127.0.0.1:{}", r.port),
            ready: r.ready,
            restarts: r.restarts,
        };
        self.pods().iter().filter(|(_, r)| !r.told_to_end).map(container).collect()
    }

    /// The pods of a role, in their order.
    pub fn of(&self, role: &str) -> Vec<Container> {
        self.containers().into_iter().filter(|container| container.role == role).collect()
    }

    /// kill -9; the kubelet starts it again.
    pub fn kill(&self, pod: &str) {
        if let Some(process) = self.pods().get_mut(pod).and_then(|running| running.process.as_mut()) {
            process.kill();
        }
    }

    pub fn signal(&self, pod: &str, signal: Signal) -> Result<()> {
        self.pods().get(pod).and_then(|running| running.process.as_ref()).context("no such pod")?.signal(signal)
    }

    /// How the way to the API server is for pods that come from now on.
    pub fn wires(&self, way: Way) {
        if let Some(wires) = &self.node.wires {
            *wires.lock().unwrap_or_else(PoisonError::into_inner) = way;
        }
    }

    /// How the way between a pod and the API server is from now on.
    pub fn wire(&self, pod: &str, way: Way) {
        if let Some(wire) = self.pods().get(pod).and_then(|running| running.wire.as_ref()) {
            wire.set(way);
        }
    }

    /// The state of the switch that pods have mounted.
    pub fn mounted_state(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.node.file(STATE_FILE))?)
    }

    /// Puts another one there.
    pub fn mount_state(&self, text: &str) -> Result<()> {
        replace(&self.node.file(STATE_FILE), text)
    }

    /// kill -9 of a pod that nobody knows any more.
    pub fn end(&self, pod: &str) {
        if let Some(mut running) = self.pods().remove(pod) {
            self.node.service.set(running.port, false);
            if let Some(process) = running.process.as_mut() {
                process.kill();
            }
        }
    }

    /// Whether what pods mount is brought up to date.
    pub fn mounts(&self, brought: bool) {
        self.node.undone.mounts.store(!brought, Ordering::Relaxed);
    }

    /// Whether a container that has ended is started again, or has ended too often for that.
    pub fn starts(&self, again: bool) {
        self.node.undone.starts.store(!again, Ordering::Relaxed);
    }

    /// Whether the API server is told of a container that runs again.
    pub fn tells_of_starts(&self, told: bool) {
        self.node.undone.told_starts.store(!told, Ordering::Relaxed);
    }

    /// Resident memory of a pod's process, in KiB: now, and the most there has been.
    pub fn memory_kib(&self, pod: &str) -> Result<(u64, u64)> {
        self.pods().get(pod).and_then(|running| running.process.as_ref()).context("no such pod")?.memory_kib()
    }

    /// The ports from which the connections of a pod come.
    pub fn ports(&self, pod: &str) -> Result<BTreeSet<u16>> {
        self.pods().get(pod).and_then(|running| running.process.as_ref()).context("no such pod")?.ports()
    }

    /// What all pods have printed so far, by their names.
    pub fn printed(&self) -> Vec<(String, String)> {
        let printed = |(pod, r): (&String, &Running)| Some((pod.clone(), r.process.as_ref()?.printed()));
        self.pods().iter().filter_map(printed).collect()
    }

    pub fn tails(&self) -> String {
        let tail = |(pod, r): (&String, &Running)| format!("--- {pod}\n{}\n", r.process.as_ref().map(Product::tail).unwrap_or_default());
        self.pods().iter().map(tail).collect()
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.node.pods()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

struct Node {
    kubeconfig: PathBuf,
    bind: crate::bed::Binder,
    client: Client,
    room: Arc<Room>,
    service: Ready,
    pods: Mutex<BTreeMap<String, Running>>,
    undone: Undone,
    /// How the way to the API server is for pods that come; None: it is direct.
    wires: Option<Mutex<Way>>,
}

impl Node {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, machine: &Machine, mounts: bool) -> Result<()> {
        if mounts && !self.undone.mounts.load(Ordering::Relaxed) {
            self.mount().await?;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let pods = api.list(&ListParams::default()).await?.items;
        for pod in &pods {
            let name = pod.name_any();
            let known = self.pods().contains_key(&name);
            if !known && pod.metadata.deletion_timestamp.is_none() {
                machine.bind(pod).await?;
                self.adopt(pod).await?;
            }
            self.tend(&api, pod).await.with_context(|| name)?;
        }
        // One that was deleted by force runs on, as on a node that is cut off: a test that wants that ends it itself.
        Ok(())
    }

    /// Writes what pods mount: not at once, like a kubelet, and whole.
    async fn mount(&self) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        for (map, key) in [(format!("{PIPELINE}-config"), "config.json"), (state_config_map(PIPELINE), STATE_FILE)] {
            if let Some(text) = maps.get_opt(&map).await?.and_then(|map| map.data?.remove(key)) {
                replace(&self.file(key), &text)?;
            }
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        for secret in secrets.list(&ListParams::default()).await? {
            for (key, value) in secret.data.clone().unwrap_or_default() {
                replace(&self.room.path().join("secrets").join(secret.name_any()).join(key), &String::from_utf8(value.0)?)?;
            }
        }
        Ok(())
    }

    /// Where pods find what they mount.
    fn file(&self, key: &str) -> PathBuf {
        self.room.path().join("mounted").join(key)
    }

    async fn adopt(&self, pod: &Pod) -> Result<()> {
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("a pod without a container")?;
        let role = container.args.as_ref().and_then(|args| args.first()).context("a container without a role")?.clone();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).context("a pod without an account")?;
        if !self.file("config.json").exists() {
            return Ok(());
        }
        let wire = match &self.wires {
            Some(way) => {
                let wire = Proxy::start(self.bind.api_server(&self.kubeconfig)?).await?;
                wire.set(*way.lock().unwrap_or_else(PoisonError::into_inner));
                Some(wire)
            }
            None => None,
        };
        let kubeconfig = self.bind.kubeconfig_of_pod(&self.kubeconfig, NAMESPACE, &account, &pod.name_any())?;
        if let Some(wire) = &wire {
            lead_through("https", wire, &kubeconfig)?;
        }
        let uid = pod.uid().context("a pod has a uid")?;
        let running = Running {
            role,
            port: free_port()?,
            kubeconfig,
            wire,
            uid,
            process: None,
            untold: false,
            ended: None,
            restarts: 0,
            told_to_end: false,
            ready: false,
        };
        self.pods().insert(pod.name_any(), running);
        Ok(())
    }

    async fn tend(&self, api: &Api<Pod>, pod: &Pod) -> Result<()> {
        let name = pod.name_any();
        let seen = self.step(&name, pod.metadata.deletion_timestamp.is_some())?;
        match seen {
            Seen::None => {}
            Seen::Started(role, restarts) => {
                let state = json!({"running": {"startedAt": now()}});
                self.say(api, &name, &role, restarts, state, json!(null)).await?;
            }
            Seen::Ended(role, restarts) => {
                let ended = json!({"terminated": {"exitCode": 137, "finishedAt": now()}});
                let state = json!({"waiting": {"reason": "CrashLoopBackOff"}});
                self.say(api, &name, &role, restarts, state, ended).await?;
            }
            Seen::Gone => {
                self.pods().remove(&name);
                let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
            }
            Seen::Ask(url) => {
                let ready = crate::http(Duration::from_secs(1)).get(url).send().await.is_ok_and(|answer| answer.status().is_success());
                self.ready(api, &name, ready).await?;
            }
        }
        Ok(())
    }

    fn step(&self, name: &str, deleted: bool) -> Result<Seen> {
        let mut pods = self.pods();
        let Some(running) = pods.get_mut(name) else { return Ok(Seen::None) };
        if let Some(process) = running.process.as_mut() {
            if process.ended()?.is_some() {
                (running.process, running.ended, running.ready) = (None, Some(Instant::now()), false);
                self.service.set(running.port, false);
                return Ok(if deleted { Seen::Gone } else { Seen::Ended(running.role.clone(), running.restarts) });
            }
            if deleted && !running.told_to_end {
                running.told_to_end = true;
                running.ready = false;
                self.service.set(running.port, false);
                process.signal(Signal::SIGTERM)?;
            }
            if running.untold && !self.undone.told_starts.load(Ordering::Relaxed) {
                running.untold = false;
                return Ok(Seen::Started(running.role.clone(), running.restarts));
            }
            let ask = !running.ready && !deleted;
            return Ok(if ask { Seen::Ask(format!("http://127.0.0.1:{}/readyz/latched", running.port)) } else { Seen::None });
        }
        if deleted {
            return Ok(Seen::Gone);
        }
        let too_often = self.undone.starts.load(Ordering::Relaxed);
        if running.ended.is_some_and(|ended| too_often || ended.elapsed() < AGAIN) {
            return Ok(Seen::None);
        }
        running.restarts += u32::from(running.ended.is_some());
        running.process = Some(self.process(name, running)?);
        running.untold = true;
        Ok(Seen::None)
    }

    fn process(&self, name: &str, running: &Running) -> Result<Product> {
        let listen = format!("127.0.0.1:{}", running.port);
        let (config, state, secrets) = (self.file("config.json"), self.file(STATE_FILE), self.room.path().join("secrets"));
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let arguments =
            [&running.role, "--config", &path(&config), "--switch", &path(&state), "--secrets", &path(&secrets), "--listen", &listen];
        let mut command = Product::command("pipeline-runtime", &arguments)?;
        command.env("POD_NAME", name).env("POD_UID", &running.uid).env("KUBECONFIG", &running.kubeconfig).env("API_KEY", KEY);
        Product::start(name, &self.room, command)
    }

    async fn ready(&self, api: &Api<Pod>, name: &str, ready: bool) -> Result<()> {
        if !ready {
            return Ok(());
        }
        if let Some(running) = self.pods().get_mut(name) {
            running.ready = true;
            if running.role == "api" {
                self.service.set(running.port, true);
            }
        }
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }

    async fn say(
        &self,
        api: &Api<Pod>,
        name: &str,
        role: &str,
        restarts: u32,
        state: serde_json::Value,
        last: serde_json::Value,
    ) -> Result<()> {
        let mut container = json!({"name": role, "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state});
        if !last.is_null() {
            container["lastState"] = last;
        }
        let status = json!({"status": {"phase": "Running", "containerStatuses": [container]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }
}

enum Seen {
    None,
    Started(String, u32),
    Ended(String, u32),
    Gone,
    Ask(String),
}

pub(super) fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn replace(file: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let folder = file.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, file)?)
}
