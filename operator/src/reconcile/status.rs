//! Last step: says how the pipeline is, in the conditions that kstatus reads (Flux, Argo CD, Helm). Computed purely from what was
//! found; written only if it differs from what stands there, and nothing in it moves by itself.

use super::conditions::{bounded, set_condition};
use super::dereference::Read;
use super::validate::{self, Valid};
use crate::build::Kind;
use crate::context::{Context, Error};
use crate::names::{self, Role};
use crate::switch::SWITCHING;
use crds::Mistake;
use crds::pipeline::{BackendStatus, OrderPipelineStatus, WorkloadStatus};
use crds::runtime_config::StoreConfig;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::events::{Event, EventType};
use serde_json::json;

/// The API server takes 32 KiB; a person reads less.
const LONGEST_MESSAGE: usize = 4000;
/// An event's note may have so many bytes.
const LONGEST_NOTE: usize = 1000;

/// What the steps before have found.
#[derive(Debug)]
pub enum Finding {
    Applied,
    Invalid(Vec<Mistake>),
    SecretsMissing(Vec<String>),
    /// Nothing is applied meanwhile: pods with another schema, or none, are no better than those that run.
    SchemasMissing(Vec<String>),
    IdentityChanged(Mistake),
    NamesTaken(Vec<String>),
    /// Objects of a pipeline of the same name that is gone.
    Predecessors(Vec<String>),
    /// What the API server does not take, in its words.
    Refused(Vec<String>),
    NotApplied(String),
}

