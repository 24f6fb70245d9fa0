use super::*;
use crate::broker::Broker;
use crate::broker::embedded::EmbeddedBroker;
use crate::codec::{self, Draft};
use crate::sqlite::{Database, Place};
use crate::store::{Amount, Order};
use fakes::Fault;
use std::sync::atomic::Ordering::SeqCst;

/// The cart dialect, with its own schemas and a price for each item.
pub(super) fn cart() -> RuntimeConfig {
    let text = "
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: cart}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: carts}, {name: others}]
  events:
  - {name: Made, topics: [carts], order: {total: 'round(double(data.itemsCount) * 9.99, 2)', status: \"'new'\"}, set: {itemsCount: data.itemsCount}}
  - {name: Changed, topics: [carts], order: {status: data.status}}
  api: {cart: {}}
";
    crds::resolve(&crds::document::read(text).unwrap())
}

fn selling() -> Process {
    process_on(&cart(), FakeBroker::new(), FakeStore::new())
}

fn stored(id: &str, total: Option<&str>) -> Order {
    Order {
        order_id: id.into(),
        tenant_id: None,
        customer_id: None,
        items: None,
        total_amount: total.map(|total| Amount(total.into())),
        status: Some("new".into()),
        created_at: chrono::DateTime::UNIX_EPOCH,
        updated_at: chrono::DateTime::UNIX_EPOCH,
        fields: Default::default(),
    }
}

impl Process {
    async fn create(&self, body: Json) -> Reply {
        self.send(request("POST", "/create-order", body.to_string())).await
    }
    async fn update(&self, body: Json) -> Reply {
        self.send(request("PUT", "/update-order", body.to_string())).await
    }
}

#[tokio::test]
async fn a_new_order_is_answered_201_as_its_event_makes_it_and_the_same_again_when_it_is_repeated() {
    let process = selling();
    let post = || with_id(request("POST", "/create-order", json!({"orderId": "o-1", "itemsCount": 3}).to_string()), "r-1");
    let reply = process.send(post()).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(reply.json, json!({"orderId": "o-1", "itemsCount": 3, "totalAmount": 29.97, "status": "new"}));
    assert_eq!(process.send(post()).await.text, reply.text);
    let [message] = &process.broker.written()[..] else { panic!("not one message") };
    assert_eq!((message.key.as_deref(), &*message.topic), (Some(&b"o-1"[..]), "carts"));
}

#[tokio::test]
async fn fields_that_are_missing_or_wrong_are_400_and_named() {
    let process = selling();
    for (body, field) in [
        (json!({"itemsCount": 3}), "orderId"),
        (json!({"orderId": 7, "itemsCount": 3}), "orderId"),
        (json!({"orderId": "o-1"}), "itemsCount"),
        (json!({"orderId": "o-1", "itemsCount": 0}), "itemsCount"),
        (json!({"orderId": "o-1", "itemsCount": "3"}), "itemsCount"),
        (json!({"orderId": "o-1", "itemsCount": 1.5}), "itemsCount"),
        (json!([]), ""),
    ] {
        let reply = process.create(body).await;
        assert_eq!((reply.status, reply.fields()), (400, vec![field]), "{}", reply.text);
    }
    let reply = process.update(json!({"orderId": "o-1"})).await;
    assert_eq!((reply.status, reply.fields()), (400, vec!["status"]), "{}", reply.text);
    for (path, field) in [
        ("/order-details", "orderId"),
        ("/order-details?orderId=", "orderId"),
        ("/order-details?orderID=o-1", "orderID"),
        ("/getAllOrderIdsFromTopic", "topic"),
        ("/getAllOrderIdsFromTopic?topic=others", "topic"),
    ] {
        let reply = process.get(path).await;
        assert_eq!((reply.status, reply.fields()), (400, vec![field]), "{}", reply.text);
    }
    assert!(process.broker.written().is_empty());
}

#[tokio::test]
async fn another_body_under_the_same_request_id_is_400() {
    let process = selling();
    let post = |count: u32| with_id(request("POST", "/create-order", json!({"orderId": "o-1", "itemsCount": count}).to_string()), "r-1");
    assert_eq!(process.send(post(1)).await.status, 201);
    let reply = process.send(post(2)).await;
    assert_eq!((reply.status, reply.json["error"].as_str()), (400, Some("request_id_reused")), "{}", reply.text);
}

#[tokio::test]
async fn a_change_of_an_order_that_nobody_knows_is_404_and_of_one_that_is_just_coming_200() {
    let process = selling();
    let change = json!({"orderId": "o-1", "status": "paid"});
    assert_eq!(process.update(change.clone()).await.status, 404);
    assert!(process.broker.written().is_empty());
    let coming = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        process.store.orders.lock().unwrap().push(stored("o-1", None));
    };
    let (reply, ()) = tokio::join!(process.update(change), coming);
    assert_eq!((reply.status, reply.json), (200, json!({"orderId": "o-1", "status": "paid"})));
    assert_eq!(process.broker.written()[0].key.as_deref(), Some(&b"o-1"[..]));
}

