//! What is asked for beside the document: by an annotation of the pipeline, or over a pod's API. Pure.

use super::{Annotations, Wanted};
use crds::member::{BackendRequest, PipelineMemberSpec};
use crds::switch::names::{ABANDON_ANNOTATION, REQUEST_ANNOTATION};
use crds::switch::{Request, Stamp, Standing, SwitchState};

/// What can be followed, and a sentence for what cannot.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub requests: Vec<Request>,
    pub abandon: Option<u64>,
    pub ignored: Vec<String>,
}

impl Asked {
    pub fn read<'m>(wanted: &Wanted, state: &SwitchState, members: impl Iterator<Item = &'m PipelineMemberSpec>) -> Asked {
        let mut asked = Asked { requests: state.back_to_spec(&wanted.config).into_iter().collect(), ..Asked::default() };
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
            let Request { backend, by, revision, .. } = &request;
            match state.standing(&request) {
                // Whatever it says.
                Standing::Over => {}
                Standing::Ahead => asked.ignored.push(format!(
                    "{by} asked for {backend} by revision {revision} of the switch, which is only at {}: ignored",
                    state.revision()
                )),
                Standing::New if wanted.has_backend(backend) => asked.requests.push(request),
                Standing::New => asked.ignored.push(format!("{by} asked for {backend}, which spec.backends does not have: ignored")),
            }
        }
        asked.abandon = abandon.as_deref().and_then(|text| match Stamp::parse(text.trim().as_bytes()) {
            // It came with the document of another pipeline, or of one that was deleted.
            Some(stamp) if !state.same_lineage(stamp.lineage) => None,
            Some(stamp) if stamp.epoch < state.newest().epoch => Some(stamp.epoch),
            _ => {
                asked.ignored.push(format!(
                    "the annotation {ABANDON_ANNOTATION} is {text:?}, and names no epoch that is left (kubectl orderpipeline switch \
                     --abandon-drain writes it): ignored"
                ));
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
        read_by(&SwitchState::first("l", "kafka"), switch, abandon)
    }

    fn read_by(state: &SwitchState, switch: Option<&str>, abandon: Option<&str>) -> Asked {
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
        Asked::read(&wanted, state, std::iter::empty())
    }

    #[test]
    fn an_annotation_asks_for_a_backend() {
        let asked = read(Some(r#"{"backend": "next", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 1}"#), None);
        assert_eq!(asked.requests.len(), 1);
        assert_eq!((&*asked.requests[0].backend, &*asked.requests[0].by, asked.abandon), ("next", "ops", None));
        assert_eq!(asked.ignored, Vec::<String>::new());
    }

    #[test]
    fn only_an_epoch_of_this_pipeline_that_is_left_is_abandoned() {
        let first = SwitchState::first("l", "kafka");
        let asked = Request { backend: "next".into(), by: "ops".into(), at: "".into(), lineage: None, revision: 1 };
        let asked = first.noted(first.ruling("kafka", &[asked]).unwrap()).unwrap();
        let opened = asked.prepared().unwrap().held().unwrap().opened().unwrap();
        let abandoned = |text: &str| {
            let asked = read_by(&opened, None, Some(text));
            (asked.abandon, asked.ignored.len())
        };
        assert_eq!(abandoned("l:1"), (Some(1), 0));
        assert_eq!(abandoned("another:1"), (None, 0), "a copied document must not leave drains behind");
        assert_eq!(abandoned("l:2"), (None, 1), "orders are written there");
        assert_eq!(abandoned("1"), (None, 1));
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        let asked = read(Some(r#"{"backend": "nowhere", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 1}"#), Some("all"));
        assert_eq!((asked.requests, asked.abandon), (vec![], None));
        assert!(asked.ignored[0].contains("ops asked for nowhere") || asked.ignored[1].contains("ops asked for nowhere"));
        assert!(read(Some("next"), None).ignored[0].contains("cannot be read"));
    }

    #[test]
    fn a_request_by_a_revision_that_there_has_not_been_is_ignored_and_that_is_said() {
        let ahead = read(Some(r#"{"backend": "next", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 1000000}"#), None);
        assert_eq!(ahead.requests, vec![]);
        assert_eq!(ahead.ignored, ["ops asked for next by revision 1000000 of the switch, which is only at 1: ignored"]);
    }

    #[test]
    fn what_was_asked_before_the_one_that_rules_is_over_and_not_even_mentioned() {
        let old = r#"{"backend": "nowhere", "by": "ops", "at": "2026-01-01T00:00:00Z", "revision": 0}"#;
        assert_eq!(read(Some(old), None), Asked::default());
    }
}
