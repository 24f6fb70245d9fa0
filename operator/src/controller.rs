//! What is watched, and what wakes a reconcile: a pipeline that somebody else has changed, or anything that belongs to one. Only metadata
//! is watched and only that of pipelines is kept; a reconcile reads the rest itself.

use crate::again::{Again, AtOnce};
use crate::context::{Context, Error};
use crate::{names, reconcile};
use crds::OrderPipeline;
use crds::switch::names::PIPELINE_LABEL;
use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, ObjectMeta, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Reconciles at a time. Each holds one document and what was made of it, so this bounds memory too.
const CONCURRENCY: u16 = 8;
/// What comes within this time is one reconcile: applying seven objects causes seven watch events.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Pipelines that wait to be woken by us; they are taken at once.
const CALLED: usize = 64;

/// Wakes a reconcile of a pipeline whose status we have changed ourselves, so that no watch does.
#[derive(Clone)]
pub struct Call(mpsc::Sender<ObjectRef<Seen>>);

/// What is called.
pub struct Calls(mpsc::Receiver<ObjectRef<Seen>>);

impl Call {
    pub fn new() -> (Call, Calls) {
        let (sender, receiver) = mpsc::channel(CALLED);
        (Call(sender), Calls(receiver))
    }

    pub async fn reconcile(&self, namespace: &str, name: &str) {
        // Nobody is there when the process ends; the next leader reconciles everything.
        let _ = self.0.send(ObjectRef::new(name).within(namespace)).await;
    }
}

/// Runs until `shutdown`, then lets what is under way end.
pub async fn run(
    context: Arc<Context>,
    namespace: Option<String>,
    mut calls: Calls,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::FIELD_MANAGER));
    // Not the state of a switch, which changes at each of its steps: its driver follows that one.
    let no_state = watcher::Config::default().labels(&format!("{}={},!{PIPELINE_LABEL}", names::MANAGED_BY, names::FIELD_MANAGER));
    let scope = Scope { client: context.client.clone(), namespace };
    let (reader, writer) = reflector::store();
    let pipelines = watcher::watcher(scope.api::<Seen>(), watcher::Config::default())
        .backoff(Again::soon())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(|pipeline: &Seen| Some(pipeline.of_others), Default::default());
    Controller::for_stream(pipelines, reader)
        .reconcile_on(futures::stream::poll_fn(move |task| calls.0.poll_recv(task)))
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .trigger_backoff(AtOnce)
        .owns_stream(scope.owned::<Deployment>(ours.clone()))
        .owns_stream(scope.owned::<ConfigMap>(no_state))
        .owns_stream(scope.owned::<Service>(ours.clone()))
        .owns_stream(scope.owned::<ServiceAccount>(ours.clone()))
        .owns_stream(scope.owned::<Role>(ours.clone()))
        .owns_stream(scope.owned::<RoleBinding>(ours))
        .graceful_shutdown_on(shutdown)
        .run(wake, failed, context)
        .for_each(|outcome| async {
            if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = outcome {
                tracing::warn!(%error, "a watch broke off and is taken up again");
            }
        })
        .await;
}

async fn wake(pipeline: Arc<Seen>, context: Arc<Context>) -> Result<Action, Error> {
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    let outcome = reconcile::reconcile(&context, &namespace, &name).await;
    context.metrics.reconciled();
    if outcome.is_ok() {
        context.failures.forget(&namespace, &name);
    }
    outcome
}

fn failed(pipeline: Arc<Seen>, error: &Error, context: Arc<Context>) -> Action {
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    tracing::warn!(namespace, pipeline = name, %error, "not reconciled, tried again later");
    context.metrics.failed();
    reconcile::after_failure(&context, &namespace, &name)
}

struct Scope {
    client: Client,
    namespace: Option<String>,
}

impl Scope {
    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// What becomes of our objects of this kind.
    fn owned<K>(&self, which: watcher::Config) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + use<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        watcher::watcher(self.api::<PartialObjectMeta<K>>(), which).backoff(Again::soon()).touched_objects()
    }
}

