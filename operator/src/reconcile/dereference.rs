//! First step: reads what the others look at, from the API server itself and not from a cache, so that nothing old is acted on.

use crate::build::Kind;
use crate::build::schemas::Schemas;
use crate::build::secrets::{Keys, Secrets};
use crate::context::{Context, Error};
use crate::names;
use crds::pipeline::MATCHING_KEY;
use crds::switch::SwitchState;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

/// What exists.
pub struct Read {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// The pipeline as it came, whatever is in it: a document that does not even fit the types must not stop anything.
    pub document: Json,
    /// What carries the pipeline's labels, by kind and name.
    pub children: BTreeMap<(Kind, String), DynamicObject>,
}

impl Read {
    pub fn is_being_deleted(&self) -> bool {
        self.document["metadata"].get("deletionTimestamp").is_some()
    }

    /// A switch is under way, or an old broker drains.
    pub fn switches(&self) -> bool {
        self.document["status"]["backend"]["phase"].as_str().is_some_and(|phase| phase != "Steady")
    }

    /// The state of the switch as status shows it, if there is one that can be read.
    pub fn mirror(&self) -> Option<SwitchState> {
        let mirror = &self.document["status"]["backend"]["mirror"];
        SwitchState::parse(&mirror.to_string()).ok()
    }

    pub fn whose(&self, object: &DynamicObject) -> Whose {
        let (kind, labels) = (crds::OrderPipeline::kind(&()), object.labels());
        let labelled = names::labels(&self.name).iter().all(|(label, value)| labels.get(label) == Some(value));
        match object.owner_references().iter().find(|owner| owner.controller == Some(true)) {
            Some(owner) if owner.uid == self.uid => Whose::Ours,
            Some(owner) if owner.kind == kind && owner.name == self.name => Whose::Predecessors,
            None if labelled => Whose::Nobodys,
            _ => Whose::Others,
        }
    }

    /// Whether an object belongs to this very pipeline, and not to one of the same name before it.
    pub fn owns(&self, object: &DynamicObject) -> bool {
        object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == self.uid)
    }
}

/// Whose an object is that has the name of one that the pipeline needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Ours,
    /// It carries our labels and nobody controls it: left over when a pipeline was deleted without what belonged to it.
    Nobodys,
    /// Of a pipeline of this name that is gone: the garbage collector removes it.
    Predecessors,
    Others,
}

/// None if the pipeline is gone.
pub async fn read(context: &Context, namespace: &str, name: &str) -> Result<Option<Read>, Error> {
    let pipelines: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), namespace, &ApiResource::erase::<crds::OrderPipeline>(&()));
    let reading = || format!("reading OrderPipeline {namespace}/{name}");
    let Some(object) = context.within(reading, pipelines.get_opt(name)).await? else { return Ok(None) };
    let (uid, generation) = (object.uid().unwrap_or_default(), object.meta().generation.unwrap_or_default());
    let document = serde_json::to_value(object).map_err(|source| Error::Json { doing: "reading an OrderPipeline", source })?;
    let mut read = Read { namespace: namespace.to_owned(), name: name.to_owned(), uid, generation, document, children: BTreeMap::new() };
    // A longer name is no label value; nothing can have been made for it.
    if name.len() <= 63 {
        read.children = children(context, namespace, name).await?;
    }
    Ok(Some(read))
}

async fn children(context: &Context, namespace: &str, name: &str) -> Result<BTreeMap<(Kind, String), DynamicObject>, Error> {
    let labelled = ListParams::default().labels(&names::children_selector(name));
    let lists = Kind::ALL.map(|kind| {
        let labelled = &labelled;
        async move {
            let listing = || format!("listing each {kind:?} of {namespace}/{name}");
            let list = context.within(listing, context.api(kind, namespace).list(labelled)).await?;
            Ok::<_, Error>(list.items.into_iter().map(move |object| ((kind, object.name_any()), object)))
        }
    });
    Ok(try_join_all(lists).await?.into_iter().flatten().collect())
}

/// One sentence for each Secret, or key of one, that the document names and that is not there. Only names are kept: no
/// content stays in this process, and there is no cache of Secrets.
pub async fn missing_secrets(context: &Context, namespace: &str, secrets: &Secrets) -> Result<Vec<String>, Error> {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
    let lookups = secrets.iter().map(|(name, keys)| {
        let api = &api;
        async move {
            let found = context.within(|| format!("looking for Secret {namespace}/{name}"), api.get_opt(name)).await?;
            Ok::<_, Error>(complaint(namespace, name, keys, found.map(|secret| secret.data.unwrap_or_default().into_keys().collect())))
        }
    });
    Ok(try_join_all(lookups).await?.into_iter().flatten().collect())
}

/// The Avro schemas that the document names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By ConfigMap and key.
    pub texts: BTreeMap<(String, String), String>,
    /// One sentence for each that is not there.
    pub missing: Vec<String>,
}

pub async fn schemas(context: &Context, namespace: &str, schemas: &Schemas) -> Result<Found, Error> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let mut found = Found::default();
    for (name, keys) in schemas {
        let map = context.within(|| format!("reading ConfigMap {namespace}/{name}"), api.get_opt(name)).await?;
        found.take(namespace, name, keys, map.map(|map| map.data.unwrap_or_default()));
    }
    Ok(found)
}

