use super::*;
use crate::codec::MAX_WEIGHT;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn schema(json: Json) -> Schema {
    Schema::parse(&json.to_string()).unwrap()
}

fn bytes(of: &Schema, data: &Json) -> Vec<u8> {
    let mut out = Vec::new();
    write(of, &data.into(), &mut out).unwrap();
    out
}

fn unfit(of: &Schema, data: Json) -> (String, String) {
    let Unfit { path, message } = write(of, &(&data).into(), &mut Vec::new()).expect_err("must not fit");
    (path, message)
}

/// Written by one schema and read by another.
fn through(writer: &Schema, reader: &Schema, data: &Json) -> Result<Json, String> {
    Plan::new(writer, reader)?.read(&bytes(writer, data)).map(|read| Json::from(&read))
}

fn record(fields: Json) -> Schema {
    schema(json!({"type": "record", "name": "R", "fields": fields}))
}

fn order() -> Schema {
    record(json!([
        {"name": "orderId", "type": "string"},
        {"name": "itemsCount", "type": ["null", "int"], "default": null},
        {"name": "totalAmount", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}], "default": null},
        {"name": "currency", "type": "string", "default": "USD"},
        {"name": "placedAt", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null},
        {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
            {"name": "sku", "type": "string"}, {"name": "price", "type": "double"}]}}, "default": []},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}, "default": "NEW"},
    ]))
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    for (of, data, wanted) in [
        (json!("long"), json!(0), &[0u8][..]),
        (json!("long"), json!(-1), &[1]),
        (json!("long"), json!(1), &[2]),
        (json!("long"), json!(-64), &[0x7f]),
        (json!("long"), json!(64), &[0x80, 0x01]),
        (json!("string"), json!("foo"), &[0x06, 0x66, 0x6f, 0x6f]),
        (json!(["null", "string"]), json!(null), &[0]),
        (json!(["null", "string"]), json!("a"), &[0x02, 0x02, 0x61]),
        (json!({"type": "array", "items": "long"}), json!([3, 27]), &[0x04, 0x06, 0x36, 0x00]),
        (
            json!({"type": "record", "name": "test", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]}),
            json!({"a": 27, "b": "foo"}),
            &[0x36, 0x06, 0x66, 0x6f, 0x6f],
        ),
        (json!({"type": "enum", "name": "Foo", "symbols": ["A", "B", "C", "D"]}), json!("D"), &[0x06]),
        (json!({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}), json!("-1.28"), &[0x02, 0x80]),
        (json!({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}), json!(1.28), &[0x04, 0x00, 0x80]),
    ] {
        assert_eq!(bytes(&schema(of.clone()), &data), wanted, "{of} {data}");
    }
    // Blocks whose count is negative have their size before them.
    let list = schema(json!({"type": "array", "items": "long"}));
    assert_eq!(Plan::new(&list, &list).unwrap().read(&[0x03, 0x04, 0x06, 0x36, 0x00]).unwrap(), json!([3, 27]));
}

/// A record with everything in it, as fastavro 1.13.1 (Python) writes it.
#[test]
fn what_others_write_is_read_and_written_to_the_byte() {
    let of = schema(json!({"type": "record", "name": "Big", "namespace": "n", "fields": [
        {"name": "id", "type": "string"},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}},
        {"name": "fixed", "type": {"type": "fixed", "name": "F", "size": 6, "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "ratio", "type": "double"},
        {"name": "small", "type": "float"},
        {"name": "yes", "type": "boolean"},
        {"name": "tags", "type": {"type": "map", "values": "long"}},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B"]}},
        {"name": "raw", "type": "bytes"},
        {"name": "next", "type": ["null", "Big"], "default": null},
    ]}));
    let one = |id: &str| {
        json!({
            "id": id, "total": "-12345.678", "fixed": "99999999.99", "at": "2025-01-31T12:00:00.123456Z", "day": "2025-01-31", "ratio": 0.1,
            "small": 2.5, "yes": true, "tags": {"a": -5, "b": 1_099_511_627_776i64}, "kind": "B", "raw": "\u{0}\u{ff}",
        })
    };
    let mut data = one("ä");
    data["next"] = one("z");
    let hex = "04c3a408ff439eb20002540be3ff80c9b983e9bf9606aeba029a9999999999b93f000020400104026109026280808080804000020400ff02\
               027a08ff439eb20002540be3ff80c9b983e9bf9606aeba029a9999999999b93f000020400104026109026280808080804000020400ff00";
    let theirs: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    assert_eq!(bytes(&of, &data), theirs);
    assert_eq!(Plan::new(&of, &of).unwrap().read(&theirs).unwrap(), data);
}

