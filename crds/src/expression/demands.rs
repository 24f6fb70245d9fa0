//! What must be a certain text for a condition to hold: of `attributes.type == 'paid' && data.total > 1.0` that the type is paid.

use super::evaluate::Path;
use super::{Compiled, Program};
use crate::document::wording::quoted;
use cel::IdedExpr;
use cel::common::ast::{Expr, LiteralValue};

/// A path, and the text that it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub path: String,
    pub text: String,
}

impl Compiled {
    /// Every one without which it cannot hold.
    pub fn demands(&self) -> Vec<Demand> {
        let mut demands = Vec::new();
        if let Program::Cel(expression, _) = &self.program {
            collect(expression, &mut demands);
        }
        demands
    }

    /// Two of them that contradict each other: a sentence.
    pub fn contradiction(&self) -> Option<String> {
        let demands = self.demands();
        let contradict = |one: &Demand, other: &Demand| one.path == other.path && one.text != other.text;
        let other = |index: usize| demands[..index].iter().find(|other| contradict(&demands[index], other));
        let (later, earlier) = (0..demands.len()).find_map(|index| Some((&demands[index], other(index)?)))?;
        Some(format!("{} cannot be {} and {} at once", later.path, quoted(&earlier.text), quoted(&later.text)))
    }
}

fn collect(node: &IdedExpr, demands: &mut Vec<Demand>) {
    let Expr::Call(call) = &node.expr else { return };
    match (call.func_name.as_str(), call.args.as_slice()) {
        ("_&&_", parts) => parts.iter().for_each(|part| collect(part, demands)),
        ("_==_", [left, right]) => demands.extend(demand(left, right).or_else(|| demand(right, left))),
        _ => {}
    }
}

fn demand(path: &IdedExpr, text: &IdedExpr) -> Option<Demand> {
    let Expr::Literal(LiteralValue::String(text)) = &text.expr else { return None };
    Some(Demand { path: Path::of(path)?.to_string(), text: text.inner().to_owned() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Scope, compile};

    #[test]
    fn what_must_be_a_text_is_known_and_what_may_be_one_is_not() {
        let demands = |text: &str| -> Vec<String> {
            let demands = compile(text, &Scope::default()).unwrap().demands();
            demands.into_iter().map(|demand| format!("{}={}", demand.path, demand.text)).collect()
        };
        assert_eq!(demands("attributes.type == 'a' && (data.n > 1 && 'b' == data.c.d)"), ["attributes.type=a", "data.c.d=b"]);
        for text in ["data.a == 'x' || data.b == 'y'", "!(data.a == 'x')", "data.a != 'x'", "data.a == 1", "data.a", "data.a == data.b"] {
            assert_eq!(demands(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn one_path_cannot_be_two_texts() {
        let contradiction = |text: &str| compile(text, &Scope::default()).unwrap().contradiction();
        assert_eq!(
            contradiction("data.a == 'x' && data.n > 1 && data.a == 'y'").as_deref(),
            Some("data.a cannot be \"x\" and \"y\" at once")
        );
        for text in ["data.a == 'x' && data.a == 'x'", "data.a == 'x' && data.b == 'y'", "data.a == 'x' || data.a == 'y'"] {
            assert_eq!(contradiction(text), None, "{text}");
        }
    }
}
