//! This pod's PipelineMember: written by nobody else, as a whole, and only when it says something new.

use crds::member::{MemberPod, PipelineMember, PipelineMemberSpec};
use crds::switch::names::PIPELINE_LABEL;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use std::future::Future;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

const FIELD_MANAGER: &str = "pipeline-runtime";
/// The client itself would go on trying for a quarter of an hour.
pub const CALL: Duration = Duration::from_secs(5);
/// Somebody else, an administrator say, may touch it too: then it is looked up and written again, at once so many times.
const TRIES: usize = 3;

pub struct Members {
    api: Api<PipelineMember>,
    pod: MemberPod,
    /// The resourceVersion that this process wrote last.
    version: Mutex<Option<String>>,
}

impl Members {
    pub fn new(api: Api<PipelineMember>, pod: MemberPod) -> Members {
        Members { api, pod, version: Mutex::default() }
    }

    /// In the place of what this process wrote last. One that is late, its answer long given up, finds another version there and changes
    /// nothing: an apply would put its old answer in the place of a newer one.
    pub async fn write(&self, spec: &PipelineMemberSpec) -> Result<(), String> {
        let mut last = self.version.lock().await;
        let how = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let mut failed = None;
        for _ in 0..TRIES {
            let version = match last.take() {
                None => called(self.api.get_metadata_opt(&self.pod.name)).await?.and_then(|there| there.metadata.resource_version),
                known => known,
            };
            let there = version.is_some();
            let member = self.member(spec, version);
            let written = if there {
                called(self.api.replace(&self.pod.name, &how, &member)).await
            } else {
                called(self.api.create(&how, &member)).await
            };
            match written {
                Ok(written) => {
                    *last = written.metadata.resource_version;
                    return Ok(());
                }
                // It is another one by now, or it is gone, or it has come.
                Err(error) if matches!(error.code, Some(404 | 409)) => failed = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(failed.map_or_else(String::new, String::from))
    }

    fn member(&self, spec: &PipelineMemberSpec, resource_version: Option<String>) -> PipelineMember {
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
            resource_version,
            ..member.metadata
        };
        member
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

/// Why a call to the API server failed, in its own words.
struct Failed {
    code: Option<u16>,
    why: String,
}

impl From<Failed> for String {
    fn from(failed: Failed) -> String {
        failed.why
    }
}

async fn called<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Failed { code: Some(status.code), why: status.message.clone() }),
        Ok(Err(error)) => Err(Failed { code: None, why: error.to_string() }),
        Err(_) => Err(Failed { code: None, why: format!("the API server gives no answer within {CALL:?}") }),
    }
}

/// One call to the API server, with a deadline.
pub async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    Ok(called(call).await?)
}
