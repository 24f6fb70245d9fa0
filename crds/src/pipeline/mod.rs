//! The `OrderPipeline` resource: one file a section of its spec, and its status.
//!
//! A default that does not depend on other fields stands in the schema (`serde(default)`), so that the API server shows it;
//! one that does is a method beside the type, and the only place that knows it.

pub mod api;
pub mod backend;
mod check;
pub mod dialect;
pub mod event;
pub mod generator;
pub mod pii;
mod resolve;
pub mod scalar;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod topic;
pub mod worker;
pub mod workload;

pub use api::*;
pub use backend::*;
pub(crate) use check::check_meaning;
pub use check::{check, misfit};
pub use event::*;
pub use generator::*;
pub use pii::*;
pub use resolve::resolve;
pub use scalar::*;
pub use status::*;
pub use store::*;
pub use telemetry::*;
pub use topic::*;
pub use worker::*;
pub use workload::*;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const GROUP: &str = "orderpipeline.dev";

/// A whole order system: HTTP API, workers, generator, topics and events on a message broker that can be switched while it runs.
#[allow(clippy::duplicated_attributes)] // one printcolumn a column: the lint takes their arguments for repetitions
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "orderpipeline.dev",
    version = "v1alpha1",
    kind = "OrderPipeline",
    doc = "An order system as one document: `kubectl apply` makes it run, and a patch of spec.backend moves it to another message broker.",
    namespaced,
    shortname = "op",
    category = "orders",
    status = "OrderPipelineStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.worker.replicas",
        status_replicas_path = ".status.worker.replicas",
        label_selector_path = ".status.worker.selector"
    ),
    printcolumn(name = "Backend", type_ = "string", json_path = ".status.backend.active"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.backend.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = ("!has(self.backend) || self.backends.exists(b, b.name == self.backend)", "backend must be the name of one of spec.backends"))]
#[x_kube(validation = ("self.backends.size() == 1 || has(self.backend)", "backend is required when there is more than one in spec.backends: it says which one is written to"))]
pub struct OrderPipelineSpec {
    /// The name of the backend that orders are written to. Patching it switches the running system. Default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Name>,
    /// The message brokers this pipeline can run on.
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 8))]
    pub backends: Vec<Backend>,
    /// How a live switch behaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<Switching>,
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 64))]
    pub topics: Vec<Topic>,
    /// One entry for each kind of event; the first whose `when` holds is taken.
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 64))]
    pub events: Vec<Event>,
    /// Where orders are kept. Default: in memory, which is enough to try a pipeline and not more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// With what the fields of persons are encrypted that events name in `pii`, and who may read them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<Pii>,
    /// The HTTP API. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// The workers that apply events to the store. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// Makes orders by itself, to show or to load a pipeline. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<Generator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// What becomes of the topics when the pipeline is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The runtime image. Default: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub image: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[default]
    Retain,
    Delete,
}

impl OrderPipelineSpec {
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.iter().find(|t| t.name == *name)
    }
}
