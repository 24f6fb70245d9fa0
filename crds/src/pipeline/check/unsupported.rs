//! What the resource can say and this version cannot do. Shrinks with every version, and is the only place that knows.

use super::Found;
use crate::document::Purpose;
use crate::pipeline::*;

pub(super) fn check(spec: &OrderPipelineSpec, purpose: Purpose, found: &mut Found) {
    let mut not_yet = |place: String, what: &str| found.add(place, format!("{what}: not supported by this version yet"));
    if spec.deletion_policy == DeletionPolicy::Delete {
        not_yet("spec.deletionPolicy".into(), "Delete, which would remove the topics with the pipeline");
    }
    // Backends may stand in the document before they can be used, and `up` uses none of them.
    let Some(backend) = spec.backend_in_use().filter(|_| purpose == Purpose::Deploy) else { return };
    let place = if spec.backend.is_some() { "spec.backend" } else { "spec.backends[0]" };
    if backend.event_hubs.is_some() {
        not_yet(place.into(), &format!("{} is an Event Hubs namespace, to be used as the backend", backend.name));
    }
    if backend.kafka.as_ref().is_some_and(|kafka| kafka.strimzi.is_some()) {
        not_yet(
            place.into(),
            &format!("{} is a Kafka resource of Strimzi, to be used as the backend (bootstrapServers can be)", backend.name),
        );
    }
}
