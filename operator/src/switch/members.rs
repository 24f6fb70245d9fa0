//! The members of a pipeline and their pods as the API server has them. What becomes of them is `crds::switch::Roll`'s.

use crate::context::{Context, Error};
use crate::names;
use crds::Role;
use crds::member::PipelineMember;
use crds::switch::names::PIPELINE_LABEL;
use crds::switch::{Container, Heard, Pod, Roll, Rules, Written};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Pods that are looked for one by one, at the same time.
const AT_ONCE: usize = 16;

pub fn wrote(object: &DynamicObject, in_order: bool) -> Heard {
    Heard::Wrote { object: written(object), in_order }
}

pub fn left(object: &DynamicObject) -> Heard {
    Heard::Left { version: version(object) }
}

fn version(object: &DynamicObject) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

fn written(object: &DynamicObject) -> Written {
    let said = object.data.get("spec").and_then(|spec| serde_json::from_value(spec.clone()).ok());
    Written { version: version(object), said: said.map(Arc::new) }
}

/// Who is missing counts, unless the pods are looked at too: after the members, so that a new pod is not taken for one that is gone.
pub async fn list(context: &Context, namespace: &str, pipeline: &str, of: (Arc<str>, u64), pods: bool) -> Result<Roll, Error> {
    let (lineage, after) = of;
    let resource = ApiResource::erase::<PipelineMember>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={pipeline}"));
    let listing = || format!("listing the members of {namespace}/{pipeline}");
    let members = context.within(listing, api.list(&labelled)).await?;
    let listed = members.iter().map(|object| (object.name_any().into(), written(object)));
    let mut roll = Roll::listed(Rules::in_force(), lineage, after, listed);
    if pods {
        let pods = pods_of(context, namespace, pipeline, &roll).await?;
        look_at_pods(&mut roll, &pods);
    }
    Ok(roll)
}

fn look_at_pods(roll: &mut Roll, pods: &[PodObject]) {
    let by_name: HashMap<String, &PodObject> = pods.iter().map(|pod| (pod.name_any(), pod)).collect();
    let mut strangers: Vec<Arc<str>> = pods.iter().filter(|pod| !ended(pod) && !obeys(pod)).map(|pod| pod.name_any().into()).collect();
    strangers.sort();
    roll.look_at(|member| by_name.get(&member.name).map(|pod| as_seen(pod)), strangers);
}

/// For how long writes paused when this epoch was opened: in the pod where they did so longest.
pub fn paused(roll: &Roll, epoch: u64) -> Option<i64> {
    let of_epoch = roll.said().filter_map(|said| said.paused).filter(|paused| paused.epoch == epoch);
    of_epoch.filter_map(|paused| i64::try_from(paused.ms).ok()).max()
}

/// The pods of a pipeline, and those of its members: one that was robbed of its labels goes on writing, so who is not listed is looked
/// for by name before it counts as gone.
async fn pods_of(context: &Context, namespace: &str, pipeline: &str, roll: &Roll) -> Result<Vec<PodObject>, Error> {
    let api: Api<PodObject> = Api::namespaced(context.client.clone(), namespace);
    let labelled = ListParams::default().labels(&names::children_selector(pipeline));
    let listing = || format!("listing the pods of {namespace}/{pipeline}");
    let mut pods = context.within(listing, api.list(&labelled)).await?.items;
    let listed: HashSet<String> = pods.iter().map(PodObject::name_any).collect();
    let missing: Vec<String> = roll.said().map(|said| said.pod.name.clone()).filter(|name| !listed.contains(name)).collect();
    let found = stream::iter(missing).map(|name| {
        let api = &api;
        async move { context.within(|| format!("looking for pod {namespace}/{name}"), api.get_opt(&name)).await }
    });
    let found: Vec<Option<PodObject>> = found.buffer_unordered(AT_ONCE).try_collect().await?;
    pods.extend(found.into_iter().flatten());
    Ok(pods)
}

fn ended(pod: &PodObject) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// It was made to read the state of the switch.
fn obeys(pod: &PodObject) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.name == names::SWITCH_VOLUME)
}

fn as_seen(pod: &PodObject) -> Pod {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    // Ours is named after its role; there may be others beside it.
    let ours = containers.into_iter().find(|container| Role::ALL.iter().any(|role| role.name() == container.name));
    let state = ours.and_then(|container| container.state.as_ref());
    let container = if state.is_some_and(|state| state.running.is_some()) {
        Container::Running
    } else {
        let last = ours.and_then(|container| container.last_state.as_ref());
        let terminated = [state, last].into_iter().flatten().find_map(|state| state.terminated.as_ref());
        Container::NotRunning { ended_at: terminated.and_then(|end| Some(end.finished_at.as_ref()?.0.to_string())) }
    };
    Pod { uid: pod.uid().unwrap_or_default(), ended: ended(pod), container }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crds::switch::SwitchState;
    use serde_json::json;

    fn member(name: &str) -> DynamicObject {
        let spec =
            json!({"pipeline": "shop", "role": "Api", "pod": {"name": name, "uid": name, "containerStartedAt": "2026-11-21T10:00:00Z"}});
        let object = json!({"apiVersion": "orderpipeline.dev/v1alpha1", "kind": "PipelineMember", "metadata": {"name": name, "resourceVersion": "7"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn pod(name: &str, uid: &str, phase: &str, volume: &str, state: serde_json::Value) -> PodObject {
        let object = json!({
            "metadata": {"name": name, "uid": uid},
            "spec": {"containers": [], "volumes": [{"name": volume}]},
            "status": {"phase": phase, "containerStatuses": [{"name": "api", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_member_that_cannot_be_read_is_one_all_the_same() {
        let mut strange = member("one");
        strange.data["spec"]["pod"] = json!("newer than this operator");
        assert_eq!(wrote(&strange, true), Heard::Wrote { object: Written { version: Some(7), said: None }, in_order: true });
    }

    #[test]
    fn who_has_ended_is_excused_and_a_pod_of_before_the_second_backend_is_not() {
        let members = ["gone", "failed", "ended", "runs"].map(|name| (name.into(), written(&member(name))));
        let mut roll = Roll::listed(Rules::in_force(), "l".into(), 1, members);
        let running = json!({"running": {"startedAt": "2026-11-21T10:00:00Z"}});
        let pods = [
            pod("gone", "another", "Running", "switch", running.clone()),
            pod("failed", "failed", "Failed", "switch", json!({})),
            pod("ended", "ended", "Running", "switch", json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T10:00:09Z"}})),
            pod("runs", "runs", "Running", "switch", running.clone()),
            pod("old", "old", "Running", "config", running),
            pod("old-failed", "old-failed", "Failed", "config", json!({})),
        ];
        look_at_pods(&mut roll, &pods);
        let listing = roll.listing(&SwitchState::first("l", "kafka")).unwrap();
        let counted: Vec<&str> = listing.members.iter().filter(|member| member.counts).map(|member| &*member.name).collect();
        assert_eq!(counted, ["runs", "old"]);
        assert_eq!(roll.strangers(), ["old".into()]);
    }
}
