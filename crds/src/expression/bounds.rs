//! What an expression may be, decided before it runs.
//!
//! The interpreter and its parser recurse along chains (`1+1+...`, `a[0][0]...`): a long one would overflow the stack, which no
//! handler catches. Nested comprehensions multiply: three deep over 100 items take 0.16 s. Both are refused here.

use super::error::ExpressionError;
use super::{VARIABLES, functions};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo};

const MAX_CHARS: usize = 1000;
/// Links of chains before parsing, counted as characters that can make one.
const MAX_LINKS: usize = 400;
/// Brackets within brackets before parsing: the parser takes about 7 KB of stack for each, most of all.
const MAX_BRACKETS: usize = 32;
/// Levels of the tree after parsing.
const MAX_DEPTH: usize = 150;
const MAX_NESTED: usize = 2;
const MAX_COMPREHENSIONS: usize = 4;

/// Names of types, for `type(x) == string`.
const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];

pub(super) fn check_text(text: &str) -> Result<(), ExpressionError> {
    if text.trim().is_empty() {
        return Err(ExpressionError::new("the expression is empty"));
    }
    let chars: Vec<char> = text.chars().take(MAX_CHARS + 1).collect();
    if chars.len() > MAX_CHARS {
        return Err(ExpressionError::new(format!("longer than {MAX_CHARS} characters: split it into several rules")));
    }
    let code = outside_strings(&chars);
    let (mut links, mut brackets) = (0, 0usize);
    for (i, c) in chars.iter().enumerate().filter(|&(i, _)| code[i]) {
        match c {
            '(' | '[' | '{' => brackets += 1,
            ')' | ']' | '}' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        if brackets > MAX_BRACKETS {
            return Err(ExpressionError::at(text, i, format!("brackets may be nested {MAX_BRACKETS} deep")));
        }
        if "+-*/%<>=!?.[({&|".contains(*c) {
            links += 1;
        }
        if links > MAX_LINKS {
            return Err(ExpressionError::at(text, i, format!("more than {MAX_LINKS} operators: split it into several rules")));
        }
    }
    Ok(())
}

/// For each character whether it is code, and not within quotes. A quote that never ends makes the rest a string: the parser complains then.
pub(super) fn outside_strings(chars: &[char]) -> Vec<bool> {
    let mut code = vec![true; chars.len()];
    let mut quote = None;
    let mut escaped = false;
    for (i, &c) in chars.iter().enumerate() {
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            None => {}
            Some(open) => {
                code[i] = false;
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == open {
                    quote = None;
                }
            }
        }
    }
    code
}

pub(super) fn check_tree(text: &str, expression: &IdedExpr, source: &SourceInfo) -> Result<(), ExpressionError> {
    Walk { text, source, loops: Vec::new(), comprehensions: 0 }.expression(expression, Level::default())
}

#[derive(Clone, Copy, Default)]
struct Level {
    depth: usize,
    nested: usize,
}

struct Walk<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    /// Variables of the comprehensions around.
    loops: Vec<&'a str>,
    comprehensions: usize,
}

