//! What happens when a pipeline, or something that belongs to it, has changed: the steps, in the order in which they run.
//!
//! 1. `dereference` reads, freshly: the document, what exists for it, the Secrets and schemas that it names.
//! 2. `validate` turns the document into a checked pipeline, or into its mistakes. Pure.
//! 3. `build` (its own room) says what should exist. Pure.
//! 4. `apply` writes what differs and removes what is no longer wanted.
//! 5. `status` says how it is: computed purely, written only if changed.
//!
//! Which of several backends is used is none of their business: that is handed over to the driver of the pipeline's switch.

mod apply;
pub mod conditions;
mod dereference;
mod difference;
mod status;
mod validate;

use crate::build::{self, Blueprint};
use crate::context::{Context, Error};
use crate::switch::{Annotations, Wanted};
use crds::switch::SwitchState;
use dereference::Read;
use kube::runtime::controller::Action;
use status::Finding;
use std::time::Duration;
use validate::{Refusal, Valid};

/// A bound for all the steps together; each call to the API server has its own.
const DEADLINE: Duration = Duration::from_secs(60);
/// How soon we look again for something that no watch tells of: a Secret or a schema that is missing, a name that is taken.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

const SELDOM: Duration = Duration::from_secs(300);
/// Why no switch begins while what belongs to the pipeline has not been looked at.
const NOT_YET: &str = "what belongs to the pipeline is first made as the document says";

/// Brings one pipeline to what its document says.
pub async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    match tokio::time::timeout(DEADLINE, steps(context, namespace, name)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Deadline { doing: format!("reconciling {namespace}/{name}"), after: DEADLINE }),
    }
}

async fn steps(context: &Context, namespace: &str, name: &str) -> Result<Action, Error> {
    let Some(mut read) = dereference::read(context, namespace, name).await? else {
        context.switches.forget(namespace, name).await;
        return Ok(Action::await_change()); // gone: the garbage collector removes what belonged to it
    };
    if read.is_being_deleted() {
        context.switches.forget(namespace, name).await;
        return Ok(Action::await_change());
    }
    let checked = validate::validate(&read);
    if let Some(wanted) = wanted(&read, checked.as_ref().ok(), Some(NOT_YET.into())) {
        context.switches.announce(wanted, read.switches()).await;
    }
    let (finding, valid) = match checked {
        Err(Refusal::Mistakes(mistakes)) => (Finding::Invalid(mistakes), None),
        Err(Refusal::IdentityChanged(mistake)) => (Finding::IdentityChanged(mistake), None),
        Ok(valid) => match bring_about(context, &mut read, &valid).await {
            Ok(finding) => (finding, Some(valid)),
            Err(error) => {
                // Said before it is tried again, since that may be a while.
                let finding = Finding::NotApplied(error.to_string());
                hand_over(context, &read, &finding, Some(&valid)).await;
                status::report(context, &read, &finding, Some(&valid)).await?;
                return Err(error);
            }
        },
    };
    hand_over(context, &read, &finding, valid.as_ref()).await;
    status::report(context, &read, &finding, valid.as_ref()).await?;
    Ok(match finding {
        Finding::SecretsMissing(_) | Finding::SchemasMissing(_) | Finding::NamesTaken(_) | Finding::Predecessors(_) => {
            Action::requeue(LOOK_AGAIN)
        }
        // The API server may have learnt what it refuses, or a webhook may think again; in the end somebody has to change something.
        Finding::Refused(_) => Action::requeue(SELDOM),
        // Nor of a schema that has changed.
        _ if valid.is_some_and(|valid| valid.config.schemas().next().is_some()) => Action::requeue(SELDOM),
        _ => Action::await_change(),
    })
}

/// What moves the pipeline between its backends hears of it. A switch that is under way goes on whatever became of the document since.
async fn hand_over(context: &Context, read: &Read, finding: &Finding, valid: Option<&Valid>) {
    let Some(wanted) = wanted(read, valid, status::obstacle(finding)) else { return };
    // With one backend there is nothing to switch; but what the document asks for is noted once, since it ends all requests of before.
    let config = &wanted.config;
    let noted = |mirror: SwitchState| [&mirror.asked().spec, &mirror.asked().backend].iter().all(|asked| ***asked == *config.backend);
    if config.backends.len() < 2 && read.mirror().is_none_or(noted) {
        return context.switches.forget(&read.namespace, &read.name).await;
    }
    context.switches.drive(wanted).await;
}

/// What the driver of its switch has to know. None: nothing has ever been brought about.
fn wanted(read: &Read, valid: Option<&Valid>, obstacle: Option<String>) -> Option<Wanted> {
    Some(Wanted {
        namespace: read.namespace.clone(),
        name: read.name.clone(),
        uid: read.uid.clone(),
        config: validate::config(read, valid)?,
        obstacle,
        annotations: Annotations::of(&read.document),
        mirrored: !read.document["status"]["backend"]["mirror"].is_null(),
    })
}

/// Makes the cluster what the pipeline says, as far as it is possible now.
async fn bring_about(context: &Context, read: &mut Read, valid: &Valid) -> Result<Finding, Error> {
    let schemas = dereference::schemas(context, &read.namespace, &build::schemas::of_pipeline(&valid.config)).await?;
    if !schemas.missing.is_empty() {
        return Ok(Finding::SchemasMissing(schemas.missing));
    }
    let digest = build::schemas::digest(&schemas.texts).map_err(|source| Error::Json { doing: "comparing Avro schemas", source })?;
    let blueprint = Blueprint {
        pipeline: &valid.pipeline,
        config: &valid.config,
        default_image: &context.default_image,
        switches: read.switches(),
        schemas: digest.as_deref(),
    };
    let wanted = build::build(&blueprint).map_err(|source| Error::Json { doing: "building the objects of a pipeline", source })?;
    let not = apply::apply(context, read, wanted).await?;
    if !not.taken.is_empty() {
        return Ok(Finding::NamesTaken(not.taken));
    }
    if !not.refused.is_empty() {
        return Ok(Finding::Refused(not.refused));
    }
    if !not.going.is_empty() {
        return Ok(Finding::Predecessors(not.going));
    }
    // Applied all the same: the pods start by themselves as soon as the Secret is there.
    let missing = dereference::missing_secrets(context, &read.namespace, &build::secrets::of_pipeline(&valid.config)).await?;
    Ok(if missing.is_empty() { Finding::Applied } else { Finding::SecretsMissing(missing) })
}

/// Exponential, so that what cannot work now does not keep the API server busy: 1 s, 2 s, ... five minutes.
pub fn after_failure(context: &Context, namespace: &str, name: &str) -> Action {
    let failures = context.failures.one_more(namespace, name);
    Action::requeue(Duration::from_secs(1 << failures.min(9)).min(Duration::from_secs(300)))
}
