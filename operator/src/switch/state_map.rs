//! The ConfigMap that holds the state. Never applied: made once, then only replaced under the resourceVersion that was read.

use super::Wanted;
use crate::context::{Context, Error};
use crate::names;
use crds::OrderPipeline;
use crds::switch::names::{PIPELINE_LABEL, STATE_FILE};
use crds::switch::{StateError, SwitchState};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

#[derive(Debug)]
pub struct StateMap {
    object: ConfigMap,
    pub state: SwitchState,
}

impl StateMap {
    pub fn version(&self) -> Option<&str> {
        self.object.metadata.resource_version.as_deref()
    }
}

pub enum Found {
    State(Box<StateMap>),
    Missing,
    Trouble(Trouble),
}

/// Nothing may be done with what lies there, and a person has to know.
#[derive(Debug, PartialEq)]
pub struct Trouble {
    pub reason: &'static str,
    pub message: String,
}

impl Trouble {
    pub fn of(error: &StateError, what: &str) -> Trouble {
        match error {
            StateError::Version { .. } => Trouble { reason: "UnknownVersion", message: format!("{what}: {error}") },
            StateError::Unreadable(_) => Trouble { reason: "Unreadable", message: format!("{what}: {error}") },
        }
    }
}

pub async fn read(context: &Context, wanted: &Wanted) -> Result<Found, Error> {
    let name = names::switch_state(&wanted.name);
    let reading = || format!("reading the state of the switch of {}/{}", wanted.namespace, wanted.name);
    let Some(object) = context.within(reading, api(context, wanted).get_opt(&name)).await? else { return Ok(Found::Missing) };
    let controller = object.owner_references().iter().find(|owner| owner.controller == Some(true));
    let labels = labels(wanted);
    let labelled = labels.iter().all(|(label, value)| object.labels().get(label) == Some(value));
    let trouble = match controller {
        Some(owner) if owner.uid == wanted.uid => None,
        Some(owner) if owner.kind == OrderPipeline::kind(&()) && owner.name == wanted.name => {
            Some(("PredecessorGoes", format!("ConfigMap {name} still belongs to an earlier pipeline of this name and is being removed")))
        }
        None if labelled => None,
        _ => Some(("NameTaken", format!("ConfigMap {name} exists and belongs to somebody else: delete or rename it"))),
    };
    if let Some((reason, message)) = trouble {
        return Ok(Found::Trouble(Trouble { reason, message }));
    }
    let text = object.data.as_ref().and_then(|data| data.get(STATE_FILE)).map(String::as_str).unwrap_or_default();
    let state = match SwitchState::parse(text) {
        Ok(state) => state,
        Err(error @ StateError::Unreadable(_)) => {
            let what = format!("ConfigMap {name}, key {STATE_FILE} (if it is deleted, the state is rebuilt from status)");
            return Ok(Found::Trouble(Trouble::of(&error, &what)));
        }
        Err(error) => return Ok(Found::Trouble(Trouble::of(&error, &format!("ConfigMap {name}")))),
    };
    let (whole, map) = (controller.is_some() && labelled, StateMap { object, state });
    if whole {
        return Ok(Found::State(Box::new(map)));
    }
    // Left over when the pipeline was deleted without what belonged to it, or robbed of its labels.
    let same = map.state.clone();
    Ok(replace(context, wanted, map, same).await?.map_or(Found::Missing, |map| Found::State(Box::new(map))))
}

/// None: somebody else has made it meanwhile.
pub async fn create(context: &Context, wanted: &Wanted, state: SwitchState) -> Result<Option<StateMap>, Error> {
    let metadata =
        ObjectMeta { name: Some(names::switch_state(&wanted.name)), namespace: Some(wanted.namespace.clone()), ..Default::default() };
    let object = written(wanted, ConfigMap { metadata, ..Default::default() }, &state)?;
    let creating = || format!("making the state of the switch of {}/{}", wanted.namespace, wanted.name);
    outcome(context.within(creating, api(context, wanted).create(&PostParams::default(), &object)).await, state)
}

/// None: it is not what was read any more.
pub async fn replace(context: &Context, wanted: &Wanted, map: StateMap, next: SwitchState) -> Result<Option<StateMap>, Error> {
    let object = written(wanted, map.object, &next)?;
    let replacing = || format!("writing the state of the switch of {}/{}", wanted.namespace, wanted.name);
    outcome(context.within(replacing, api(context, wanted).replace(&object.name_any(), &PostParams::default(), &object)).await, next)
}

fn outcome(written: Result<ConfigMap, Error>, state: SwitchState) -> Result<Option<StateMap>, Error> {
    match written {
        Ok(object) => Ok(Some(StateMap { object, state })),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn written(wanted: &Wanted, mut object: ConfigMap, state: &SwitchState) -> Result<ConfigMap, Error> {
    let text = serde_json::to_string(state).map_err(|source| Error::Json { doing: "writing the state of a switch", source })?;
    object.data.get_or_insert_default().insert(STATE_FILE.into(), text);
    object.metadata.labels.get_or_insert_default().extend(labels(wanted));
    let owners = object.metadata.owner_references.get_or_insert_default();
    owners.retain(|owner| owner.uid != wanted.uid);
    owners.push(OwnerReference {
        api_version: OrderPipeline::api_version(&()).into_owned(),
        kind: OrderPipeline::kind(&()).into_owned(),
        name: wanted.name.clone(),
        uid: wanted.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    });
    object.metadata.managed_fields = None;
    Ok(object)
}

fn labels(wanted: &Wanted) -> BTreeMap<String, String> {
    let mut labels = names::labels(&wanted.name);
    labels.insert(PIPELINE_LABEL.into(), wanted.name.clone());
    labels
}

fn api(context: &Context, wanted: &Wanted) -> Api<ConfigMap> {
    Api::namespaced(context.client.clone(), &wanted.namespace)
}
