//! Which fields of `data` an expression reads, and whether it hands them on as they are or computes with them.
//!
//! What is not known (a variable over a list that the expression makes itself) is left out: this is for telling an author of a mistake,
//! and nothing rests on it.

use super::{Compiled, Program};
use crate::pipeline::{FieldPath, Step};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};

/// A field that an expression reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// `data.lines[].note`; for a variable without fields its name alone.
    pub path: String,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The value stands in the result, or is the result.
    HandedOn,
    /// It is a part of a text that the result is, or holds.
    Joined,
    /// Something is computed of it.
    Computed,
}

impl Read {
    /// Whether it reads this field, or something in it.
    pub fn touches(&self, field: &FieldPath) -> bool {
        let field = field.to_string();
        self.path.strip_prefix(&field).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    pub fn is(&self, field: &FieldPath) -> bool {
        self.path == field.to_string()
    }
}

impl Compiled {
    /// Every field that it reads, in the order of its text.
    pub fn reads(&self) -> Vec<Read> {
        match &self.program {
            Program::Path(path) => vec![Read { path: path.to_string(), how: How::HandedOn }],
            Program::Cel(expression, _) => {
                let mut walk = Walk::default();
                walk.value(expression, How::HandedOn);
                walk.reads
            }
        }
    }
}

#[derive(Default)]
struct Walk<'a> {
    reads: Vec<Read>,
    /// Variables of the comprehensions around, and the place that each stands for, where that is known.
    loops: Vec<(&'a str, Option<String>)>,
}

impl<'a> Walk<'a> {
    /// A value that becomes the result, or a part of it.
    fn value(&mut self, node: &'a IdedExpr, how: How) {
        if let Some(path) = self.path(node) {
            self.reads.push(Read { path, how });
            return;
        }
        match &node.expr {
            // has(): whether it is there, and not what it is.
            Expr::Select(select) if select.test => {}
            Expr::Select(select) => self.value(&select.operand, How::Computed),
            Expr::List(list) => list.elements.iter().for_each(|element| self.value(element, how)),
            Expr::Map(map) => {
                for entry in &map.entries {
                    match &entry.expr {
                        EntryExpr::MapEntry(entry) => {
                            self.value(&entry.key, How::Computed);
                            self.value(&entry.value, how);
                        }
                        EntryExpr::StructField(field) => self.value(&field.value, how),
                    }
                }
            }
            Expr::Call(call) => self.call(call, how),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, how),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
        }
    }

    fn call(&mut self, call: &'a CallExpr, how: How) {
        match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            ("_?_:_", None, [condition, yes, no]) => {
                self.value(condition, How::Computed);
                self.value(yes, how);
                self.value(no, how);
            }
            ("orValue" | "or", Some(target), [other]) => {
                self.value(target, how);
                self.value(other, how);
            }
            ("value", Some(target), []) => self.value(target, how),
            // Lists are added as well: what is in one stays what it is.
            ("_+_", None, [left, right]) => {
                let lists = [left, right].iter().any(|side| matches!(side.expr, Expr::List(_)));
                let how = if lists || how == How::Computed { how } else { How::Joined };
                self.value(left, how);
                self.value(right, how);
            }
            (_, target, args) => {
                target.iter().for_each(|target| self.value(target, How::Computed));
                args.iter().for_each(|argument| self.value(argument, How::Computed));
            }
        }
    }

    /// map() and filter() hand on, all() and exists() compute.
    fn comprehension(&mut self, comprehension: &'a ComprehensionExpr, how: How) {
        let range = self.path(&comprehension.iter_range);
        if range.is_none() {
            self.value(&comprehension.iter_range, How::Computed);
        }
        let how = if matches!(comprehension.accu_init.expr, Expr::List(_)) { how } else { How::Computed };
        let outside = self.loops.len();
        self.loops.push((&comprehension.iter_var, range.map(|range| format!("{range}[]"))));
        self.loops.push((&comprehension.accu_var, None));
        self.value(&comprehension.loop_step, how);
        self.loops.truncate(outside);
    }

    /// The place of a value in the message, if the expression is one.
    fn path(&self, node: &IdedExpr) -> Option<String> {
        match &node.expr {
            Expr::Ident(name) => match self.loops.iter().rev().find(|(variable, _)| variable == name) {
                Some((_, place)) => place.clone(),
                None => super::VARIABLES.contains(&name.as_str()).then(|| name.clone()),
            },
            Expr::Select(select) if !select.test => Some(format!("{}.{}", self.path(&select.operand)?, select.field)),
            Expr::Call(call) => match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
                ("_?._" | "_[_]" | "_[?_]", None, [of, at]) => {
                    let of = self.path(of)?;
                    Some(match &at.expr {
                        Expr::Literal(LiteralValue::String(field)) => format!("{of}.{}", field.inner()),
                        _ => format!("{of}[]"),
                    })
                }
                ("orValue", Some(target), [default]) if is_empty(default) => self.path(target),
                _ => None,
            },
            _ => None,
        }
    }
}

