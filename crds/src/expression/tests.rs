use super::*;
use crate::json::{Json as Message, Object};
use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};

/// Evaluates over `data`, whose schema may be given.
fn on(text: &str, data: Json, schema: Option<Json>) -> Result<Json, String> {
    let compiled = compile(text, &Scope::new(schema.as_ref())).map_err(|error| error.to_string())?;
    let attributes = Object::from_iter([("type", "SHIP".into()), ("source", "web".into())]);
    let input = Input {
        topic: "orders",
        key: Some("k-1"),
        id: "m-1",
        publish_time: DateTime::<Utc>::from_timestamp_millis(1_738_324_800_500).unwrap(),
        attributes: &attributes,
        data: &Message::from(&data),
    };
    compiled.json(&input).map(|json| Json::from(&*json)).map_err(|error| error.to_string())
}

/// A message of which nothing else matters.
fn bare<'a>(attributes: &'a Object<'a>, data: &'a Message<'a>) -> Input<'a> {
    Input { topic: "t", key: None, id: "i", publish_time: DateTime::default(), attributes, data }
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

#[test]
fn a_path_and_the_interpreter_agree() {
    for path in [
        "data.orderId",
        "data.customer",
        "data.items",
        "data.total",
        "data.customer.nothing",
        "attributes.type",
        "key",
        "topic",
        "id",
        "publishTime",
    ] {
        assert_eq!(gives(path), gives(&format!("[{path}][0]")), "{path}");
    }
    for path in
        ["data.nope", "data.customer.phone", "data.nope.deeper", "attributes.nope", "data.orderId.x", "data.customer.nothing.x", "topic.x"]
    {
        let fast = on(path, order(), None).unwrap_err();
        let slow = on(&format!("[{path}][0]"), order(), None).unwrap_err();
        assert_eq!(fast, slow, "{path}");
    }
}

#[test]
fn a_missing_key_is_named_with_its_whole_path() {
    let missing = |text: &str| on(text, order(), None).unwrap_err();
    assert_eq!(missing("data.customer.phone"), "data.customer.phone is missing");
    assert_eq!(missing("data.customer.phone == '1'"), "data.customer.phone is missing");
    assert_eq!(missing("data.items.map(i, i.colour)"), "data.items[0].colour is missing");
    assert_eq!(missing("attributes.nope == '1'"), "attributes.nope is missing");
    assert_eq!(missing("attributes['nope']"), "attributes.nope is missing");
    assert_eq!(missing("{'a': 1}.b"), "b is missing");
    assert_eq!(missing("data.items[7].sku"), "data.items[7].sku is missing");
    assert_eq!(missing("data.?nope.?deeper"), "data.?nope.?deeper is missing");
    assert_eq!(gives("has(data.customer.phone)"), false);
    assert_eq!(gives("data.?customer.?phone.orValue('none')"), "none");
    assert_eq!(gives("data.?customer.?id"), "c-1");
}

#[test]
fn missing_is_told_apart_from_other_failures() {
    let failed = |text: &str| on(text, order(), None).unwrap_err();
    assert_eq!(failed("data.orderId.length"), "a string has no fields");
    assert_eq!(failed("data.orderId + 1"), "`+` does not take string and int");
    assert_eq!(failed("data.orderId < 1"), "`<` does not take (string, int)");
    assert_eq!(failed("1 / 0"), "division by zero");
    assert_eq!(failed("9223372036854775807 + 1"), "`+` exceeds the range of an int");
    assert!(failed("data.total * 0.02").contains("write double(x) around the int"));
    assert!(failed("timestamp('noon')").starts_with("timestamp: "), "{}", failed("timestamp('noon')"));
}

#[test]
fn what_is_no_number_is_no_result() {
    assert!(on("1.0 / 0.0", order(), None).unwrap_err().contains("divided by zero"));
    assert!(on("{'a': [0.0 / 0.0]}", order(), None).unwrap_err().contains("no number"));
    assert!(on("type(1)", order(), None).unwrap_err().contains("no form in JSON"));
}

#[test]
fn the_schema_says_which_numbers_are_int_and_which_double() {
    let schema = json!({"properties": {
        "total": {"type": "number"}, "count": {"type": "integer"},
        "lines": {"items": {"$ref": "#/$defs/line"}}, "prices": {"additionalProperties": {"type": ["number", "null"]}},
    }, "$defs": {"line": {"properties": {"price": {"type": "number"}, "next": {"$ref": "#/$defs/line"}}}}});
    let data = json!({"total": 100, "count": 5.0, "lines": [{"price": 3, "next": {"price": 2}}], "prices": {"a": 1}});
    let gives = |text: &str| on(text, data.clone(), Some(schema.clone())).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(gives("data.total * 0.02"), 2);
    assert_eq!(gives("data.count % 2"), 1);
    assert_eq!(gives("data.lines[0].price * 1.5 + data.lines[0].next.price"), 6.5);
    assert_eq!(gives("data.prices.a * 1.5"), 1.5);
    assert_eq!(gives("data.total"), 100);
    assert_eq!(gives("data"), data);
}

#[test]
fn no_whole_number_is_changed_in_silence() {
    let schema = json!({"properties": {"total": {"type": "number"}, "count": {"type": "integer"}}});
    for number in ["9007199254740993", "-9007199254740993", "9223372036854775807", "18446744073709551615", "12345678901234567890"] {
        let number: Json = serde_json::from_str(number).unwrap();
        let data = json!({"total": number, "count": number, "other": number});
        for text in ["data", "{'total': data.total, 'count': data.count, 'other': data.other}"] {
            assert_eq!(on(text, data.clone(), Some(schema.clone())).unwrap(), data, "{text}");
        }
        assert!(on("data.total * 1.5", data.clone(), Some(schema.clone())).is_err(), "{number} is no double");
    }
    let small = json!({"total": 9007199254740992i64, "count": 1e2});
    assert_eq!(on("data.total * 0.5", small.clone(), Some(schema.clone())).unwrap(), 4503599627370496i64);
    assert_eq!(on("data.count + 1", small, Some(schema)).unwrap(), 101);
}

#[test]
fn money_is_rounded_as_people_do() {
    assert_eq!(gives("0.1 + 0.2"), 0.30000000000000004);
    assert_eq!(gives("round(0.1 + 0.2, 2)"), 0.3);
    assert_eq!(gives("round(1.005, 2)"), 1.01);
    assert_eq!(gives("round(-1.005, 2)"), -1.01);
    assert_eq!(gives("round(2.5, 0)"), 3);
    assert_eq!(gives("round(1.10 * 3.0, 2) == 3.3"), true);
    assert_eq!(gives("round(7, 2) * 0.5"), 3.5);
    assert_eq!(gives("round(1e300, 15)"), 1e300);
    assert!(on("round(1.0, 16)", order(), None).unwrap_err().contains("0 to 15"));
    assert_eq!(gives("sum(data.items.map(i, i.quantity))"), 3);
    assert_eq!(gives("round(sum(data.items.map(i, double(i.quantity) * double(i.price))), 2)"), 5.2);
    assert_eq!(gives("sum([])"), 0);
    assert!(on("sum(['a'])", order(), None).unwrap_err().contains("holds a string"));
}

#[test]
fn cel_works_over_borrowed_json() {
    for (text, expected) in [
        ("data.items.all(i, i.quantity > 0)", json!(true)),
        ("data.items.exists(i, i.sku == 'b') && size(data.items) == 2", json!(true)),
        ("data.items.filter(i, i.quantity > 1)", json!([{"sku": "a", "quantity": 2, "price": 1.1}])),
        ("data.customer.email.matches('^[^@]+@[^@]+$')", json!(true)),
        ("matches(data.region, '^(US|CA)$')", json!(false)),
        ("'EU' in [data.region]", json!(true)),
        ("'id' in data.customer", json!(true)),
        ("data.customer == {'id': 'c-1', 'email': 'a@b.se', 'nothing': null}", json!(true)),
        ("data.items[0] == data.items[1]", json!(false)),
        ("data.items[0] in data.items", json!(true)),
        ("data.isForced == true ? 'FORCED' : 'PENDING'", json!(null)),
        ("math.greatest(data.items.map(i, i.quantity))", json!(2)),
        ("data.region.lowerAscii().replace('e', 'x')", json!("xu")),
        ("['a', 'b'].join('-')", json!("a-b")),
        ("duration('90s')", json!("90s")),
        ("duration('-1.5s')", json!("-1.5s")),
        ("data.customer.`email`", json!("a@b.se")),
        ("data.items.map(data, data.sku)", json!(["a", "b"])),
        ("type(data.orderId) == string", json!(true)),
        ("{'id': data.orderId, 'n': size(data.items)}", json!({"id": "o-1", "n": 2})),
    ] {
        match expected {
            Json::Null => assert!(on(text, order(), None).is_err(), "{text}"),
            expected => assert_eq!(gives(text), expected, "{text}"),
        }
    }
}

#[test]
fn results_have_the_type_that_is_asked_for() {
    let data = json!({"n": 42, "f": 1.5, "b": true, "t": "x"});
    let (attributes, data) = (Object::new(), Message::from(&data));
    let input = bare(&attributes, &data);
    let of = |text: &str| compile(text, &Scope::default()).unwrap();
    assert_eq!(of("data.n").string(&input).unwrap(), "42");
    assert_eq!(of("data.t + 'y'").string(&input).unwrap(), "xy");
    assert_eq!(of("data.f").string(&input).unwrap_err().to_string(), "`data.f` must give a text, but gives a double");
    assert!(of("data.b").bool(&input).unwrap());
    assert_eq!(of("data.n + 1").bool(&input).unwrap_err().to_string(), "`data.n + 1` must give true or false, but gives an int");
    assert!(matches!(of("data.t").json(&input).unwrap(), std::borrow::Cow::Borrowed(_)), "copied");
    assert_eq!(of("key == null").json(&input).unwrap().into_owned(), Message::Bool(true));
    assert_eq!((of("data.n").path(), of("data.n + 1").path()), (Some("data.n"), None));
}

#[test]
fn mistakes_are_told_with_their_place_and_a_hint() {
    for (text, expected) in [
        ("data.total = 5", "column 12: write == to compare: a single = means nothing in CEL"),
        ("data.total === 5", "column 12: write == or != with two characters: CEL has no === and !=="),
        ("$data.total > 5", "column 1: write the name alone, without $: data.orderId"),
        ("data.a > 1 and data.b > 1", "column 12: write && for and"),
        ("data.a > 1 & data.b > 1", "column 12: write && for and"),
        ("data.a <> 1", "column 8: write != for not equal"),
        ("data.total >", "the expression ends too early"),
        ("(data.total", "the expression ends too early"),
        ("data.total > ) 1", "column 14: ')' is not expected here"),
        (
            "data.total >\n customer.id",
            "line 2, column 2: unknown name customer: there are topic, key, id, publishTime, attributes, data; the message's own fields are data.customer",
        ),
        ("Data.total > 1", "column 1: unknown name Data: did you mean data?"),
        ("data.items.all(item, items.quantity > 0)", "column 22: unknown name items: did you mean item?"),
        ("data.items.all(i, i.quantity > 0) && i.x", "unknown name i"),
        ("data.items.size() > length(data.items)", "unknown function length()"),
        ("data.name.startswith('a')", "unknown function .startswith(): did you mean .startsWith()?"),
        ("math.ceiling(1.5)", "unknown function math.ceiling()"),
        ("data.items.all(i.quantity > 0)", "unknown function .all()"),
        ("lists.range(10)", "unknown"),
        ("data.a.matches(data.b)", "the pattern of matches() must be a text in quotes"),
        ("data.a.matches('(')", "matches(): not a valid pattern: unclosed group"),
        ("data.a.matches('(a{1000}){1000}')", "too much memory"),
        ("Money{units: 1}", "there is no type Money"),
        ("  ", "the expression is empty"),
    ] {
        let error = refused(text);
        assert!(error.contains(expected), "{text}\n  gave: {error}\n  want: {expected}");
    }
}

#[test]
fn what_costs_too_much_is_refused() {
    let nested = "data.a.all(x, data.b.all(y, x == y))";
    assert!(compile(nested, &Scope::default()).is_ok());
    assert!(refused("data.a.all(x, data.b.all(y, data.c.all(z, z == x)))").contains("nested 2 deep"));
    assert!(compile("data.a.map(x, x).map(x, x).map(x, x).map(x, x)", &Scope::default()).is_ok());
    assert!(refused("data.a.map(x, x).map(x, x).map(x, x).map(x, x).map(x, x)").contains("more than 4 of"));
    assert!(refused(&format!("data.a == '{}'", "x".repeat(1000))).contains("longer than 1000"));
}

/// On half of the stack that threads have by default. An overflow would end the whole test run.
#[test]
fn deep_chains_are_refused_or_evaluated_but_never_overflow_the_stack() {
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(try_deep_chains).unwrap();
    thread.join().unwrap();
}

fn try_deep_chains() {
    let chains: [(&str, &str, &str); 10] = [
        ("1", "+1", ""),
        ("data.a", "[0]", ""),
        ("1", "<1", ""),
        ("data", ".f()", ""),
        ("data", ".f", ""),
        ("", "!", "true"),
        ("", "-", "1"),
        ("", "(", "1"),
        ("", "[", "1"),
        ("", "true?", "1"),
    ];
    for (head, link, tail) in chains {
        for links in [1, 50, 100, 149, 150, 200, 300, 400, 450, 999, 5000, 100_000] {
            let closing = match link {
                "(" => ")".repeat(links),
                "[" => "]".repeat(links),
                "true?" => ":1".repeat(links),
                _ => String::new(),
            };
            let text = format!("{head}{}{tail}{closing}", link.repeat(links));
            let outcome = on(&text, json!({"a": [[1]]}), None);
            assert!(links < 401 || outcome.is_err(), "{link} {links}");
        }
    }
    assert_eq!(on(&format!("1{}", "+1".repeat(100)), json!({}), None).unwrap(), 101);
    assert!(refused(&format!("1{}", "+1".repeat(300))).contains("in one chain"));
    assert!(refused(&format!("1{}", "+1".repeat(450))).contains("more than 400 operators"));
    assert_eq!(refused(&"(".repeat(33)), "column 33: brackets may be nested 32 deep");
    assert!(compile(&format!("{}1{}", "(".repeat(32), ")".repeat(32)), &Scope::default()).is_ok());
}

mod any_text {
    use super::*;
    use proptest::prelude::*;

    const WORDS: [&str; 44] = [
        "data",
        "attributes",
        "key",
        ".",
        "?.",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        ">",
        "&&",
        "||",
        "!",
        " in ",
        "all",
        "map",
        "x",
        "items",
        "1",
        "0.5",
        "'a'",
        "\"",
        "'",
        "\\",
        "null",
        "true",
        "has",
        "size",
        "\u{e9}",
        "\n",
        "`",
    ];

    fn try_it(text: &str) {
        if let Ok(compiled) = compile(text, &Scope::default()) {
            let (order, attributes) = (order(), Object::new());
            let data = Message::from(&order);
            let input = bare(&attributes, &data);
            let _ = (compiled.json(&input).map(|_| ()), compiled.bool(&input), compiled.string(&input));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn made_of_words_of_the_language_never_panics(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..30)) {
            try_it(&words.concat());
        }

        #[test]
        fn mutated_never_panics(at in 0usize..60, cut in 0usize..5, put in "\\PC{0,4}") {
            let mut chars: Vec<char> = "data.items.all(i, i.quantity > 0 && round(i.price, 2) < 1.5)".chars().collect();
            let at = at.min(chars.len());
            chars.splice(at..(at + cut).min(chars.len()), put.chars());
            try_it(&chars.into_iter().collect::<String>());
        }

        #[test]
        fn at_all_never_panics(text in "\\PC{0,120}") {
            try_it(&text);
        }
    }
}

#[test]
fn what_can_never_be_true_or_false_is_known_without_a_message() {
    let schema = json!({
        "properties": {
            "total": {"type": "number"}, "name": {"$ref": "#/$defs/name"}, "items": {"type": "array"}, "paid": {"type": "boolean"},
            "either": {"type": ["boolean", "string"]}, "loop": {"$ref": "#/properties/loop"}
        },
        "$defs": {"name": {"type": "string"}}
    });
    let scope = Scope::new(Some(&schema));
    let never = |text: &str| compile(text, &scope).unwrap().never_bool(Some(&schema));
    for (text, gives) in [
        ("data.total", "a number"),
        ("data.name", "a text"),
        ("data.items.map(i, i.paid)", "a list"),
        ("data.items.filter(i, i.paid)", "a list"),
        ("size(data.items)", "a number"),
        ("data.items.size()", "a number"),
        ("data.unknown + 1", "a number"),
        ("data.a + data.b", "a sum"),
        ("-data.unknown", "a number"),
        ("round(data.total, 2)", "a number"),
        ("'true'", "a text"),
        ("data.paid ? 'yes' : 'no'", "a text"),
        ("[true]", "a list"),
        ("{'a': true}", "a map"),
        ("null", "null"),
        ("publishTime", "a time"),
        ("data.name.lowerAscii()", "a text"),
    ] {
        assert!(never(text).is_some_and(|said| said.contains(gives)), "{text}: {:?}", never(text));
    }
    for text in [
        "data.paid",
        "data.either",
        "data.unknown",
        "data.loop",
        "data.total.deeper",
        "attributes.flag",
        "!data.unknown",
        "true",
        "data.total > 1.0",
        "data.items.all(i, i.paid)",
        "data.items.exists(i, i.paid)",
        "'a' in data.items",
        "has(data.total)",
        "data.paid ? data.paid : 'no'",
        "data.name.startsWith('a')",
        "data.items[0]",
        "bool(data.name)",
        "data.?paid.orValue(false)",
        "data.paid && data.either",
        "data.name == 'a'",
        "dyn(data.total)",
        "math.isNaN(data.total)",
    ] {
        assert_eq!(never(text), None, "{text}");
    }
}
