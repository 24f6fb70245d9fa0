//! The way to the API.

use super::Blueprint;
use crate::names::{self, Role};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// None where the pipeline has no API.
pub fn service(blueprint: &Blueprint) -> Option<Service> {
    blueprint.config.api.as_ref()?;
    let name = blueprint.name();
    Some(Service {
        metadata: blueprint.meta(names::workload(&name, Role::Api), names::role_labels(&name, Role::Api)),
        spec: Some(ServiceSpec {
            selector: Some(names::pod_selector(&name, Role::Api)),
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                target_port: Some(IntOrString::String("http".into())),
                protocol: Some("TCP".into()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Kind, tests::*};

    #[test]
    fn leads_to_the_api_pods() {
        assert_golden("service-api", &built(DOCUMENT, Kind::Service, "shop-api").unwrap());
    }

    #[test]
    fn there_is_none_without_an_api() {
        let document = DOCUMENT.replace("  api: {keysSecretRef: {name: keys}, replicas: 2}\n", "");
        assert_eq!(built(&document, Kind::Service, "shop-api"), None);
    }
}
