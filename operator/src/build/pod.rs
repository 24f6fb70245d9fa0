//! The pod of a role: as little power as it can do with, its configuration and the Secrets that it needs as files.

use super::{Blueprint, hash, restart, schemas, secrets};
use crate::names::{self, Role};
use crds::pipeline::{GRACE_SECONDS, PRE_STOP_SECONDS, PodTemplate, Quantity as Amount, Resources};
use crds::runtime_config::{CONFIG_DIR, SCHEMAS_DIR, SECRETS_DIR};
use crds::switch::names::STATE_DIR;
use k8s_openapi::api::core::v1::*;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

pub fn template(blueprint: &Blueprint, role: Role, wishes: Option<&PodTemplate>) -> Result<PodTemplateSpec, serde_json::Error> {
    let name = blueprint.name();
    let mut annotations = wishes.map(|w| w.annotations.clone()).unwrap_or_default();
    annotations.insert(names::ROLLS_ON.into(), restart::rolls_on(blueprint.config, role, blueprint.schemas)?);
    let mut labels = wishes.map(|w| w.labels.clone()).unwrap_or_default();
    labels.extend(names::role_labels(&name, role));
    let (volumes, mounts) = files(blueprint, role)?;
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta { annotations: Some(annotations), labels: Some(labels), ..Default::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(names::access(&name)),
            // With one backend there is nothing to switch, and no pod has a reason to ask the API server.
            automount_service_account_token: Some(blueprint.config.backends.len() > 1),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(wishes.map_or(GRACE_SECONDS, |w| w.termination_grace_period_seconds).into()),
            node_selector: wishes.map(|w| w.node_selector.clone()).filter(|s| !s.is_empty()),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".into(),
                when_unsatisfiable: "ScheduleAnyway".into(),
                label_selector: Some(LabelSelector { match_labels: Some(names::pod_selector(&name, role)), ..Default::default() }),
                ..Default::default()
            }]),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..Default::default() }),
                ..Default::default()
            }),
            containers: vec![container(blueprint, role, wishes, mounts)],
            volumes: Some(volumes),
            ..Default::default()
        }),
    })
}

fn container(blueprint: &Blueprint, role: Role, wishes: Option<&PodTemplate>, mounts: Vec<VolumeMount>) -> Container {
    let port_name = if role == Role::Api { "http" } else { "health" };
    let image = blueprint.pipeline.spec.image.as_deref().unwrap_or(blueprint.default_image);
    Container {
        name: role.name().into(),
        image: Some(image.to_owned()),
        command: Some(vec!["pipeline-runtime".into()]),
        args: Some(vec![role.name().into()]),
        env: Some(
            [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")].map(from_field).into(),
        ),
        ports: Some(vec![ContainerPort {
            name: Some(port_name.into()),
            container_port: role.port().into(),
            protocol: Some("TCP".into()),
            ..Default::default()
        }]),
        liveness_probe: Some(probe("/healthz", port_name, 10, 6)),
        lifecycle: (role == Role::Api).then(goes_on_until_nobody_comes),
        // Latched: a broker that goes away later must not take the pods out of the Service, where they answer with a hint.
        readiness_probe: Some(probe("/readyz/latched", port_name, 5, 3)),
        resources: Some(resources(wishes.and_then(|w| w.resources.as_ref()))),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), ..Default::default() }),
            ..Default::default()
        }),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

/// A pod that is to end is still asked until every proxy knows: ended at once, it would refuse connections meanwhile.
fn goes_on_until_nobody_comes() -> Lifecycle {
    let sleep = SleepAction { seconds: PRE_STOP_SECONDS.into() };
    Lifecycle { pre_stop: Some(LifecycleHandler { sleep: Some(sleep), ..Default::default() }), ..Default::default() }
}

fn from_field((name, path): (&str, &str)) -> EnvVar {
    let field = ObjectFieldSelector { field_path: path.into(), ..Default::default() };
    EnvVar { name: name.into(), value_from: Some(EnvVarSource { field_ref: Some(field), ..Default::default() }), ..Default::default() }
}

