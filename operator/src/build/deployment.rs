//! The workloads: one Deployment for each role that the document has.

use super::{Blueprint, pod};
use crate::names::{self, Role};
use crds::pipeline::PodTemplate;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub fn deployments(blueprint: &Blueprint) -> Result<Vec<Deployment>, serde_json::Error> {
    blueprint.config.roles().into_iter().map(|role| deployment(blueprint, role)).collect()
}

fn deployment(blueprint: &Blueprint, role: Role) -> Result<Deployment, serde_json::Error> {
    let name = blueprint.name();
    let shape = Shape::of(blueprint, role);
    Ok(Deployment {
        metadata: blueprint.meta(names::workload(&name, role), names::role_labels(&name, role)),
        spec: Some(DeploymentSpec {
            replicas: Some(shape.replicas),
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
    replicas: i32,
    template: Option<&'a PodTemplate>,
}

impl Shape<'_> {
    fn of<'a>(blueprint: &Blueprint<'a>, role: Role) -> Shape<'a> {
        let spec = &blueprint.pipeline.spec;
        let (replicas, scaling, template) = match role {
            Role::Api => spec.api.as_ref().map(|a| (a.replicas, a.scaling.as_ref(), a.template.as_ref())),
            Role::Worker => spec.worker.as_ref().map(|w| (w.replicas, w.scaling.as_ref(), w.template.as_ref())),
            Role::Generator => spec.generator.as_ref().map(|g| (g.replicas, None, g.template.as_ref())),
        }
        .unwrap_or_default();
        // Nobody scales by load yet: the least that is asked for, and never none, since nobody would wake them.
        let count = scaling.map_or(replicas.unwrap_or(1), |scaling| scaling.min.max(1));
        // Seals are written and old brokers drained by workers.
        let count = if role == Role::Worker && blueprint.switches { count.max(1) } else { count };
        Shape { replicas: i32::try_from(count).unwrap_or(i32::MAX), template }
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
    fn a_workload_with_scaling_has_its_least_pods_and_never_none() {
        let replicas = |scaling: &str| {
            let document = DOCUMENT.replace("scaling: {min: 1, max: 5}", scaling);
            built(&document, Kind::Deployment, "shop-worker").unwrap()["spec"]["replicas"].clone()
        };
        assert_eq!(replicas("scaling: {min: 3, max: 5}"), 3);
        assert_eq!(replicas("scaling: {max: 5}"), 1);
        assert_eq!(replicas("replicas: 0"), 0);
        assert_eq!(replicas("replicas: 4"), 4);
    }

    #[test]
    fn a_switch_has_a_worker_that_drains_the_old_broker() {
        let document = DOCUMENT.replace("scaling: {min: 1, max: 5}", "replicas: 0");
        let pipeline = pipeline(&document);
        let config = crds::resolve(&pipeline);
        let blueprint = super::Blueprint { pipeline: &pipeline, config: &config, default_image: "i", switches: true, schemas: None };
        let replicas = |role| super::deployment(&blueprint, role).unwrap().spec.unwrap().replicas;
        assert_eq!((replicas(super::Role::Worker), replicas(super::Role::Api)), (Some(1), Some(2)));
    }

    #[test]
    fn what_the_document_leaves_out_is_not_built() {
        let document = DOCUMENT.replace("  generator: {rate: 5}\n", "");
        assert_eq!(built(&document, Kind::Deployment, "shop-generator"), None);
    }
}
