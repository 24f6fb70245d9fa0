use super::*;
use chrono::{DateTime, Utc};
use serde_json::json;

/// Evaluates over `data`, whose schema may be given.
fn on(text: &str, data: Json, schema: Option<Json>) -> Result<Json, String> {
    let compiled = compile(text, &Scope::new(schema.as_ref())).map_err(|error| error.to_string())?;
    let attributes = json!({"type": "SHIP", "source": "web"});
    let input = Input {
        topic: "orders",
        key: Some("k-1"),
        id: "m-1",
        publish_time: DateTime::<Utc>::from_timestamp_millis(1_738_324_800_500).unwrap(),
        attributes: attributes.as_object().unwrap(),
        data: &data,
    };
    compiled.json(&input).map(|json| json.into_owned()).map_err(|error| error.to_string())
}

fn order() -> Json {
    json!({
        "orderId": "o-1", "total": 100, "region": "EU",
        "customer": {"id": "c-1", "email": "a@b.se", "nothing": null},
        "items": [{"sku": "a", "quantity": 2, "price": 1.1}, {"sku": "b", "quantity": 1, "price": 3}],
    })
}

fn gives(text: &str) -> Json {
    on(text, order(), None).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> String {
    compile(text, &Scope::default()).expect_err(text).to_string()
}

#[test]
fn a_path_gives_what_lies_there() {
    assert_eq!(gives("data.orderId"), "o-1");
    assert_eq!(gives("data.customer.id"), "c-1");
    assert_eq!(gives("data.total"), 100);
    assert_eq!(gives("attributes.type"), "SHIP");
    assert_eq!(gives("topic + '/' + key + '/' + id"), "orders/k-1/m-1");
    assert_eq!(gives("publishTime"), "2025-01-31T12:00:00.500Z");
    assert_eq!(gives("publishTime < timestamp('2025-02-01T00:00:00Z')"), true);
}
