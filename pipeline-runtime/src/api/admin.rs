//! Routes for administrators, with keys of their own: which backend the pipeline writes to, and asking for another. Those for dead letters are
//! in `letters`.

use super::call::{Call, answer_for};
use super::errors::{Answer, Problem};
use super::{Keys, Shared, body};
use crate::control::Requests;
use crate::store::FailedMessages;
use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{SecondsFormat, Utc};
use crds::member::BackendRequest;
use crds::pipeline::Name;
use crds::runtime_config::RuntimeConfig;
use crds::switch::{Phase, Standing, SwitchState};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const LONGEST_BODY: usize = 1024;
/// A request is taken up within moments; where it is not, the operator is away.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(5);

/// What administrators may do.
pub struct Admin {
    pub keys: Arc<ArcSwap<Keys>>,
    /// None: the pipeline has one backend.
    pub requests: Option<Requests>,
    /// What dead letters are replayed by.
    pub config: Arc<ArcSwap<RuntimeConfig>>,
    /// None: dead letters are kept on their topics only.
    pub letters: Option<Arc<dyn FailedMessages>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    backend: String,
}

/// Where orders are written to and read from, and what is under way.
pub(super) async fn read_backend(State(api): Shared, request: Request) -> Response {
    for_admins(api, request, async |call| Answer::json(StatusCode::OK, &shown(&requests(&call)?.states.borrow()))).await
}

/// Asks for a backend; answers when that rules. The switch itself goes on beside: GET shows it.
pub(super) async fn ask_for_backend(State(api): Shared, request: Request) -> Response {
    for_admins(api, request, ask).await
}

async fn ask(call: Call) -> Result<Answer, Problem> {
    let requests = requests(&call)?;
    let Call { api, head, body, principal, .. } = call;
    let read = body::read(&head.headers, body, LONGEST_BODY, &api.budget).await?;
    let wish: Wish = serde_json::from_value((&read.said()?).into())
        .map_err(|error| Problem::field("backend", format!("send {{\"backend\": \"<name>\"}}, a name of spec.backends: {error}")))?;
    let known = requests.backends();
    if !known.contains(&wish.backend) {
        return Err(Problem::field("backend", format!("{:?} is not among spec.backends: there are {}", wish.backend, known.join(", "))));
    }
    let mut states = requests.states.clone();
    let before = states.borrow();
    // One that is not taken up yet would rule later, over this one.
    let pending = requests.asked.borrow().clone().map(crds::switch::Request::from);
    let pending = pending.is_some_and(|request| before.standing(&request) == Standing::New);
    if !pending && *before.asked().backend == *wish.backend && goes_to(&before, &wish.backend) {
        return Answer::json(StatusCode::OK, &shown(&before));
    }
    requests.asked.send_replace(Some(BackendRequest {
        backend: Name(wish.backend.clone()),
        by: principal.to_string(),
        at: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        lineage: Some(before.lineage().to_string()),
        revision: before.revision(),
    }));
    tracing::info!(backend = wish.backend, by = &*principal, "another backend is asked for");
    let noted = states.wait_for(|state| state.asked().since > before.revision() || !state.same_lineage(before.lineage()));
    match timeout(TAKEN_UP_WITHIN, noted).await {
        Ok(state) if *state.asked().backend == *wish.backend => Answer::json(StatusCode::ACCEPTED, &shown(&state)),
        Ok(state) => {
            let rules = state.asked();
            let message = format!("{} rules, which {} has asked for meanwhile: see GET /admin/backend-mode", rules.backend, rules.by);
            Err(Problem::new(StatusCode::CONFLICT, "another_request_rules", message))
        }
        Err(_) => {
            Err(Problem::unknown_outcome("the request is not taken up yet, and is as soon as it can be: see GET /admin/backend-mode", 5))
        }
    }
}

/// Whether writes are there, or on their way. What was refused and waits for its next attempt is neither: who asks anew wants it now.
fn goes_to(state: &SwitchState, backend: &str) -> bool {
    match state.phase() {
        Phase::Steady => *state.newest().backend == *backend,
        Phase::Prepare { target } | Phase::Hold { target, .. } => **target == *backend,
    }
}

fn requests(call: &Call) -> Result<Requests, Problem> {
    call.api.admin.as_ref().and_then(|admin| admin.requests.clone()).ok_or_else(|| {
        let message = "this pipeline has one backend: there is nothing to switch to";
        Problem::new(StatusCode::CONFLICT, "one_backend", message)
    })
}

/// Lets in who has an administrator's key.
pub(super) async fn for_admins<F, Work>(api: Arc<super::ApiState>, request: Request, work: F) -> Response
where
    F: FnOnce(Call) -> Work,
    Work: Future<Output = Result<Answer, Problem>>,
{
    let Some(keys) = api.admin.as_ref().map(|admin| admin.keys.load_full()) else {
        let message = "there are no routes for administrators: name their keys in spec.api.adminKeysSecretRef";
        return super::without_call(&request, Problem::new(StatusCode::NOT_FOUND, "not_found", message));
    };
    answer_for(&keys, api, request, work).await
}

fn shown(state: &SwitchState) -> Json {
    let (phase, target) = match state.phase() {
        Phase::Steady => ("Steady", None),
        Phase::Prepare { target } => ("Prepare", Some(target)),
        Phase::Hold { target, .. } => ("Hold", Some(target)),
    };
    let asked = state.asked();
    json!({
        "backend": &*state.newest().backend,
        "reading": &*state.active().backend,
        "draining": state.drains(),
        "epoch": state.newest().epoch,
        "phase": phase,
        "target": target.map(|target| &**target),
        "requested": {"backend": &*asked.backend, "by": &*asked.by, "at": Some(&*asked.at).filter(|at| !at.is_empty())},
        "lastSwitch": state.last(),
    })
}
