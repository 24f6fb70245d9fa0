//! `PipelineMember`: one small object a runtime pod, and how a pod answers during a switch.
//!
//! Everything lies in `spec`, without a status subresource: the pod is the only writer, and one write must carry the whole answer.

use crate::pipeline::Name;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "orderpipeline.dev",
    version = "v1alpha1",
    kind = "PipelineMember",
    doc = "A runtime pod of an OrderPipeline, written by the pod itself: what it is connected to and how it answers a switch.",
    namespaced,
    shortname = "opm",
    category = "orders",
    derive = "PartialEq",
    printcolumn(name = "Pipeline", type_ = "string", json_path = ".spec.pipeline"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Answer", type_ = "string", json_path = ".spec.answer.kind"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.answer.revision"),
    printcolumn(name = "Connected", type_ = "string", json_path = ".spec.connected"),
    printcolumn(name = "Message", type_ = "string", json_path = ".spec.answer.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PipelineMemberSpec {
    pub pipeline: Name,
    pub role: Role,
    pub pod: MemberPod,
    /// Which brokers the names of backends stand for in this pod, as a digest: one that was started by an older document may go elsewhere.
    /// Absent: a pod that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub brokers: Option<String>,
    /// The backends that the pod is connected to, ready to be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub connected: Vec<Name>,
    /// Absent: the pod has joined and answered nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// What a worker has to tell of the brokers that are being left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reports: Option<Reports>,
    /// Someone asked this pod (POST /admin/backend-mode) to switch the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<BackendRequest>,
    /// How long messages of this pod waited in the last switch in which one had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Pause>,
}

/// From the first message that waited to the first one that the broker had taken after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// The epoch that was opened.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub epoch: u64,
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    Api,
    Worker,
    Generator,
}

/// Which pod this is, so that a member that was left behind is told from one that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberPod {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    #[schemars(length(min = 1, max = 64))]
    pub uid: String,
    /// When the container that writes this was started, RFC 3339: a restarted container has to join again.
    #[schemars(length(min = 1, max = 64))]
    pub container_started_at: String,
}

/// What the pod says to a revision of the switch state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Of the switch state that is answered.
    #[schemars(length(min = 1, max = 64))]
    pub lineage: String,
    /// The revision that is answered.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub revision: u64,
    pub kind: AnswerKind,
    /// Why it is refused, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AnswerKind {
    /// Connected to the target as it will be used.
    Ready,
    /// The target cannot be used; the message says why.
    Refused,
    /// Nothing is written any more, and nothing is in flight.
    Held,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRequest {
    pub backend: Name,
    /// The name of the key that asked.
    #[schemars(length(min = 1, max = 253))]
    pub by: String,
    /// RFC 3339.
    #[schemars(length(min = 1, max = 64))]
    pub at: String,
    /// Of the switch state that the asker had seen: what was asked of a pipeline that was deleted since is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub lineage: Option<String>,
    /// The revision of the switch state that the asker had seen: a request from before another one took effect is over.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub revision: u64,
}

/// How far the brokers are that are being left. What is reported once stays true.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reports {
    /// Of the switch state that is meant.
    #[schemars(length(min = 1, max = 64))]
    pub lineage: String,
    /// Epochs whose seals this worker has written, and every partition has acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(range(min = 0, max = 9_007_199_254_740_991i64)))]
    pub sealed: Vec<u64>,
    /// Every partition is read to the seal of this epoch.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991i64))]
    pub drained_through: u64,
    /// The topics of the pipeline's own that this worker reads: of others it says nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 249)))]
    pub topics: Vec<String>,
}
