//! Second step: what was read becomes a checked pipeline, a type of its own, or the list of its mistakes. Pure.

use super::dereference::Read;
use crate::build::Kind;
use crate::names;
use crds::pipeline::Backend;
use crds::runtime_config::{CONFIG_FILE, RuntimeConfig};
use crds::switch::Phase;
use crds::{Mistake, OrderPipeline};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// A pipeline without mistakes, and what its pods will read.
pub struct Valid {
    pub pipeline: OrderPipeline,
    pub config: RuntimeConfig,
}

/// Why a document is not brought about; what ran before goes on.
#[derive(Debug)]
pub enum Refusal {
    Mistakes(Vec<Mistake>),
    /// The name of a backend now stands for another broker.
    IdentityChanged(Mistake),
}

pub fn validate(read: &Read) -> Result<Valid, Refusal> {
    let mut spec_only = read.document.clone();
    spec_only.as_object_mut().and_then(|object| object.remove("status"));
    let pipeline = crds::document::accept(&spec_only).map_err(Refusal::Mistakes)?;
    let config = crds::resolve(&pipeline);
    let used = used(read);
    if let Some(mistake) = left_behind(&config, &used) {
        return Err(Refusal::Mistakes(vec![mistake]));
    }
    if let Some(mistake) = applied(read).iter().flat_map(|applied| running(applied, &used)).find_map(|old| other_broker(&config, &old)) {
        return Err(Refusal::IdentityChanged(mistake));
    }
    Ok(Valid { pipeline, config })
}

/// What the pods have: made of this document, or of the last good one before it.
pub fn config(read: &Read, valid: Option<&Valid>) -> Option<RuntimeConfig> {
    match valid {
        Some(valid) => Some(valid.config.clone()),
        None => serde_json::from_value(applied(read)?).ok(),
    }
}

/// Backends that hold something of the pipeline, or are about to, each with what they are used for.
fn used(read: &Read) -> BTreeMap<String, &'static str> {
    let mut used = BTreeMap::new();
    match read.mirror() {
        Some(state) => {
            used.extend(state.epochs().iter().map(|open| (open.backend.to_string(), "still holds events that workers have not read")));
            if let Phase::Prepare { target } | Phase::Hold { target, .. } = state.phase() {
                used.insert(target.to_string(), "is just being switched to");
            }
            used.insert(state.newest().backend.to_string(), WRITTEN);
        }
        None => {
            let backend = &read.document["status"]["backend"];
            used.extend(["active", "writing"].iter().filter_map(|field| Some((backend[*field].as_str()?.to_owned(), WRITTEN))));
        }
    }
    used
}

const WRITTEN: &str = "is the one that orders are written to";

/// What is on a backend that the document no longer has would be left behind.
fn left_behind(config: &RuntimeConfig, used: &BTreeMap<String, &'static str>) -> Option<Mistake> {
    let (name, what_for) = used.iter().find(|(name, _)| !config.backends.iter().any(|backend| backend.name == *name.as_str()))?;
    let message = format!(
        "{name} is missing, and it {what_for}: put it back. To move away from it, switch spec.backend to another one beside it, \
         and remove {name} once status.backend.phase is Steady (what was left on it by --abandon-drain goes with it)"
    );
    Some(Mistake::new("spec.backends", message))
}

/// The configuration that was applied last, perhaps by another version of this program.
fn applied(read: &Read) -> Option<Json> {
    let object = read.children.get(&(Kind::ConfigMap, names::config_map(&read.name))).filter(|object| read.owns(object))?;
    serde_json::from_str(object.data.get("data")?.get(CONFIG_FILE)?.as_str()?).ok()
}

/// The backends in use as the pods have them.
fn running(applied: &Json, used: &BTreeMap<String, &'static str>) -> Vec<Backend> {
    let in_use = |name: &str| if used.is_empty() { applied["backend"] == name } else { used.contains_key(name) };
    let backends = applied["backends"].as_array().into_iter().flatten();
    let backends = backends.filter(|backend| backend["name"].as_str().is_some_and(in_use));
    backends.filter_map(|backend| serde_json::from_value(backend.clone()).ok()).collect()
}