impl<'a> Walk<'a> {
    fn expression(&mut self, node: &'a IdedExpr, level: Level) -> Result<(), ExpressionError> {
        let level = Level { depth: level.depth + 1, ..level };
        if level.depth > MAX_DEPTH {
            return Err(self.at(node.id, format!("more than {MAX_DEPTH} operations in one chain: split it into several rules")));
        }
        match &node.expr {
            Expr::Unspecified => Err(self.at(node.id, "this is no CEL expression")),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(node.id, name),
            Expr::Select(select) => self.expression(&select.operand, level),
            Expr::Call(call) => self.call(node.id, call, level),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expression(element, level)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key, level)?;
                    self.expression(&entry.value, level)
                }
                EntryExpr::StructField(field) => self.expression(&field.value, level),
            }),
            Expr::Struct(made) => Err(self.at(node.id, format!("there is no type {}: write a map, {{'name': value}}", made.type_name))),
            Expr::Comprehension(comprehension) => self.comprehension(node.id, comprehension, level),
        }
    }

    fn name(&self, id: u64, name: &str) -> Result<(), ExpressionError> {
        // A leading dot makes a name absolute.
        let bare = name.trim_start_matches('.');
        if self.loops.contains(&name) || VARIABLES.contains(&bare) || TYPES.contains(&bare) {
            return Ok(());
        }
        let hint = match nearest(bare, VARIABLES.iter().copied().chain(self.loops.iter().copied().filter(|name| !name.starts_with('@')))) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}; the message's own fields are data.{bare} and the like", VARIABLES.join(", ")),
        };
        Err(self.at(id, format!("unknown name {bare}: {hint}")))
    }

    fn call(&mut self, id: u64, call: &'a CallExpr, level: Level) -> Result<(), ExpressionError> {
        let function = call.func_name.as_str();
        let namespace = match call.target.as_deref().map(|target| &target.expr) {
            Some(Expr::Ident(name)) if functions::NAMESPACES.contains(&name.as_str()) && !self.loops.contains(&name.as_str()) => {
                Some(name.as_str())
            }
            _ => None,
        };
        match (&call.target, namespace) {
            (_, Some(namespace)) => self.known(id, functions::namespaced(namespace), function, &format!("{namespace}."))?,
            (Some(target), None) => {
                self.known(id, &functions::METHODS, function, ".")?;
                self.expression(target, level)?;
            }
            (None, None) if is_operator(function) => {}
            (None, None) => self.known(id, &functions::GLOBALS, function, "")?,
        }
        if function == "matches" {
            self.pattern(id, call)?;
        }
        call.args.iter().try_for_each(|argument| self.expression(argument, level))
    }

    fn known(&self, id: u64, functions: &[&str], function: &str, prefix: &str) -> Result<(), ExpressionError> {
        if functions.contains(&function) {
            return Ok(());
        }
        let hint = match nearest(function, functions.iter().copied().filter(|name| !name.starts_with('@'))) {
            Some(near) => format!("did you mean {prefix}{near}()?"),
            None if prefix == "." && functions::GLOBALS.contains(&function) => format!("write {function}(x) instead of x.{function}()"),
            None if prefix.is_empty() && functions::METHODS.contains(&function) => format!("write x.{function}() instead of {function}(x)"),
            None => "see the CEL standard functions, strings, math, and round(x, digits), sum(list)".to_owned(),
        };
        Err(self.at(id, format!("unknown function {prefix}{function}(): {hint}")))
    }

    /// A pattern out of a message would let its sender choose what it costs; one in the expression is checked now and kept compiled.
    fn pattern(&self, id: u64, call: &CallExpr) -> Result<(), ExpressionError> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|argument| &argument.expr) else {
            return Err(self.at(id, "the pattern of matches() must be a text in quotes"));
        };
        functions::pattern(pattern.inner()).map(|_| ()).map_err(|error| self.at(id, format!("matches(): {error}")))
    }

    fn comprehension(&mut self, id: u64, comprehension: &'a ComprehensionExpr, level: Level) -> Result<(), ExpressionError> {
        self.comprehensions += 1;
        if self.comprehensions > MAX_COMPREHENSIONS {
            return Err(
                self.at(id, format!("more than {MAX_COMPREHENSIONS} of all(), exists(), map(), filter(): split it into several rules"))
            );
        }
        let inner = Level { nested: level.nested + 1, ..level };
        if inner.nested > MAX_NESTED {
            return Err(self
                .at(id, format!("all(), exists(), map(), filter() may be nested {MAX_NESTED} deep: the cost multiplies with each level")));
        }
        self.expression(&comprehension.iter_range, level)?;
        self.expression(&comprehension.accu_init, level)?;
        let outside = self.loops.len();
        self.loops.push(&comprehension.accu_var);
        self.loops.push(&comprehension.iter_var);
        self.loops.extend(comprehension.iter_var2.as_deref());
        self.expression(&comprehension.loop_cond, inner)?;
        self.expression(&comprehension.loop_step, inner)?;
        self.expression(&comprehension.result, inner)?;
        self.loops.truncate(outside);
        Ok(())
    }

    fn at(&self, id: u64, message: impl Into<String>) -> ExpressionError {
        match self.source.offset_for(id) {
            Some((start, _)) => ExpressionError::at(self.text, start as usize, message),
            None => ExpressionError::new(message),
        }
    }
}

fn is_operator(function: &str) -> bool {
    function.starts_with(['_', '!', '-']) || matches!(function, "@in" | "@not_strictly_false")
}

/// The name that was probably meant: the same but for case, or one or two letters away.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(4).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
