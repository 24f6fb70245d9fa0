use super::super::{Compiled, Input, Program, Scope, compile, functions, result};
use crate::json::{Json, Object};
use chrono::DateTime;
use serde_json::{Value, json};

/// What both ways of evaluating give, if the direct one gives anything.
fn both(compiled: &Compiled, data: &Json<'_>) -> Option<(Json<'static>, Result<Json<'static>, String>)> {
    let attributes = Object::from_iter([("type", "SHIP".into()), ("source", "web".into())]);
    let input = Input { topic: "orders", key: None, id: "m-1", publish_time: DateTime::UNIX_EPOCH, attributes: &attributes, data };
    let Program::Cel(expression, _) = &compiled.program else { return None };
    let direct = compiled.direct(&input).as_ref().and_then(result::scalar)?.ok()?;
    Some((direct, compiled.interpret(expression, &input).map_err(|error| error.to_string())))
}

fn order() -> Value {
    json!({
        "id": "o-1", "total": 100, "rate": 2.5, "name": "Åse", "huge": u64::MAX, "paid": true, "none": null, "tags": ["a", "b"], "mixed": [1, "a", null],
        "customer": {"id": "c-1", "none": null}, "empty": [],
        "items": [{"sku": "a", "quantity": 2, "price": 1.1}, {"sku": "b", "quantity": 1, "price": 3, "tags": ["x"]}],
    })
}

/// Expressions, most of them meaningless, always the same ones.
struct Monkey(u64);

impl Monkey {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }

    fn one_of(&mut self, texts: &[&str]) -> String {
        let chosen = self.below(texts.len());
        texts[chosen].to_owned()
    }

    fn expression(&mut self, depth: usize, item: Option<&str>) -> String {
        if depth == 0 || self.below(5) == 0 {
            return self.atom(item);
        }
        let mut part = || self.expression(depth - 1, item);
        let (a, b) = (part(), part());
        match self.below(20) {
            0 => format!("!({a})"),
            1 => format!("-({a})"),
            2 => format!("size({a})"),
            3 => format!("double({a})"),
            4 => format!("sum({a})"),
            5 => format!("round({a}, {})", self.below(4)),
            6 => format!("({a}) ? ({b}) : {}", self.expression(depth - 1, item)),
            7 => format!("({a}).?{}.orValue({b})", self.one_of(&["total", "price", "none", "nowhere"])),
            8 => format!("({a}).{}({b})", self.one_of(&["contains", "startsWith", "endsWith"])),
            9 => format!("({a}).matches('^[a-z]-?[0-9]*$')"),
            10 if item.is_none() => {
                let list = self.one_of(&["data.items", "data.tags", "data.mixed", "data.empty", "[1, 2.5, 3]"]);
                let loops = self.one_of(&["all", "exists", "map", "filter", "exists_one"]);
                let within = self.expression(depth - 1, Some("x"));
                let made = format!("{list}.{loops}(x, {within})");
                if self.below(2) == 0 { made } else { format!("{}({made})", self.one_of(&["size", "sum", "!"])) }
            }
            _ => format!("({a}) {} ({b})", self.one_of(&["==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "&&", "||", "in"])),
        }
    }

    fn atom(&mut self, item: Option<&str>) -> String {
        if item.is_some() && self.below(2) == 0 {
            return self.one_of(&["x", "x.quantity", "x.price", "x.sku", "x.tags", "has(x.tags)", "x.quantity > 1", "x == 'a'"]);
        }
        self.one_of(&[
            "1",
            "0",
            "2.5",
            "-3",
            "9223372036854775807",
            "'a'",
            "'Åse'",
            "''",
            "true",
            "false",
            "null",
            "[1, 2]",
            "['a', 'o-1']",
            "data.id",
            "data.total",
            "data.rate",
            "data.name",
            "data.huge",
            "data.paid",
            "data.none",
            "data.tags",
            "data.customer",
            "data.customer.id",
            "data.customer.none",
            "data.nowhere",
            "data['total']",
            "has(data.total)",
            "has(data.none)",
            "has(data.nowhere)",
            "attributes.type",
            "key",
            "topic",
            "id",
        ])
    }
}

#[test]
fn it_says_what_the_interpreter_says_or_nothing() {
    let schema = json!({"type": "object", "properties": {
        "total": {"type": "number"}, "rate": {"type": "number"},
        "items": {"type": "array", "items": {"properties": {"price": {"type": "number"}, "quantity": {"type": "integer"}}}},
    }});
    let (order, mut monkey, mut said) = (order(), Monkey(1), 0);
    for _ in 0..6000 {
        let text = monkey.expression(3, None);
        for schema in [None, Some(&schema)] {
            let Ok(compiled) = compile(&text, &Scope::new(schema)) else { continue };
            if let Some((direct, interpreted)) = both(&compiled, &Json::from(&order)) {
                assert_eq!(Ok(direct), interpreted, "{text}");
                said += 1;
            }
        }
    }
    assert!(said > 1000, "only {said} were compared");
}

#[test]
fn what_the_examples_ask_needs_no_interpreter() {
    for text in [
        "data.lineItems.all(line, line.quantity > 0)",
        "!data.items.all(i, has(i.unitPrice)) || round(sum(data.items.map(i, double(i.quantity) * i.unitPrice)), 2) == round(data.totalAmount, 2)",
        "round(data.?tax.orValue(0.0) - data.totals.?discount.orValue(0.0), 2) <= round(data.totals.total * 1.2, 2)",
        "data.lines.all(line, size(line.?serials.orValue([])) == 0 || size(line.serials) == line.quantity)",
        "topic == 'short-events' || attributes.eventType == 'SHORT'",
        "data.status != 'CANCELLED' || size(data.?notes.orValue('')) > 0",
        "data.country in ['SE', 'DE'] && data.zip.matches('^[0-9]{5}$') && !data.name.startsWith('test')",
        "data.items.filter(i, i.paid).exists(i, i.price >= 1000.0)",
    ] {
        let compiled = compile(text, &Scope::default()).unwrap();
        assert!(matches!(&compiled.program, Program::Cel(_, Some(_))), "{text}");
    }
}

#[test]
fn rounding_is_that_of_the_decimal_text() {
    let mut monkey = Monkey(1);
    for _ in 0..20_000 {
        let digits = monkey.below(16) as i64;
        let most = if monkey.below(2) == 0 { 100_000 } else { 1 << 31 };
        let whole = monkey.below(most);
        // Many that lie in the middle, or hardly beside it.
        let text = format!("-{whole}.{}{}", monkey.below(1000), monkey.one_of(&["5", "", "49999999", "50000001"]));
        for text in [&text, &text[1..]] {
            let x: f64 = text.parse().unwrap();
            let rounded = functions::rounded(x, digits).unwrap();
            assert_eq!(rounded.to_bits(), functions::rounded_as_text(x, digits).to_bits(), "round({text}, {digits})");
        }
    }
    assert_eq!((functions::rounded(1.005, 2), functions::rounded(-0.001, 2).map(f64::is_sign_negative)), (Some(1.01), Some(true)));
    assert_eq!((functions::rounded(1.0, 16), functions::rounded(1.0, -1)), (None, None));
}
