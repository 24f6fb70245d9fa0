//! The workloads: one Deployment for each role that the document has.

use super::{Blueprint, pod};
use crate::names::{self, Role};
use crds::pipeline::PodTemplate;
use crds::runtime_config::RuntimeConfig;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The roles that a pipeline has.
pub fn roles(config: &RuntimeConfig) -> Vec<Role> {
    let has = |role: &Role| match role {
        Role::Api => config.api.is_some(),
        Role::Worker => config.worker.is_some(),
        Role::Generator => config.generator.is_some(),
    };
    Role::ALL.into_iter().filter(has).collect()
}

pub fn deployments(blueprint: &Blueprint) -> Result<Vec<Deployment>, serde_json::Error> {
    roles(blueprint.config).into_iter().map(|role| deployment(blueprint, role)).collect()
}

fn deployment(blueprint: &Blueprint, role: Role) -> Result<Deployment, serde_json::Error> {
    let name = blueprint.name();
    let shape = Shape::of(blueprint, role);
    Ok(Deployment {
        metadata: blueprint.meta(names::workload(&name, role), names::role_labels(&name, role)),
        spec: Some(DeploymentSpec {
            replicas: shape.replicas,
            selector: LabelSelector { match_labels: Some(names::pod_selector(&name, role)), ..Default::default() },
            // One more pod comes before one goes, so that a roll costs no capacity.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            revision_history_limit: Some(3),
            template: pod::template(blueprint, role, shape.template)?,
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// What the document says of a role's pods.
struct Shape<'a> {
    /// None where an autoscaler decides: two who write one field would fight.
    replicas: Option<i32>,
    template: Option<&'a PodTemplate>,
}

impl Shape<'_> {
    fn of<'a>(blueprint: &Blueprint<'a>, role: Role) -> Shape<'a> {
        let spec = &blueprint.pipeline.spec;
        let (replicas, scaled, template) = match role {
            Role::Api => spec.api.as_ref().map(|a| (a.replicas, a.scaling.is_some(), a.template.as_ref())),
            Role::Worker => spec.worker.as_ref().map(|w| (w.replicas, w.scaling.is_some(), w.template.as_ref())),
            Role::Generator => spec.generator.as_ref().map(|g| (g.replicas, false, g.template.as_ref())),
        }
        .unwrap_or_default();
        let count = i32::try_from(replicas.unwrap_or(1)).unwrap_or(i32::MAX);
        Shape { replicas: (!scaled).then_some(count), template }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Kind, tests::*};

    #[test]
    fn the_api_is_a_restricted_pod_with_probes_and_its_secrets() {
        assert_golden("deployment-api", &built(DOCUMENT, Kind::Deployment, "shop-api").unwrap());
    }

    #[test]
    fn the_worker_mounts_no_api_keys() {
        assert_golden("deployment-worker", &built(DOCUMENT, Kind::Deployment, "shop-worker").unwrap());
    }

    #[test]
    fn the_generator_mounts_no_database() {
        assert_golden("deployment-generator", &built(DOCUMENT, Kind::Deployment, "shop-generator").unwrap());
    }

    #[test]
    fn an_autoscaled_workload_leaves_replicas_alone() {
        let worker = built(DOCUMENT, Kind::Deployment, "shop-worker").unwrap();
        assert_eq!(worker["spec"].get("replicas"), None);
        let api = built(DOCUMENT, Kind::Deployment, "shop-api").unwrap();
        assert_eq!(api["spec"]["replicas"], 2);
    }

    #[test]
    fn what_the_document_leaves_out_is_not_built() {
        let document = DOCUMENT.replace("  generator: {rate: 5}\n", "");
        assert_eq!(built(&document, Kind::Deployment, "shop-generator"), None);
    }
}