/// An OrderPipeline as the watch sees it: that it is there. A document that fits no type cannot break the watch, and thousands of
/// pipelines take little memory.
#[derive(Clone, Debug)]
pub struct Seen {
    metadata: ObjectMeta,
    /// Changes whenever anybody but us changes something, in status too. What we write there ourselves is no news: a switch writes it at
    /// each of its steps.
    of_others: u64,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: ObjectMeta,
        }
        let Whole { metadata } = Whole::deserialize(deserializer)?;
        let of_others = of_others(&metadata);
        let ObjectMeta { name, namespace, uid, resource_version, generation, .. } = metadata;
        Ok(Seen { metadata: ObjectMeta { name, namespace, uid, resource_version, generation, ..Default::default() }, of_others })
    }
}

fn of_others(metadata: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Said on their own: the times of managers are whole seconds.
    (metadata.generation, &metadata.annotations, &metadata.labels).hash(&mut hasher);
    for ManagedFieldsEntry { manager, operation, subresource, time, fields_v1, .. } in metadata.managed_fields.iter().flatten() {
        if !manager.as_deref().is_some_and(|manager| [names::FIELD_MANAGER, names::SWITCH_FIELD_MANAGER].contains(&manager)) {
            (manager, operation, subresource, time.as_ref().map(|time| time.0)).hash(&mut hasher);
            fields_v1.as_ref().map(|fields| fields.0.to_string()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

impl Resource for Seen {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        OrderPipeline::kind(&())
    }
    fn group(_: &()) -> Cow<'_, str> {
        OrderPipeline::group(&())
    }
    fn version(_: &()) -> Cow<'_, str> {
        OrderPipeline::version(&())
    }
    fn plural(_: &()) -> Cow<'_, str> {
        OrderPipeline::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    /// The API server sends metadata only.
    fn metadata_api() -> bool {
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value as Json, json};

    fn of_others(change: impl FnOnce(&mut Json)) -> u64 {
        let by =
            |manager: &str, time: &str, fields: Json| json!({"manager": manager, "operation": "Apply", "time": time, "fieldsV1": fields});
        let mut metadata = json!({
            "name": "shop", "generation": 3, "annotations": {"a": "1"},
            "managedFields": [
                by(names::FIELD_MANAGER, "2026-11-21T10:00:00Z", json!({"f:status": {"f:conditions": {}}})),
                by(names::SWITCH_FIELD_MANAGER, "2026-11-21T10:00:00Z", json!({"f:status": {"f:backend": {}}})),
                by("kubectl-edit", "2026-11-21T10:00:00Z", json!({"f:status": {"f:replicas": {}}})),
            ],
        });
        change(&mut metadata);
        serde_json::from_value::<Seen>(json!({"metadata": metadata})).unwrap().of_others
    }

    #[test]
    fn what_others_change_wakes_a_reconcile_and_what_we_write_into_status_does_not() {
        let before = of_others(|_| {});
        let later = "2026-11-21T10:00:09Z";
        assert_eq!(before, of_others(|metadata| metadata["resourceVersion"] = json!("77")));
        for ours in [0, 1] {
            assert_eq!(before, of_others(|metadata| metadata["managedFields"][ours]["time"] = json!(later)));
            assert_eq!(before, of_others(|metadata| metadata["managedFields"][ours]["fieldsV1"] = json!({"f:status": {}})));
        }
        for other in [
            of_others(|metadata| metadata["generation"] = json!(4)),
            of_others(|metadata| metadata["annotations"]["a"] = json!("2")),
            of_others(|metadata| metadata["labels"] = json!({"a": "1"})),
            of_others(|metadata| metadata["managedFields"][2]["time"] = json!(later)),
            of_others(|metadata| metadata["managedFields"][2]["fieldsV1"] = json!({})),
        ] {
            assert_ne!(before, other);
        }
    }
}
