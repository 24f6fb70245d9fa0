//! What an expression gives whatever the message is, as far as that can be known: the library has no type checker, and a rule that is
//! no yes or no would only be found by the first order.

use super::evaluate::Path;
use super::{Compiled, Program};
use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};
use serde_json::Value as Json;

const NUMBERS: [&str; 30] = [
    "size",
    "int",
    "uint",
    "double",
    "round",
    "sum",
    "indexOf",
    "lastIndexOf",
    "ceil",
    "floor",
    "trunc",
    "abs",
    "sign",
    "sqrt",
    "bitAnd",
    "bitOr",
    "bitXor",
    "bitNot",
    "bitShiftLeft",
    "bitShiftRight",
    "greatest",
    "least",
    "@max",
    "@min",
    "math.@max",
    "math.@min",
    "getFullYear",
    "getMonth",
    "getDate",
    "getHours",
];
const TEXTS: [&str; 10] = ["string", "charAt", "join", "lowerAscii", "upperAscii", "replace", "substring", "trim", "format", "quote"];
/// References of a schema that lead through each other end here.
const MAX_REFERENCES: usize = 16;

impl Compiled {
    /// Why it can never be true or false: a sentence. None: it may be.
    pub fn never_bool(&self, schema: Option<&Json>) -> Option<String> {
        let gives = match &self.program {
            Program::Path(path) => of_path(path, schema),
            Program::Cel(expression, _) => of(expression, schema),
        }?;
        Some(format!("must give true or false, but {} gives {gives}: compare it, such as with == or >", self.text().trim()))
    }
}

/// None: true or false, or nobody knows.
fn of(node: &IdedExpr, schema: Option<&Json>) -> Option<&'static str> {
    match &node.expr {
        Expr::Literal(LiteralValue::Boolean(_)) => None,
        Expr::Literal(LiteralValue::String(_)) => Some("a text"),
        Expr::Literal(LiteralValue::Null) => Some("null"),
        Expr::Literal(LiteralValue::Bytes(_)) => Some("bytes"),
        Expr::Literal(_) => Some("a number"),
        Expr::List(_) => Some("a list"),
        Expr::Map(_) => Some("a map"),
        Expr::Comprehension(made) => of(&made.accu_init, None).filter(|_| matches!(made.accu_init.expr, Expr::List(_))),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            // Both ways must be wrong.
            ("_?_:_", [_, yes, no]) => of(yes, schema).and(of(no, schema)),
            ("_+_", [left, right]) => of(left, schema).or_else(|| of(right, schema)).or(Some("a sum")),
            ("_-_" | "_*_" | "_/_" | "_%_" | "-_", _) => Some("a number"),
            (name, _) if NUMBERS.contains(&name) => Some("a number"),
            (name, _) if TEXTS.contains(&name) => Some("a text"),
            ("split", _) => Some("a list"),
            ("timestamp", _) => Some("a time"),
            ("duration", _) => Some("a duration"),
            _ => None,
        },
        _ => Path::of(node).and_then(|path| of_path(&path, schema)),
    }
}

fn of_path(path: &Path, schema: Option<&Json>) -> Option<&'static str> {
    match (path.variable(), path.fields()) {
        ("id" | "topic" | "key", []) => Some("a text"),
        ("publishTime", []) => Some("a time"),
        ("attributes", []) => Some("a map"),
        ("data", fields) => of_field(schema?, fields),
        _ => None,
    }
}

/// What the schema says that a field is.
fn of_field(root: &Json, fields: &[String]) -> Option<&'static str> {
    let mut schema = referred(root, root)?;
    for field in fields {
        schema = referred(root, schema["properties"].get(field)?)?;
    }
    match schema["type"].as_str()? {
        "string" => Some("a text"),
        "number" | "integer" => Some("a number"),
        "array" => Some("a list"),
        "object" => Some("a map"),
        "null" => Some("null"),
        _ => None,
    }
}

/// The schema that a reference names.
pub(super) fn referred<'a>(root: &'a Json, mut schema: &'a Json) -> Option<&'a Json> {
    for _ in 0..MAX_REFERENCES {
        let Some(target) = schema["$ref"].as_str() else { return Some(schema) };
        schema = root.pointer(target.strip_prefix('#')?)?;
    }
    None
}
