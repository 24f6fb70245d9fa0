use super::*;
use fakes::Fault;
use std::sync::atomic::Ordering::SeqCst;

async fn many(processes: &[&Process], count: usize, body: &str) -> Vec<Reply> {
    futures::future::join_all((0..count).map(|n| processes[n % processes.len()].post_as("r-1", body.to_owned()))).await
}

fn strict() -> RuntimeConfig {
    with_api(|api| api.idempotency = Idempotency::Strict)
}

#[tokio::test]
async fn a_hundred_equal_requests_are_one_message_and_one_answer() {
    let process = process();
    let replies = many(&[&process], 100, &order_without_id().to_string()).await;
    assert_eq!(process.broker.written().len(), 1);
    assert!(replies.iter().all(|r| r.status == 202 && r.text == replies[0].text), "{}", replies[0].text);
}

#[tokio::test]
async fn any_process_gives_the_same_answer_and_the_same_ids() {
    let broker = FakeBroker::new();
    let (one, other) = (process_on(&config(), broker.clone(), FakeStore::new()), process_on(&config(), broker.clone(), FakeStore::new()));
    let replies = many(&[&one, &other], 100, &order_without_id().to_string()).await;
    assert!(replies.iter().all(|r| r.status == 202 && r.text == replies[0].text));
    let [first, second] = &broker.written()[..] else { panic!("not one message from each process") };
    let id = |m: &crate::broker::Outgoing| m.headers.iter().find(|h| &*h.name == "id").unwrap().value.clone();
    assert_eq!((id(first), &first.payload, &first.key), (id(second), &second.payload, &second.key));
}

#[tokio::test]
async fn a_body_that_says_the_same_is_the_same_request_and_another_is_refused() {
    let process = process();
    assert_eq!(process.post_as("r-1", order().to_string()).await.status, 202);
    assert_eq!(process.post_as("r-1", serde_json::to_string_pretty(&order()).unwrap()).await.status, 202);
    let mut other = order();
    other["channel"] = "phone".into();
    let reply = process.post_as("r-1", other.to_string()).await;
    assert_eq!((reply.status, reply.fields()), (422, vec!["X-Request-Id"]), "{}", reply.text);
    assert_eq!(process.broker.written().len(), 1);
}

#[tokio::test]
async fn the_same_request_id_of_another_key_is_another_request() {
    let process = process();
    let first = process.post_as("r-1", order_without_id().to_string()).await;
    let mut request = with_id(request("POST", "/orders", order_without_id().to_string()), "r-1");
    request.headers_mut().insert("x-api-key", "other-secret".parse().unwrap());
    let second = process.send(request).await;
    assert_eq!(second.status, 202);
    assert_ne!(first.json["orderId"], second.json["orderId"]);
    assert_eq!(process.broker.written().len(), 2);
}

#[tokio::test]
async fn a_failure_is_not_remembered_and_the_next_try_has_the_same_ids() {
    let process = process_on(&with_api(|api| api.publish_deadline = Duration::from_millis(50)), FakeBroker::new(), FakeStore::new());
    process.broker.fail(Fault::Silent);
    let lost = process.post_as("r-1", order_without_id().to_string()).await;
    assert_eq!((lost.status, &lost.json["error"]), (503, &json!("outcome_unknown")), "{}", lost.text);
    process.broker.fail(Fault::None);
    assert_eq!(process.post_as("r-1", order_without_id().to_string()).await.status, 202);
    let [first, second] = &process.broker.written()[..] else { panic!("not two messages") };
    assert_eq!((&first.payload, &first.headers[0]), (&second.payload, &second.headers[0]));
}

#[tokio::test]
async fn an_unknown_outcome_can_be_sent_again_also_by_a_client_that_gave_no_id() {
    let process = process_on(&with_api(|api| api.publish_deadline = Duration::from_millis(50)), FakeBroker::new(), FakeStore::new());
    process.broker.fail(Fault::Silent);
    let lost = process.post(order_without_id().to_string()).await;
    assert_eq!(lost.status, 503);
    let id = lost.json["requestId"].as_str().unwrap();
    assert!(lost.message().contains(id), "{}", lost.text);
    process.broker.fail(Fault::None);
    assert_eq!(process.post_as(id, order_without_id().to_string()).await.status, 202);
    let [first, second] = &process.broker.written()[..] else { panic!("not two messages") };
    assert_eq!((&first.payload, &first.headers[0]), (&second.payload, &second.headers[0]));
}

