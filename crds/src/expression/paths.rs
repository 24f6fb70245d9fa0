//! The fields of the data that an expression asks for, held against the schema: a name that nobody declared is mostly a slip, and a
//! message in which it is missing would be the first to say so.

use super::gives::referred;
use super::{Compiled, Program, VARIABLES};
use crate::document::nearest::nearest;
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};
use serde_json::{Map, Value as Json};

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Any entry of a list.
    Item,
}

/// A field that the schema does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub message: String,
    /// Whether a field of nearly the same name is there.
    pub is_slip: bool,
}

impl Compiled {
    /// The first path below `data` that leads to a field of which neither the schema nor the example knows. What a schema leaves open
    /// (`additionalProperties: true`, or parts that depend on the data) is nobody's slip.
    pub fn unknown_path(&self, schema: &Json, example: Option<&Json>) -> Option<Unknown> {
        self.asks().paths.iter().find_map(|path| {
            let unknown = resolve(path, schema)?;
            (!example.is_some_and(|example| holds(example, path))).then_some(unknown)
        })
    }

    /// Whether the names that it uses are all among these.
    pub fn asks_only(&self, names: &[&str]) -> bool {
        self.asks().names.iter().all(|name| names.contains(&name.as_str()))
    }

    fn asks(&self) -> Asks {
        let mut asks = Asks::default();
        match &self.program {
            Program::Path(path) => {
                asks.names.push(path.variable().to_owned());
                if path.variable() == "data" {
                    asks.paths.push(path.fields().iter().cloned().map(Step::Field).collect());
                }
            }
            Program::Cel(expression, _) => asks.walk(expression),
        }
        asks
    }
}

#[derive(Default)]
struct Asks {
    names: Vec<String>,
    paths: Vec<Vec<Step>>,
    /// Variables of the comprehensions around, and what of the data each of them is.
    loops: Vec<(String, Option<Vec<Step>>)>,
}

impl Asks {
    fn walk(&mut self, node: &IdedExpr) {
        if let Some(path) = self.path(node) {
            self.paths.push(path);
        }
        match &node.expr {
            Expr::Ident(name) if !self.loops.iter().any(|(bound, _)| bound == name) => {
                let bare = name.trim_start_matches('.');
                self.names.extend(VARIABLES.contains(&bare).then(|| bare.to_owned()));
            }
            Expr::Select(select) => self.below(&select.operand),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => list.elements.iter().for_each(|element| self.walk(element)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.walk(&entry.key);
                    self.walk(&entry.value);
                }
                EntryExpr::StructField(field) => self.walk(&field.value),
            }),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            _ => {}
        }
    }

    /// What a longer path goes through: the whole of it has been looked at.
    fn below(&mut self, node: &IdedExpr) {
        let seen = self.paths.len();
        self.walk(node);
        if self.path(node).is_some() {
            self.paths.remove(seen);
        }
    }

    fn call(&mut self, call: &CallExpr) {
        call.target.iter().for_each(|target| self.walk(target));
        let is_access = matches!(call.func_name.as_str(), "_[_]" | "_?._" | "_[?_]");
        for (index, argument) in call.args.iter().enumerate() {
            if is_access && index == 0 { self.below(argument) } else { self.walk(argument) }
        }
    }

    fn comprehension(&mut self, made: &ComprehensionExpr) {
        self.walk(&made.iter_range);
        self.walk(&made.accu_init);
        let items = self.path(&made.iter_range).map(|mut path| {
            path.push(Step::Item);
            path
        });
        let outside = self.loops.len();
        self.loops.push((made.accu_var.clone(), None));
        match &made.iter_var2 {
            // Of two variables the first is the place in the list.
            Some(second) => self.loops.extend([(made.iter_var.clone(), None), (second.clone(), items)]),
            None => self.loops.push((made.iter_var.clone(), items)),
        }
        [&made.loop_cond, &made.loop_step, &made.result].into_iter().for_each(|part| self.walk(part));
        self.loops.truncate(outside);
    }

    /// The part of the data that this is, if it is one and nothing else.
    fn path(&self, node: &IdedExpr) -> Option<Vec<Step>> {
        let with = |mut path: Vec<Step>, step: Step| {
            path.push(step);
            path
        };
        match &node.expr {
            Expr::Ident(name) => match self.loops.iter().rev().find(|(bound, _)| bound == name) {
                Some((_, path)) => path.clone(),
                None => (name.trim_start_matches('.') == "data").then(Vec::new),
            },
            Expr::Select(select) => Some(with(self.path(&select.operand)?, Step::Field(select.field.clone()))),
            Expr::Call(CallExpr { func_name, args, .. }) if matches!(func_name.as_str(), "_[_]" | "_?._" | "_[?_]") => {
                let [of, name] = args.as_slice() else { return None };
                let step = match &name.expr {
                    Expr::Literal(LiteralValue::String(field)) => Step::Field(field.inner().to_owned()),
                    Expr::Literal(LiteralValue::Int(_)) => Step::Item,
                    _ => return None,
                };
                Some(with(self.path(of)?, step))
            }
            _ => None,
        }
    }
}

