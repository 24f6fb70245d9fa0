//! Which backend is asked for. `spec.backend` rules until someone asks for another outside of it, and again as soon as it is changed.

use super::SwitchState;
use crate::member::BackendRequest;
use crate::runtime_config::RuntimeConfig;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// `by` of a request that comes from the document itself.
const SPEC: &str = "spec.backend";

/// The request that rules, as the state keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    pub backend: Arc<str>,
    pub by: Arc<str>,
    /// RFC 3339, for people; empty where the document asks. Nothing is decided by it between revisions.
    pub at: Arc<str>,
    /// What `spec.backend` was then: once it is another, it rules again.
    pub spec: Arc<str>,
    /// The revision that wrote this down. Requests that were made before it are over.
    pub since: u64,
}

impl Asked {
    pub fn by_spec(backend: Arc<str>, since: u64) -> Asked {
        Asked { spec: backend.clone(), backend, by: SPEC.into(), at: "".into(), since }
    }
}

/// Someone asked outside of the document: over the API, or with an annotation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub backend: Arc<str>,
    pub by: Arc<str>,
    /// RFC 3339.
    pub at: Arc<str>,
    /// Of the state that the asker saw; None: written by hand.
    pub lineage: Option<Arc<str>>,
    /// The revision that the asker saw. So old requests are told from new ones without comparing clocks.
    pub revision: u64,
}

impl From<BackendRequest> for Request {
    fn from(BackendRequest { backend, by, at, lineage, revision }: BackendRequest) -> Request {
        Request { backend: backend.0.into(), by: by.into(), at: at.into(), lineage: lineage.map(Into::into), revision }
    }
}

/// How a request stands to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    New,
    /// Asked before what rules took effect, or of another lineage.
    Over,
    /// It names a revision that there has not been yet. If it ruled it would be new once more, and no other ever again.
    Ahead,
}

impl SwitchState {
    /// What was asked for is none of the document's backends any more, so what the document says rules again: else it would begin whenever
    /// it is one again.
    pub fn back_to_spec(&self, config: &RuntimeConfig) -> Option<Request> {
        let has = config.backends.iter().any(|backend| *backend.name == *self.asked().backend);
        let (backend, revision) = (config.backend.as_str().into(), self.revision());
        (!has).then(|| Request { backend, by: SPEC.into(), at: "".into(), lineage: None, revision })
    }

    pub fn standing(&self, request: &Request) -> Standing {
        let other = request.lineage.as_ref().is_some_and(|lineage| !self.same_lineage(lineage));
        match request.revision {
            _ if other => Standing::Over,
            revision if revision < self.asked().since => Standing::Over,
            revision if revision > self.revision() => Standing::Ahead,
            _ => Standing::New,
        }
    }

    /// What rules from now on, if it is not what ruled so far. Of several new requests the one with the highest revision, then the latest.
    pub fn ruling(&self, spec: &str, requests: &[Request]) -> Option<Asked> {
        let since = self.revision() + 1;
        if *self.asked().spec != *spec {
            return Some(Asked::by_spec(spec.into(), since));
        }
        let new = requests.iter().filter(|request| self.standing(request) == Standing::New);
        let latest = new.max_by(|a, b| (a.revision, &a.at, &a.by).cmp(&(b.revision, &b.at, &b.by)))?;
        let Request { backend, by, at, .. } = latest.clone();
        Some(Asked { backend, by, at, spec: spec.into(), since })
    }
}
