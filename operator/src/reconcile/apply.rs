//! Fourth step: writes what differs, and removes what the pipeline no longer wants. Where nothing differs, nothing is written.

use super::dereference::{Read, Whose};
use super::difference::differs;
use crate::build::{Kind, Wanted};
use crate::context::{Context, Error};
use crate::names;
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use std::collections::BTreeSet;

/// What could not be applied, each in words.
#[derive(Debug, Default, PartialEq)]
pub struct NotApplied {
    /// Objects of somebody else: left alone.
    pub taken: Vec<String>,
    /// Objects of a pipeline of the same name that is gone: they go too, and then ours are made.
    pub going: Vec<String>,
    /// What the API server does not take as it is, and why.
    pub refused: Vec<String>,
}

/// Afterwards `read.children` is what the API server made of it. One object that cannot be applied keeps no other one back.
pub async fn apply(context: &Context, read: &mut Read, wanted: Vec<Wanted>) -> Result<NotApplied, Error> {
    let names: BTreeSet<(Kind, String)> = wanted.iter().map(|w| (w.kind, w.name.clone())).collect();
    let mut not = NotApplied::default();
    for one in wanted {
        let live = match read.children.get(&(one.kind, one.name.clone())) {
            Some(live) => Some(live.clone()),
            None => unlabelled(context, read, &one).await?,
        };
        let called = || format!("{:?} {}", one.kind, one.name);
        match live.as_ref().map(|live| read.whose(live)) {
            Some(Whose::Others) => not.taken.push(called()),
            Some(Whose::Predecessors) => not.going.push(called()),
            Some(Whose::Ours) if !is_different(&one, live.as_ref())? => {}
            whose => match write(context, read, &one, whose.is_some()).await {
                Ok(object) => {
                    read.children.insert((one.kind, one.name), object);
                }
                Err(error) if error.is_refusal() => not.refused.push(error.to_string()),
                Err(error) => return Err(error),
            },
        }
    }
    prune(context, read, &names).await?;
    Ok(not)
}

/// Something of that name that lacks the labels: ours, robbed of them, or somebody else's.
async fn unlabelled(context: &Context, read: &Read, wanted: &Wanted) -> Result<Option<DynamicObject>, Error> {
    let looking = || format!("looking for {:?} {}/{}", wanted.kind, read.namespace, wanted.name);
    context.within(looking, context.api(wanted.kind, &read.namespace).get_opt(&wanted.name)).await
}

fn is_different(wanted: &Wanted, live: Option<&DynamicObject>) -> Result<bool, Error> {
    let live = serde_json::to_value(live).map_err(|source| Error::Json { doing: "comparing an object", source })?;
    let mut body = wanted.body.clone();
    // A list leaves these out of its elements.
    if let Some(object) = body.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    Ok(differs(&body, &live))
}

/// `force` only on what is ours, or nobody's: it takes fields back from whoever has changed them.
async fn write(context: &Context, read: &Read, wanted: &Wanted, force: bool) -> Result<DynamicObject, Error> {
    let mut how = PatchParams::apply(names::FIELD_MANAGER);
    how.force = force;
    let applying = || format!("applying {:?} {}/{}", wanted.kind, read.namespace, wanted.name);
    tracing::info!(namespace = read.namespace, pipeline = read.name, kind = ?wanted.kind, name = wanted.name, "apply");
    let api = context.api(wanted.kind, &read.namespace);
    let object = context.within(applying, api.patch(&wanted.name, &how, &Patch::Apply(&wanted.body))).await?;
    context.metrics.applied();
    Ok(object)
}

async fn prune(context: &Context, read: &mut Read, wanted: &BTreeSet<(Kind, String)>) -> Result<(), Error> {
    // Never applied, and never removed: should the pipeline get a second backend again, it goes on from there.
    let state = (Kind::ConfigMap, names::switch_state(&read.name));
    let unwanted: Vec<(Kind, String)> = read
        .children
        .iter()
        .filter(|(key, object)| !wanted.contains(key) && **key != state && read.owns(object))
        .map(|(key, _)| key.clone())
        .collect();
    for (kind, name) in unwanted {
        let Some(object) = read.children.remove(&(kind, name.clone())) else { continue };
        if object.metadata.deletion_timestamp.is_some() {
            continue; // it goes already
        }
        let how =
            DeleteParams { preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }), ..DeleteParams::background() };
        tracing::info!(namespace = read.namespace, pipeline = read.name, ?kind, name, "remove");
        let removing = || format!("removing {kind:?} {}/{name}", read.namespace);
        match context.within(removing, context.api(kind, &read.namespace).delete(&name, &how)).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => context.metrics.pruned(),
        }
    }
    Ok(())
}
