//! One control plane and one operator for all tests of this program, each test in a namespace of its own.

use anyhow::{Context, Result, bail};
use e2e::bed::{ControlPlane, Process, Write, binaries, client_of, free_port};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

pub const OPERATOR: &str = "system:serviceaccount:orderpipeline-system:orderpipeline-operator";
pub const WITHIN: Duration = Duration::from_secs(90);

pub struct World {
    pub cluster: ControlPlane,
    operator: Mutex<Process>,
    /// Two tests must not end the same operator, one gently and the other not; and who measures needs one that stays.
    replacing: tokio::sync::RwLock<()>,
    /// The operator's own, not the administrator's: what it may not do must show.
    kubeconfig: PathBuf,
}

/// A test's own namespace, with a client of the test's own runtime.
pub struct Place {
    pub world: Arc<World>,
    pub client: Client,
    pub namespace: String,
}

pub fn repository(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

async fn world() -> Result<Arc<World>> {
    static WORLD: OnceCell<Arc<World>> = OnceCell::const_new();
    let made = WORLD.get_or_try_init(|| async {
        let cluster = ControlPlane::start().await?;
        cluster.kubectl(&["apply", "--server-side", "-k", &repository("config/default")])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/orderpipelines.orderpipeline.dev"])?;
        let kubeconfig = cluster.kubeconfig_for("orderpipeline-system", "orderpipeline-operator")?;
        let operator = Mutex::new(start_operator(&kubeconfig, &log_of(&cluster), &["--lease-namespace", "orderpipeline-system"]).await?);
        Ok::<_, anyhow::Error>(Arc::new(World { cluster, operator, replacing: tokio::sync::RwLock::default(), kubeconfig }))
    });
    Ok(made.await?.clone())
}

fn log_of(cluster: &ControlPlane) -> PathBuf {
    cluster.room().join("operator.log")
}

/// Starts it and waits until it answers.
async fn start_operator(kubeconfig: &Path, log: &Path, more: &[&str]) -> Result<Process> {
    let output = File::options().create(true).append(true).open(log)?;
    let port = free_port()?;
    let mut command = Command::new(binaries::binary("operator")?);
    command.args(["run", "--image", "registry.test/pipeline-runtime:1", "--lease-seconds", "5"]);
    command.args(more).args(["--health-port", &port.to_string()]);
    command.env("KUBECONFIG", kubeconfig).env("RUST_LOG", "info").stdout(output.try_clone()?).stderr(output);
    let mut process = Process::start(&mut command)?;
    let answers = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if let Some(status) = process.ended()? {
                bail!("the operator ended at once ({status}); is it built anew? {}", std::fs::read_to_string(log)?);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    tokio::time::timeout(WITHIN, answers).await.context("the operator does not answer")??;
    Ok(process)
}

impl World {
    /// Ends the operator as Kubernetes does, and starts it again.
    pub async fn restart_operator(&self) -> Result<()> {
        let _alone = self.replacing.write().await;
        self.operator().signal(Signal::SIGTERM)?;
        let next = start_operator(&self.kubeconfig, &log_of(&self.cluster), &["--lease-namespace", "orderpipeline-system"]).await?;
        let mut ended = std::mem::replace(&mut *self.operator(), next);
        let status = ended.wait(Duration::from_secs(30)).await?;
        if !status.success() {
            bail!("the operator ended with {status} on SIGTERM:\n{}", self.log());
        }
        Ok(())
    }

    /// kill -9, and a new one.
    pub async fn kill_operator(&self) -> Result<()> {
        let _alone = self.replacing.write().await;
        self.operator().kill();
        let next = start_operator(&self.kubeconfig, &log_of(&self.cluster), &["--lease-namespace", "orderpipeline-system"]).await?;
        *self.operator() = next;
        Ok(())
    }

    /// Nobody ends the operator as long as this is kept.
    pub async fn steady(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.replacing.read().await
    }

    /// One more that leads as well, since it looks at another Lease: for this namespace only.
    pub async fn another_operator(&self, namespace: &str) -> Result<Process> {
        start_operator(&self.kubeconfig, &log_of(&self.cluster), &["--lease-namespace", namespace, "--namespace", namespace]).await
    }

    fn operator(&self) -> MutexGuard<'_, Process> {
        self.operator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last lines of the operator's log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(log_of(&self.cluster)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Place {
    /// A namespace that takes only restricted pods, with the API keys of `shop`.
    pub async fn new(namespace: &str) -> Result<Place> {
        let world = world().await?;
        world.cluster.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}\n\
             ---\n{{apiVersion: v1, kind: Secret, metadata: {{name: shop-api-keys, namespace: {namespace}}}, stringData: {{web: secret}}}}"
        ))?;
        let client = client_of(&world.cluster.kubeconfig()).await?;
        Ok(Place { world, client, namespace: namespace.to_owned() })
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.world.cluster.kubectl(&[&["-n", self.namespace.as_str()], arguments].concat())
    }

    /// Applies a document into this namespace.
    pub fn apply(&self, document: &str) -> Result<String> {
        let file = self.world.cluster.room().join(format!("{}-document.yaml", self.namespace));
        std::fs::write(&file, document)?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Changes the pipeline.
    pub fn patch(&self, name: &str, patch: &Json) -> Result<String> {
        self.kubectl(&["patch", "op", name, "--type=merge", "-p", &patch.to_string()])
    }

    pub fn api(&self, kind: &str) -> Api<DynamicObject> {
        let (group, version) = match kind {
            "OrderPipeline" => ("orderpipeline.dev", "v1alpha1"),
            "Deployment" | "ReplicaSet" => ("apps", "v1"),
            "Role" | "RoleBinding" => ("rbac.authorization.k8s.io", "v1"),
            "Lease" => ("coordination.k8s.io", "v1"),
            _ => ("", "v1"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub async fn get(&self, kind: &str, name: &str) -> Result<Json> {
        Ok(serde_json::to_value(self.api(kind).get(name).await.with_context(|| format!("{kind} {name}"))?)?)
    }

    /// Waits, by a watch, until an object is as described; a missing object is null.
    pub async fn until(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Json) -> bool) -> Result<Json> {
        let as_json = |object: Option<&DynamicObject>| object.map_or(Json::Null, |o| serde_json::to_value(o).unwrap_or_default());
        let condition = |object: Option<&DynamicObject>| holds(&as_json(object));
        match tokio::time::timeout(WITHIN, await_condition(self.api(kind), name, condition)).await {
            Ok(object) => Ok(as_json(object?.as_ref())),
            Err(_) => {
                let last = serde_json::to_string_pretty(&self.get(kind, name).await.unwrap_or_default())?;
                bail!("{kind} {name}: {what}: not within {WITHIN:?}\nlast seen: {last}\noperator:\n{}", self.world.log())
            }
        }
    }

    /// Waits until a condition of the pipeline has this status and reason, and gives its message.
    pub async fn until_condition(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<String> {
        let as_wanted = |object: &Json| {
            let is = condition(object, type_);
            is["status"] == status && is["reason"] == reason && object["status"]["observedGeneration"] == object["metadata"]["generation"]
        };
        let object = self.until("OrderPipeline", name, &format!("{type_} is {status} for {reason}"), as_wanted).await?;
        Ok(condition(&object, type_)["message"].as_str().unwrap_or_default().to_owned())
    }

    /// What a kubelet would say: every pod of the namespace runs and is ready.
    pub async fn pods_become_ready(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        for pod in pods.list(&ListParams::default()).await? {
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&ready)).await?;
        }
        Ok(())
    }

    /// Waits until a Deployment has made so many pods.
    pub async fn until_pods(&self, deployment: &str, count: i64) -> Result<()> {
        self.until("Deployment", deployment, "its pods are made", |d| d["status"]["updatedReplicas"] == count).await?;
        Ok(())
    }

    /// What the operator has written into this namespace so far, but for events.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let mut writes = self.world.cluster.writes(OPERATOR)?;
        writes.retain(|write| write.namespace == self.namespace && write.resource != "events");
        Ok(writes)
    }

    /// The resourceVersion of everything that carries the operator's label, and of the pipelines.
    pub async fn versions(&self) -> Result<Vec<(String, String)>> {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=orderpipeline-operator");
        let mut versions = Vec::new();
        for (kind, which) in [
            ("OrderPipeline", ListParams::default()),
            ("ConfigMap", ours.clone()),
            ("Deployment", ours.clone()),
            ("Service", ours.clone()),
            ("ServiceAccount", ours.clone()),
            ("Role", ours.clone()),
            ("RoleBinding", ours),
        ] {
            for object in self.api(kind).list(&which).await? {
                versions.push((format!("{kind} {}", object.name_any()), object.resource_version().unwrap_or_default()));
            }
        }
        Ok(versions)
    }
}

pub fn condition<'a>(pipeline: &'a Json, type_: &str) -> &'a Json {
    let conditions = pipeline["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == type_).unwrap_or(&Json::Null)
}

/// A small pipeline that needs no Secret but the API's keys, which each `Place` has.
pub fn shop() -> String {
    "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated, effect: Create}]
  api: {replicas: 2}
  worker: {}
"
    .to_owned()
}