/// How a pipeline is, in one word and one sentence.
#[derive(Debug, PartialEq)]
enum Health {
    Ready,
    /// It may get there by itself.
    Progressing(&'static str, String),
    /// It will not, unless somebody changes something.
    Stalled(&'static str, String),
}

/// Computes the status and writes it if it has changed.
pub async fn report(context: &Context, read: &Read, finding: &Finding, valid: Option<&Valid>) -> Result<(), Error> {
    let several = validate::config(read, valid).is_some_and(|config| config.backends.len() > 1);
    let before = previous(read, several);
    let now = Time(Timestamp::now());
    let status = compute(read, finding, valid, &before, &now);
    if status == before {
        return Ok(());
    }
    let resource = ApiResource::erase::<crds::OrderPipeline>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &read.namespace, &resource);
    let body = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": read.name, "uid": read.uid}, "status": status});
    let writing = || format!("writing the status of {}/{}", read.namespace, read.name);
    let how = PatchParams::apply(names::FIELD_MANAGER).force();
    context.within(writing, api.patch_status(&read.name, &how, &Patch::Apply(&body))).await?;
    context.metrics.status_written();
    if let Some(event) = event(&before, &status) {
        context.tell(&read.namespace, &read.name, &read.uid, &event).await;
    }
    Ok(())
}

/// What of it is written here: the rest belongs to the driver of the switch, where there are several backends. Until that has taken up
/// what stands there, it is kept. One that cannot be read counts as none: it is written anew.
fn previous(read: &Read, several: bool) -> OrderPipelineStatus {
    let status: Option<OrderPipelineStatus> = read.document.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
    let mut status = status.unwrap_or_default();
    status.conditions.retain(|condition| condition.type_ != SWITCHING);
    status.backend = status.backend.filter(|backend| !several || backend.mirror.is_none()).map(|backend| {
        let BackendStatus { active, writing, phase, .. } = backend;
        BackendStatus { active, writing, phase, ..Default::default() }
    });
    status
}

fn compute(read: &Read, finding: &Finding, valid: Option<&Valid>, before: &OrderPipelineStatus, now: &Time) -> OrderPipelineStatus {
    let deployment = |role| read.children.get(&(Kind::Deployment, names::workload(&read.name, role))).filter(|d| read.owns(d));
    let deployments: Vec<(Role, Deployment)> = Role::ALL
        .into_iter()
        .filter_map(|role| Some((role, serde_json::from_value(serde_json::to_value(deployment(role)?).ok()?).ok()?)))
        .collect();
    let workload = |role| deployments.iter().find(|(r, _)| *r == role).map(|(_, d)| workload_status(&read.name, role, d));
    let mut status = OrderPipelineStatus {
        observed_generation: Some(read.generation),
        conditions: before.conditions.clone(),
        backend: before.backend.clone(),
        api: workload(Role::Api),
        worker: workload(Role::Worker),
        generator: workload(Role::Generator),
    };
    // Only what was applied may say where the pipeline runs: from then on a document cannot move it.
    let only = valid.filter(|valid| valid.config.backends.len() == 1).map(|valid| &valid.config.backend);
    if let (Finding::Applied | Finding::SecretsMissing(_) | Finding::Refused(_), Some(only)) = (finding, only) {
        let backend = status.backend.get_or_insert_with(BackendStatus::default);
        backend.active = Some(only.clone());
        backend.writing = Some(only.clone());
        backend.phase = Some("Steady".into());
    }
    let mut set = |type_: &str, value: bool, reason: &str, message: &str| {
        let value = if value { "True" } else { "False" };
        set_condition(&mut status.conditions, Some(read.generation), now, type_, value, reason, message);
    };
    let health = health(finding, &deployments);
    let (reason, message) = match &health {
        Health::Ready => ("Ready", "everything that the document asks for runs"),
        Health::Progressing(reason, message) | Health::Stalled(reason, message) => (*reason, message.as_str()),
    };
    let moving = matches!(health, Health::Progressing(..));
    let stalled = matches!(health, Health::Stalled(..));
    set("Ready", health == Health::Ready, reason, message);
    set("Reconciling", moving, if moving { reason } else { "Settled" }, if moving { message } else { "" });
    set("Stalled", stalled, if stalled { reason } else { "NotStalled" }, if stalled { message } else { "" });
    if let Some(valid) = valid {
        match valid.config.store {
            StoreConfig::Postgres { .. } => set("EffectsDurable", true, "Postgres", "each event takes effect once, in PostgreSQL"),
            StoreConfig::Memory { .. } => set(
                "EffectsDurable",
                false,
                "MemoryStore",
                "orders are kept in memory: they are gone with the pod, and an event may take effect more than once; set spec.store.postgres",
            ),
        }
    }
    status
}

/// Why no switch may begin, in a sentence.
pub fn obstacle(finding: &Finding) -> Option<String> {
    match (finding, health(finding, &[])) {
        (Finding::Applied, _) | (_, Health::Ready) => None,
        (_, Health::Progressing(_, message) | Health::Stalled(_, message)) => Some(bounded(&message, LONGEST_NOTE)),
    }
}

fn health(finding: &Finding, deployments: &[(Role, Deployment)]) -> Health {
    match finding {
        Finding::Invalid(mistakes) => Health::Stalled("InvalidSpec", listed(mistakes)),
        Finding::NamesTaken(objects) => Health::Stalled(
            "NameTaken",
            format!("{} exist and belong to somebody else: delete or rename them, or rename the pipeline", objects.join(", ")),
        ),
        Finding::IdentityChanged(mistake) => Health::Stalled("IdentityChanged", bounded(&mistake.to_string(), LONGEST_MESSAGE)),
        Finding::Predecessors(objects) => Health::Progressing(
            "PredecessorGoes",
            format!("{} still belong to an earlier pipeline of this name and are being removed", objects.join(", ")),
        ),
        Finding::Refused(sentences) => Health::Stalled("ObjectRefused", bounded(&sentences.join("; "), LONGEST_MESSAGE)),
        Finding::NotApplied(why) => Health::Progressing("NotApplied", bounded(why, LONGEST_MESSAGE)),
        Finding::SecretsMissing(sentences) => Health::Progressing("SecretMissing", bounded(&sentences.join("; "), LONGEST_MESSAGE)),
        Finding::SchemasMissing(sentences) => Health::Progressing("SchemaMissing", bounded(&sentences.join("; "), LONGEST_MESSAGE)),
        Finding::Applied => rollout(deployments),
    }
}

/// The same lines as `pipeline-runtime check` prints; what does not fit is counted.
fn listed(mistakes: &[Mistake]) -> String {
    let mut text = String::new();
    for (index, mistake) in mistakes.iter().enumerate() {
        let line = format!("{}{mistake}", if index == 0 { "" } else { "\n" });
        if text.len() + line.len() > LONGEST_MESSAGE {
            let rest = mistakes.len() - index;
            return bounded(&if index == 0 { line } else { text }, LONGEST_MESSAGE) + &format!("\n... and {rest} more");
        }
        text += &line;
    }
    text
}

fn rollout(deployments: &[(Role, Deployment)]) -> Health {
    let mut waiting = Vec::new();
    for (role, deployment) in deployments {
        let status = deployment.status.clone().unwrap_or_default();
        let stuck = status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded"));
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let [updated, ready, all] = [status.updated_replicas, status.available_replicas, status.replicas].map(Option::unwrap_or_default);
        let seen = status.observed_generation >= deployment.metadata.generation;
        // What is said of an earlier generation may be what the newest one mends.
        if stuck && seen {
            let sentence =
                format!("the pods of the {} do not become ready: see kubectl describe deployment {}", role.name(), name(deployment));
            return Health::Stalled("RolloutStuck", sentence);
        }
        if !seen || updated < wanted || ready < wanted || all > updated {
            waiting.push(format!("{}: {} of {wanted} pods ready", role.name(), ready.min(updated)));
        }
    }
    if waiting.is_empty() { Health::Ready } else { Health::Progressing("WaitingForPods", waiting.join(", ")) }
}

fn name(deployment: &Deployment) -> &str {
    deployment.metadata.name.as_deref().unwrap_or_default()
}

fn workload_status(pipeline: &str, role: Role, deployment: &Deployment) -> WorkloadStatus {
    let status = deployment.status.as_ref();
    WorkloadStatus {
        replicas: status.and_then(|s| s.replicas).unwrap_or_default(),
        ready_replicas: status.and_then(|s| s.ready_replicas).unwrap_or_default(),
        selector: Some(names::pod_selector_text(pipeline, role)),
    }
}

/// Told only when `Ready` changes its value or its reason.
fn event(before: &OrderPipelineStatus, after: &OrderPipelineStatus) -> Option<Event> {
    let ready = |status: &OrderPipelineStatus| status.conditions.iter().find(|c| c.type_ == "Ready").cloned();
    let stalled = after.conditions.iter().any(|c| c.type_ == "Stalled" && c.status == "True");
    let (old, new) = (ready(before), ready(after)?);
    let changed = old.is_none_or(|old| (&old.status, &old.reason) != (&new.status, &new.reason));
    let troubled = stalled || matches!(new.reason.as_str(), "SecretMissing" | "SchemaMissing" | "NotApplied");
    changed.then(|| Event {
        type_: if troubled { EventType::Warning } else { EventType::Normal },
        reason: new.reason,
        note: Some(bounded(&new.message, LONGEST_NOTE)),
        action: "Reconcile".into(),
        secondary: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "status_tests.rs"]
mod tests;