/// What the schema says of a field that it does not have. None: it has it, or says too little.
fn resolve(path: &[Step], root: &Json) -> Option<Unknown> {
    let mut schema = referred(root, root)?;
    let mut place = "data".to_owned();
    for step in path {
        // Parts that hold only sometimes may bring further fields.
        let depends = ["allOf", "anyOf", "oneOf", "if", "not", "patternProperties", "dependentSchemas", "$dynamicRef"];
        if depends.iter().any(|keyword| schema.get(keyword).is_some()) {
            return None;
        }
        let inner = match step {
            Step::Item => {
                place.push_str("[]");
                schema.get("items").filter(|items| items.is_object())?
            }
            Step::Field(name) => {
                if let Some(single) = schema["type"].as_str().and_then(without_fields) {
                    let message = format!("{place} is {single} by the event's schema, and has no fields: it cannot have a {name}");
                    return Some(Unknown { message, is_slip: false });
                }
                let fields = schema.get("properties").and_then(Json::as_object)?;
                match fields.get(name) {
                    Some(field) => field,
                    None => match schema.get("additionalProperties") {
                        Some(others) if others.is_object() => others,
                        Some(Json::Bool(true)) => return None,
                        _ if schema["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name)) => return None,
                        _ => return Some(no_such(&place, name, fields)),
                    },
                }
            }
        };
        if let Step::Field(name) = step {
            place = format!("{place}.{name}");
        }
        schema = referred(root, inner)?;
    }
    None
}

fn no_such(place: &str, name: &str, fields: &Map<String, Json>) -> Unknown {
    const SHOWN: usize = 12;
    let near = nearest(name, fields.keys().map(String::as_str));
    let hint = match near {
        Some(near) => format!("did you mean {place}.{near}?"),
        None => {
            let names: Vec<&str> = fields.keys().map(String::as_str).take(SHOWN).collect();
            let more = if fields.len() > SHOWN { ", ..." } else { "" };
            format!("it has {}{more}; add {name} to its properties, or additionalProperties: true", names.join(", "))
        }
    };
    Unknown { message: format!("{place}.{name} is no field of the event's schema: {hint}"), is_slip: near.is_some() }
}

fn without_fields(kind: &str) -> Option<&'static str> {
    match kind {
        "string" => Some("a text"),
        "number" => Some("a number"),
        "integer" => Some("a whole number"),
        "boolean" => Some("true or false"),
        "array" => Some("a list"),
        _ => None,
    }
}

