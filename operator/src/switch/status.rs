//! What status says of the switch: read freshly, and written only if it differs, under the resourceVersion that was read. So a
//! coordinator that has been overtaken cannot take back what the next one has mirrored.

use super::Wanted;
use super::shown::Shown;
use crate::context::{Context, Error};
use crate::names;
use crate::reconcile::conditions::set_condition;
use crds::pipeline::BackendStatus;
use crds::switch::{StateError, SwitchState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// The condition that a driver writes.
pub const SWITCHING: &str = "Switching";
/// The API server takes 32 KiB; a person reads less.
const LONGEST_MESSAGE: usize = 4000;

/// The pipeline as the API server has it now.
pub struct View {
    version: String,
    pub backend: BackendStatus,
    pub mirror: Option<Result<SwitchState, StateError>>,
    conditions: Vec<Condition>,
}

impl View {
    /// None if the pipeline is gone, or another one of the same name.
    pub async fn read(context: &Context, wanted: &Wanted) -> Result<Option<View>, Error> {
        let reading = || format!("reading OrderPipeline {}/{}", wanted.namespace, wanted.name);
        let object = context.within(reading, api(context, wanted).get_opt(&wanted.name)).await?;
        let Some(object) = object.filter(|object| object.uid().as_deref() == Some(wanted.uid.as_str())) else { return Ok(None) };
        Ok(Some(View::of(&object)))
    }

    fn of(object: &DynamicObject) -> View {
        let status = &object.data["status"];
        View {
            version: object.resource_version().unwrap_or_default(),
            backend: read(&status["backend"]).unwrap_or_default(),
            mirror: status
                .pointer("/backend/mirror")
                .filter(|mirror| !mirror.is_null())
                .map(|mirror| SwitchState::parse(&mirror.to_string())),
            conditions: read(&status["conditions"]).unwrap_or_default(),
        }
    }

    /// The revision of this lineage that is mirrored.
    pub fn mirrored(&self, state: &SwitchState) -> u64 {
        let mirror = self.mirror.as_ref().and_then(|mirror| mirror.as_ref().ok());
        mirror.filter(|mirror| mirror.same_lineage(state.lineage())).map_or(0, SwitchState::revision)
    }

    /// True if it was written. A conflict is an error of its own: then all is read again.
    pub async fn show(&mut self, context: &Context, wanted: &Wanted, shown: &Shown) -> Result<bool, Error> {
        let message = crate::reconcile::conditions::bounded(&shown.switching.message, LONGEST_MESSAGE);
        let as_wanted = |condition: &Condition| {
            let said = (condition.status.as_str(), condition.reason.as_str(), condition.message.as_str());
            condition.type_ == SWITCHING && said == (shown.switching.value, shown.switching.reason.as_str(), message.as_str())
        };
        if self.backend == shown.backend && self.conditions.iter().any(as_wanted) {
            return Ok(false);
        }
        let mut conditions = self.conditions.clone();
        let now = Time(Timestamp::now());
        set_condition(&mut conditions, None, &now, SWITCHING, shown.switching.value, &shown.switching.reason, &message);
        conditions.retain(|condition| condition.type_ == SWITCHING);
        let resource = ApiResource::erase::<crds::OrderPipeline>(&());
        let body = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": wanted.name, "uid": wanted.uid, "resourceVersion": self.version},
            "status": {"conditions": conditions, "backend": shown.backend},
        });
        let how = PatchParams::apply(names::SWITCH_FIELD_MANAGER).force();
        let writing = || format!("writing the switch into the status of {}/{}", wanted.namespace, wanted.name);
        let written = context.within(writing, api(context, wanted).patch_status(&wanted.name, &how, &Patch::Apply(&body))).await?;
        context.metrics.status_written();
        // A pipeline is built otherwise while it moves, and a backend that is not used any more may go.
        let steady = |backend: &BackendStatus| backend.phase.as_deref() == Some("Steady");
        if steady(&self.backend) != steady(&shown.backend) || self.mirror.is_none() {
            context.call.reconcile(&wanted.namespace, &wanted.name).await;
        }
        *self = View::of(&written);
        Ok(true)
    }
}

/// One that cannot be read counts as none: it is written anew.
fn read<T: for<'de> Deserialize<'de>>(value: &Json) -> Option<T> {
    T::deserialize(value).ok()
}

fn api(context: &Context, wanted: &Wanted) -> Api<DynamicObject> {
    Api::namespaced_with(context.client.clone(), &wanted.namespace, &ApiResource::erase::<crds::OrderPipeline>(&()))
}
