//! What is watched, and what wakes a reconcile: a pipeline, or anything that belongs to one. Only metadata is watched and only
//! that of pipelines is kept; a reconcile reads the rest itself.

use crate::context::{Context, Error};
use crate::{names, reconcile};
use crds::OrderPipeline;
use crds::switch::names::PIPELINE_LABEL;
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Reconciles at a time. Each holds one document and what was made of it, so this bounds memory too.
const CONCURRENCY: u16 = 8;
/// What comes within this time is one reconcile: applying seven objects causes seven watch events.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Runs until `shutdown`, then lets what is under way end.
pub async fn run(context: Arc<Context>, namespace: Option<String>, shutdown: impl Future<Output = ()> + Send + Sync + 'static) {
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::FIELD_MANAGER));
    // Not the state of a switch, which changes at each of its steps: its driver follows that one.
    let no_state = watcher::Config::default().labels(&format!("{}={},!{PIPELINE_LABEL}", names::MANAGED_BY, names::FIELD_MANAGER));
    let scope = Scope { client: context.client.clone(), namespace };
    Controller::new(scope.api::<Seen>(), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns(scope.api::<Deployment>(), ours.clone())
        .owns(scope.api::<ConfigMap>(), no_state)
        .owns(scope.api::<Service>(), ours.clone())
        .owns(scope.api::<ServiceAccount>(), ours.clone())
        .owns(scope.api::<Role>(), ours.clone())
        .owns(scope.api::<RoleBinding>(), ours)
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
}

/// An OrderPipeline as the watch sees it: that it is there. A document that fits no type cannot break the watch, and thousands of
/// pipelines take little memory.
#[derive(Clone, Debug)]
pub struct Seen {
    metadata: ObjectMeta,
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: ObjectMeta,
        }
        let Whole { metadata } = Whole::deserialize(deserializer)?;
        let ObjectMeta { name, namespace, uid, resource_version, generation, .. } = metadata;
        Ok(Seen { metadata: ObjectMeta { name, namespace, uid, resource_version, generation, ..Default::default() } })
    }
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
