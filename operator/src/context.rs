//! What every reconcile has at hand: the client, with a deadline on each call, and what it counts.

use crate::build::Kind;
use crate::controller::Call;
use crate::metrics::Metrics;
use crate::switch::Switches;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject};
use kube::runtime::events::{Event, Recorder};
use kube::{Client, Resource};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The client itself would go on trying for a quarter of an hour.
const CALL: Duration = Duration::from_secs(10);

pub struct Context {
    pub client: Client,
    pub default_image: String,
    /// One for all: it folds repeated events into one.
    pub recorder: Recorder,
    pub failures: Failures,
    pub metrics: Arc<Metrics>,
    /// What moves pipelines between their backends.
    pub switches: Switches,
    /// For whoever writes into the status of a pipeline what changes how it is built.
    pub call: Call,
    pub started: Instant,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}: {}", said(.source))]
    Api { doing: String, source: kube::Error },
    #[error("{doing}: no answer within {after:?}")]
    Deadline { doing: String, after: Duration },
    #[error("{doing}: not settled after {steps} steps: somebody else writes too")]
    Restless { doing: String, steps: usize },
    #[error("{doing}: {source}")]
    Json { doing: &'static str, source: serde_json::Error },
}

/// What the API server said, in its own words; everything else as it comes.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// The API server does not take the object as it is, and will not take it the next time either.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Api { source: kube::Error::Api(status), .. } if matches!(status.code, 400 | 422))
    }

    /// It was written by somebody else since it was read, or exists already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Api { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Api { source: kube::Error::Api(status), .. } if status.code == 404)
    }
}

impl Context {
    pub fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// Since the process began: what the switch measures its deadlines by.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// An event is a courtesy: that it could not be told is no reason to do anything again.
    pub async fn tell(&self, namespace: &str, pipeline: &str, uid: &str, event: &Event) {
        let about = ObjectReference {
            api_version: Some(crds::OrderPipeline::api_version(&()).into_owned()),
            kind: Some(crds::OrderPipeline::kind(&()).into_owned()),
            name: Some(pipeline.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..Default::default()
        };
        let telling = || format!("telling an event of {namespace}/{pipeline}");
        if let Err(error) = self.within(telling, self.recorder.publish(event, &about)).await {
            tracing::warn!(%error, "an event was not told");
        }
    }

    /// One call to the API server, with its deadline and with words for what failed.
    pub async fn within<T>(&self, doing: impl Fn() -> String, call: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Error::Api { doing: doing(), source }),
            Err(_) => Err(Error::Deadline { doing: doing(), after: CALL }),
        }
    }
}

/// How often in a row each pipeline has failed, by namespace and name. One that succeeds, or is gone, is forgotten: it holds no
/// more than what fails now.
#[derive(Default)]
pub struct Failures(Mutex<HashMap<(String, String), u32>>);

impl Failures {
    /// How many there were before this one.
    pub fn one_more(&self, namespace: &str, name: &str) -> u32 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((namespace.to_owned(), name.to_owned())).or_default();
        *count = count.saturating_add(1);
        *count - 1
    }

    pub fn forget(&self, namespace: &str, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.to_owned(), name.to_owned()));
    }
}
