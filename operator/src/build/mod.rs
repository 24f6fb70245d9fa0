//! From a checked pipeline to the objects that it needs: one pure builder for each kind, its test beside it.
//! Nothing here talks to the cluster.

mod config_map;
mod deployment;
mod pod;
mod rbac;
mod restart;
pub mod schemas;
pub mod secrets;
mod service;

use crate::names;
use crds::OrderPipeline;
use crds::runtime_config::RuntimeConfig;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt, core::ApiResource};
use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Kinds that a pipeline owns, in the order in which they are applied: what a pod needs stands before the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    ServiceAccount,
    Role,
    RoleBinding,
    ConfigMap,
    Service,
    Deployment,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::ServiceAccount, Kind::Role, Kind::RoleBinding, Kind::ConfigMap, Kind::Service, Kind::Deployment];

    pub fn resource(self) -> ApiResource {
        match self {
            Kind::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Kind::Role => ApiResource::erase::<Role>(&()),
            Kind::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Kind::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Kind::Service => ApiResource::erase::<Service>(&()),
            Kind::Deployment => ApiResource::erase::<Deployment>(&()),
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub kind: Kind,
    pub name: String,
    pub body: Json,
}

/// What the builders look at.
pub struct Blueprint<'a> {
    pub pipeline: &'a OrderPipeline,
    pub config: &'a RuntimeConfig,
    /// The runtime image where the document names none.
    pub default_image: &'a str,
    /// A switch is under way, or an old broker drains.
    pub switches: bool,
    /// A digest of the Avro schemas that pods mount. None: the pipeline has none.
    pub schemas: Option<&'a str>,
}

/// Every object that the pipeline needs, in the order in which they are applied.
pub fn build(blueprint: &Blueprint) -> Result<Vec<Wanted>, serde_json::Error> {
    let mut wanted = vec![
        object(Kind::ServiceAccount, rbac::service_account(blueprint))?,
        object(Kind::Role, rbac::role(blueprint))?,
        object(Kind::RoleBinding, rbac::role_binding(blueprint))?,
        object(Kind::ConfigMap, config_map::config_map(blueprint)?)?,
    ];
    if let Some(service) = service::service(blueprint) {
        wanted.push(object(Kind::Service, service)?);
    }
    for deployment in deployment::deployments(blueprint)? {
        wanted.push(object(Kind::Deployment, deployment)?);
    }
    Ok(wanted)
}

impl Blueprint<'_> {
    fn name(&self) -> String {
        self.pipeline.name_any()
    }

    fn meta(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.pipeline.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![self.owner()]),
            ..Default::default()
        }
    }

    /// With it the garbage collector removes everything when the pipeline goes.
    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: OrderPipeline::api_version(&()).into_owned(),
            kind: OrderPipeline::kind(&()).into_owned(),
            name: self.name(),
            uid: self.pipeline.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// Notes in the object itself what it was made of, so that also a field that is no longer wanted makes a difference.
fn object<K: Serialize + ResourceExt>(kind: Kind, built: K) -> Result<Wanted, serde_json::Error> {
    let name = built.name_any();
    let mut body = serde_json::to_value(built)?;
    let hash = hash(&body)?;
    body["metadata"]["annotations"][names::APPLIED] = hash.into();
    Ok(Wanted { kind, name, body })
}

/// Sixteen hexadecimal digits. Not the standard library's hash: that may change with the compiler, and pods would roll.
fn hash(of: &impl Serialize) -> Result<String, serde_json::Error> {
    let digest = Sha256::digest(serde_json::to_vec(of)?);
    let mut text = String::with_capacity(16);
    for byte in &digest[..8] {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;

    pub const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop, namespace: retail, uid: 0b8ff8f5-a4a1-4b52-a3c4-9c7cf3a1d001}
spec:
  backends:
  - name: kafka
    kafka:
      bootstrapServers: kafka:9092
      tls: {caSecretRef: {name: broker, key: ca.crt}}
      auth: {scramSha512: {username: shop, passwordSecretRef: {name: broker, key: password}}}
  topics: [{name: orders}]
  events:
  - {name: OrderCreated, effect: Create}
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
  api: {keysSecretRef: {name: keys}, replicas: 2}
  worker: {scaling: {min: 1, max: 5}}
  generator: {rate: 5}
"#;

    /// Builds the objects of a document and looks one up.
    pub fn built(document: &str, kind: Kind, name: &str) -> Option<Json> {
        let pipeline = pipeline(document);
        let config = crds::resolve(&pipeline);
        let blueprint = Blueprint {
            pipeline: &pipeline,
            config: &config,
            default_image: "registry.test/pipeline-runtime:1",
            switches: false,
            schemas: None,
        };
        build(&blueprint).unwrap().into_iter().find(|w| w.kind == kind && w.name == name).map(|w| w.body)
    }

    pub fn pipeline(document: &str) -> OrderPipeline {
        serde_yaml::from_str(document).unwrap()
    }

    /// Compares with a file of `golden/`; `UPDATE_GOLDEN=1 cargo test` writes it anew, to be read in the diff.
    pub fn assert_golden(file: &str, object: &Json) {
        let path = format!("{}/src/build/golden/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = serde_yaml::to_string(object).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, golden, "{path} differs");
    }

    #[test]
    fn what_a_pod_needs_is_applied_before_the_pod() {
        let pipeline = pipeline(DOCUMENT);
        let config = crds::resolve(&pipeline);
        let kinds: Vec<Kind> =
            build(&Blueprint { pipeline: &pipeline, config: &config, default_image: "i", switches: false, schemas: None })
                .unwrap()
                .iter()
                .map(|w| w.kind)
                .collect();
        assert!(kinds.is_sorted(), "{kinds:?}");
        assert_eq!(kinds.iter().filter(|k| **k == Kind::Deployment).count(), 3);
    }

    #[test]
    fn the_same_document_builds_the_same_objects() {
        let one = built(DOCUMENT, Kind::Deployment, "shop-api");
        assert!(one.is_some());
        assert_eq!(one, built(DOCUMENT, Kind::Deployment, "shop-api"));
    }
}
