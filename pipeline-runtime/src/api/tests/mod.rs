//! The API as a client meets it, on a broker and a store that can be made to fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod admin;
mod cart;
mod fakes;
mod faults;
mod idempotent;
mod input;
mod letters;
mod privacy;
mod reading;
mod serving;
mod writing;

use super::*;
use crate::publish::Gate;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request as HttpRequest};
use crds::pipeline::*;
use crds::runtime_config::{ApiConfig, EventConfig, OrderExpressions, StoreConfig};
use fakes::{FakeBroker, FakeStore};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use tower::ServiceExt;

/// One API process, on a broker and a store that others may share.
struct Process {
    api: Arc<ApiState>,
    router: Router,
    broker: Arc<FakeBroker>,
    store: Arc<FakeStore>,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
    json: Json,
}

fn process() -> Process {
    process_on(&config(), FakeBroker::new(), FakeStore::new())
}

fn process_on(config: &RuntimeConfig, broker: Arc<FakeBroker>, store: Arc<FakeStore>) -> Process {
    process_with(config, broker, store, None)
}

fn process_with(config: &RuntimeConfig, broker: Arc<FakeBroker>, store: Arc<FakeStore>, keyring: Option<Arc<Keyring>>) -> Process {
    process_for(config, broker, store, keyring, None)
}

fn process_for(
    config: &RuntimeConfig,
    broker: Arc<FakeBroker>,
    store: Arc<FakeStore>,
    keyring: Option<Arc<Keyring>>,
    admin: Option<Admin>,
) -> Process {
    let health = Health::new("test", false, Codecs::default());
    health.set(health::Links::default());
    let parts = ApiParts {
        admin,
        codecs: Codecs::default(),
        contract: Arc::new(ArcSwap::from_pointee(Contract::with_keys(config, keyring.as_ref()).unwrap())),
        publisher: Publisher::new(broker.clone(), Gate::open()),
        store: store.clone(),
        keys: Arc::new(ArcSwap::from_pointee(Keys::new([("web", "secret"), ("batch", "other-secret")]).unwrap())),
        keyring,
        health,
        metrics: Metrics::default(),
    };
    let api = ApiState::new(config, parts).unwrap();
    Process { router: router(api.clone()), api, broker, store }
}

impl Process {
    async fn send(&self, request: HttpRequest<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: not JSON: {text:?}"));
        assert!(head.headers.contains_key("x-request-id"), "no X-Request-Id: {text}");
        assert_eq!(head.headers["content-type"], "application/json");
        Reply { status: head.status.as_u16(), headers: head.headers, text, json }
    }

    async fn post(&self, body: impl Into<Body>) -> Reply {
        self.send(request("POST", "/orders", body)).await
    }

    async fn post_as(&self, id: &str, body: impl Into<Body>) -> Reply {
        self.send(with_id(request("POST", "/orders", body), id)).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, Body::empty())).await
    }
}

impl Reply {
    fn fields(&self) -> Vec<&str> {
        self.json["fields"].as_array().map(|all| all.iter().filter_map(|f| f["field"].as_str()).collect()).unwrap_or_default()
    }
    fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> HttpRequest<Body> {
    let request = HttpRequest::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path);
    request.header("x-api-key", "secret").header("content-type", "application/json").body(body.into()).unwrap()
}

fn with_id(mut request: HttpRequest<Body>, id: &str) -> HttpRequest<Body> {
    request.headers_mut().insert("x-request-id", id.parse().unwrap());
    request
}

fn order() -> Json {
    json!({
        "orderId": "o-1", "customerId": "c-1", "tenantId": "t-1", "channel": "web", "totalAmount": 12.5,
        "items": [{"sku": "a", "quantity": 1, "price": 2.5}, {"sku": "b", "quantity": 2, "price": 5}]
    })
}

/// An order for which the API has to make the id.
fn order_without_id() -> Json {
    let mut order = order();
    order.as_object_mut().unwrap().remove("orderId");
    order
}

fn config() -> RuntimeConfig {
    let order_schema = json!({
        "type": "object", "additionalProperties": false,
        "required": ["orderId", "customerId", "tenantId", "items", "totalAmount"],
        "properties": {
            "orderId": {"type": "string"}, "customerId": {"type": "string"}, "tenantId": {"type": "string"}, "channel": {"type": "string"},
            "notes": {"type": "string"}, "totalAmount": {"type": "number", "minimum": 0},
            "items": {"type": "array", "minItems": 1, "items": {
                "type": "object", "required": ["sku", "quantity", "price"], "additionalProperties": false,
                "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer", "minimum": 1}, "price": {"type": "number", "minimum": 0}}
            }}
        }
    });
    let change_schema = json!({
        "type": "object", "additionalProperties": false, "required": ["orderId", "status"],
        "properties": {"orderId": {"type": "string"}, "status": {"enum": ["PAID", "SHIPPED"]}, "notes": {"type": "string"}}
    });
    let store = StoreConfig::Memory { max_orders: 100 };
    RuntimeConfig {
        pipeline: "orders".into(),
        namespace: "default".into(),
        backend: "test".into(),
        backends: vec![],
        switching: Default::default(),
        topics: vec![topic("orders")],
        events: vec![event("OrderCreated", Effect::Create, order_schema), event("OrderStatusChanged", Effect::Update, change_schema)],
        pii: None,
        store,
        api: Some(ApiConfig {
            dialect: Dialect::Orders,
            creates: "OrderCreated".into(),
            updates: Some("OrderStatusChanged".into()),
            keys: crds::pipeline::SecretRef { name: "api-keys".into() },
            admin_keys: None,
            idempotency: Idempotency::Derived,
            publish_deadline: Duration::from_secs(5),
        }),
        worker: None,
        generator: None,
        telemetry: serde_json::from_value(json!({})).unwrap(),
    }
}

fn with_api(change: impl FnOnce(&mut ApiConfig)) -> RuntimeConfig {
    let mut config = config();
    change(config.api.as_mut().unwrap());
    config
}

fn topic(name: &str) -> TopicConfig {
    TopicConfig {
        name: name.into(),
        partitions: 3,
        replicas: None,
        retention: Duration::from_secs(3600),
        max_message_bytes: 10 << 20,
        envelope: Envelope::Bare,
        codec: Default::default(),
        producers: Producers::Pipeline,
        invalid: Invalid::DeadLetter,
        dead_letter: None,
    }
}

fn event(name: &str, effect: Effect, schema: Json) -> EventConfig {
    let created = effect == Effect::Create;
    let path = |path: &str| created.then(|| path.to_owned());
    EventConfig {
        name: name.into(),
        topics: vec!["orders".into()],
        when: None,
        key: "data.orderId".into(),
        id: None,
        at: None,
        schema: Some(schema),
        rules: vec![],
        effect,
        order: OrderExpressions {
            id: "data.orderId".into(),
            tenant: path("data.tenantId"),
            customer: path("data.customerId"),
            items: path("data.items"),
            total: path("data.totalAmount"),
            status: (!created).then(|| "data.status".to_owned()),
            created_at: None,
        },
        set: Default::default(),
        append: Default::default(),
        emit: vec![],
        pii: vec![],
    }
}