/// Whether a path leads somewhere: through lists, in any of their entries.
fn holds(value: &Json, path: &[Step]) -> bool {
    match path.split_first() {
        None => true,
        Some((Step::Field(name), rest)) => value.get(name).is_some_and(|field| holds(field, rest)),
        Some((Step::Item, rest)) => value.as_array().is_some_and(|items| items.iter().any(|item| holds(item, rest))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Scope, compile};
    use serde_json::json;

    fn unknown(text: &str) -> Option<String> {
        let schema = json!({
            "properties": {
                "orderId": {"type": "string"}, "total": {"type": "number"}, "any": {}, "paid": {"type": "boolean"},
                "customer": {"$ref": "#/$defs/person"},
                "items": {"type": "array", "items": {"type": "object", "properties": {"sku": {"type": "string"}, "quantity": {"type": "integer"}}}},
                "open": {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": true},
                "prices": {"type": "object", "properties": {}, "additionalProperties": {"properties": {"net": {"type": "number"}}}},
                "either": {"properties": {"a": {}}, "anyOf": [{"required": ["a"]}, {"properties": {"b": {}}}]},
            },
            "required": ["note"],
            "$defs": {"person": {"properties": {"name": {"type": "string"}}}}
        });
        let example = json!({"extra": 1, "items": [{}, {"colour": "red"}]});
        compile(text, &Scope::new(Some(&schema))).unwrap().unknown_path(&schema, Some(&example)).map(|unknown| unknown.message)
    }

    #[test]
    fn a_field_that_neither_schema_nor_example_has_is_told_with_what_was_meant() {
        for (text, says) in [
            ("data.ordreId", "data.ordreId is no field of the event's schema: did you mean data.orderId?"),
            ("data.customer.nmae", "data.customer.nmae is no field of the event's schema: did you mean data.customer.name?"),
            ("size(data.itmes) > 0", "did you mean data.items?"),
            (
                "data.items.all(i, i.quantty > 0)",
                "data.items[].quantty is no field of the event's schema: did you mean data.items[].quantity?",
            ),
            (
                "data.items.map(i, {'s': i.sku, 'n': i.count})",
                "data.items[].count is no field of the event's schema: it has quantity, sku; add",
            ),
            ("data.items[0].skuu == 'x'", "did you mean data.items[].sku?"),
            ("data['totl'] > 1.0", "did you mean data.total?"),
            ("has(data.totla) && data.total > 1.0", "did you mean data.total?"),
            ("data.?totl.orValue(1.0) > 0.0", "did you mean data.total?"),
            ("data.?customer.?age.orValue(1) > 0", "data.customer.age is no field"),
            ("data.prices.tea.nett > 1.0", "did you mean data.prices.tea.net?"),
            ("data.orderId.length > 3", "data.orderId is a text by the event's schema, and has no fields"),
            ("data.items.sku == 'x'", "data.items is a list by the event's schema, and has no fields"),
        ] {
            assert!(unknown(text).is_some_and(|said| said.contains(says)), "{text}: {:?}", unknown(text));
        }
    }

    #[test]
    fn what_is_declared_or_left_open_or_shown_by_the_example_is_no_slip() {
        for text in [
            "data",
            "data.orderId",
            "data.note",
            "data.extra",
            "data.any.thing",
            "data.open.b",
            "data.prices.tea.net",
            "data.either.b",
            "data.items.exists(i, i.colour == 'red')",
            "data.items.map(data, data.sku)",
            "data.items.filter(i, i.quantity > 1).map(j, j.whatever)",
            "attributes.nothing == 'x'",
            "{'a': 1}.b",
            "data.items[0].sku + data.customer.name",
        ] {
            assert_eq!(unknown(text), None, "{text}");
        }
    }

    #[test]
    fn it_is_known_what_an_expression_asks_for() {
        let only = |text: &str, names: &[&str]| compile(text, &Scope::default()).unwrap().asks_only(names);
        assert!(only("1 == 2", &[]) && only("topic == 'a' || topic == 'b'", &["topic"]) && only("[1].all(x, x > 0)", &[]));
        assert!(!only("topic == 'a' && attributes.b == 'c'", &["topic"]) && !only("data.a", &["topic"]) && !only(".key == 'a'", &[]));
    }
}
