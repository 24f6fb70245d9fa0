use super::*;
use chrono::{TimeZone, Utc};
use crds::json::Object;
use crds::pipeline::{Effect, Emit, Rule};
use crds::runtime_config::OrderExpressions;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

fn event(name: &str) -> EventConfig {
    EventConfig {
        name: name.into(),
        topics: vec!["orders".into()],
        when: None,
        key: "data.orderId".into(),
        id: None,
        at: None,
        schema: None,
        rules: vec![],
        effect: Effect::Create,
        order: OrderExpressions {
            id: "data.orderId".into(),
            tenant: Some("data.tenantId".into()),
            customer: Some("data.customerId".into()),
            items: Some("data.items".into()),
            total: Some("data.totalAmount".into()),
            status: Some("data.status".into()),
            created_at: Some("data.createdAt".into()),
        },
        set: BTreeMap::new(),
        append: BTreeMap::new(),
        emit: vec![],
        pii: vec![],
    }
}

fn contract(events: Vec<EventConfig>) -> Result<Contract, ContractError> {
    let document = json!({
        "pipeline": "p", "namespace": "n", "backend": "b", "backends": [], "topics": [], "events": events,
        "store": {"memory": {"max_orders": 1}}, "api": null, "worker": null, "generator": null, "telemetry": {},
    });
    Contract::compile(&serde_json::from_value::<RuntimeConfig>(document).expect("a configuration"))
}

fn one(event: EventConfig) -> Contract {
    contract(vec![event]).unwrap()
}

fn decoded(attributes: Json, data: Json) -> Decoded<'static> {
    let attributes = Object::from(attributes.as_object().expect("attributes must be an object")).into_owned();
    let data = crds::json::Json::from(&data).into_owned();
    Decoded { id: "m-1".into(), publish_time: Utc.with_ymd_and_hms(2025, 1, 31, 12, 0, 0).unwrap(), attributes, data }
}

fn message<'a>(decoded: &'a Decoded<'_>) -> Message<'a> {
    Message { topic: "orders", key: Some("k"), decoded }
}

fn change(event: EventConfig, data: Json) -> Result<Change, Violation> {
    let contract = one(event);
    let decoded = decoded(json!({}), data);
    contract.events[0].change(&message(&decoded), contract.events[0].content(&decoded.data), "orders/0/1".into())
}

fn violations(event: EventConfig, data: Json) -> Vec<(String, String)> {
    let contract = one(event);
    let decoded = decoded(json!({}), data);
    contract.events[0].violations(&message(&decoded)).into_iter().map(|v| (v.field, v.message)).collect()
}

fn rule(rule: &str, message: Option<&str>, field: Option<&str>) -> Rule {
    Rule { rule: rule.into(), message: message.map(Into::into), field: field.map(Into::into) }
}

fn with(change: impl FnOnce(&mut EventConfig)) -> EventConfig {
    let mut event = event("OrderCreated");
    change(&mut event);
    event
}

fn pair(field: &str, message: &str) -> (String, String) {
    (field.to_owned(), message.to_owned())
}

#[test]
fn a_contract_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Contract>();
}

#[test]
fn the_first_event_of_the_topic_whose_when_holds_is_taken() {
    let when = |name: &str, when: &str| EventConfig { when: Some(when.into()), ..event(name) };
    let contract = contract(vec![
        EventConfig { topics: vec!["elsewhere".into()], ..event("Elsewhere") },
        when("Ship", "attributes.eventType == 'SHIP'"),
        when("Large", "data.total > 100"),
        event("Typed"),
    ])
    .unwrap();
    let recognised = |attributes: Json, data: Json| {
        let decoded = decoded(attributes, data);
        let event = contract.recognise(&message(&decoded)).map_err(|violation| violation.field);
        event.map(|event| event.map(|event| event.config.name.clone()))
    };
    let is = |name: &str| Ok(Some(name.to_owned()));
    assert_eq!(recognised(json!({"eventType": "SHIP"}), json!({"total": 500})), is("Ship"));
    assert_eq!(recognised(json!({}), json!({"total": 500})), is("Large"));
    assert_eq!(recognised(json!({}), json!({})), is("Typed"), "a message without a type is what the default takes");
    assert_eq!(recognised(json!({"type": "Typed"}), json!({})), is("Typed"));
    assert_eq!(recognised(json!({"eventType": "SHORT", "type": "Other"}), json!({"total": 1})), Ok(None));
    assert_eq!(recognised(json!({"type": "Other"}), json!({"total": 1})), Err("attributes.eventType".into()), "lost in silence");
    assert_eq!(recognised(json!({"eventType": "SHORT"}), json!({"total": "many"})), Err("data".into()));
}

