use super::*;
use crate::pii::{Keyring, Keys};
use crds::runtime_config::PiiConfig;

const RANDOM: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn private() -> Process {
    with_encrypted(config(), &["data.customerId", "data.notes", "data.items[].price"])
}

fn with_encrypted(mut config: RuntimeConfig, fields: &[&str]) -> Process {
    config.pii = Some(PiiConfig { keys: SecretRef { name: "keys".into() }, readers: vec!["batch".into()], new_key_after: Duration::ZERO });
    config.events[0].pii = fields.iter().copied().map(str::to_owned).collect();
    let keyring = Keyring::new("orders", Keys::new([("match", RANDOM), ("2025-01", RANDOM)]).unwrap());
    process_with(&config, FakeBroker::new(), FakeStore::new(), Some(keyring))
}

#[tokio::test]
async fn what_is_published_is_encrypted_and_everything_else_is_the_clients_own_bytes() {
    let process = private();
    let mut order = order();
    order["notes"] = json!("for Ann");
    let text = order.to_string().replace(":12.5", ":12.50").replace("\"price\":2.5", "\"price\":2.50");
    assert_eq!(process.post_as("r-1", text.clone()).await.status, 202);
    let sent = process.broker.written();
    let body = String::from_utf8(sent[0].payload.as_ref().unwrap().to_vec()).unwrap();
    assert!(!body.contains("Ann") && !body.contains("c-1") && !body.contains(":2.50") && body.contains(":12.50"), "{body}");
    // The same request is the same message, and another body under its id is told from it.
    let again = private();
    again.post_as("r-1", text.clone()).await;
    assert_eq!(again.broker.written()[0].payload, sent[0].payload, "from any pod");
    assert_eq!(process.post_as("r-1", text.clone()).await.status, 202);
    let other = process.post_as("r-1", text.replace("for Ann", "for Bob")).await;
    assert_eq!((other.status, other.json["error"].as_str()), (422, Some("request_id_reused")));
}

#[tokio::test]
async fn a_mistake_in_an_encrypted_field_is_named_and_not_repeated() {
    let process = private();
    let mut order = order();
    order["items"][0]["price"] = json!(-4711);
    let reply = process.post(order.to_string()).await;
    assert_eq!((reply.status, reply.fields()), (422, vec!["items[0].price"]));
    assert!(!reply.text.contains("4711") && reply.message().contains("must be at least 0"), "{}", reply.text);
}

#[tokio::test]
async fn an_order_is_read_as_it_is_by_its_readers_and_masked_by_all_others() {
    let process = private();
    let mut order = order();
    order["notes"] = json!("for Ann");
    process.post_as("r-1", order.to_string()).await;
    let sent: Json = serde_json::from_slice(process.broker.written()[0].payload.as_ref().unwrap()).unwrap();
    let stored = crate::store::Order {
        order_id: "o-1".into(),
        tenant_id: None,
        customer_id: sent["customerId"].as_str().map(Into::into),
        items: Some(crate::store::RawJson(sent["items"].to_string())),
        total_amount: None,
        status: None,
        created_at: chrono::DateTime::UNIX_EPOCH,
        updated_at: chrono::DateTime::UNIX_EPOCH,
        fields: [("note".to_owned(), sent["notes"].clone())].into_iter().collect(),
    };
    process.store.orders.lock().unwrap().push(stored);
    for path in ["/orders/o-1", "/orders"] {
        let masked = process.get(path).await;
        let mut reader = request("GET", path, Body::empty());
        reader.headers_mut().insert("x-api-key", "other-secret".parse().unwrap());
        let read = process.send(reader).await;
        for (reply, customer, price, note) in [(&masked, json!("***"), json!("***"), "***"), (&read, json!("c-1"), json!(2.5), "for Ann")] {
            let order = if path == "/orders" { &reply.json["orders"][0] } else { &reply.json };
            assert_eq!((&order["customerId"], &order["items"][0]["price"], &order["note"]), (&customer, &price, &json!(note)), "{path}");
        }
        assert!(!masked.text.contains("pii:1:"), "{}", masked.text);
    }
}

#[tokio::test]
async fn the_cart_dialect_answers_with_masks_but_to_readers_and_a_repeat_is_answered_as_its_sender_may_read() {
    let mut config = cart::cart();
    config.events[0].set.insert("gift".into(), "data.gift".into());
    let process = with_encrypted(config, &["data.gift"]);
    let post = |key: &str| {
        let body = json!({"orderId": "o-1", "itemsCount": 3, "gift": "for Ann"}).to_string();
        let mut request = with_id(request("POST", "/create-order", body), "r-1");
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        request
    };
    for (key, gift) in [("secret", "***"), ("other-secret", "for Ann"), ("secret", "***")] {
        let reply = process.send(post(key)).await;
        assert_eq!((reply.status, &reply.json["gift"], &reply.json["totalAmount"]), (201, &json!(gift), &json!(29.97)), "{}", reply.text);
    }
    let written = process.broker.written();
    assert!(written.iter().all(|message| !String::from_utf8_lossy(message.payload.as_ref().unwrap()).contains("Ann")));
}
