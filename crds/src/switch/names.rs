//! What the objects of a switch are called: the operator makes or reads them, and every pod looks for them under these names.

/// The ConfigMap that holds the state. It is only ever replaced under its resourceVersion.
pub fn state_config_map(pipeline: &str) -> String {
    format!("{pipeline}-switch")
}

/// Its one key, a [`super::SwitchState`] as JSON, and the file's name in the pod.
pub const STATE_FILE: &str = "state.json";
/// Where that ConfigMap is mounted.
pub const STATE_DIR: &str = "/etc/orderpipeline/switch";
/// The label by which the PipelineMembers of a pipeline are found; its value is the pipeline's name. The ConfigMap carries it too.
pub const PIPELINE_LABEL: &str = "orderpipeline.dev/pipeline";
/// The annotation of an OrderPipeline by which a person asks for a backend: a [`crate::member::BackendRequest`] as JSON.
pub const REQUEST_ANNOTATION: &str = "orderpipeline.dev/switch";
/// The annotation of an OrderPipeline by which a person gives up what is left to drain: the last epoch that is meant, as a
/// [`super::Stamp`]: copied to another pipeline it says nothing.
pub const ABANDON_ANNOTATION: &str = "orderpipeline.dev/abandon-drain";