impl Found {
    fn take(&mut self, namespace: &str, name: &str, keys: &BTreeSet<String>, data: Option<BTreeMap<String, String>>) {
        let Some(mut data) = data else {
            let files: Vec<String> = keys.iter().map(|key| format!(" --from-file={key}")).collect();
            let command = format!("kubectl create configmap {name} -n {namespace}{}", files.concat());
            self.missing.push(format!("ConfigMap {name} with the Avro schema is missing: {command} (the pods start then by themselves)"));
            return;
        };
        for key in keys {
            match data.remove(key) {
                Some(text) => drop(self.texts.insert((name.to_owned(), key.clone()), text)),
                None => self
                    .missing
                    .push(format!("ConfigMap {name} has no key {key} with the Avro schema: add it, the pods start then by themselves")),
            }
        }
    }
}

/// With the command that mends it.
fn complaint(namespace: &str, name: &str, keys: &Keys, found: Option<Vec<String>>) -> Option<String> {
    let wanted = match keys {
        Keys::All => vec!["CLIENT".to_owned()],
        Keys::Encrypting => return encrypting(namespace, name, found),
        Keys::These(keys) => keys.iter().cloned().collect(),
    };
    let Some(found) = found else {
        let literals: Vec<String> = wanted.iter().map(|key| format!(" --from-literal={key}=...")).collect();
        let literals = literals.concat();
        let command = format!("kubectl create secret generic {name} -n {namespace}{literals}");
        return Some(format!("Secret {name} is missing: {command} (the pods start then by themselves)"));
    };
    if *keys == Keys::All {
        return found.is_empty().then(|| format!("Secret {name} is empty: give it one entry for each client of the API, with its key"));
    }
    let missing: Vec<String> = wanted.into_iter().filter(|key| !found.contains(key)).collect();
    (!missing.is_empty()).then(|| format!("Secret {name} has no key {}: add it, the pods start then by themselves", missing.join(", ")))
}

/// The keys of encrypted fields: `match`, and at least one beside it.
fn encrypting(namespace: &str, name: &str, found: Option<Vec<String>>) -> Option<String> {
    let random = r#""$(openssl rand -base64 32)""#;
    let Some(found) = found else {
        let command = format!(
            "kubectl create secret generic {name} -n {namespace} --from-literal={MATCHING_KEY}={random} --from-literal=$(date +%F)={random}"
        );
        return Some(format!(
            "Secret {name}, with the keys of encrypted fields, is missing: {command} (the pods start then by themselves; keep a copy, since \
             nothing that is encrypted can be read without it)"
        ));
    };
    if !found.iter().any(|key| key == MATCHING_KEY) {
        return Some(format!("Secret {name} has no key {MATCHING_KEY}: add it, 32 random bytes in base64, and never change it"));
    }
    let alone = found.len() == 1;
    alone.then(|| {
        format!("Secret {name} has no key beside {MATCHING_KEY}: add one, 32 random bytes in base64, named by its date, so that newer ones sort behind it")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn says_which_schema_is_missing_and_keeps_the_others() {
        let keys = BTreeSet::from(["a.avsc".to_owned(), "b.avsc".to_owned()]);
        let mut found = Found::default();
        found.take("shop", "schemas", &keys, None);
        let command = "kubectl create configmap schemas -n shop --from-file=a.avsc --from-file=b.avsc";
        assert!(found.missing[0].contains(command), "{found:?}");
        let mut found = Found::default();
        found.take("shop", "schemas", &keys, Some([("a.avsc".to_owned(), "{}".to_owned())].into()));
        assert_eq!(found.texts, [(("schemas".to_owned(), "a.avsc".to_owned()), "{}".to_owned())].into());
        assert!(found.missing[0].starts_with("ConfigMap schemas has no key b.avsc"), "{found:?}");
    }

    #[test]
    fn says_what_is_missing_of_the_keys_of_encrypted_fields() {
        let of = |found: Option<&[&str]>| {
            complaint("shop", "pii", &Keys::Encrypting, found.map(|found| found.iter().map(|&key| key.to_owned()).collect()))
        };
        let missing = of(None).unwrap();
        assert!(missing.contains("kubectl create secret generic pii -n shop --from-literal=match="), "{missing}");
        assert!(of(Some(&["2025-01-31"])).unwrap().starts_with("Secret pii has no key match"));
        assert!(of(Some(&["match"])).unwrap().starts_with("Secret pii has no key beside match"));
        assert_eq!(of(Some(&["2025-01-31", "match"])), None);
    }

    #[test]
    fn says_which_secret_and_which_key_is_missing() {
        let keys = Keys::These(["url".to_owned(), "ca".to_owned()].into());
        let of = |keys: &Keys, found: Option<&[&str]>| {
            complaint("shop", "db", keys, found.map(|found| found.iter().map(|&key| key.to_owned()).collect()))
        };
        let missing = of(&keys, None).unwrap();
        let command = "Secret db is missing: kubectl create secret generic db -n shop --from-literal=ca=... --from-literal=url=...";
        assert!(missing.starts_with(command), "{missing}");
        assert!(of(&keys, Some(&["url"])).unwrap().starts_with("Secret db has no key ca"));
        assert_eq!(of(&keys, Some(&["ca", "url", "more"])), None);
        assert!(of(&Keys::All, None).unwrap().contains("--from-literal=CLIENT=..."));
        assert!(of(&Keys::All, Some(&[])).unwrap().starts_with("Secret db is empty"));
        assert_eq!(of(&Keys::All, Some(&["web"])), None);
    }
}
