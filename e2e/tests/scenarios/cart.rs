//! The story of `examples/cart`: carts become orders over HTTP, their events lie on one topic as Avro, each order's in sequence.

use crate::up::Laptop;
use anyhow::{Context, Result, ensure};
use e2e::bed::{Kafka, Registry, eventually, free_port};
use e2e::pipeline::{KEY, Pipeline, READY, dead, header};
use e2e::product::Product;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use reqwest::Method;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::time::Duration;

const REGISTRY: &str = "http://registry:8081";
const SUBJECT: &str = "order-events-value";

async fn example(kafka: &Kafka, registry: &str) -> Pipeline {
    Pipeline::example(kafka, "cart", &[(REGISTRY, registry)]).await.unwrap()
}

/// A client of the cart service and the order service, as the README has one.
struct Shop {
    http: reqwest::Client,
    url: String,
}

impl Shop {
    fn at(url: &str) -> Shop {
        Shop { http: e2e::http(Duration::from_secs(30)), url: url.to_owned() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Json>) -> Result<(u16, Json)> {
        let request = self.http.request(method, format!("{}{path}", self.url)).header("X-API-Key", KEY);
        let answer = match body {
            Some(body) => request.json(&body).send().await?,
            None => request.send().await?,
        };
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    async fn create(&self, id: &str, items: u32) -> (u16, Json) {
        self.ask(Method::POST, "/create-order", Some(json!({"orderId": id, "itemsCount": items}))).await.unwrap()
    }

    async fn update(&self, id: &str, status: &str) -> (u16, Json) {
        self.ask(Method::PUT, "/update-order", Some(json!({"orderId": id, "status": status}))).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Json) {
        self.ask(Method::GET, path, None).await.unwrap()
    }

    /// Waits until the order has this status.
    async fn until(&self, id: &str, status: &str) -> Json {
        let path = format!("/order-details?orderId={id}");
        let found = || async {
            let (code, order) = self.ask(Method::GET, &path, None).await?;
            ensure!(code == 200 && order["status"] == status, "{code} {order}");
            Ok(order)
        };
        eventually("the order is as it should be", READY, found).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carts_become_orders_and_the_events_of_each_take_effect_in_sequence() {
    let (kafka, registry) = tokio::try_join!(Kafka::start(1), Registry::start()).unwrap();
    let pipeline = example(&kafka, &registry.url()).await;
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (_one, _) = pipeline.start("worker").await.unwrap();
    let (_two, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);

    assert_eq!(shop.get("/health").await, (200, json!({"status": "healthy", "kafka": "connected"})));
    let (code, order) = shop.create("ORD-1001", 3).await;
    assert_eq!((code, &order["orderId"], &order["itemsCount"]), (201, &json!("ORD-1001"), &json!(3)));
    let order = shop.until("ORD-1001", "new").await;
    assert_eq!((&order["totalAmount"], &order["shippingCost"], &order["currency"]), (&json!(29.97), &json!(0.5994), &json!("USD")));
    let (code, answer) = shop.update("ORD-1001", "shipped").await;
    assert_eq!((code, answer), (200, json!({"orderId": "ORD-1001", "status": "shipped"})));
    shop.until("ORD-1001", "shipped").await;

    for (id, items, field) in [("ORD-1002", 0, "itemsCount"), ("", 3, "orderId")] {
        let (code, answer) = shop.create(id, items).await;
        assert_eq!((code, &answer["fields"][0]["field"]), (400, &json!(field)), "{answer}");
    }
    let (code, answer) = shop.update("ORD-1001", "lost").await;
    assert_eq!((code, &answer["fields"][0]["field"]), (400, &json!("status")), "{answer}");
    assert_eq!(shop.update("ORD-9999", "paid").await.0, 404);
    assert_eq!(shop.get("/order-details?orderId=ORD-9999").await.0, 404);

    // Orders that go their whole way at once, each with one event after the other: in the end each is delivered.
    let steps = ["paid", "packed", "shipped", "delivered"];
    let walks = (0..40).map(|n| {
        let (shop, id) = (&shop, format!("ORD-2{n:03}"));
        async move {
            assert_eq!(shop.create(&id, n % 5 + 1).await.0, 201);
            for step in steps {
                assert_eq!(shop.update(&id, step).await.0, 200, "{id} {step}");
            }
            shop.until(&id, "delivered").await;
        }
    });
    futures::future::join_all(walks).await;

    let (code, ids) = shop.get("/getAllOrderIdsFromTopic?topic=order-events").await;
    assert_eq!((code, &ids["topic"], &ids["count"], &ids["complete"]), (200, &json!("order-events"), &json!(41), &json!(true)), "{ids}");
    let mut partition_of: BTreeMap<Vec<u8>, i32> = BTreeMap::new();
    for message in kafka.messages("order-events").await.unwrap() {
        let key = message.key().unwrap().to_vec();
        assert_eq!(message.payload().unwrap()[..5], [0, 0, 0, 0, 1], "Avro, by the first schema of the registry");
        assert_eq!(*partition_of.entry(key).or_insert(message.partition()), message.partition(), "the key is the order");
    }
    assert_eq!(partition_of.len(), 41);
    assert_eq!(registry.versions(SUBJECT).await.unwrap().len(), 1, "all pods have registered the same");

    let own_total = json!({"orderId": "ORD-3001", "itemsCount": 1, "totalAmount": 99999999.99});
    assert_eq!(shop.ask(Method::POST, "/create-order", Some(own_total)).await.unwrap().0, 201);
    let order = shop.until("ORD-3001", "new").await;
    assert_eq!((order["totalAmount"].to_string(), order["shippingCost"].to_string()), ("99999999.99".into(), "1999999.9998".into()));
    let (code, answer) =
        shop.ask(Method::POST, "/create-order", Some(json!({"orderId": "ORD-3", "itemsCount": 1, "gift": true}))).await.unwrap();
    assert_eq!((code, &answer["fields"][0]["field"]), (400, &json!("gift")), "the schema has no such field: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_put_aside_and_the_order_service_goes_on() {
    let (kafka, registry) = tokio::try_join!(Kafka::start(1), Registry::start()).unwrap();
    let pipeline = example(&kafka, &registry.url()).await;
    let (mut api, url) = pipeline.start("api").await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);
    let producer: FutureProducer = kafka.client().create().unwrap();
    producer.send(FutureRecord::to("order-events").key("ORD-1").payload("{broken"), Duration::from_secs(10)).await.unwrap();
    assert_eq!(shop.create("ORD-1", 1).await.0, 201);
    shop.until("ORD-1", "new").await;
    let letters = dead(&kafka, "order-events", 1).await;
    assert_eq!((letters[0].payload(), &*header(&letters[0], "dlq-error-type")), (Some(&b"{broken"[..]), "undecodable"));

    kafka.kill(1).unwrap();
    let away = || async {
        let (code, health) = shop.ask(Method::GET, "/health", None).await?;
        ensure!(code == 503, "{code} {health}");
        Ok(health)
    };
    assert_eq!(eventually("health says so", READY, away).await.unwrap()["kafka"], "disconnected");
    assert_eq!(shop.create("ORD-2", 1).await.0, 503);
    kafka.restart(1).await.unwrap();
    let healed = || async {
        let (code, answer) = shop.ask(Method::POST, "/create-order", Some(json!({"orderId": "ORD-2", "itemsCount": 1}))).await?;
        ensure!(code == 201, "{code} {answer}");
        Ok(())
    };
    eventually("orders are taken again", READY, healed).await.unwrap();
    shop.until("ORD-2", "new").await;
    api.terminate(Duration::from_secs(20)).await.unwrap();
}

/// As the README has it, with nothing installed.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_laptop_a_file_stands_for_the_registry_and_refuses_what_it_would_refuse() {
    let example = format!("{}/../examples/cart", env!("CARGO_MANIFEST_DIR"));
    let laptop = Laptop::new(&std::fs::read_to_string(format!("{example}/pipeline.yaml")).unwrap());
    let file = laptop.room.path().join("order-event.avsc");
    std::fs::copy(format!("{example}/order-event.avsc"), &file).unwrap();
    let mut up = laptop.up().await;
    let shop = Shop::at(&laptop.url);
    assert_eq!(shop.create("ORD-1001", 3).await.0, 201);
    assert_eq!(shop.until("ORD-1001", "new").await["shippingCost"], 0.5994);
    up.kill();

    let schema: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let with = |field: Json| {
        let mut more = schema.clone();
        more["fields"].as_array_mut().unwrap().push(field);
        std::fs::write(&file, more.to_string()).unwrap();
    };
    with(json!({"name": "channel", "type": ["null", "string"], "default": null}));
    let mut up = laptop.up().await;
    assert_eq!(shop.create("ORD-1002", 1).await.0, 201);
    shop.until("ORD-1002", "new").await;
    let (code, ids) = shop.get("/getAllOrderIdsFromTopic?topic=order-events").await;
    assert_eq!((code, &ids["count"], &ids["complete"]), (200, &json!(2), &json!(true)), "by two schemas: {ids}");
    up.terminate(Duration::from_secs(20)).await.unwrap();

    with(json!({"name": "weight", "type": "double"}));
    let _up = laptop.launch(Some(KEY));
    let listens = || shop.ask(Method::GET, "/healthz", None);
    eventually("it listens", READY, listens).await.unwrap();
    unready(&shop, "the field weight is not written, and has no default").await;
    assert_eq!(shop.create("ORD-1003", 1).await.1["error"], "registry_unavailable");
}

/// A long in the way of Avro: zigzag, then seven bits a byte.
fn long(number: i64) -> Vec<u8> {
    let (mut rest, mut bytes) = (((number << 1) ^ (number >> 63)) as u64, Vec::new());
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(text.len() as i64), text.as_bytes().to_vec()].concat()
}

/// Another writer to the topic, with bytes of its own making.
async fn write(kafka: &Kafka, key: &str, kind: &str, body: &[u8]) {
    let producer: FutureProducer = kafka.client().create().unwrap();
    let headers = OwnedHeaders::new().insert(Header { key: "type", value: Some(kind) });
    producer.send(FutureRecord::to("order-events").key(key).payload(body).headers(headers), Duration::from_secs(10)).await.unwrap();
}

fn by_schema(id: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![0], id.to_be_bytes().to_vec(), fields.concat()].concat()
}

fn own_schema(pipeline: &Pipeline) -> Json {
    serde_json::from_slice(&std::fs::read(pipeline.room.path().join("order-event.avsc")).unwrap()).unwrap()
}

/// Waits until `/readyz` refuses with these words.
async fn unready(shop: &Shop, words: &str) -> Json {
    let refused = || async {
        let (code, answer) = shop.ask(Method::GET, "/readyz", None).await?;
        ensure!(code == 503 && answer["message"].as_str().is_some_and(|m| m.contains(words)), "{code} {answer}");
        Ok(answer)
    };
    eventually("it is not ready", READY, refused).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_evolves_goes_on_and_one_that_breaks_others_is_refused_in_the_words_of_the_registry() {
    let (kafka, registry) = tokio::try_join!(Kafka::start(1), Registry::start()).unwrap();
    let pipeline = example(&kafka, &registry.url()).await;
    let (_api, url) = pipeline.start("api").await.unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);
    assert_eq!(shop.create("ORD-1", 2).await.0, 201);
    shop.until("ORD-1", "new").await;

    // Somebody writes by a later schema, with a field more and the others in another order.
    let mut later = own_schema(&pipeline);
    let fields = later["fields"].as_array_mut().unwrap();
    fields.reverse();
    fields.push(json!({"name": "channel", "type": "string", "default": "web"}));
    let id = registry.register(SUBJECT, &later.to_string()).await.unwrap();
    let body =
        by_schema(id, &[long(0), [long(1), long(2), vec![0x09, 0xc4]].concat(), [long(1), long(7)].concat(), text("ORD-2"), text("app")]);
    write(&kafka, "ORD-2", "OrderCreated", &body).await;
    let order = shop.until("ORD-2", "new").await;
    assert_eq!((&order["itemsCount"], &order["totalAmount"]), (&json!(7), &json!(25.0)));

    // The next release of the pipeline grows too.
    let file = pipeline.room.path().join("order-event.avsc");
    let mut next = later.clone();
    next["fields"].as_array_mut().unwrap().push(json!({"name": "note", "type": ["null", "string"], "default": null}));
    std::fs::write(&file, next.to_string()).unwrap();
    let (mut grown, grown_url) = pipeline.start("api").await.unwrap();
    assert_eq!(Shop::at(&grown_url).create("ORD-3", 1).await.0, 201);
    assert_eq!(shop.until("ORD-3", "new").await["itemsCount"], 1, "read by a worker that knows the first schema only");
    assert_eq!(registry.versions(SUBJECT).await.unwrap().len(), 3);
    grown.terminate(Duration::from_secs(20)).await.unwrap();

    // One that could not read what lies on the topic: nobody becomes ready, and `check` says why before.
    let mut broken = own_schema(&pipeline);
    broken["fields"].as_array_mut().unwrap().push(json!({"name": "weight", "type": "double"}));
    std::fs::write(&file, broken.to_string()).unwrap();
    let (_refused, refused_url) = pipeline.launch("api").unwrap();
    let refused = Shop::at(&refused_url);
    let answer = unready(&refused, "409").await;
    eprintln!("{answer}");
    let (code, answer) = refused.create("ORD-4", 1).await;
    assert_eq!((code, &answer["error"]), (503, &json!("registry_unavailable")), "{answer}");
    let checked = Product::command("pipeline-runtime", &["check", &pipeline.document.to_string_lossy()]).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("spec.topics[0].codec.avro.registry: the schema registry"), "{said}");
    assert_eq!(shop.create("ORD-4", 1).await.0, 201, "those that run go on");
    shop.until("ORD-4", "new").await;
    assert_eq!(registry.versions(SUBJECT).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_waited_for_and_nobody_else_waits() {
    let port = free_port().unwrap();
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = example(&kafka, &format!("http://127.0.0.1:{port}/apis/ccompat/v7")).await;
    let (_api, url) = pipeline.launch("api").unwrap();
    let (_worker, _) = pipeline.start("worker").await.unwrap();
    let shop = Shop::at(&url);
    let answer = eventually("it listens", READY, || shop.ask(Method::GET, "/healthz", None)).await.unwrap();
    assert_eq!(answer.0, 200);
    unready(&shop, "is not registered").await;
    let (code, answer) = shop.create("ORD-1", 1).await;
    assert_eq!((code, &answer["error"]), (503, &json!("registry_unavailable")), "{answer}");
    assert!(answer["retryAfter"].is_number(), "{answer}");
    let note = Product::command("pipeline-runtime", &["check", &pipeline.document.to_string_lossy()]).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&note.stderr).into_owned();
    assert!(note.status.success() && said.contains("not checked whether it takes the schema"), "{said}");

    let registry = Registry::start_on(port).await.unwrap();
    let taken = || async {
        let (code, answer) = shop.ask(Method::POST, "/create-order", Some(json!({"orderId": "ORD-1", "itemsCount": 1}))).await?;
        ensure!(code == 201, "{code} {answer}");
        Ok(())
    };
    eventually("orders are taken once it is there", READY, taken).await.unwrap();
    shop.until("ORD-1", "new").await;

    // It hangs, and messages come by a schema that nobody has asked for yet.
    let mut later = own_schema(&pipeline);
    later["fields"].as_array_mut().unwrap().push(json!({"name": "channel", "type": "string", "default": "web"}));
    let id = registry.register(SUBJECT, &later.to_string()).await.unwrap();
    registry.stop().unwrap();
    let body = by_schema(id, &[text("ORD-2"), [long(1), long(4)].concat(), long(0), long(0), text("app")]);
    write(&kafka, "ORD-2", "OrderCreated", &body).await;
    write(&kafka, "ORD-2", "OrderCreated", b"no Avro at all").await;
    for n in 10..20 {
        let id = format!("ORD-{n}");
        assert_eq!(shop.create(&id, 1).await.0, 201, "what is registered is written on");
        shop.until(&id, "new").await;
    }
    assert_eq!(shop.get("/order-details?orderId=ORD-2").await.0, 404);
    registry.resume().unwrap();
    assert_eq!(shop.until("ORD-2", "new").await["itemsCount"], 4);
    let letters = dead(&kafka, "order-events", 1).await;
    assert_eq!((letters[0].payload(), &*header(&letters[0], "dlq-error-type")), (Some(&b"no Avro at all"[..]), "undecodable"));

    // A number that no registry knows is no reason to wait.
    write(&kafka, "ORD-3", "OrderCreated", &by_schema(4711, &[text("ORD-3")])).await;
    let found = || async {
        let letters = kafka.messages("order-events-dlq").await?;
        let letter = letters.iter().find(|letter| letter.key() == Some(b"ORD-3")).context("not there yet")?;
        Ok(header(letter, "dlq-reason"))
    };
    let reason = eventually("it becomes a dead letter", READY, found).await.unwrap();
    assert!(reason.contains("schema 4711") && reason.contains("404"), "{reason}");
    assert_eq!(shop.create("ORD-3", 1).await.0, 201);
    shop.until("ORD-3", "new").await;
}