#[tokio::test]
async fn a_client_that_hangs_up_and_comes_back_meets_its_first_publish() {
    let process = Arc::new(process());
    process.broker.fail(Fault::Hold);
    let hung_up = tokio::spawn({
        let process = process.clone();
        async move { process.post_as("r-1", order().to_string()).await.status }
    });
    process.broker.arrived.notified().await;
    hung_up.abort();
    assert!(hung_up.await.unwrap_err().is_cancelled());
    let again = tokio::spawn({
        let process = process.clone();
        async move { process.post_as("r-1", order().to_string()).await.status }
    });
    tokio::task::yield_now().await;
    process.broker.answer_held();
    assert_eq!(again.await.unwrap(), 202);
    assert_eq!(process.broker.written().len(), 1);
}

#[tokio::test]
async fn strict_writes_one_message_whichever_processes_are_met() {
    let (broker, store) = (FakeBroker::new(), FakeStore::new());
    let (one, other) = (process_on(&strict(), broker.clone(), store.clone()), process_on(&strict(), broker.clone(), store));
    let replies = many(&[&one, &other], 100, &order_without_id().to_string()).await;
    assert!(replies.iter().all(|r| r.status == 202 && r.text == replies[0].text), "{}", replies[0].text);
    assert_eq!(broker.written().len(), 1);
}

#[tokio::test]
async fn strict_refuses_another_body_from_any_process() {
    let (broker, store) = (FakeBroker::new(), FakeStore::new());
    let (one, other) = (process_on(&strict(), broker.clone(), store.clone()), process_on(&strict(), broker.clone(), store));
    assert_eq!(one.post_as("r-1", order().to_string()).await.status, 202);
    let mut changed = order();
    changed["channel"] = "phone".into();
    let reply = other.post_as("r-1", changed.to_string()).await;
    assert_eq!((reply.status, reply.fields()), (422, vec!["X-Request-Id"]), "{}", reply.text);
    assert_eq!(broker.written().len(), 1);
}

#[tokio::test]
async fn strict_publishes_nothing_while_the_store_is_away() {
    let process = process_on(&strict(), FakeBroker::new(), FakeStore::new());
    process.store.down.store(true, SeqCst);
    let reply = process.post_as("r-1", order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("store_unavailable")), "{}", reply.text);
    assert!(reply.headers.contains_key("retry-after"));
    assert!(process.broker.written().is_empty());
    process.store.down.store(false, SeqCst);
    assert_eq!(process.post_as("r-1", order().to_string()).await.status, 202);
}

#[tokio::test]
async fn after_an_unknown_outcome_another_body_is_refused_also_by_another_process_that_is_strict() {
    for idempotency in [Idempotency::Derived, Idempotency::Strict] {
        let config = with_api(|api| (api.publish_deadline, api.idempotency) = (Duration::from_millis(50), idempotency));
        let (broker, store) = (FakeBroker::new(), FakeStore::new());
        let (one, other) = (process_on(&config, broker.clone(), store.clone()), process_on(&config, broker.clone(), store));
        broker.fail(Fault::Silent);
        assert_eq!(one.post_as("r-1", order().to_string()).await.json["error"], "outcome_unknown");
        broker.fail(Fault::None);
        let mut changed = order();
        changed["channel"] = "phone".into();
        let second = if idempotency == Idempotency::Strict { &other } else { &one };
        let reply = second.post_as("r-1", changed.to_string()).await;
        assert_eq!((reply.status, reply.fields()), (422, vec!["X-Request-Id"]), "{idempotency:?}: {}", reply.text);
        assert_eq!(second.post_as("r-1", order().to_string()).await.status, 202, "{idempotency:?}");
    }
}

#[tokio::test]
async fn strict_gives_its_claim_back_when_nothing_was_published() {
    let (broker, store) = (FakeBroker::new(), FakeStore::new());
    let (one, other) = (process_on(&strict(), broker.clone(), store.clone()), process_on(&strict(), broker.clone(), store));
    broker.fail(Fault::Refuse);
    assert_eq!(one.post_as("r-1", order().to_string()).await.status, 503);
    broker.fail(Fault::None);
    assert_eq!(other.post_as("r-1", order().to_string()).await.status, 202);
}