#[tokio::test]
async fn details_hold_what_shipping_costs() {
    let process = selling();
    process.store.orders.lock().unwrap().extend([stored("o-1", Some("24.98")), stored("o-2", None)]);
    let reply = process.get("/order-details?orderId=o-1").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(reply.text.contains("\"totalAmount\":24.98") && reply.text.contains("\"shippingCost\":0.4996"), "{}", reply.text);
    assert_eq!(process.get("/order-details?orderId=o-2").await.json["shippingCost"], Json::Null);
    assert_eq!(process.get("/order-details?orderId=o-3").await.status, 404);
}

#[tokio::test]
async fn what_is_away_is_503_and_health_says_so_without_a_key() {
    let process = selling();
    let health = || HttpRequest::builder().uri("/health").body(Body::empty()).unwrap();
    let reply = process.send(health()).await;
    assert_eq!((reply.status, reply.json), (200, json!({"status": "healthy", "kafka": "connected"})));
    process.broker.fail(Fault::Away);
    process.api.health.set(health::Links { broker: Some("the cable is cut".into()), store: None });
    let reply = process.send(health()).await;
    assert_eq!((reply.status, &reply.json["kafka"]), (503, &json!("disconnected")), "{}", reply.text);
    assert_eq!(process.create(json!({"orderId": "o-1", "itemsCount": 3})).await.status, 503);
    process.store.down.store(true, SeqCst);
    assert_eq!(process.get("/order-details?orderId=o-1").await.status, 503);
    assert_eq!(process.update(json!({"orderId": "o-1", "status": "paid"})).await.status, 503);
    // Nobody reads from this broker.
    assert_eq!(process.get("/getAllOrderIdsFromTopic?topic=carts").await.json["count"], 0, "it is empty");
}

#[tokio::test]
async fn there_are_the_routes_of_one_dialect() {
    let process = selling();
    let reply = process.post(order().to_string()).await;
    assert_eq!(reply.status, 404);
    assert!(reply.message().contains("/create-order"), "{}", reply.text);
    assert_eq!(super::process().create(json!({"orderId": "o-1", "itemsCount": 3})).await.status, 404);
}

#[tokio::test]
async fn the_ids_on_a_topic_come_once_each_and_what_is_no_event_is_passed_over() {
    let config = cart();
    let database = Database::open(&Place::Memory).await.unwrap();
    let broker = Arc::new(EmbeddedBroker::open(database.clone(), "kafka").await.unwrap());
    broker.ensure_topics(&crate::roles::wishes(&config.topics)).await.unwrap();
    let publisher = Publisher::new(broker, Gate::open());
    let topic = config.topic("carts").unwrap();
    let mut written: Vec<String> = (0..100).map(|n| json!({"orderId": format!("o-{n}"), "itemsCount": 1}).to_string()).collect();
    written.extend(["no JSON".into(), json!({"orderId": "o-7", "status": "paid"}).to_string(), "{}".into()]);
    for (n, data) in written.into_iter().enumerate() {
        let draft = Draft {
            event: if n < 100 { "Made" } else { "Changed" }.into(),
            id: format!("e-{n}"),
            time: chrono::Utc::now(),
            key: format!("o-{n}"),
            attributes: vec![],
            data: data.into(),
        };
        publisher.publish(&codec::encode(topic, &draft), Duration::from_secs(5)).await.unwrap();
    }
    let health = Health::new("kafka", false, Codecs::default());
    health.set(health::Links::default());
    let parts = ApiParts {
        admin: None,
        codecs: Codecs::default(),
        keyring: None,
        contract: Arc::new(ArcSwap::from_pointee(Contract::compile(&config).unwrap())),
        publisher,
        store: FakeStore::new(),
        keys: Arc::new(ArcSwap::from_pointee(Keys::new([("web", "secret")]).unwrap())),
        health,
        metrics: Metrics::default(),
    };
    let api = ApiState::new(&config, parts).unwrap();
    let process = Process { router: router(api.clone()), api, broker: FakeBroker::new(), store: FakeStore::new() };
    let reply = process.get("/getAllOrderIdsFromTopic?topic=carts").await;
    assert_eq!((reply.status, &reply.json["topic"], &reply.json["complete"]), (200, &json!("carts"), &json!(true)), "{}", reply.text);
    let ids: std::collections::BTreeSet<&str> = reply.json["orderIds"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    assert_eq!((ids.len(), &reply.json["count"]), (100, &json!(100)));
    assert!(ids.contains("o-0") && ids.contains("o-99"));

    // What is behind the last message that comes may be one that is slow.
    let remove = async |which| sqlx::query(which).execute(&database.writer).await.unwrap();
    remove("DELETE FROM broker_messages WHERE id = (SELECT max(id) FROM broker_messages)").await;
    let reply = process.get("/getAllOrderIdsFromTopic?topic=carts").await;
    assert_eq!(reply.json["complete"], false, "{}", reply.text);
    remove("DELETE FROM broker_messages").await;
    let reply = process.get("/getAllOrderIdsFromTopic?topic=carts").await;
    assert_eq!((&reply.json["count"], &reply.json["complete"]), (&json!(0), &json!(true)), "{}", reply.text);
}
