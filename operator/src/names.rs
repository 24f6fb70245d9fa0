//! What things are called: the one place that knows the names and labels of what belongs to a pipeline.

pub use crds::Role;
use std::collections::BTreeMap;

/// Owner of the fields that the operator applies.
pub const FIELD_MANAGER: &str = "orderpipeline-operator";
/// Hash of what was applied last: with it a field that is no longer wanted is noticed.
pub const APPLIED: &str = "orderpipeline.dev/applied";
/// Hash of what pods read only at their start.
pub const ROLLS_ON: &str = "orderpipeline.dev/rolls-on";

pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const INSTANCE: &str = "app.kubernetes.io/instance";
const NAME: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";

pub fn workload(pipeline: &str, role: Role) -> String {
    format!("{pipeline}-{}", role.name())
}

pub fn config_map(pipeline: &str) -> String {
    format!("{pipeline}-config")
}

pub use crds::switch::names::state_config_map as switch_state;

/// The volume that holds the state of the switch: a pod without it was made before there was a second backend.
pub const SWITCH_VOLUME: &str = "switch";
/// Owner of the fields that the driver of a switch writes into status, so that it and the reconcile do not take them from each other.
pub const SWITCH_FIELD_MANAGER: &str = "orderpipeline-operator-switch";

/// ServiceAccount, Role and RoleBinding of the pods.
pub fn access(pipeline: &str) -> String {
    format!("{pipeline}-runtime")
}

/// On every object that belongs to the pipeline.
pub fn labels(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(NAME.into(), "orderpipeline".into()), (INSTANCE.into(), pipeline.into()), (MANAGED_BY.into(), FIELD_MANAGER.into())])
}

pub fn role_labels(pipeline: &str, role: Role) -> BTreeMap<String, String> {
    let mut labels = labels(pipeline);
    labels.insert(COMPONENT.into(), role.name().into());
    labels
}

/// How a workload finds its pods: never changes, since a Deployment's selector cannot.
pub fn pod_selector(pipeline: &str, role: Role) -> BTreeMap<String, String> {
    BTreeMap::from([(NAME.into(), "orderpipeline".into()), (INSTANCE.into(), pipeline.into()), (COMPONENT.into(), role.name().into())])
}

/// The same as kubectl and the scale subresource write it.
pub fn pod_selector_text(pipeline: &str, role: Role) -> String {
    pod_selector(pipeline, role).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// How everything that belongs to the pipeline is found.
pub fn children_selector(pipeline: &str) -> String {
    format!("{INSTANCE}={pipeline},{MANAGED_BY}={FIELD_MANAGER}")
}