fn probe(path: &str, port: &str, period_seconds: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction { path: Some(path.into()), port: IntOrString::String(port.into()), ..Default::default() }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Default::default()
    }
}

/// Room for full load; the CPU has no limit, since a throttled pod is a slow pod. Each entry of the document replaces ours, and
/// one that it has for one half, request or limit, takes ours of the other half away: the two might contradict each other.
fn resources(wishes: Option<&Resources>) -> ResourceRequirements {
    let (requests, limits) = (wishes.map(|w| &w.requests), wishes.map(|w| &w.limits));
    ResourceRequirements {
        requests: Some(with_ours(&[("cpu", "50m"), ("memory", "64Mi")], requests, limits)).filter(|requests| !requests.is_empty()),
        limits: Some(with_ours(&[("memory", "128Mi")], limits, requests)).filter(|limits| !limits.is_empty()),
        ..Default::default()
    }
}

type Amounts = BTreeMap<String, Amount>;

fn with_ours(ours: &[(&str, &str)], theirs: Option<&Amounts>, other_half: Option<&Amounts>) -> BTreeMap<String, Quantity> {
    let ours = ours.iter().filter(|(name, _)| !other_half.is_some_and(|half| half.contains_key(*name)));
    let mut all: BTreeMap<String, Quantity> = ours.map(|(name, v)| ((*name).to_owned(), Quantity((*v).to_owned()))).collect();
    all.extend(theirs.into_iter().flatten().map(|(name, v)| (name.clone(), Quantity(v.text()))));
    all
}

/// The configuration as a folder, each ConfigMap with schemas and each Secret as a folder below one: that is how rotated contents reach a running pod.
fn files(blueprint: &Blueprint, role: Role) -> Result<(Vec<Volume>, Vec<VolumeMount>), serde_json::Error> {
    let config = ConfigMapVolumeSource { name: names::config_map(&blueprint.name()), ..Default::default() };
    let mut volumes = vec![
        Volume { name: "config".into(), config_map: Some(config), ..Default::default() },
        // The root is read-only; libraries may want a place for a temporary file.
        Volume {
            name: "tmp".into(),
            empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity("64Mi".into())), ..Default::default() }),
            ..Default::default()
        },
    ];
    let mut mounts = vec![mount("config", CONFIG_DIR), VolumeMount { read_only: None, ..mount("tmp", "/tmp") }];
    if blueprint.config.backends.len() > 1 {
        // A pod may start before there is a state; it waits for it at the API server, and the file only ever brings news.
        let state = ConfigMapVolumeSource { name: names::switch_state(&blueprint.name()), optional: Some(true), ..Default::default() };
        volumes.push(Volume { name: names::SWITCH_VOLUME.into(), config_map: Some(state), ..Default::default() });
        mounts.push(mount(names::SWITCH_VOLUME, STATE_DIR));
    }
    for (map, keys) in schemas::of_pipeline(blueprint.config) {
        let volume = format!("schemas-{}", hash(&map)?);
        mounts.push(mount(&volume, &format!("{SCHEMAS_DIR}/{map}")));
        let source = ConfigMapVolumeSource { name: map, items: Some(keys.into_iter().map(as_file).collect()), ..Default::default() };
        volumes.push(Volume { name: volume, config_map: Some(source), ..Default::default() });
    }
    for (secret, keys) in secrets::of_role(blueprint.config, role) {
        // A Secret's name may be longer than a volume's.
        let volume = format!("secret-{}", hash(&secret)?);
        let items = match keys {
            secrets::Keys::All | secrets::Keys::Encrypting => None,
            secrets::Keys::These(keys) => Some(keys.into_iter().map(as_file).collect()),
        };
        mounts.push(mount(&volume, &format!("{SECRETS_DIR}/{secret}")));
        let source = SecretVolumeSource { secret_name: Some(secret), items, default_mode: Some(0o444), optional: None };
        volumes.push(Volume { name: volume, secret: Some(source), ..Default::default() });
    }
    Ok((volumes, mounts))
}

