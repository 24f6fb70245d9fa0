//! From the library's tree.

use super::super::functions;
use super::{Comparison, Direct, Operation, TextTest, Variable};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue};

impl Direct {
    /// The same, if it is made of what is known here.
    pub fn of(expression: &IdedExpr) -> Option<Direct> {
        of(expression, &mut Vec::new())
    }
}

fn of<'e>(expression: &'e IdedExpr, locals: &mut Vec<&'e str>) -> Option<Direct> {
    Some(match &expression.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Null => Direct::Null,
            LiteralValue::Boolean(bool) => Direct::Bool(*bool.inner()),
            LiteralValue::Int(int) => Direct::Int(*int.inner()),
            LiteralValue::Double(double) => Direct::Double(*double.inner()),
            LiteralValue::String(text) => Direct::Text(text.inner().to_owned()),
            LiteralValue::UInt(_) | LiteralValue::Bytes(_) => return None,
        },
        Expr::Ident(name) => match locals.iter().rev().position(|local| local == name) {
            Some(number) => Direct::Local(number),
            None => Direct::Variable(Variable::named(name)?),
        },
        Expr::Select(select) => {
            let (operand, field) = (Box::new(of(&select.operand, locals)?), select.field.clone());
            if select.test { Direct::Has(operand, field) } else { Direct::Field(operand, field) }
        }
        Expr::List(list) if list.optional_indices.is_empty() => {
            Direct::List(list.elements.iter().map(|element| of(element, locals)).collect::<Option<_>>()?)
        }
        Expr::Call(call) => call_of(call, locals)?,
        Expr::Comprehension(comprehension) => comprehension_of(comprehension, locals)?,
        _ => return None,
    })
}

fn call_of<'e>(call: &'e CallExpr, locals: &mut Vec<&'e str>) -> Option<Direct> {
    let name = call.func_name.as_str();
    if name == "orValue" {
        let (Expr::Call(optional), [other]) = (&call.target.as_ref()?.expr, call.args.as_slice()) else { return None };
        let ("_?._", [from, field]) = (optional.func_name.as_str(), optional.args.as_slice()) else { return None };
        let Expr::Literal(LiteralValue::String(field)) = &field.expr else { return None };
        return Some(Direct::Or(Box::new(of(from, locals)?), field.inner().to_owned(), Box::new(of(other, locals)?)));
    }
    // `x.f(y)` is `f(x, y)`, but for what only looks like it: `math.f(x)`.
    let mut parts = Vec::with_capacity(3);
    for part in call.target.as_deref().into_iter().chain(&call.args) {
        parts.push(of(part, locals)?);
    }
    Some(match <[Direct; 1]>::try_from(parts) {
        Ok([part]) => one(name, Box::new(part))?,
        Err(parts) => match <[Direct; 2]>::try_from(parts) {
            Ok(both) => two(name, Box::new(both))?,
            Err(parts) if name == "_?_:_" => Direct::If(Box::new(<[Direct; 3]>::try_from(parts).ok()?)),
            Err(_) => return None,
        },
    })
}

fn one(name: &str, part: Box<Direct>) -> Option<Direct> {
    Some(match name {
        "!_" => Direct::Not(part),
        "-_" => Direct::Minus(part),
        "size" => Direct::Size(part),
        "double" => Direct::ToDouble(part),
        "sum" => Direct::Sum(part),
        _ => return None,
    })
}

fn two(name: &str, both: Box<[Direct; 2]>) -> Option<Direct> {
    use {Comparison::*, Operation::*};
    Some(match name {
        "_&&_" => Direct::Both(both),
        "_||_" => Direct::Either(both),
        "_==_" => Direct::Compare(Equal, both),
        "_!=_" => Direct::Compare(Unequal, both),
        "_<_" => Direct::Compare(Less, both),
        "_<=_" => Direct::Compare(LessOrEqual, both),
        "_>_" => Direct::Compare(Greater, both),
        "_>=_" => Direct::Compare(GreaterOrEqual, both),
        "_+_" => Direct::Compute(Plus, both),
        "_-_" => Direct::Compute(Minus, both),
        "_*_" => Direct::Compute(Times, both),
        "_/_" => Direct::Compute(By, both),
        "_%_" => Direct::Compute(Rest, both),
        "@in" => Direct::In(both),
        "round" => Direct::Round(both),
        "contains" => Direct::TextTest(TextTest::Contains, both),
        "startsWith" => Direct::TextTest(TextTest::StartsWith, both),
        "endsWith" => Direct::TextTest(TextTest::EndsWith, both),
        "matches" => {
            let [of, Direct::Text(pattern)] = *both else { return None };
            Direct::Matches(Box::new(of), functions::pattern(&pattern).ok()?)
        }
        "_[_]" => {
            let [of, Direct::Text(name)] = *both else { return None };
            Direct::Field(Box::new(of), name)
        }
        _ => return None,
    })
}

/// What the parser has made of `all()` and its like, told by their first value and their step.
fn comprehension_of<'e>(comprehension: &'e ComprehensionExpr, locals: &mut Vec<&'e str>) -> Option<Direct> {
    let ComprehensionExpr { iter_range, iter_var, iter_var2: None, accu_var, accu_init, loop_step, result, .. } = comprehension else {
        return None;
    };
    let is_accu = |expression: &IdedExpr| matches!(&expression.expr, Expr::Ident(name) if name == accu_var);
    let list = Box::new(of(iter_range, locals)?);
    if !is_accu(result) {
        return None;
    }
    let Expr::Call(step) = &loop_step.expr else { return None };
    locals.push(iter_var);
    let made = match (&accu_init.expr, step.func_name.as_str(), step.args.as_slice()) {
        (Expr::Literal(LiteralValue::Boolean(first)), "_&&_", [accu, each]) if *first.inner() && is_accu(accu) => {
            of(each, locals).map(|each| Direct::All(Box::new([*list, each])))
        }
        (Expr::Literal(LiteralValue::Boolean(first)), "_||_", [accu, each]) if !*first.inner() && is_accu(accu) => {
            of(each, locals).map(|each| Direct::Exists(Box::new([*list, each])))
        }
        (Expr::List(first), "_+_", [accu, added]) if first.elements.is_empty() && is_accu(accu) => {
            only(added).and_then(|each| of(each, locals)).map(|each| Direct::Map(list, None, Box::new(each)))
        }
        (Expr::List(first), "_?_:_", [condition, added, accu]) if first.elements.is_empty() && is_accu(accu) => match &added.expr {
            Expr::Call(CallExpr { func_name, args, .. }) if func_name == "_+_" && args.len() == 2 && is_accu(&args[0]) => {
                let condition = of(condition, locals);
                let each = only(&args[1]).and_then(|each| of(each, locals));
                condition.zip(each).map(|(condition, each)| Direct::Map(list, Some(Box::new(condition)), Box::new(each)))
            }
            _ => None,
        },
        _ => None,
    };
    locals.pop();
    made
}

/// The item of a list of one.
fn only(list: &IdedExpr) -> Option<&IdedExpr> {
    match &list.expr {
        Expr::List(list) if list.optional_indices.is_empty() => {
            <&[IdedExpr; 1]>::try_from(list.elements.as_slice()).ok().map(|[item]| item)
        }
        _ => None,
    }
}

impl Variable {
    fn named(name: &str) -> Option<Variable> {
        Some(match name {
            "topic" => Variable::Topic,
            "key" => Variable::Key,
            "id" => Variable::Id,
            "attributes" => Variable::Attributes,
            "data" => Variable::Data,
            _ => return None,
        })
    }
}
