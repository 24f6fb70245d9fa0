//! CEL expressions: bounded before they run, compiled once, evaluated over borrowed JSON.
//!
//! [`compile`] refuses what could not be evaluated safely: the library bounds neither the stack nor the time that an expression takes,
//! and has no type checker, so that unknown names would only be found by the first message. What it lets through costs microseconds.

mod bounds;
mod demands;
mod direct;
mod error;
mod evaluate;
mod functions;
mod gives;
mod hints;
mod paths;
mod reads;
mod result;
mod view;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use demands::Demand;
pub use error::{EvaluationError, ExpressionError};
pub use evaluate::Input;
pub use paths::Unknown;
pub use reads::{How, Read};

use cel::IdedExpr;
use hints::Hint;
use serde_json::Value;
use std::sync::Arc;

/// The names that an expression may use.
pub const VARIABLES: [&str; 6] = ["topic", "key", "id", "publishTime", "attributes", "data"];

/// What an expression is compiled for: an event, whose schema says which numbers are int and which are double.
/// Cheap to clone; one for all expressions of an event.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    data: Arc<Hint>,
}

impl Scope {
    /// `schema` is the JSON Schema of `data`. Without one, numbers are what they look like: 3 is int, 3.5 is double.
    pub fn new(schema: Option<&Value>) -> Scope {
        Scope { data: Arc::new(schema.map(Hint::of_schema).unwrap_or_default()) }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Compiled {
    text: String,
    scope: Scope,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// A path such as `data.orderId`, read without the interpreter.
    Path(evaluate::Path),
    /// And the same without the interpreter, if it is made of what that knows.
    Cel(IdedExpr, Option<direct::Direct>),
}

/// Compiles an expression, or says what is wrong with it and where.
pub fn compile(text: &str, scope: &Scope) -> Result<Compiled, ExpressionError> {
    bounds::check_text(text)?;
    let parser = functions::environment().parser().enable_ident_escape_syntax(true);
    let (expression, source) = parser.parse_with_source_info(text).map_err(|errors| error::explain_parse(text, &errors))?;
    bounds::check_tree(text, &expression, &source)?;
    let program = match evaluate::Path::of(&expression) {
        Some(path) => Program::Path(path),
        None => {
            let direct = direct::Direct::of(&expression);
            Program::Cel(expression, direct)
        }
    };
    Ok(Compiled { text: text.to_owned(), scope: scope.clone(), program })
}

impl crate::pipeline::Expression {
    /// See [`compile`].
    pub fn compile(&self, scope: &Scope) -> Result<Compiled, ExpressionError> {
        compile(&self.0, scope)
    }
}
