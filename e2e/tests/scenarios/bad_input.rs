//! What clients send that they should not.

use e2e::bed::Kafka;
use e2e::pipeline::{KEY, Pipeline};
use reqwest::{Client, StatusCode};
use serde_json::{Value as Json, json};

struct Caller {
    http: Client,
    url: String,
}

impl Caller {
    async fn post(&self, key: Option<&str>, body: impl Into<reqwest::Body>) -> (StatusCode, Json) {
        let post = self.http.post(format!("{}/orders", self.url)).header("Content-Type", "application/json").body(body);
        let post = match key {
            Some(key) => post.header("X-API-Key", key),
            None => post,
        };
        let answer = post.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("every answer is JSON: {text}")))
    }

    /// The answer must be this status, and name that.
    async fn refused(&self, status: StatusCode, names: &str, body: impl Into<reqwest::Body>) {
        let (got, answer) = self.post(Some(KEY), body).await;
        assert_eq!(got, status, "{answer}");
        assert!(answer.to_string().contains(names), "{answer} does not name {names}");
    }
}

fn order_of(bytes: usize) -> String {
    let mut order = json!({"customerId": "c", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 1, "channel": "x"}).to_string();
    let padding = format!(r#","items2":"{}"}}"#, "x".repeat(bytes - order.len() - 12));
    order.pop();
    order + &padding
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_a_clear_4xx_and_the_process_goes_on() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let (mut api, url) = pipeline.start("api").await.unwrap();
    let caller = Caller { http: e2e::http(std::time::Duration::from_secs(30)), url };
    let good = json!({"customerId": "c", "items": [{"sku": "a", "quantity": 1}], "totalAmount": 1});
    let with = |pointer: &str, value: Json| {
        let mut order = good.clone();
        *order.pointer_mut(pointer).unwrap() = value;
        order.to_string()
    };
    let without = |field: &str| {
        let mut order = good.clone();
        order.as_object_mut().unwrap().remove(field);
        order.to_string()
    };
    let (bad, unprocessable) = (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY);

    caller.refused(bad, "line", "{\"customerId\": ").await;
    caller.refused(bad, "JSON", "").await;
    caller.refused(bad, "UTF-8", b"{\"customerId\": \"\xff\xfe\"}".to_vec()).await;
    caller.refused(bad, "deep", format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))).await;
    caller.refused(bad, "deep", format!(r#"{{"customerId":"c","items":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000))).await;
    caller.refused(unprocessable, "customerId", without("customerId")).await;
    caller.refused(unprocessable, "items", without("items")).await;
    caller.refused(unprocessable, "totalAmount", without("totalAmount")).await;
    caller.refused(unprocessable, "totalAmount", with("/totalAmount", json!(-3))).await;
    caller.refused(unprocessable, "totalAmount", with("/totalAmount", json!("12"))).await;
    caller.refused(unprocessable, "customerId", with("/customerId", json!(7))).await;
    caller.refused(unprocessable, "items[0].quantity", with("/items/0/quantity", json!(0))).await;
    caller.refused(unprocessable, "items", with("/items", json!([]))).await;
    caller.refused(StatusCode::PAYLOAD_TOO_LARGE, "10", order_of(11 << 20)).await;
    for key in [None, Some("wrong")] {
        let (status, answer) = caller.post(key, good.to_string()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        assert!(answer.to_string().contains("X-API-Key"), "{answer}");
    }
    let (status, answer) = caller.post(Some(KEY), order_of(10_000_000)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "ten megabytes are an order: {answer}");
    let (status, answer) = caller.post(Some(KEY), good.to_string()).await;
    assert_eq!(status, StatusCode::ACCEPTED, "the process goes on: {answer}");
    assert!(api.terminate(std::time::Duration::from_secs(30)).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_refused_where_the_schema_forbids_them() {
    let kafka = Kafka::start(1).await.unwrap();
    let pipeline = Pipeline::new(&kafka, &kafka.bootstrap(), "Derived").await.unwrap();
    let text = std::fs::read_to_string(&pipeline.document).unwrap();
    let schema = "- name: OrderCreated\n    schema: {type: object, required: [orderId], additionalProperties: false, properties: {orderId: {type: string}}}";
    std::fs::write(&pipeline.document, text.replace("- name: OrderCreated", schema)).unwrap();
    let (_api, url) = pipeline.start("api").await.unwrap();
    let caller = Caller { http: e2e::http(std::time::Duration::from_secs(30)), url };
    caller.refused(StatusCode::UNPROCESSABLE_ENTITY, "surprise", json!({"orderId": "o", "surprise": 1}).to_string()).await;
}
