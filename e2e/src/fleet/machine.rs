//! The machine of the pods, as the API server knows it. A pod that is on none is deleted at once and for good, as if by force: nobody would
//! tell its process to end.

use super::NAMESPACE;
use super::kubelet::now;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

const NAME: &str = "here";
/// After four of them a machine that says nothing counts as lost.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub struct Machine {
    nodes: Api<Node>,
    pods: Api<Pod>,
    said: Option<Instant>,
}

impl Machine {
    pub fn new(client: &Client) -> Machine {
        Machine { nodes: Api::all(client.clone()), pods: Api::namespaced(client.clone(), NAMESPACE), said: None }
    }

    /// To be called often: that it is there, and still runs.
    pub async fn say(&mut self) -> Result<()> {
        if self.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            return Ok(());
        }
        if self.said.is_none() {
            // Nobody else puts pods here.
            let node = json!({"metadata": {"name": NAME}, "spec": {"unschedulable": true}});
            self.nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await.context("making a node")?;
        }
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()});
        let status = json!({"status": {"conditions": [ready]}});
        self.nodes.patch_status(NAME, &PatchParams::default(), &Patch::Strategic(&status)).await.context("saying that the node runs")?;
        self.said = Some(Instant::now());
        Ok(())
    }

    /// Takes a pod in.
    pub async fn bind(&self, pod: &Pod) -> Result<()> {
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            return Ok(());
        }
        let name = pod.name_any();
        let target = ObjectReference { kind: Some("Node".into()), name: Some(NAME.into()), ..ObjectReference::default() };
        let binding = Binding { metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() }, target };
        let how = PostParams::default();
        let bound = self.pods.create_subresource::<Binding, Json>("binding", &name, &how, &binding).await;
        bound.map(drop).with_context(|| format!("binding {name}"))
    }
}