#[test]
fn what_is_written_is_read_with_its_defaults_and_money_keeps_its_digits() {
    let of = order();
    let seen = through(&of, &of, &json!({"orderId": "o-1", "totalAmount": 24.5, "placedAt": "2025-01-31T13:00:00.5+01:00"})).unwrap();
    let expected = json!({
        "orderId": "o-1", "totalAmount": "24.50", "currency": "USD", "placedAt": "2025-01-31T12:00:00.500Z", "lines": [], "state": "NEW",
    });
    assert_eq!(seen, expected, "what is null is not there");
    let given = json!({"orderId": "o-1", "totalAmount": "99999999.99", "currency": "EUR", "itemsCount": null, "state": "PAID",
        "lines": [{"sku": "tea", "price": 4.5}]});
    let seen = through(&of, &of, &given).unwrap();
    assert_eq!((&seen["totalAmount"], &seen["lines"][0]["price"], seen.get("itemsCount")), (&json!("99999999.99"), &json!(4.5), None));
}

#[test]
fn what_does_not_fit_is_named_with_its_place() {
    let of = order();
    let with = |field: &str, value: Json| {
        let mut order = json!({"orderId": "o-1"});
        order[field] = value;
        unfit(&of, order)
    };
    let said = |path: &str, message: &str| (path.to_owned(), message.to_owned());
    assert_eq!(unfit(&of, json!({})), said("data.orderId", "is required"));
    assert_eq!(with("orderId", json!(7)), said("data.orderId", "must be a text"));
    assert_eq!(with("colour", json!("red")), said("data.colour", "is not in the Avro schema of this topic"));
    assert_eq!(with("itemsCount", json!(3_000_000_000u32)), said("data.itemsCount", "must be a whole number of 32 bits"));
    assert_eq!(with("itemsCount", json!(1.5)).0, "data.itemsCount");
    let decimal = "must be a decimal with at most 10 digits, 2 of them behind the point";
    for amount in [json!(1.005), json!("100000000.00"), json!("1e5"), json!("12,5"), json!(true)] {
        assert_eq!(with("totalAmount", amount), said("data.totalAmount", decimal));
    }
    assert_eq!(with("lines", json!([{"sku": "tea", "price": 1}, {"sku": "tea"}])), said("data.lines[1].price", "is required"));
    assert_eq!(with("state", json!("LOST")), said("data.state", "must be one of NEW, PAID"));
    assert_eq!(with("placedAt", json!("noon")).1, "must be a time such as 2025-01-31T12:00:00Z");
}

#[test]
fn a_schema_grows_and_old_and_new_read_each_other() {
    let old =
        record(json!([{"name": "id", "type": "string"}, {"name": "count", "type": "int"}, {"name": "gone", "type": ["null", "string"]}]));
    let new = record(json!([
        {"name": "orderId", "aliases": ["id"], "type": "string"},
        {"name": "count", "type": ["long", "null"]},
        {"name": "note", "type": "string", "default": "none"},
    ]));
    let data = json!({"id": "o", "count": 3, "gone": "x"});
    assert_eq!(through(&old, &new, &data).unwrap(), json!({"orderId": "o", "count": 3, "note": "none"}));
    let back = record(json!([{"name": "count", "type": "long"}, {"name": "orderId", "type": "string"}]));
    assert_eq!(through(&new, &back, &json!({"orderId": "o", "count": 3})).unwrap(), json!({"orderId": "o", "count": 3}));
    // Only that message of it cannot be read.
    let why = through(&new, &back, &json!({"orderId": "o", "count": null})).unwrap_err();
    assert!(why.contains("count: is written as null"), "{why}");
}

