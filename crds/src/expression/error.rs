use cel::objects::Value;
use cel::{ExecutionError, ParseErrors};

/// Why an expression cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ExpressionError {
    /// Line and column, both from 1, where that is known.
    pub position: Option<(usize, usize)>,
    pub message: String,
}

impl std::fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.position {
            Some((1, column)) => write!(f, "column {column}: {}", self.message),
            Some((line, column)) => write!(f, "line {line}, column {column}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl ExpressionError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        ExpressionError { position: None, message: message.into() }
    }

    /// `offset` counts characters from the start of the text.
    pub(super) fn at(text: &str, offset: usize, message: impl Into<String>) -> Self {
        let mut position = (1, 1);
        for c in text.chars().take(offset) {
            position = if c == '\n' { (position.0 + 1, 1) } else { (position.0, position.1 + 1) };
        }
        ExpressionError { position: Some(position), message: message.into() }
    }
}

/// Why an expression gave no result for one message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The data has no such field. Where a field is optional, this is no mistake.
    #[error("{path} is missing")]
    Missing { path: String },
    #[error("{0}")]
    Failed(String),
}

/// The first mistake of a text that is no CEL, in words for people who never heard of token recognition.
pub(super) fn explain_parse(text: &str, errors: &ParseErrors) -> ExpressionError {
    let Some(first) = errors.errors.first() else {
        return ExpressionError::new("this is no CEL expression");
    };
    let position = match first.pos {
        (line, column) if line > 0 && column > 0 => Some((line as usize, column as usize)),
        _ => None,
    };
    if let Some((offset, hint)) = foreign_syntax(text) {
        return ExpressionError::at(text, offset, hint);
    }
    let raw = first.msg.trim_start_matches("Syntax error: ");
    let message = if raw.contains("<EOF>") && !raw.contains("extraneous") {
        "the expression ends too early: something is missing at its end, perhaps a bracket or a quote".to_owned()
    } else if let Some(unexpected) = quoted(raw).filter(|_| raw.contains("token") || raw.contains("input")) {
        format!("{unexpected} is not expected here")
    } else {
        raw.to_owned()
    };
    ExpressionError { position, message }
}

fn quoted(message: &str) -> Option<&str> {
    let start = message.find('\'')?;
    let length = message[start + 1..].find('\'')?;
    let unexpected = &message[start..start + length + 2];
    (length > 0).then_some(unexpected)
}

/// Habits of other languages, outside of string literals: where, and what to write instead.
fn foreign_syntax(text: &str) -> Option<(usize, String)> {
    let chars: Vec<char> = text.chars().collect();
    let code = super::bounds::outside_strings(&chars);
    let at = |i: usize| chars.get(i).copied().unwrap_or(' ');
    let word = |i: usize, word: &str| {
        let end = i + word.len();
        let bounded = |c: char| !c.is_alphanumeric() && c != '_' && c != '.';
        end <= chars.len() && word.chars().enumerate().all(|(n, c)| chars[i + n] == c) && (i == 0 || bounded(at(i - 1))) && bounded(at(end))
    };
    for i in (0..chars.len()).filter(|&i| code[i]) {
        let before = if i == 0 { ' ' } else { at(i - 1) };
        let hint = match (at(i), at(i + 1), at(i + 2)) {
            ('=' | '!', '=', '=') => "write == or != with two characters: CEL has no === and !==",
            ('=', next, _) if next != '=' && !matches!(before, '=' | '!' | '<' | '>') => {
                "write == to compare: a single = means nothing in CEL"
            }
            ('$', ..) => "write the name alone, without $: data.orderId",
            ('&', next, _) if next != '&' && before != '&' => "write && for and",
            ('|', next, _) if next != '|' && before != '|' => "write || for or",
            ('<', '>', _) => "write != for not equal",
            ('\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}', ..) => "write straight quotes: ' or \"",
            _ if word(i, "and") => "write && for and",
            _ if word(i, "or") => "write || for or",
            _ if word(i, "not") => "write ! for not",
            _ => continue,
        };
        return Some((i, hint.to_owned()));
    }
    None
}

/// What the interpreter could not do, without the values: they may be a person's.
pub(super) fn explain_failure(error: &ExecutionError) -> String {
    match error {
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => {
            let (left, right) = (kind(left), kind(right));
            let hint = match (left, right) {
                ("int" | "uint", "double") | ("double", "int" | "uint") => {
                    ": write double(x) around the int, or declare it as number in the schema"
                }
                _ => "",
            };
            format!("`{}` does not take {left} and {right}{hint}", symbol(operator))
        }
        ExecutionError::NoSuchOverload(overload) => match (overload.function(), overload.argument_types()) {
            ("_._", [of, _]) => format!("{} has no fields", an(of)),
            (function, types) => format!("`{}` does not take ({})", symbol(function), types.join(", ")),
        },
        ExecutionError::UnexpectedType { got, want } => format!("{} is needed where there is {}", an(want), an(got)),
        ExecutionError::ValuesNotComparable(left, right) => format!("{} and {} cannot be compared", an(kind(left)), an(kind(right))),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "division by zero".to_owned(),
        ExecutionError::Overflow(operator, ..) => format!("`{}` exceeds the range of an int", symbol(operator)),
        ExecutionError::DuplicateKey(_) => "a map has the same key twice".to_owned(),
        ExecutionError::FunctionError { function, message } => format!("{function}: {}", shortened(message)),
        other => shortened(&other.to_string()),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

pub(super) fn an(kind: &str) -> String {
    match kind {
        "null_type" => "null".to_owned(),
        "int" => "an int".to_owned(),
        kind => format!("a {kind}"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::List(_) => "list",
        Value::Map(_) => "map",
        Value::Int(_) => "int",
        Value::UInt(_) => "uint",
        Value::Float(_) => "double",
        Value::String(_) => "string",
        Value::Bytes(_) => "bytes",
        Value::Bool(_) => "bool",
        Value::Null => "null",
        Value::Duration(_) => "duration",
        Value::Timestamp(_) => "timestamp",
        _ => "value",
    }
}

fn symbol(operator: &str) -> &str {
    match operator {
        "add" => "+",
        "sub" => "-",
        "mul" => "*",
        "div" => "/",
        "rem" => "%",
        "@in" => "in",
        "_[_]" | "_[?_]" => "[ ]",
        other => other.trim_matches('_'),
    }
}
