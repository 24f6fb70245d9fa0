//! Who has to answer, and what they have said. Listed by a quorum read; from then on the watch adds what is said, so that nothing is
//! read while writes are held: such a list may have to wait a tenth of a second for the API server's own cache.

use crate::context::{Context, Error};
use crate::names;
use crds::Role;
use crds::member::{PipelineMember, PipelineMemberSpec};
use crds::switch::names::PIPELINE_LABEL;
use crds::switch::{Container, Listing, Member, Pod, SwitchState, counts};
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What the watch has told of a member.
#[derive(Clone, Debug)]
pub struct Heard {
    version: Option<u64>,
    /// None: it has left.
    said: Option<PipelineMemberSpec>,
    /// Delivered when it happened, after all that happened before. Not so what a watch tells first when it is taken up again.
    in_order: bool,
}

impl Heard {
    pub fn said(object: &DynamicObject, in_order: bool) -> Heard {
        Heard { version: version(object), said: spec(object), in_order }
    }

    pub fn left(object: &DynamicObject) -> Heard {
        Heard { version: version(object), said: None, in_order: true }
    }
}

fn version(object: &DynamicObject) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

/// One that cannot be read has said nothing: it is waited for.
fn spec(object: &DynamicObject) -> Option<PipelineMemberSpec> {
    serde_json::from_value(object.data.get("spec")?.clone()).ok()
}

/// The members of a pipeline as they were listed, and what was heard since.
#[derive(Debug)]
pub struct Roll {
    pub lineage: Arc<str>,
    /// The revision that was known to be written before the list was begun.
    pub after: u64,
    /// What the watch tells has been kept since before the list was begun.
    pub followed: bool,
    listed: BTreeMap<String, Listed>,
    /// Pods that will never be members and may write: they were made before there was a second backend.
    pub strangers: Vec<String>,
}

#[derive(Debug)]
struct Listed {
    version: Option<u64>,
    spec: Option<PipelineMemberSpec>,
    counts: bool,
}

impl Roll {
    /// Who is missing counts, unless the pods are looked at too: after the members, so that a new pod is not taken for one that is gone.
    pub async fn call(context: &Context, namespace: &str, pipeline: &str, of: (Arc<str>, u64), pods: bool) -> Result<Roll, Error> {
        let (lineage, after) = of;
        let resource = ApiResource::erase::<PipelineMember>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
        let labelled = ListParams::default().labels(&format!("{PIPELINE_LABEL}={pipeline}"));
        let listing = || format!("listing the members of {namespace}/{pipeline}");
        let members = context.within(listing, api.list(&labelled)).await?;
        let listed = members.items.into_iter().map(|object| {
            let listed = Listed { version: version(&object), spec: spec(&object), counts: true };
            (object.name_any(), listed)
        });
        let mut roll = Roll { lineage, after, followed: false, listed: listed.collect(), strangers: Vec::new() };
        if pods {
            roll.look_at_pods(&list_pods(context, namespace, pipeline).await?);
        }
        Ok(roll)
    }

    fn look_at_pods(&mut self, pods: &[PodObject]) {
        let by_name: HashMap<String, &PodObject> = pods.iter().map(|pod| (pod.name_any(), pod)).collect();
        for listed in self.listed.values_mut() {
            if let Some(spec) = &listed.spec {
                let pod = by_name.get(&spec.pod.name).map(|pod| as_seen(pod));
                listed.counts = counts(crds::switch::Rules::in_force(), &spec.pod, pod.as_ref());
            }
        }
        self.strangers = pods.iter().filter(|pod| !ended(pod) && !obeys(pod)).map(|pod| pod.name_any()).collect();
        self.strangers.sort();
    }

    /// What the watch has told since the list; what it told before is in the list.
    pub fn hear(&mut self, heard: &HashMap<String, Heard>) {
        for (name, heard) in heard {
            let Some(listed) = self.listed.get_mut(name) else {
                if heard.said.is_some() {
                    let new = Listed { version: heard.version, spec: heard.said.clone(), counts: true };
                    self.listed.insert(name.clone(), new);
                }
                continue;
            };
            match &heard.said {
                _ if heard.version <= listed.version => {}
                Some(spec) => {
                    listed.version = heard.version;
                    // Another container than the one that was looked at counts until it is looked at.
                    listed.counts |= listed.spec.as_ref().is_none_or(|known| known.pod != spec.pod);
                    listed.spec = Some(spec.clone());
                }
                // Shut for good, or gone with its pod.
                None => drop(self.listed.remove(name)),
            }
        }
    }

