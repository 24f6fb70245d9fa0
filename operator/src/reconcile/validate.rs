//! Second step: what was read becomes a checked pipeline, a type of its own, or the list of its mistakes. Pure.

use crds::runtime_config::RuntimeConfig;
use crds::{Mistake, OrderPipeline};
use serde_json::Value as Json;

/// A pipeline without mistakes, and what its pods will read.
pub struct Valid {
    pub pipeline: OrderPipeline,
    pub config: RuntimeConfig,
}

pub fn validate(document: &Json) -> Result<Valid, Vec<Mistake>> {
    let mut spec_only = document.clone();
    let status = spec_only.as_object_mut().and_then(|object| object.remove("status"));
    let pipeline = crds::document::accept(&spec_only)?;
    let config = crds::resolve(&pipeline);
    if let Some(mistake) = switch(&config, status.as_ref()) {
        return Err(vec![mistake]);
    }
    Ok(Valid { pipeline, config })
}

/// Pods that roll from one broker to another, each at its own time, would mix up the events of a key and lose what the old one
/// still holds. Until a running pipeline can be switched it stays where it is.
fn switch(config: &RuntimeConfig, status: Option<&Json>) -> Option<Mistake> {
    let active = status?.pointer("/backend/active")?.as_str()?;
    (active != config.backend).then(|| {
        let wanted = &config.backend;
        let message = format!("this version cannot move a running pipeline from {active} to {wanted}: set it back to {active}");
        Mistake::new("spec.backend", message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::build::tests::{DOCUMENT, pipeline};

    fn document() -> Json {
        serde_json::to_value(pipeline(DOCUMENT)).unwrap()
    }

    #[test]
    fn a_document_that_does_not_fit_the_types_is_a_mistake_and_no_failure() {
        let mut document = document();
        document["spec"]["topics"] = "orders".into();
        let mistakes = validate(&document).err().unwrap();
        assert!(mistakes.iter().any(|m| m.place.contains("spec.topics")), "{mistakes:?}");
    }

    #[test]
    fn a_strange_status_is_no_mistake_of_the_document() {
        let mut document = document();
        document["status"] = serde_json::json!({"conditions": 7});
        assert!(validate(&document).is_ok());
    }

    #[test]
    fn a_running_pipeline_is_not_moved() {
        let mut document = document();
        document["status"] = serde_json::json!({"backend": {"active": "kafka"}});
        assert!(validate(&document).is_ok());
        document["status"] = serde_json::json!({"backend": {"active": "old"}});
        let mistakes = validate(&document).err().unwrap();
        assert_eq!(mistakes[0].place, "spec.backend");
        assert!(mistakes[0].message.contains("from old to kafka"), "{mistakes:?}");
    }
}