/// Another broker under the name of the one in use would be a switch without its protocol: what the old one holds would be left
/// behind. Addresses may come and go, as long as one of the old ones stays.
fn other_broker(config: &RuntimeConfig, running: &Backend) -> Option<Mistake> {
    let index = config.backends.iter().position(|backend| backend.name == running.name)?;
    let (old, new) = (running.addresses(), config.backends[index].addresses());
    if !old.is_disjoint(&new) {
        return None;
    }
    let kind =
        if config.backends[index].kafka.as_ref().is_some_and(|k| k.bootstrap_servers.is_some()) { ".kafka.bootstrapServers" } else { "" };
    let old: Vec<&str> = old.iter().map(String::as_str).collect();
    let message = format!(
        "the running pipeline reaches {} at {}: another broker under the same name would leave behind what is still on it. Set it back; \
         to move to another broker, add it to spec.backends under a name of its own and switch spec.backend",
        running.name,
        old.join(",")
    );
    Some(Mistake::new(format!("spec.backends[{index}]{kind}"), message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests {
    use super::*;
    use crate::build::tests::{DOCUMENT, pipeline};
    use crds::switch::SwitchState;
    use kube::ResourceExt;
    use serde_json::json;

    fn document() -> Json {
        serde_json::to_value(pipeline(DOCUMENT)).unwrap()
    }

    /// A document that stands alone: nothing exists for it yet.
    pub fn read(document: Json) -> Read {
        let uid = pipeline(DOCUMENT).uid().unwrap();
        Read { namespace: "retail".into(), name: "shop".into(), uid, generation: 1, document, children: Default::default() }
    }

    fn mistakes(document: Json) -> Vec<Mistake> {
        match validate(&read(document)).err() {
            Some(Refusal::Mistakes(mistakes)) => mistakes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_document_that_does_not_fit_the_types_is_a_mistake_and_no_failure() {
        let mut document = document();
        document["spec"]["topics"] = "orders".into();
        let mistakes = mistakes(document);
        assert!(mistakes.iter().any(|m| m.place.contains("spec.topics")), "{mistakes:?}");
    }

    #[test]
    fn a_strange_status_is_no_mistake_of_the_document() {
        let mut document = document();
        document["status"] = json!({"conditions": 7});
        assert!(validate(&read(document)).is_ok());
    }

    #[test]
    fn the_backend_of_a_running_pipeline_cannot_be_removed() {
        let mut document = document();
        document["status"] = json!({"backend": {"active": "kafka"}});
        assert!(validate(&read(document.clone())).is_ok());
        document["status"] = json!({"backend": {"active": "old"}});
        let mistakes = mistakes(document);
        assert_eq!(mistakes[0].place, "spec.backends");
        assert!(mistakes[0].message.contains("old is missing, and it is the one that orders are written to"), "{mistakes:?}");
    }

    #[test]
    fn a_backend_that_drains_or_is_switched_to_cannot_be_removed_and_one_that_is_done_with_can() {
        let prepared = {
            let first = SwitchState::first("l", "old");
            first.noted(first.ruling("kafka", &[]).unwrap()).unwrap().prepared().unwrap()
        };
        let opened = prepared.held().unwrap().opened().unwrap();
        let said = |state: &SwitchState| {
            let mut document = document();
            document["status"] = json!({"backend": {"mirror": state}});
            validate(&read(document)).err().map(|refusal| format!("{refusal:?}"))
        };
        assert!(said(&prepared).unwrap().contains("old is missing, and it is the one that orders are written to"));
        assert!(said(&opened).unwrap().contains("old is missing, and it still holds events"));
        assert_eq!(said(&opened.activated(crds::switch::Outcome::Completed).unwrap()), None);
    }

    /// `DOCUMENT` runs at `kafka:9092`; what is said when its address becomes another one.
    fn moved_to(servers: &str) -> Option<Mistake> {
        let running = crds::resolve(&pipeline(DOCUMENT));
        let changed = DOCUMENT.replace("bootstrapServers: kafka:9092", &format!("bootstrapServers: '{servers}'"));
        let mut read = read(serde_json::to_value(pipeline(&changed)).unwrap());
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "shop-config", "ownerReferences": [{"apiVersion": "v1", "kind": "OrderPipeline", "name": "shop", "uid": read.uid, "controller": true}]},
            "data": {CONFIG_FILE: serde_json::to_string(&running).unwrap()},
        });
        read.children.insert((Kind::ConfigMap, "shop-config".into()), serde_json::from_value(map).unwrap());
        match validate(&read) {
            Ok(_) => None,
            Err(Refusal::IdentityChanged(mistake)) => Some(mistake),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_address_of_the_backend_in_use_may_grow_but_not_become_another() {
        for same in ["kafka:9092", "other:9092, Kafka:9092", "kafka:9092,third:1"] {
            assert_eq!(moved_to(same), None, "{same}");
        }
        for other in ["kafka:9093", "kafka2:9092"] {
            let mistake = moved_to(other).unwrap();
            assert_eq!(mistake.place, "spec.backends[0].kafka.bootstrapServers");
            assert!(mistake.message.contains("kafka:9092") && mistake.message.contains("switch spec.backend"), "{mistake}");
        }
    }
}