#[test]
fn what_cannot_be_read_is_found_before_any_message() {
    let one = |of: Json| record(json!([{"name": "a", "type": of}]));
    let refused = |from: Json, to: Json| Plan::new(&one(from), &one(to)).map(drop).unwrap_err();
    assert_eq!(refused(json!("string"), json!("int")), "the field a is written as a text and read as a whole number of 32 bits");
    assert!(refused(json!("long"), json!("int")).contains("read as a whole number of 32 bits"));
    let decimal = |scale: u32| json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": scale});
    assert!(refused(decimal(2), decimal(3)).contains("a decimal"));
    let time = |unit: &str| json!({"type": "long", "logicalType": unit});
    assert!(refused(time("timestamp-millis"), time("timestamp-micros")).contains("a time"));
    let more = record(json!([{"name": "a", "type": "int"}, {"name": "b", "type": "int"}]));
    assert_eq!(
        Plan::new(&one(json!("int")), &more).map(drop).unwrap_err(),
        "the field b is not written, and has no default to be read instead"
    );
    for (from, to) in [("int", "long"), ("int", "double"), ("long", "float"), ("float", "double"), ("string", "bytes"), ("bytes", "string")]
    {
        Plan::new(&one(json!(from)), &one(json!(to))).unwrap();
    }
}

#[test]
fn an_enum_that_lost_a_symbol_reads_its_default() {
    let of = |symbols: Json, default: Option<&str>| {
        let mut of = json!({"type": "enum", "name": "E", "symbols": symbols});
        if let Some(default) = default {
            of["default"] = default.into();
        }
        schema(of)
    };
    let written = of(json!(["A", "B"]), None);
    assert_eq!(through(&written, &of(json!(["B", "C"]), Some("C")), &json!("A")).unwrap(), json!("C"));
    assert_eq!(through(&written, &of(json!(["B", "C"]), None), &json!("B")).unwrap(), json!("B"));
    assert_eq!(through(&written, &of(json!(["B", "C"]), None), &json!("A")).unwrap_err(), "is none of B, C");
}

