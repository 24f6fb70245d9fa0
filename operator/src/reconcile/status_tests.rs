use super::super::validate::{tests::read as alone, validate};
use super::*;
use crate::build::tests::{DOCUMENT, pipeline};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use std::collections::BTreeMap;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(1_700_000_000 + second).unwrap())
}

fn valid() -> Valid {
    validate(&alone(serde_json::to_value(pipeline(DOCUMENT)).unwrap())).ok().unwrap()
}

/// The pipeline of `DOCUMENT` with so many ready pods of each workload.
fn read(ready: [(Role, i32, i32); 2]) -> Read {
    let uid = pipeline(DOCUMENT).uid().unwrap();
    let children: BTreeMap<_, _> = ready
        .into_iter()
        .map(|(role, wanted, ready)| {
            let name = names::workload("shop", role);
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "generation": 2, "ownerReferences": [{"apiVersion": "v1", "kind": "OrderPipeline", "name": "shop", "uid": uid, "controller": true}]},
                "spec": {"replicas": wanted, "selector": {}, "template": {}},
                "status": {"observedGeneration": 2, "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": ready, "availableReplicas": ready},
            });
            ((Kind::Deployment, name), serde_json::from_value(object).unwrap())
        })
        .collect();
    Read { namespace: "retail".into(), name: "shop".into(), uid, generation: 3, document: json!({}), children }
}

fn condition<'a>(status: &'a OrderPipelineStatus, type_: &str) -> &'a Condition {
    status.conditions.iter().find(|c| c.type_ == type_).unwrap()
}

fn said(status: &OrderPipelineStatus) -> [(&str, &str); 3] {
    ["Ready", "Reconciling", "Stalled"].map(|t| (condition(status, t).status.as_str(), condition(status, t).reason.as_str()))
}

const ALL_READY: [(Role, i32, i32); 2] = [(Role::Api, 2, 2), (Role::Worker, 1, 1)];

#[test]
fn ready_once_every_pod_is() {
    let status = compute(&read(ALL_READY), &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    assert_eq!(said(&status), [("True", "Ready"), ("False", "Settled"), ("False", "NotStalled")]);
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.backend.as_ref().unwrap().active.as_deref(), Some("kafka"));
    assert_eq!(status.api.as_ref().unwrap().ready_replicas, 2);
    assert!(status.api.unwrap().selector.unwrap().contains("app.kubernetes.io/component=api"));
    assert_eq!(status.generator, None);
}

#[test]
fn says_which_pods_it_waits_for() {
    let status = compute(
        &read([(Role::Api, 2, 1), (Role::Worker, 1, 1)]),
        &Finding::Applied,
        Some(&valid()),
        &OrderPipelineStatus::default(),
        &at(0),
    );
    assert_eq!(said(&status), [("False", "WaitingForPods"), ("True", "WaitingForPods"), ("False", "NotStalled")]);
    assert_eq!(condition(&status, "Ready").message, "api: 1 of 2 pods ready");
}

