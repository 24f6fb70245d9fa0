//! This pod's PipelineMember: written by nobody else, as a whole, and only when it says something new.

use crds::member::{MemberPod, PipelineMember, PipelineMemberSpec};
use crds::switch::names::PIPELINE_LABEL;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

const FIELD_MANAGER: &str = "pipeline-runtime";
/// The client itself would go on trying for a quarter of an hour.
pub const CALL: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Members {
    pub api: Api<PipelineMember>,
    pub pod: MemberPod,
}

impl Members {
    pub async fn write(&self, spec: &PipelineMemberSpec) -> Result<(), String> {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            ..OwnerReference::default()
        };
        let mut member = PipelineMember::new(&self.pod.name, spec.clone());
        member.metadata = ObjectMeta {
            labels: Some([(PIPELINE_LABEL.to_owned(), spec.pipeline.0.clone())].into()),
            owner_references: Some(vec![owner]),
            ..member.metadata
        };
        let how = PatchParams::apply(FIELD_MANAGER).force();
        within(self.api.patch(&self.pod.name, &how, &Patch::Apply(&member))).await.map(drop)
    }

    pub async fn exists(&self) -> Result<bool, String> {
        within(self.api.get_metadata_opt(&self.pod.name)).await.map(|member| member.is_some())
    }

    pub async fn delete(&self) -> Result<(), String> {
        match within(self.api.delete(&self.pod.name, &DeleteParams::default())).await {
            Err(_) if !self.exists().await.unwrap_or(true) => Ok(()),
            deleted => deleted.map(drop),
        }
    }
}

/// One call to the API server, with a deadline and in its own words.
pub async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the API server gives no answer within {CALL:?}")),
    }
}
