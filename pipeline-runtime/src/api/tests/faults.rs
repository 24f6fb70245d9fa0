use super::*;
use crate::api::health::Links;
use fakes::Fault;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;

fn hasty() -> RuntimeConfig {
    with_api(|api| api.publish_deadline = Duration::from_millis(50))
}

#[tokio::test]
async fn an_answer_that_never_comes_is_503_with_a_hint() {
    let process = process_on(&hasty(), FakeBroker::new(), FakeStore::new());
    process.broker.fail(Fault::Silent);
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("outcome_unknown")), "{}", reply.text);
    assert_eq!(reply.headers["retry-after"].to_str().unwrap(), reply.json["retryAfter"].to_string());
    assert!(reply.message().contains("Send it again"), "{}", reply.text);
}

#[tokio::test]
async fn a_broker_known_to_be_away_is_not_even_asked() {
    let process = process();
    process.api.health.set(Links { broker: Some("the cable is cut".into()), store: None });
    let reply = process.post_as("r-1", order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("backend_unavailable")), "{}", reply.text);
    assert!(reply.message().contains("the cable is cut"), "{}", reply.text);
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(process.broker.attempts.load(SeqCst), 0);
    process.api.health.set(Links::default());
    assert_eq!(process.post_as("r-1", order().to_string()).await.status, 202);
}

#[tokio::test]
async fn what_was_accepted_before_is_answered_while_the_broker_is_away() {
    let process = process();
    let first = process.post_as("r-1", order().to_string()).await;
    process.api.health.set(Links { broker: Some("the cable is cut".into()), store: None });
    assert_eq!(process.post_as("r-1", order().to_string()).await.text, first.text);
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_tried_three_times() {
    let process = process();
    process.broker.fail(Fault::Busy);
    assert_eq!(process.post(order().to_string()).await.status, 503);
    assert_eq!(process.broker.attempts.load(SeqCst), 3);
}

#[tokio::test]
async fn a_link_that_is_known_to_be_down_is_answered_at_once() {
    let process = process();
    process.broker.fail(Fault::Away);
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("backend_unavailable")), "{}", reply.text);
    assert_eq!(process.broker.attempts.load(SeqCst), 1, "another attempt would only let the client wait");
}

#[tokio::test]
async fn a_message_too_large_for_its_topic_is_413_and_no_outage() {
    let mut config = config();
    config.topics[0].max_message_bytes = 2000;
    let process = process_on(&config, FakeBroker::new(), FakeStore::new());
    process.broker.fail(Fault::Refuse);
    let mut large = order();
    large["notes"] = "x".repeat(2500).into();
    let reply = process.post(large.to_string()).await;
    assert_eq!(reply.status, 413, "{}", reply.text);
}

#[tokio::test]
async fn a_stopping_process_says_so() {
    let process = process();
    process.api.publisher.gate().shut();
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("stopping")), "{}", reply.text);
}

#[tokio::test]
async fn what_failed_for_good_is_logged_whole() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer({
        let log = log.clone();
        move || log.clone()
    });
    let process = process();
    process.broker.fail(Fault::Refuse);
    {
        let _logging = tracing::subscriber::set_default(subscriber.finish());
        assert_eq!(process.post(order().to_string()).await.status, 503);
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = log.lines().find(|line| line.contains("dead_letter")).unwrap_or_else(|| panic!("no dead letter in {log:?}"));
    let line: Json = serde_json::from_str(line).unwrap();
    let letter: Json = serde_json::from_str(line["fields"]["letter"].as_str().unwrap()).unwrap();
    assert_eq!(letter["topic"], "orders");
    assert_eq!(letter["headers"]["principal"], "web");
    assert_eq!(serde_json::from_str::<Json>(letter["payload"].as_str().unwrap()).unwrap(), order());
    assert_eq!(line["fields"]["orderId"], "o-1");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn beyond_its_places_a_request_is_turned_away_at_once() {
    let process = process();
    let _all = process.api.places.acquire_many(PLACES as u32).await.unwrap();
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, &reply.json["error"]), (503, &json!("overloaded")), "{}", reply.text);
    assert_eq!(process.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn beyond_the_memory_for_bodies_a_request_is_turned_away_and_all_of_it_is_given_back() {
    let process = process();
    let free = |process: &Process| [&process.api.budget.large, &process.api.budget.small].map(|budget| budget.available_permits());
    let all = free(&process);
    {
        let _large = process.api.budget.large.acquire_many(all[0] as u32 - 100).await.unwrap();
        assert_eq!(process.post(order().to_string()).await.status, 202, "large bodies take nothing from the small ones");
        let mut large = order();
        large["notes"] = "x".repeat(100_000).into();
        let reply = process.post(large.to_string()).await;
        assert_eq!((reply.status, &reply.json["error"]), (503, &json!("overloaded")), "{}", reply.text);
        let _small = process.api.budget.small.acquire_many(all[1] as u32 - 100).await.unwrap();
        let reply = process.post(order().to_string()).await;
        assert_eq!((reply.status, &reply.json["error"]), (503, &json!("overloaded")), "{}", reply.text);
    }
    for body in [order().to_string(), "{".into(), "{}".into(), "x".repeat(11 << 20)] {
        process.post(body).await;
    }
    assert_eq!(free(&process), all);
    assert_eq!(process.api.places.available_permits(), PLACES);
}