fn as_file(key: String) -> KeyToPath {
    KeyToPath { path: key.clone(), key, mode: None }
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.into(), mount_path: path.into(), read_only: Some(true), ..Default::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Kind, tests::*};
    use serde_json::json;

    #[test]
    fn the_documents_template_is_followed_but_cannot_take_the_selectors_labels() {
        let document = DOCUMENT.replace(
            "replicas: 2",
            "replicas: 2, template: {resources: {requests: {cpu: 2}, limits: {memory: 1Gi}}, nodeSelector: {disk: fast}, \
             annotations: {team: a}, labels: {tier: front, app.kubernetes.io/component: mine}, terminationGracePeriodSeconds: 90}",
        );
        let template = &built(&document, Kind::Deployment, "shop-api").unwrap()["spec"]["template"];
        let pod = &template["spec"];
        assert_eq!(pod["containers"][0]["resources"], json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}));
        assert_eq!(pod["nodeSelector"], json!({"disk": "fast"}));
        assert_eq!(pod["terminationGracePeriodSeconds"], 90);
        assert_eq!(template["metadata"]["annotations"]["team"], "a");
        assert_eq!(template["metadata"]["labels"]["tier"], "front");
        assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/component"], "api");
    }

    #[test]
    fn a_half_that_the_document_says_is_never_contradicted_by_ours() {
        for (theirs, wanted) in [
            ("{requests: {memory: 256Mi}}", json!({"requests": {"cpu": "50m", "memory": "256Mi"}})),
            ("{limits: {memory: 32Mi}}", json!({"requests": {"cpu": "50m"}, "limits": {"memory": "32Mi"}})),
            ("{limits: {cpu: 20m}}", json!({"requests": {"memory": "64Mi"}, "limits": {"cpu": "20m", "memory": "128Mi"}})),
            ("{}", json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}})),
        ] {
            let document = DOCUMENT.replace("replicas: 2", &format!("replicas: 2, template: {{resources: {theirs}}}"));
            let object = built(&document, Kind::Deployment, "shop-api").unwrap();
            assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["resources"], wanted, "{theirs}");
        }
    }

    #[test]
    fn only_a_pipeline_with_two_backends_gets_a_token_and_the_state_of_its_switch() {
        let pod = |document: &str| built(document, Kind::Deployment, "shop-worker").unwrap()["spec"]["template"]["spec"].clone();
        assert_eq!(pod(DOCUMENT)["automountServiceAccountToken"], false);
        assert!(!pod(DOCUMENT).to_string().contains("shop-switch"));
        let next = "{name: next, kafka: {bootstrapServers: 'next:9092', tls: {caSecretRef: {name: next-ca, key: ca.crt}}}}";
        let two = DOCUMENT.replace("  backends:\n", &format!("  backend: kafka\n  backends:\n  - {next}\n"));
        let pod = pod(&two);
        assert_eq!(pod["automountServiceAccountToken"], true);
        let volumes = pod["volumes"].as_array().unwrap();
        assert!(volumes.contains(&json!({"name": "switch", "configMap": {"name": "shop-switch", "optional": true}})), "{volumes:?}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&json!({"name": "switch", "mountPath": "/etc/orderpipeline/switch", "readOnly": true})), "{mounts:?}");
        for secret in ["broker", "next-ca"] {
            let path = format!("/etc/orderpipeline/secrets/{secret}");
            assert!(mounts.iter().any(|mount| mount["mountPath"] == path.as_str()), "{secret} of one of the backends");
        }
    }

    #[test]
    fn the_documents_image_wins() {
        let document = DOCUMENT.replace("spec:\n", "spec:\n  image: mine:2\n");
        let object = built(&document, Kind::Deployment, "shop-worker").unwrap();
        assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["image"], "mine:2");
    }
}
