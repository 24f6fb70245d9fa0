//! What is asked for beside the document: by an annotation of the pipeline, or over a pod's API. Pure.

use super::{Annotations, Wanted};
use crds::member::{BackendRequest, PipelineMemberSpec};
use crds::switch::names::{ABANDON_ANNOTATION, REQUEST_ANNOTATION};
use crds::switch::{Request, SwitchState};

/// What can be followed, and a sentence for what cannot.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub requests: Vec<Request>,
    pub abandon: Option<u64>,
    pub ignored: Vec<String>,
}

impl Asked {
    pub fn read<'m>(wanted: &Wanted, state: &SwitchState, members: impl Iterator<Item = &'m PipelineMemberSpec>) -> Asked {
        let mut asked = Asked::default();
        let Annotations { switch, abandon } = &wanted.annotations;
        let annotation = switch.as_deref().and_then(|text| match serde_json::from_str::<BackendRequest>(text) {
            Ok(request) => Some(request),
            Err(error) => {
                asked.ignored.push(format!("the annotation {REQUEST_ANNOTATION} cannot be read ({error}) and is ignored"));
                None
            }
        });
        for request in members.filter_map(|member| member.request.clone()).chain(annotation) {
            let request = Request::from(request);
            // From before the one that rules: it is over, whatever it says.
            if request.revision < state.asked().since {
                continue;
            }
            if wanted.has_backend(&request.backend) {
                asked.requests.push(request);
            } else {
                asked.ignored.push(format!("{} asked for {}, which spec.backends does not have: ignored", request.by, request.backend));
            }
        }
        asked.abandon = abandon.as_deref().and_then(|text| match text.trim().parse() {
            Ok(epoch) => Some(epoch),
            Err(_) => {
                asked.ignored.push(format!("the annotation {ABANDON_ANNOTATION} is {text:?}, and not the number of an epoch: ignored"));
                None
            }
        });
        asked.ignored.sort();
        asked.ignored.dedup();
        asked
    }
}

impl Wanted {
    pub fn has_backend(&self, name: &str) -> bool {
        self.config.backends.iter().any(|backend| backend.name == *name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backend: kafka
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}, {name: next, kafka: {bootstrapServers: 'next:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated, effect: Create}]
  worker: {}
";

    fn read(switch: Option<&str>, abandon: Option<&str>) -> Asked {
        let config = crds::resolve(&crds::document::read(DOCUMENT).unwrap());
        let annotations = Annotations { switch: switch.map(str::to_owned), abandon: abandon.map(str::to_owned) };
        let wanted = Wanted {
            namespace: "retail".into(),
            name: "shop".into(),
            uid: "1".into(),
            config,
            obstacle: None,
            annotations,
            mirrored: true,
        };
        Asked::read(&wanted, &SwitchState::first("l", "kafka"), std::iter::empty())
    }

    #[test]
    fn an_annotation_asks_for_a_backend() {
        let asked = read(Some(r#"{"backend": "next", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 1}"#), Some("3"));
        assert_eq!(asked.requests.len(), 1);
        assert_eq!((&*asked.requests[0].backend, &*asked.requests[0].by, asked.abandon), ("next", "ops", Some(3)));
        assert_eq!(asked.ignored, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        let asked = read(Some(r#"{"backend": "nowhere", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 1}"#), Some("all"));
        assert_eq!((asked.requests, asked.abandon), (vec![], None));
        assert!(asked.ignored[0].contains("ops asked for nowhere") || asked.ignored[1].contains("ops asked for nowhere"));
        assert!(read(Some("next"), None).ignored[0].contains("cannot be read"));
    }

    #[test]
    fn what_was_asked_before_the_one_that_rules_is_over_and_not_even_mentioned() {
        let old = r#"{"backend": "nowhere", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 0}"#;
        assert_eq!(read(Some(old), None), Asked::default());
    }
}