#[test]
fn rules_are_looked_at_only_where_the_schema_holds() {
    let event = || {
        with(|event| {
            event.schema =
                Some(json!({"type": "object", "required": ["items"], "properties": {"total": {"type": "number", "minimum": 0}}}));
            event.rules = vec![
                rule("data.items.all(i, i.quantity > 0)", Some("every quantity must be above 0"), Some("data.items")),
                rule("data.total * 1.0 < 1000.0", None, None),
                rule("data.customer.phone != ''", Some("a phone is needed"), None),
            ];
        })
    };
    let mut found = violations(event(), json!({"total": -1}));
    found.sort();
    assert_eq!(found, [pair("data.items", "items is required"), pair("data.total", "total must be at least 0 but is -1")]);
    assert_eq!(
        violations(event(), json!({"total": 5000, "items": [{"quantity": 0}], "customer": {}})),
        [
            pair("data.items", "every quantity must be above 0"),
            pair("data", "must hold: data.total * 1.0 < 1000.0"),
            pair("data.customer.phone", "phone is required"),
        ]
    );
    assert_eq!(
        violations(event(), json!({"total": 5, "items": [{"quantity": "x"}], "customer": {"phone": "1"}})),
        [pair("data.items", "the rule data.items.all(i, i.quantity > 0) cannot be checked: `>` does not take (string, int)")]
    );
    assert!(violations(event(), json!({"total": 5, "items": [], "customer": {"phone": "1"}})).is_empty());
}

#[test]
fn no_more_than_twenty_violations() {
    let event = with(|event| event.rules = vec![rule("false", None, None); 32]);
    assert_eq!(violations(event, json!({})).len(), 20);
}

