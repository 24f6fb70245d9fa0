//! The product as it runs in a cluster: the real operator at a real API server, its pods as processes of this machine, two Kafka
//! clusters and PostgreSQL.

mod kubelet;
mod machine;
mod operator;
pub mod porter;
mod service;
pub mod storm;

pub use kubelet::{Container, Kubelet};
pub use service::Service;

use crate::bed::{ControlPlane, Kafka, Postgres, Room, client_of, eventually, lead_through};
use crate::proxy::Proxy;
use anyhow::{Context, Result};
use crds::member::{Answer, PipelineMember};
use crds::pipeline::OrderPipeline;
use crds::switch::names::{STATE_FILE, state_config_map};
use crds::switch::{Phase, SwitchState};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use operator::Operator;
use porter::Porter;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub const NAMESPACE: &str = "orders";
pub const PIPELINE: &str = "shop";
pub const KEY: &str = "fleet-key";
const READY: Duration = Duration::from_secs(120);

/// One pipeline between two Kafka clusters, `left` and `right`, each behind a proxy.
pub struct Fleet {
    // in the order in which they have to end
    pub service: Service,
    pub kubelet: Kubelet,
    operator: Operator,
    /// Between it and the API server: its wire leads to the porter.
    pub operator_wire: Proxy,
    pub porter: Porter,
    pub left: (Kafka, Proxy),
    pub right: (Kafka, Proxy),
    pub postgres: (Postgres, Proxy),
    client: Client,
    cluster: ControlPlane,
    room: Arc<Room>,
}

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Shape {
    pub apis: usize,
    pub workers: usize,
    pub left_partitions: usize,
    pub right_partitions: usize,
    pub hold_deadline: &'static str,
    /// Nothing lies between the product and what it uses, and Kafka is quick when it has run for a while: to measure.
    pub direct: bool,
    /// What of the document reads otherwise: this, and that in its place.
    pub changes: Vec<(&'static str, String)>,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { apis: 2, workers: 2, left_partitions: 6, right_partitions: 6, hold_deadline: "1s", direct: false, changes: Vec::new() }
    }
}

fn document(shape: &Shape, left: &str, right: &str) -> Result<String> {
    let Shape { apis, workers, hold_deadline, changes, .. } = shape;
    let document = format!(
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
"#
    );
    changes.iter().try_fold(document, |document, (from, to)| {
        anyhow::ensure!(document.contains(from), "the document has no {from:?}");
        Ok(document.replace(from, to))
    })
}

async fn kafka(direct: bool) -> Result<(Kafka, Proxy)> {
    if !direct {
        return Kafka::behind_proxy().await;
    }
    let kafka = Kafka::for_load().await?;
    let proxy = Proxy::start(kafka.bootstrap()).await?;
    Ok((kafka, proxy))
}

impl Fleet {
    pub async fn start(shape: Shape) -> Result<Fleet> {
        let (cluster, left, right, postgres) =
            tokio::try_join!(ControlPlane::start(), kafka(shape.direct), kafka(shape.direct), Postgres::start())?;
        let database = Proxy::start(format!("127.0.0.1:{}", postgres.port())).await?;
        let address = |kafka: &Kafka| if shape.direct { kafka.bootstrap() } else { kafka.proxied() };
        let port = if shape.direct { postgres.port() } else { database.port() };
        for (kafka, partitions) in [(&left.0, shape.left_partitions), (&right.0, shape.right_partitions)] {
            let partitions = i32::try_from(partitions)?;
            kafka.create_topic("orders", partitions).await?;
            kafka.create_topic("orders-dlq", partitions).await?;
        }
        let room = Room::new("fleet")?;
        let default = format!("{}/../config/default", env!("CARGO_MANIFEST_DIR"));
        cluster.kubectl(&["apply", "--server-side", "-k", &default])?;
        cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/orderpipelines.orderpipeline.dev"])?;
        let kubeconfig = cluster.kubeconfig_for(operator::NAMESPACE, "orderpipeline-operator")?;
        let porter = Porter::start(&kubeconfig).await?;
        let operator_wire = Proxy::start(porter.address()).await?;
        if !shape.direct {
            lead_through("http", &operator_wire, &kubeconfig)?;
        }
        let operator = Operator::start(room.clone(), kubeconfig).await?;
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        let secret = |name: &str, value: &str| {
            cluster.kubectl(&["-n", NAMESPACE, "create", "secret", "generic", name, &format!("--from-literal={value}")])
        };
        secret("db", &format!("url={}", Postgres::url_at(port)))?;
        secret(&format!("{PIPELINE}-api-keys"), &format!("test={KEY}"))?;
        cluster.apply(&document(&shape, &address(&left.0), &address(&right.0))?)?;
        let client = client_of(&cluster.kubeconfig()).await?;
        let service = Service::start().await?;
        let kubelet = Kubelet::start(&cluster, client.clone(), room.clone(), service.ready(), !shape.direct)?;
        let postgres = (postgres, database);
        let fleet = Fleet { service, kubelet, operator, operator_wire, porter, left, right, postgres, client, cluster, room };
        fleet.ready(shape.apis + shape.workers).await?;
        Ok(fleet)
    }

