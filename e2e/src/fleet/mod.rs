//! The product as it runs in a cluster: the real operator at a real API server, its pods as processes of this machine, two Kafka
//! clusters and PostgreSQL.

mod kubelet;
mod service;
pub mod storm;

pub use kubelet::{Container, Kubelet};
pub use service::Service;

use crate::bed::{ControlPlane, Kafka, Postgres, Room, client_of, eventually, free_port};
use crate::product::Product;
use crate::proxy::Proxy;
use anyhow::{Context, Result};
use crds::switch::names::{STATE_FILE, state_config_map};
use crds::switch::{Phase, SwitchState};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub const NAMESPACE: &str = "orders";
pub const PIPELINE: &str = "shop";
pub const KEY: &str = "fleet-key";
const READY: Duration = Duration::from_secs(120);
const OPERATOR_NAMESPACE: &str = "orderpipeline-system";

/// One pipeline between two Kafka clusters, `left` and `right`, each behind a proxy.
pub struct Fleet {
    // in the order in which they have to end
    pub service: Service,
    pub kubelet: Kubelet,
    operator: Product,
    pub left: (Kafka, Proxy),
    pub right: (Kafka, Proxy),
    pub postgres: Postgres,
    client: Client,
    cluster: ControlPlane,
    room: Arc<Room>,
    kubeconfig: PathBuf,
}

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Shape {
    pub apis: usize,
    pub workers: usize,
    pub left_partitions: usize,
    pub right_partitions: usize,
    pub hold_deadline: &'static str,
    /// More of the document's spec.
    pub more: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { apis: 2, workers: 2, left_partitions: 6, right_partitions: 6, hold_deadline: "1s", more: "" }
    }
}

fn document(shape: &Shape, left: &str, right: &str) -> String {
    let Shape { apis, workers, hold_deadline, more, .. } = shape;
    format!(
        r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {{name: {PIPELINE}, namespace: {NAMESPACE}}}
spec:
  backend: left
  backends:
  - {{name: left, kafka: {{bootstrapServers: "{left}"}}}}
  - {{name: right, kafka: {{bootstrapServers: "{right}"}}}}
  switching: {{holdDeadline: {hold_deadline}}}
  topics: [{{name: orders, partitions: 3}}]
  events:
  - name: OrderCreated
  - name: OrderStatusChanged
    set: {{status: data.status}}
    append: {{history: data.status}}
  store: {{postgres: {{urlSecretRef: {{name: db, key: url}}}}}}
  api: {{replicas: {apis}}}
  worker: {{replicas: {workers}, retry: {{attempts: 3, base: 100ms}}}}
{more}"#
    )
}

impl Fleet {
    pub async fn start(shape: Shape) -> Result<Fleet> {
        let (cluster, left, right, postgres) =
            tokio::try_join!(ControlPlane::start(), Kafka::behind_proxy(), Kafka::behind_proxy(), Postgres::start())?;
        for (kafka, partitions) in [(&left.0, shape.left_partitions), (&right.0, shape.right_partitions)] {
            let partitions = i32::try_from(partitions)?;
            kafka.create_topic("orders", partitions).await?;
            kafka.create_topic("orders-dlq", partitions).await?;
        }
        let room = Room::new("fleet")?;
        let default = format!("{}/../config/default", env!("CARGO_MANIFEST_DIR"));
        cluster.kubectl(&["apply", "--server-side", "-k", &default])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/orderpipelines.orderpipeline.dev"])?;
        let kubeconfig = cluster.kubeconfig_for(OPERATOR_NAMESPACE, "orderpipeline-operator")?;
        let operator = operator(&room, &kubeconfig).await?;
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        let secret = |name: &str, value: &str| {
            cluster.kubectl(&["-n", NAMESPACE, "create", "secret", "generic", name, &format!("--from-literal={value}")])
        };
        secret("db", &format!("url={}", postgres.url()))?;
        secret(&format!("{PIPELINE}-api-keys"), &format!("test={KEY}"))?;
        cluster.apply(&document(&shape, &left.0.proxied(), &right.0.proxied()))?;
        let client = client_of(&cluster.kubeconfig()).await?;
        let service = Service::start().await?;
        let kubelet = Kubelet::start(&cluster, client.clone(), room.clone(), service.ready())?;
        let fleet = Fleet { service, kubelet, operator, left, right, postgres, client, cluster, room, kubeconfig };
        let pods = shape.apis + shape.workers;
        let running = || async {
            let ready = fleet.kubelet.containers().iter().filter(|container| container.ready).count();
            anyhow::ensure!(ready == pods, "{ready} of {pods} pods are ready\n{}", fleet.kubelet.tails());
            Ok(())
        };
        eventually("the pods are ready", READY, running).await.with_context(|| fleet.operator.tail())?;
        Ok(fleet)
    }

    pub fn url(&self) -> String {
        self.service.url()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", NAMESPACE], arguments].concat())
    }

    /// Asks for a backend as a person does.
    pub fn switch_to(&self, backend: &str) -> Result<()> {
        let patch = format!(r#"{{"spec":{{"backend":"{backend}"}}}}"#);
        self.kubectl(&["patch", "op", PIPELINE, "--type=merge", "-p", &patch]).map(drop)
    }

    pub async fn state(&self) -> Result<SwitchState> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let map = maps.get(&state_config_map(PIPELINE)).await?;
        let text = map.data.as_ref().and_then(|data| data.get(STATE_FILE)).context("no state")?;
        Ok(SwitchState::parse(text)?)
    }

    pub async fn until(&self, what: &str, within: Duration, holds: impl Fn(&SwitchState) -> bool) -> Result<SwitchState> {
        let asked = || async {
            let state = self.state().await?;
            anyhow::ensure!(holds(&state), "{state:?}");
            Ok(state)
        };
        let found = eventually(what, within, asked).await;
        found.with_context(|| format!("operator:\n{}\npods:\n{}", self.operator.tail(), self.kubelet.tails()))
    }

    /// Until writes and reads are there, and nothing is under way.
    pub async fn settled_on(&self, backend: &str, within: Duration) -> Result<SwitchState> {
        let there = |s: &SwitchState| *s.phase() == Phase::Steady && !s.drains() && *s.newest().backend == *backend;
        self.until(&format!("settled on {backend}"), within, there).await
    }

    pub fn pipeline(&self) -> Result<Json> {
        Ok(serde_json::from_str(&self.kubectl(&["get", "op", PIPELINE, "-o", "json"])?)?)
    }

    /// kill -9, and another one at once.
    pub async fn replace_operator(&mut self) -> Result<()> {
        self.operator.kill();
        self.operator = operator(&self.room, &self.kubeconfig).await?;
        Ok(())
    }

    pub fn database(&self) -> (String, String) {
        (self.postgres.url(), PIPELINE.to_owned())
    }
}

async fn operator(room: &Room, kubeconfig: &Path) -> Result<Product> {
    let port = free_port()?.to_string();
    let arguments = ["run", "--lease-seconds", "5", "--lease-namespace", OPERATOR_NAMESPACE, "--health-port", &port];
    let mut command = Product::command("operator", &arguments)?;
    command.env("KUBECONFIG", kubeconfig);
    let mut operator = Product::start("operator", room, command)?;
    operator.ready(&format!("http://127.0.0.1:{port}/healthz"), READY).await?;
    Ok(operator)
}