#[test]
fn a_change_holds_what_the_document_names() {
    let event = with(|event| {
        event.id = Some("data.orderId + '/' + id".into());
        event.at = Some("data.createdAt".into());
        event.set = [
            ("allocation", "data.forced ? 'FORCED' : 'PENDING'"),
            ("status", "'NEW'"),
            ("note", "data.note"),
            ("gone", "data.customer.nope"),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into();
        event.append = [("history", "{'by': data.customerId}"), ("notes", "data.note"), ("nothing", "data.nope")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into();
    });
    let data = json!({
        "orderId": "o-1", "customerId": 42, "tenantId": null, "items": [{"b": 1, "a": 2.50}], "totalAmount": 12.10, "forced": true,
        "createdAt": "2025-01-31T13:00:00+01:00", "note": null, "customer": {},
    });
    let change = change(event, data.clone()).unwrap();
    assert_eq!((change.event.as_str(), change.event_id.as_str(), change.order_id.as_str()), ("OrderCreated", "o-1/m-1", "o-1"));
    assert_eq!((change.effect, change.source.as_str()), (Effect::Create, "orders/0/1"));
    let noon = Utc.with_ymd_and_hms(2025, 1, 31, 12, 0, 0).unwrap();
    assert_eq!((change.at, change.fields.created_at, change.published_at), (Some(noon), Some(noon), noon));
    assert_eq!((change.fields.tenant, change.fields.customer.as_deref()), (None, Some("42")));
    assert_eq!((change.fields.total.as_deref(), change.fields.items.as_deref()), (Some("12.1"), Some(r#"[{"a":2.5,"b":1}]"#)));
    assert_eq!(change.fields.status.as_deref(), Some("NEW"), "set writes the order's own columns too");
    assert_eq!(Json::Object(change.set), json!({"allocation": "FORCED", "note": null}));
    assert_eq!(Json::Object(change.append), json!({"history": {"by": 42}}));
    assert_eq!(change.content, content_hash(&(&data).into()));
}

#[test]
fn the_content_does_not_depend_on_the_order_of_fields_or_on_spaces() {
    let hash = |text: &str| change(event("E"), serde_json::from_str(text).unwrap()).unwrap().content;
    assert_eq!(hash(r#"{"orderId":"o","x":{"a":1,"b":2}}"#), hash(r#"{ "x": {"b":2, "a":1}, "orderId": "o" }"#));
    assert_ne!(hash(r#"{"orderId":"o","x":1}"#), hash(r#"{"orderId":"o","x":2}"#));
}

#[test]
fn amounts_are_decimal_text_without_exponent() {
    let total = |amount: Json| change(event("E"), json!({"orderId": "o", "totalAmount": amount})).map(|change| change.fields.total);
    for (amount, text) in [
        (json!(100), "100"),
        (json!(0.1), "0.1"),
        (json!(1e21), "1000000000000000000000"),
        (json!(1e-7), "0.0000001"),
        (json!("12.50"), "12.50"),
        (json!(-3.5), "-3.5"),
    ] {
        assert_eq!(total(amount).unwrap().as_deref(), Some(text));
    }
    for amount in [json!("12,50"), json!("1e5"), json!(""), json!("."), json!(true), json!([1])] {
        let violation = total(amount).unwrap_err();
        assert_eq!((violation.field.as_str(), violation.message.as_str()), ("data.totalAmount", "totalAmount must be a number"));
    }
}

#[test]
fn an_optional_field_may_be_missing_but_not_wrong() {
    let bare = change(event("E"), json!({"orderId": "o"})).unwrap();
    assert!(bare.fields.customer.is_none() && bare.fields.items.is_none() && bare.at.is_none());
    let wrong = |data: Json| change(event("E"), data).map(|_| ()).unwrap_err();
    assert_eq!(
        wrong(json!({"orderId": "o", "customerId": {}})),
        Violation { field: "data.customerId".into(), message: "customerId must be a text".into() }
    );
    assert_eq!(wrong(json!({"orderId": "o", "createdAt": "noon"})).message, "createdAt must be a time such as 2025-01-31T12:00:00Z");
    assert_eq!(wrong(json!([])), Violation { field: "data.tenantId".into(), message: "a list has no fields".into() });
}

#[test]
fn the_orders_id_must_be_there_unless_the_event_has_no_effect() {
    let wrong = |id: Json| change(event("E"), json!({"orderId": id})).map(|_| ()).unwrap_err();
    assert_eq!(
        change(event("E"), json!({})).map(|_| ()).unwrap_err(),
        Violation { field: "data.orderId".into(), message: "orderId is required".into() }
    );
    assert_eq!(wrong(json!("")).message, "data.orderId must not be empty");
    assert!(wrong(json!("x".repeat(501))).message.contains("at most 500"));
    assert!(wrong(json!({})).message.contains("must give a text, but gives a map"));
    let none = with(|event| event.effect = Effect::None);
    assert_eq!(change(none, json!({})).unwrap().order_id, "");
}

#[test]
fn key_tenant_and_emissions_follow_from_the_message() {
    let emit =
        |event_type: &str, data: Option<&str>| Emit { topic: "out".into(), event_type: event_type.into(), data: data.map(Into::into) };
    let contract = one(with(|event| {
        event.key = "data.customerId".into();
        event.emit = vec![emit("order.created", None), emit("order.short", Some("{'id': data.orderId, 'total': data.totalAmount * 2.0}"))];
    }));
    let good = decoded(json!({}), json!({"orderId": "o", "customerId": "c", "tenantId": "t", "totalAmount": 1.5}));
    let event = contract.event("OrderCreated").unwrap();
    assert_eq!(event.key(&message(&good)).unwrap(), "c");
    assert_eq!(event.tenant(&message(&good)).unwrap().as_deref(), Some("t"));
    let emissions = event.emissions(&message(&good)).unwrap();
    assert_eq!(emissions[0], Emission { topic: "out".into(), event_type: "order.created".into(), data: good.data.to_string() });
    assert_eq!(emissions[1].data, r#"{"id":"o","total":3}"#);
    let bare = decoded(json!({}), json!({}));
    assert_eq!(
        event.key(&message(&bare)).unwrap_err(),
        Violation { field: "data.customerId".into(), message: "customerId is required".into() }
    );
    assert_eq!(event.tenant(&message(&bare)).unwrap(), None);
    let absent = one(with(|event| event.key = "data.?customerId".into()));
    let violation = absent.events[0].key(&message(&bare)).unwrap_err();
    assert_eq!(violation, Violation { field: "data".into(), message: "data.?customerId gives nothing".into() });
    assert_eq!(event.emissions(&message(&bare)).unwrap_err().field, "data.orderId");
}

#[test]
fn what_does_not_compile_is_named_with_its_place() {
    let refused = |event: EventConfig| contract(vec![self::event("Fine"), event]).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        refused(with(|event| event.rules = vec![rule("true", None, None), rule("data.a = 1", None, None)])),
        "events[1].rules[1].rule: column 8: write == to compare: a single = means nothing in CEL"
    );
    assert!(refused(with(|event| event.schema = Some(json!({"type": "nope"})))).starts_with("events[1].schema.type: must be one of "));
    assert!(
        refused(with(|event| drop(event.set.insert("x".into(), "nope".into()))))
            .starts_with("events[1].set.x: column 1: unknown name nope")
    );
    assert!(
        refused(with(|event| drop(event.set.insert("orderId".into(), "id".into()))))
            .starts_with("events[1].set.orderId: orderId cannot be set")
    );
    assert!(
        refused(with(|event| drop(event.append.insert("items".into(), "data".into()))))
            .starts_with("events[1].append.items: items is a field of every order")
    );
    assert!(refused(with(|event| event.order.id = "data.".into())).starts_with("events[1].order.id: "));
}
