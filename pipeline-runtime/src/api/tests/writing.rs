use super::*;
use crate::broker::Outgoing;

fn header(message: &Outgoing, name: &str) -> String {
    let header = message.headers.iter().find(|h| &*h.name == name).unwrap_or_else(|| panic!("no header {name}"));
    String::from_utf8(header.value.to_vec()).unwrap()
}

fn payload(message: &Outgoing) -> String {
    String::from_utf8(message.payload.clone().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn an_order_is_answered_202_and_lies_on_the_broker_as_the_client_wrote_it() {
    let process = process();
    let body = format!(" {}\n", serde_json::to_string_pretty(&order()).unwrap());
    let reply = process.post_as("r-1", body.clone()).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let expected = json!({"orderId": "o-1", "requestId": "r-1", "status": "accepted", "links": {"self": "/orders/o-1"}});
    assert_eq!(reply.json, expected);
    assert_eq!(reply.headers["x-request-id"], "r-1");
    let [message] = &process.broker.written()[..] else { panic!("not one message") };
    assert_eq!(payload(message), body);
    assert_eq!(message.key.as_deref(), Some(&b"o-1"[..]));
    assert_eq!(header(message, "type"), "OrderCreated");
    assert_eq!(header(message, "requestId"), "r-1");
    assert_eq!(header(message, "principal"), "web");
    assert_eq!(header(message, "schemaVersion"), "1");
    assert!(chrono::DateTime::parse_from_rfc3339(&header(message, "time")).is_ok());
    assert_eq!(header(message, "id"), super::accept::event_id("web", "POST /orders", "r-1").to_string());
}

#[tokio::test]
async fn an_order_without_an_id_gets_one_and_the_message_carries_it() {
    let process = process();
    let reply = process.post(format!("  {}", order_without_id())).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    let id = reply.json["orderId"].as_str().unwrap();
    let message = &process.broker.written()[0];
    let sent: Json = serde_json::from_str(&payload(message)).unwrap();
    let mut expected = order();
    expected["orderId"] = id.into();
    assert_eq!(sent, expected);
    assert_eq!(message.key.as_deref(), Some(id.as_bytes()));
}

#[tokio::test]
async fn two_orders_without_ids_are_two_orders() {
    let process = process();
    let first = process.post(order_without_id().to_string()).await;
    let second = process.post(order_without_id().to_string()).await;
    assert_ne!(first.json["orderId"], second.json["orderId"]);
    assert_ne!(first.headers["x-request-id"], second.headers["x-request-id"]);
    assert_eq!(process.broker.written().len(), 2);
}

#[tokio::test]
async fn a_change_is_published_under_the_order_that_the_path_names() {
    let process = process();
    let reply = process.send(request("PATCH", "/orders/o%201", json!({"status": "PAID"}).to_string())).await;
    assert_eq!(reply.status, 202, "{}", reply.text);
    assert_eq!(reply.json["orderId"], "o 1");
    assert_eq!(reply.json["links"]["self"], "/orders/o%201");
    let message = &process.broker.written()[0];
    assert_eq!(payload(message), r#"{"orderId":"o 1","status":"PAID"}"#);
    assert_eq!(header(message, "type"), "OrderStatusChanged");
}

#[tokio::test]
async fn a_change_of_another_order_than_the_path_names_is_refused() {
    let process = process();
    let body = json!({"orderId": "o-2", "status": "PAID"}).to_string();
    let reply = process.send(request("PATCH", "/orders/o-1", body)).await;
    assert_eq!((reply.status, reply.fields()), (422, vec!["orderId"]), "{}", reply.text);
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn the_same_request_id_at_two_orders_is_two_requests() {
    let process = process();
    for order in ["o-1", "o-2"] {
        let request = request("PATCH", &format!("/orders/{order}"), json!({"status": "PAID"}).to_string());
        assert_eq!(process.send(with_id(request, "r-1")).await.status, 202);
    }
    let [first, second] = &process.broker.written()[..] else { panic!("not two messages") };
    assert_ne!(header(first, "id"), header(second, "id"));
}

#[tokio::test]
async fn without_an_event_for_it_an_order_cannot_be_changed() {
    let process = process_on(&with_api(|api| api.updates = None), FakeBroker::new(), FakeStore::new());
    let reply = process.send(request("PATCH", "/orders/o-1", json!({"status": "PAID"}).to_string())).await;
    assert_eq!(reply.status, 405, "{}", reply.text);
    assert_eq!(reply.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn a_changed_document_is_taken_over() {
    let process = process();
    let mut changed = config();
    changed.api.as_mut().unwrap().updates = None;
    process.api.reload(&changed).unwrap();
    let reply = process.send(request("PATCH", "/orders/o-1", json!({"status": "PAID"}).to_string())).await;
    assert_eq!(reply.status, 405);
    changed.api = None;
    assert!(process.api.reload(&changed).is_err());
    assert_eq!(process.post(order().to_string()).await.status, 202);
}

#[tokio::test]
async fn what_its_readers_would_not_take_for_the_event_is_not_accepted() {
    let mut config = config();
    config.events[0].when = Some("data.totalAmount > 1000.0".into());
    let process = process_on(&config, FakeBroker::new(), FakeStore::new());
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, reply.fields()), (422, vec![""]), "{}", reply.text);
    assert!(
        reply.text.contains("is no OrderCreated, and nobody would read it: it must hold that data.totalAmount > 1000.0"),
        "{}",
        reply.text
    );
    // One that an event before it takes is another event to them.
    config.events[1].when = Some("data.totalAmount > 5000.0".into());
    config.events.swap(0, 1);
    let process = process_on(&config, FakeBroker::new(), FakeStore::new());
    let of = |total: f64| {
        let mut order = order();
        order["totalAmount"] = total.into();
        order.to_string()
    };
    let reply = process.post(of(9000.5)).await;
    assert_eq!(reply.status, 422, "{}", reply.text);
    assert!(reply.text.contains("would be read as OrderStatusChanged, which stands before OrderCreated"), "{}", reply.text);
    assert_eq!(process.post(of(2000.5)).await.status, 202);
    assert_eq!(process.broker.written().len(), 1);
}

#[tokio::test]
async fn an_event_from_which_nothing_could_follow_is_not_accepted() {
    let mut config = config();
    config.topics.push(topic("told"));
    config.events[1].topics = vec!["told".into()];
    config.events[0].emit =
        serde_json::from_value(json!([{"topic": "told", "type": "OrderStatusChanged", "data": "data.customerId"}])).unwrap();
    let process = process_on(&config, FakeBroker::new(), FakeStore::new());
    let reply = process.post(order().to_string()).await;
    assert_eq!((reply.status, reply.fields()), (422, vec!["orderId"]), "{}", reply.text);
    assert!(reply.text.contains("OrderStatusChanged cannot follow from it on told"), "{}", reply.text);
    assert!(process.broker.written().is_empty());
}