#[test]
fn the_same_finding_later_is_the_same_status() {
    let first = compute(&read(ALL_READY), &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    let again = compute(&read(ALL_READY), &Finding::Applied, Some(&valid()), &first, &at(100));
    assert_eq!(first, again);
    assert!(event(&first, &again).is_none());
}

#[test]
fn a_condition_keeps_its_time_until_its_value_changes() {
    let first = compute(&read(ALL_READY), &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    let missing = Finding::SecretsMissing(vec!["Secret db is missing".into()]);
    let second = compute(&read(ALL_READY), &missing, Some(&valid()), &first, &at(50));
    assert_eq!(condition(&second, "Ready").last_transition_time, at(50));
    assert_eq!(condition(&second, "Stalled").last_transition_time, at(0));
    let event = event(&first, &second).unwrap();
    assert_eq!((event.type_, event.reason.as_str()), (EventType::Warning, "SecretMissing"));
}

#[test]
fn an_invalid_document_is_stalled_with_its_mistakes_and_the_rest_stays() {
    let first = compute(&read(ALL_READY), &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    let mistakes = vec![Mistake::new("spec.events[0].key", "does not parse"), Mistake::new("spec.worker", "strange")];
    let status = compute(&read(ALL_READY), &Finding::Invalid(mistakes), None, &first, &at(9));
    assert_eq!(said(&status), [("False", "InvalidSpec"), ("False", "Settled"), ("True", "InvalidSpec")]);
    assert_eq!(condition(&status, "Stalled").message, "spec.events[0].key: does not parse\nspec.worker: strange");
    assert_eq!(status.backend, first.backend);
    assert_eq!(condition(&status, "EffectsDurable"), condition(&first, "EffectsDurable"));
}

#[test]
fn a_thousand_mistakes_still_fit() {
    let mistakes: Vec<Mistake> = (0..1000).map(|i| Mistake::new(format!("spec.events[{i}]"), "ü".repeat(50))).collect();
    let text = listed(&mistakes);
    assert!(text.len() < LONGEST_MESSAGE + 40, "{}", text.len());
    assert!(text.ends_with("more"), "{text}");
    assert!(listed(&[Mistake::new("x", "ü".repeat(9000))]).len() < LONGEST_MESSAGE + 40);
}

#[test]
fn a_rollout_without_progress_is_stalled() {
    let mut read = read(ALL_READY);
    let worker = read.children.get_mut(&(Kind::Deployment, "shop-worker".into())).unwrap();
    worker.data["status"]["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    let status = compute(&read, &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    assert_eq!(condition(&status, "Stalled").reason, "RolloutStuck");
}

#[test]
fn what_was_said_of_an_earlier_generation_is_no_stall() {
    let mut read = read(ALL_READY);
    let worker = read.children.get_mut(&(Kind::Deployment, "shop-worker".into())).unwrap();
    worker.data["status"]["conditions"] = json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}]);
    worker.metadata.generation = Some(3);
    let status = compute(&read, &Finding::Applied, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    assert_eq!(said(&status), [("False", "WaitingForPods"), ("True", "WaitingForPods"), ("False", "NotStalled")]);
}

#[test]
fn what_the_api_server_refuses_is_stalled_in_its_words_and_a_predecessor_is_waited_for() {
    let refused = Finding::Refused(vec!["applying Deployment retail/shop-api: must be less than or equal to memory limit".into()]);
    let status = compute(&read(ALL_READY), &refused, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    assert_eq!(said(&status), [("False", "ObjectRefused"), ("False", "Settled"), ("True", "ObjectRefused")]);
    assert!(condition(&status, "Stalled").message.contains("memory limit"));
    let going = Finding::Predecessors(vec!["ConfigMap shop-config".into()]);
    let status = compute(&read(ALL_READY), &going, Some(&valid()), &OrderPipelineStatus::default(), &at(0));
    assert_eq!(said(&status), [("False", "PredecessorGoes"), ("True", "PredecessorGoes"), ("False", "NotStalled")]);
}

#[test]
fn another_broker_under_a_name_in_use_is_stalled_for_its_own_reason() {
    let changed = Finding::IdentityChanged(Mistake::new("spec.backends[0]", "another broker"));
    let status = compute(&read(ALL_READY), &changed, None, &OrderPipelineStatus::default(), &at(0));
    assert_eq!(said(&status), [("False", "IdentityChanged"), ("False", "Settled"), ("True", "IdentityChanged")]);
}

#[test]
fn a_store_in_memory_is_said_to_lose_orders() {
    let document = DOCUMENT.replace("store: {postgres: {urlSecretRef: {name: db, key: url}}}", "store: {memory: {}}");
    let valid = validate(&alone(serde_json::to_value(pipeline(&document)).unwrap())).ok().unwrap();
    let status = compute(&read(ALL_READY), &Finding::Applied, Some(&valid), &OrderPipelineStatus::default(), &at(0));
    let durable = condition(&status, "EffectsDurable");
    assert_eq!((durable.status.as_str(), durable.reason.as_str()), ("False", "MemoryStore"));
}