#[test]
fn a_schema_that_refers_to_itself_is_read_so_far_as_it_is_bounded() {
    let of = schema(json!({"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}));
    assert_eq!(through(&of, &of, &json!({"next": {"next": {}}})).unwrap(), json!({"next": {"next": {}}}));
    let round_and_round = vec![2; 1000];
    assert!(Plan::new(&of, &of).unwrap().read(&round_and_round).unwrap_err().contains("64 levels"));
}

#[test]
fn hostile_bytes_are_refused_and_take_no_memory() {
    let nulls = schema(json!({"type": "array", "items": "null"}));
    let mut a_billion = Vec::new();
    let mut count: u64 = 2_000_000_000 << 1;
    while count >= 0x80 {
        a_billion.push(count as u8 | 0x80);
        count >>= 7;
    }
    a_billion.push(count as u8);
    let said = Plan::new(&nulls, &nulls).unwrap().read(&a_billion).unwrap_err();
    assert!(said.contains(&format!("{} MiB", MAX_WEIGHT >> 20)), "{said}");
    let of = order();
    let plan = Plan::new(&of, &of).unwrap();
    let good = bytes(&of, &json!({"orderId": "o-1", "totalAmount": 5, "lines": [{"sku": "a", "price": 1}]}));
    for end in 0..good.len() {
        assert!(plan.read(&good[..end]).is_err(), "cut off at {end}");
    }
    assert!(plan.read(&[&good[..], &[0]].concat()).unwrap_err().contains("1 bytes are left"));
}

#[test]
fn a_schema_that_is_none_is_refused_with_its_place() {
    let said = |of: Json| Schema::parse(&of.to_string()).map(drop).unwrap_err().to_string();
    assert_eq!(said(json!("strin")), "there is no type strin before this place");
    let field = |of: Json| json!({"type": "record", "name": "R", "fields": [{"name": "a", "type": of, "default": 7}]});
    assert_eq!(said(field(json!("string"))), "fields[0].default: the default must be a text");
    assert!(said(field(json!(["int", "int"]))).starts_with("fields[0].type[1]: a union holds each type once"));
    assert!(said(json!({"type": "record", "name": "R"})).contains("needs fields"));
    assert!(said(json!({"type": "bytes", "logicalType": "decimal", "scale": 2})).contains("precision from 1 to 38"));
    assert!(Schema::parse("{").unwrap_err().to_string().contains("no JSON"));
    let deep = (0..100).fold(json!("int"), |inner, _| json!({"type": "array", "items": inner}));
    assert!(said(deep).contains("64 deep"));
}

proptest! {
    #[test]
    fn any_decimal_comes_back_with_its_digits(unscaled in -9_999_999_999i64..=9_999_999_999, scale in 0u32..=10, size in proptest::option::of(5usize..=20)) {
        let of = match size {
            Some(size) => json!({"type": "fixed", "name": "D", "size": size, "logicalType": "decimal", "precision": 10, "scale": scale}),
            None => json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": scale}),
        };
        let of = schema(of);
        let digits = format!("{:0>1$}", unscaled.unsigned_abs(), scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
        let sign = if unscaled < 0 { "-" } else { "" };
        let text = if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
        prop_assert_eq!(through(&of, &of, &json!(text.clone())).unwrap(), json!(text));
    }

    #[test]
    fn any_whole_number_comes_back(number: i64) {
        let of = schema(json!("long"));
        prop_assert_eq!(through(&of, &of, &json!(number)).unwrap(), json!(number));
    }

    #[test]
    fn any_bytes_are_answered(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let of = order();
        let _ = Plan::new(&of, &of).unwrap().read(&data);
    }

    #[test]
    fn any_text_is_a_schema_or_is_not(text in "[\\[\\]{}\":,a-z]{0,60}") {
        let _ = Schema::parse(&text);
    }
}

/// What `check` says of a document of one topic, whose schema this is.
async fn said(schema: Json, event: &str, further: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("order.avsc"), schema.to_string()).unwrap();
    let text = format!(
        "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {{name: shop}}\nspec:\n  \
         backends: [{{name: kafka, kafka: {{bootstrapServers: 'kafka:9092'}}}}]\n  \
         topics: [{{name: orders, codec: {{avro: {{registry: {{url: 'http://127.0.0.1:1'}}, schemaConfigMapRef: {{name: s, key: order.avsc}}}}}}}}]\n  \
         events: [{{name: OrderCreated, {event}}}]\n{further}"
    );
    let pipeline = crds::document::read(&text).unwrap();
    let schemas = crate::config::Schemas::new(folder.path().join("mounted"), &folder.path().join("pipeline.yaml"));
    let Remarks { mistakes, notes } = check(&pipeline, &schemas).await;
    assert!(notes.iter().all(|note| note.contains("not checked whether it takes the schema")), "{notes:?}");
    mistakes.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn check_holds_examples_and_the_generator_against_what_readers_see() {
    let schema = || {
        json!({"type": "record", "name": "R", "fields": [
            {"name": "orderId", "type": "string"}, {"name": "itemsCount", "type": ["null", "int"], "default": null},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}, "default": "\u{1}"}]})
    };
    let made = "schema: {type: object}, set: {double: 'double(data.price) * 2.0'}";
    assert_eq!(
        said(schema(), &format!("{made}, example: {{orderId: a, price: 2.5}}"), "  generator: {shape: Cart}\n").await,
        Vec::<String>::new()
    );
    let computes = "schema: {type: object}, rules: [{rule: data.price > 1.0, message: more}], example: {orderId: a, price: 2.5}";
    let all = said(schema(), computes, "").await;
    assert!(
        all.len() == 1 && all[0].starts_with("spec.events[0].example: holds as it stands here, but not as the readers of orders see it"),
        "{all:?}"
    );
    let all = said(schema(), "schema: {type: object}, example: {orderId: a, sku: b}", "  generator: {shape: Food}\n").await;
    assert_eq!(
        all[0],
        "spec.events[0].example: does not fit the Avro schema of topic orders: data.sku is not in the Avro schema of this topic"
    );
    assert!(
        all[1].starts_with("spec.generator.shape: orders of the shape Food are none of OrderCreated: data.orderId is required"),
        "{all:?}"
    );
    let all = said(json!({"type": "text"}), made, "").await;
    assert!(all.len() == 1 && all[0].starts_with("spec.topics[0].codec.avro.schemaConfigMapRef: is no Avro schema: "), "{all:?}");
}

#[tokio::test]
async fn who_waits_while_a_registry_hangs_is_answered_with_the_first() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let asks = || asked.load(std::sync::atomic::Ordering::Relaxed);
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            sleep(Duration::from_millis(50)).await;
            drop(connection);
        }
    });
    let registry = Arc::new(Registry::Confluent(registry::Confluent::new(&url).unwrap()));
    let topic = AvroTopic::new("orders", r#""string""#.into(), registry).unwrap();
    let answers = futures::future::join_all((0..50).map(|id| topic.learn(id))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(RegistryError::Away { .. }))), "{answers:?}");
    assert_eq!(asks(), 1);
    topic.learn(1).await.unwrap_err();
    assert_eq!(asks(), 2, "who comes later asks anew");
}
