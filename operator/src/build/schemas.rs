//! Which ConfigMaps with Avro schemas the document names. Every pod of the pipeline mounts them: each reads or writes by them.

use super::hash;
use crds::runtime_config::RuntimeConfig;
use std::collections::{BTreeMap, BTreeSet};

/// The keys that are used, by the ConfigMap's name.
pub type Schemas = BTreeMap<String, BTreeSet<String>>;

pub fn of_pipeline(config: &RuntimeConfig) -> Schemas {
    let mut schemas = Schemas::new();
    for at in config.schemas() {
        schemas.entry(at.name.clone()).or_default().insert(at.key.clone());
    }
    schemas
}

/// Of their texts. None: there are none.
pub fn digest(texts: &BTreeMap<(String, String), String>) -> Result<Option<String>, serde_json::Error> {
    let all: Vec<_> = texts.iter().collect();
    if all.is_empty() { Ok(None) } else { hash(&all).map(Some) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Blueprint, Kind, build, tests::*};
    use serde_json::{Value as Json, json};

    const AVRO: &str = "{name: orders, codec: {avro: {registry: {url: 'http://registry:8081'}, schemaConfigMapRef: {name: shop-schemas, key: order.avsc}}}}";

    fn pod(schemas: Option<&str>) -> Json {
        let pipeline = pipeline(&DOCUMENT.replace("{name: orders}", AVRO));
        let config = crds::resolve(&pipeline);
        let blueprint = Blueprint { pipeline: &pipeline, config: &config, default_image: "i", switches: false, schemas };
        let wanted = build(&blueprint).unwrap();
        wanted.into_iter().find(|w| w.kind == Kind::Deployment && w.name == "shop-worker").unwrap().body["spec"]["template"].clone()
    }

    #[test]
    fn pods_mount_the_schemas_and_roll_when_these_change() {
        let one = pod(Some("1"));
        let mounts = one["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == "/etc/orderpipeline/schemas/shop-schemas").unwrap();
        let volumes = one["spec"]["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["configMap"], json!({"name": "shop-schemas", "items": [{"key": "order.avsc", "path": "order.avsc"}]}));
        let rolls_on = |pod: &Json| pod["metadata"]["annotations"].to_string();
        assert_eq!(rolls_on(&one), rolls_on(&pod(Some("1"))));
        assert_ne!(rolls_on(&one), rolls_on(&pod(Some("2"))));
    }
}