/// `[]` or `{}`, as in `data.?lines.orValue([])`.
fn is_empty(node: &IdedExpr) -> bool {
    match &node.expr {
        Expr::List(list) => list.elements.is_empty(),
        Expr::Map(map) => map.entries.is_empty(),
        _ => false,
    }
}

impl FieldPath {
    /// The name of its last field.
    pub fn name(&self) -> &str {
        let fields = self.steps().iter().rev();
        fields.filter_map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).next().unwrap_or("data")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Scope, compile};
    use super::How::*;
    use super::*;

    fn reads(text: &str) -> Vec<(String, How)> {
        compile(text, &Scope::default()).unwrap().reads().into_iter().map(|read| (read.path, read.how)).collect()
    }

    #[test]
    fn what_is_handed_on_is_told_from_what_is_computed_with() {
        let one = |path: &str, how| vec![(path.to_owned(), how)];
        assert_eq!(reads("data.a.b"), one("data.a.b", HandedOn));
        assert_eq!(reads("data.?a.b"), one("data.a.b", HandedOn));
        assert_eq!(reads("data.a[0]"), one("data.a[]", HandedOn));
        assert_eq!(reads("data['a']"), one("data.a", HandedOn));
        assert_eq!(reads("data.?a.orValue('')"), one("data.a", HandedOn));
        assert_eq!(reads("{'x': data.a, 'y': [data.b]}"), [("data.a".to_owned(), HandedOn), ("data.b".to_owned(), HandedOn)]);
        assert_eq!(reads("data.a == '1' ? data.b : data.c")[0], ("data.a".to_owned(), Computed));
        assert_eq!(reads("data.a == '1' ? data.b : data.c")[1..], [("data.b".to_owned(), HandedOn), ("data.c".to_owned(), HandedOn)]);
        assert_eq!(reads("'x/' + data.a"), one("data.a", Joined));
        assert_eq!(reads("data.a.startsWith('G')"), one("data.a", Computed));
        assert_eq!(reads("string(data.a)"), one("data.a", Computed));
        assert_eq!(reads("has(data.a.b) && key != ''"), one("key", Computed));
        assert_eq!(reads("data"), one("data", HandedOn));
    }

    #[test]
    fn the_items_of_a_list_are_followed() {
        let all = |paths: &[(&str, How)]| paths.iter().map(|(path, how)| ((*path).to_owned(), *how)).collect::<Vec<_>>();
        assert_eq!(reads("data.lines.map(line, {'n': line.note})"), all(&[("data.lines[].note", HandedOn)]));
        assert_eq!(reads("data.?lines.orValue([]).map(line, line.note)"), all(&[("data.lines[].note", HandedOn)]));
        let filtered = reads("data.lines.filter(line, line.note != '')");
        assert!(filtered.contains(&("data.lines[].note".to_owned(), Computed)), "{filtered:?}");
        assert!(filtered.contains(&("data.lines[]".to_owned(), HandedOn)), "{filtered:?}");
        assert_eq!(reads("data.lines.all(line, line.note != '')"), all(&[("data.lines[].note", Computed)]));
        assert_eq!(reads("data.lines.map(line, line.tags.map(tag, tag.x))"), all(&[("data.lines[].tags[].x", HandedOn)]));
    }

    #[test]
    fn a_read_touches_the_field_and_what_lies_in_it() {
        let field = FieldPath::parse("data.person").unwrap();
        let touches = |path: &str| Read { path: path.into(), how: HandedOn }.touches(&field);
        assert!(touches("data.person") && touches("data.person.name") && touches("data.person[]"));
        assert!(!touches("data") && !touches("data.personal") && !touches("key"));
    }
}
