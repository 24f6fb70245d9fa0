//! Asking a process for another backend, where nobody or somebody coordinates.

use super::*;
use crate::control::{Requests, local_gate};
use crds::member::BackendRequest;
use crds::switch::{Outcome, Request, Source, SwitchState};
use tokio::sync::watch;

const ADMIN_KEY: &str = "admin-secret";

/// A process of a pipeline with two backends, and what a coordinator has of it.
struct Moving {
    process: Process,
    gate: Arc<Gate>,
    asked: watch::Sender<Option<BackendRequest>>,
}

impl Moving {
    fn at(state: SwitchState) -> Moving {
        let mut config = config();
        let backends = "[{name: kafka, kafka: {bootstrapServers: 'a:1'}}, {name: next, kafka: {bootstrapServers: 'b:1'}}]";
        config.backends = serde_yaml::from_str(backends).unwrap();
        let gate = local_gate(&config, &Arc::new(state)).unwrap();
        let asked = watch::Sender::new(None);
        let shared = Arc::new(ArcSwap::from_pointee(config.clone()));
        let requests = Requests { config: shared.clone(), states: gate.states().unwrap(), asked: asked.clone() };
        let keys = Arc::new(ArcSwap::from_pointee(Keys::new([("anna", ADMIN_KEY)]).unwrap()));
        let admin = Admin { keys, requests: Some(requests), config: shared, letters: None };
        let process = process_for(&config, FakeBroker::new(), FakeStore::new(), None, Some(admin));
        Moving { process, gate, asked }
    }

    async fn ask(&self, backend: &str) -> Reply {
        let mut request = request("POST", "/admin/backend-mode", json!({"backend": backend}).to_string());
        request.headers_mut().insert("x-api-key", ADMIN_KEY.parse().unwrap());
        self.process.send(request).await
    }

    /// As a coordinator would: what is asked for last rules from now on.
    fn take_up(&self, state: &SwitchState) -> SwitchState {
        let requests: Vec<Request> = self.asked.borrow().clone().into_iter().map(Request::from).collect();
        let next = state.noted(state.ruling("kafka", &requests).expect("a new request")).unwrap();
        self.gate.observe(Source::Quorum, &Arc::new(next.clone()));
        next
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_is_taken_back_by_asking_for_what_rules_also_where_nobody_takes_it_up() {
    let first = SwitchState::first("L", "kafka");
    let moving = Moving::at(first.clone());
    assert_eq!(moving.ask("kafka").await.status, 200, "it is there");
    assert_eq!(moving.ask("next").await.status, 503, "nobody is there to take it up");
    assert_eq!(moving.ask("kafka").await.status, 503, "the other one would rule later");
    let state = moving.take_up(&first);
    assert_eq!(&*state.asked().backend, "kafka");
    assert_eq!(moving.ask("kafka").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn who_asks_again_after_a_refusal_asks_anew_and_who_is_overruled_is_told_by_whom() {
    let first = SwitchState::first("L", "kafka");
    let moving = Moving::at(first.clone());
    let (reply, state) = tokio::join!(moving.ask("next"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        moving.take_up(&first)
    });
    assert_eq!((reply.status, &reply.json["requested"]["by"]), (202, &json!("anna")), "{}", reply.text);
    let refused = state.prepared().unwrap().aborted(Outcome::Refused, "next: no such topic", true).unwrap();
    moving.gate.observe(Source::Quorum, &Arc::new(refused.clone()));
    let (again, state) = tokio::join!(moving.ask("next"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        moving.take_up(&refused)
    });
    assert_eq!(again.status, 202, "{}", again.text);
    assert_eq!((state.last().unwrap().failures, state.asked().since), (0, refused.revision() + 1), "the next attempt is not put off");

    let other = Request { backend: "kafka".into(), by: "bob".into(), at: "2026".into(), lineage: None, revision: state.revision() };
    let (overruled, ()) = tokio::join!(moving.ask("next"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let next = state.noted(state.ruling("kafka", &[other]).unwrap()).unwrap();
        moving.gate.observe(Source::Quorum, &Arc::new(next));
    });
    assert_eq!((overruled.status, overruled.json["error"].as_str()), (409, Some("another_request_rules")), "{}", overruled.text);
    assert!(overruled.message().contains("kafka rules, which bob has asked for"), "{}", overruled.text);
}