    /// Until there are so many pods, all of them ready.
    pub async fn ready(&self, pods: usize) -> Result<()> {
        let running = || async {
            let containers = self.kubelet.containers();
            let ready = containers.iter().filter(|container| container.ready).count();
            let all = containers.len();
            anyhow::ensure!(ready == pods && all == pods, "{ready} of {all} pods are ready, not {pods}\n{}", self.kubelet.tails());
            Ok(())
        };
        eventually("the pods are ready", READY, running).await.with_context(|| self.operator.tail())
    }

    pub fn url(&self) -> String {
        self.service.url()
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&[&["-n", NAMESPACE], arguments].concat())
    }

    /// Asks for a backend as a person does.
    pub fn switch_to(&self, backend: &str) -> Result<()> {
        self.patch(&json!({"spec": {"backend": backend}}))
    }

    /// The same as a program does: kubectl takes its share of the processors just then.
    pub async fn ask_for(&self, backend: &str) -> Result<()> {
        let pipelines: Api<OrderPipeline> = Api::namespaced(self.client.clone(), NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {"backend": backend}}));
        pipelines.patch(PIPELINE, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Changes the document.
    pub fn patch(&self, patch: &Json) -> Result<()> {
        self.kubectl(&["patch", "op", PIPELINE, "--type=merge", "-p", &patch.to_string()]).map(drop)
    }

    /// Reason and message of condition Switching.
    pub fn said_of_switch(&self) -> Result<(String, String)> {
        let pipeline = self.pipeline()?;
        let conditions = pipeline["status"]["conditions"].as_array().context("no conditions")?;
        let condition = conditions.iter().find(|condition| condition["type"] == "Switching").context("nothing is said of the switch")?;
        let word = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        Ok((word("reason"), word("message")))
    }

    /// What each pod answers to the switch.
    pub async fn answers(&self) -> Result<BTreeMap<String, Answer>> {
        let members: Api<PipelineMember> = Api::namespaced(self.client.clone(), NAMESPACE);
        let members = members.list(&ListParams::default()).await?;
        Ok(members.into_iter().filter_map(|member| Some((member.spec.pod.name, member.spec.answer?))).collect())
    }

    /// What pods find of a key of a Secret.
    pub fn mounted(&self, secret: &str, key: &str) -> Option<String> {
        std::fs::read_to_string(self.room.path().join("secrets").join(secret).join(key)).ok()
    }

    /// What the operator has printed so far.
    pub fn operator_printed(&self) -> String {
        self.operator.printed()
    }

    /// Deletes the state of the switch.
    pub async fn forget(&self) -> Result<()> {
        self.states().delete(&state_config_map(PIPELINE), &DeleteParams::default()).await?;
        Ok(())
    }

    fn states(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub async fn state(&self) -> Result<SwitchState> {
        let map = self.states().get(&state_config_map(PIPELINE)).await?;
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
    pub async fn replace_operator(&self) -> Result<()> {
        self.operator.replace().await
    }

    pub fn database(&self) -> (String, String) {
        (self.postgres.0.url(), PIPELINE.to_owned())
    }
}