    /// A list that was followed by the watch ever since is one of this phase as soon as somebody has answered to it: that was written
    /// after the phase began, and what was written before it has been heard before it.
    pub fn follow(&mut self, state: &SwitchState, heard: &HashMap<String, Heard>) {
        let answers = |heard: &Heard| {
            let answer = heard.said.as_ref().filter(|_| heard.in_order).and_then(|said| said.answer.as_ref());
            answer.is_some_and(|answer| state.same_lineage(&answer.lineage) && answer.revision >= state.since())
        };
        if self.followed && state.same_lineage(&self.lineage) && self.after < state.since() && heard.values().any(answers) {
            self.after = state.since();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub fn said(&self) -> impl Iterator<Item = &PipelineMemberSpec> {
        self.listed.values().filter_map(|listed| listed.spec.as_ref())
    }

    /// For how long writes paused when this epoch was opened: in the pod where they did so longest.
    pub fn paused(&self, epoch: u64) -> Option<i64> {
        let of_epoch = self.said().filter_map(|said| said.paused).filter(|paused| paused.epoch == epoch);
        of_epoch.filter_map(|paused| i64::try_from(paused.ms).ok()).max()
    }

    pub fn listing(&self) -> Listing {
        let members = self.listed.iter().map(|(name, listed)| Member {
            name: name.as_str().into(),
            counts: listed.counts,
            answer: listed.spec.as_ref().and_then(|spec| spec.answer.clone()),
            reports: listed.spec.as_ref().and_then(|spec| spec.reports.clone()),
        });
        // They cannot answer, so they hold the switch up until they are gone.
        let strangers = self.strangers.iter().map(|name| Member { name: name.as_str().into(), counts: true, answer: None, reports: None });
        Listing { after: self.after, members: members.chain(strangers).collect() }
    }
}

async fn list_pods(context: &Context, namespace: &str, pipeline: &str) -> Result<Vec<PodObject>, Error> {
    let api: Api<PodObject> = Api::namespaced(context.client.clone(), namespace);
    let labelled = ListParams::default().labels(&names::children_selector(pipeline));
    let listing = || format!("listing the pods of {namespace}/{pipeline}");
    Ok(context.within(listing, api.list(&labelled)).await?.items)
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
    use serde_json::json;

    fn member(name: &str, version: &str, answer: Option<u64>) -> DynamicObject {
        let mut spec =
            json!({"pipeline": "shop", "role": "Api", "pod": {"name": name, "uid": name, "containerStartedAt": "2026-11-21T10:00:00Z"}});
        if let Some(revision) = answer {
            spec["answer"] = json!({"lineage": "l", "revision": revision, "kind": "Held"});
        }
        let object = json!({"apiVersion": "orderpipeline.dev/v1alpha1", "kind": "PipelineMember", "metadata": {"name": name, "resourceVersion": version}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn roll(members: &[DynamicObject]) -> Roll {
        let listed =
            members.iter().map(|object| (object.name_any(), Listed { version: version(object), spec: spec(object), counts: true }));
        Roll { lineage: "l".into(), after: 1, followed: true, listed: listed.collect(), strangers: Vec::new() }
    }

    fn answers(roll: &Roll) -> Vec<(String, Option<u64>)> {
        roll.listing().members.iter().map(|member| (member.name.to_string(), member.answer.as_ref().map(|a| a.revision))).collect()
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
    fn what_is_heard_later_than_the_list_counts_and_what_is_older_does_not() {
        let mut roll = roll(&[member("one", "10", Some(5)), member("two", "11", None)]);
        let heard = |object: &DynamicObject| (object.name_any(), Heard::said(object, true));
        roll.hear(&HashMap::from([heard(&member("one", "9", Some(4))), heard(&member("two", "12", Some(5)))]));
        assert_eq!(answers(&roll), [("one".into(), Some(5)), ("two".into(), Some(5))]);
    }

    #[test]
    fn who_leaves_is_not_waited_for_and_who_joins_is() {
        let mut roll = roll(&[member("one", "10", None), member("two", "11", None)]);
        let gone = member("one", "20", None);
        let new = member("three", "21", None);
        roll.hear(&HashMap::from([("one".into(), Heard::left(&gone)), ("three".into(), Heard::said(&new, true))]));
        assert_eq!(answers(&roll), [("three".into(), None), ("two".into(), None)]);
    }

    #[test]
    fn a_list_that_was_followed_is_one_of_the_hold_once_somebody_has_answered_to_it() {
        let first = SwitchState::first("l", "kafka");
        let held = first.noted(first.ruling("next", &[]).unwrap()).unwrap().prepared().unwrap().held().unwrap();
        let after = |answered: u64, in_order: bool, followed: bool| {
            let mut roll = Roll { followed, ..roll(&[member("one", "10", None)]) };
            roll.follow(&held, &HashMap::from([("one".into(), Heard::said(&member("one", "11", Some(answered)), in_order))]));
            roll.after
        };
        assert_eq!(after(held.since(), true, true), held.since());
        assert_eq!(after(held.since() - 1, true, true), 1, "an answer to an earlier phase");
        assert_eq!(after(held.since(), false, true), 1, "others may still be told of that the watch has missed");
        assert_eq!(after(held.since(), true, false), 1);
    }

    #[test]
    fn who_has_ended_is_excused_and_a_pod_of_before_the_second_backend_is_not() {
        let mut roll =
            roll(&[member("gone", "1", None), member("failed", "2", None), member("ended", "3", None), member("runs", "4", None)]);
        let running = json!({"running": {"startedAt": "2026-11-21T10:00:00Z"}});
        roll.look_at_pods(&[
            pod("gone", "another", "Running", "switch", running.clone()),
            pod("failed", "failed", "Failed", "switch", json!({})),
            pod("ended", "ended", "Running", "switch", json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-21T10:00:09Z"}})),
            pod("runs", "runs", "Running", "switch", running.clone()),
            pod("old", "old", "Running", "config", running),
            pod("old-failed", "old-failed", "Failed", "config", json!({})),
        ]);
        let counted: Vec<String> = roll.listing().members.iter().filter(|m| m.counts).map(|m| m.name.to_string()).collect();
        assert_eq!(counted, ["runs", "old"]);
        assert_eq!(roll.strangers, ["old"]);
    }
}
