//! What the runtime reads. A change of it alone is picked up by the running pods: it is not part of their template.

use super::Blueprint;
use crate::names;
use crds::runtime_config::CONFIG_FILE;
use k8s_openapi::api::core::v1::ConfigMap;
use std::collections::BTreeMap;

pub fn config_map(blueprint: &Blueprint) -> Result<ConfigMap, serde_json::Error> {
    let name = blueprint.name();
    Ok(ConfigMap {
        metadata: blueprint.meta(names::config_map(&name), names::labels(&name)),
        data: Some(BTreeMap::from([(CONFIG_FILE.to_owned(), serde_json::to_string(blueprint.config)?)])),
        ..Default::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Kind, tests::*};
    use crds::runtime_config::{CONFIG_FILE, RuntimeConfig};

    #[test]
    fn holds_the_resolved_pipeline() {
        let object = built(DOCUMENT, Kind::ConfigMap, "shop-config").unwrap();
        let config: RuntimeConfig = serde_json::from_str(object["data"][CONFIG_FILE].as_str().unwrap()).unwrap();
        assert_eq!(config, crds::resolve(&pipeline(DOCUMENT)));
    }
}
