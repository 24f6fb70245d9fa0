//! The functions that expressions may call: CEL's own, those for strings and math, and the ones below.

use cel::common::traits::Iterable;
use cel::common::types::{CelBool, CelDouble, CelInt, CelString, CelUInt, LIST_TYPE};
use cel::common::value::CowVal;
use cel::{DeclarationError, Env, ExecutionError, extensions};
use regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

/// Called as `f(x)`.
pub(super) const GLOBALS: [&str; 17] = [
    "size",
    "int",
    "uint",
    "double",
    "bool",
    "string",
    "bytes",
    "type",
    "dyn",
    "timestamp",
    "duration",
    "matches",
    "contains",
    "round",
    "sum",
    "math.@max",
    "math.@min",
];
/// Called as `x.f()`.
pub(super) const METHODS: [&str; 32] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "join",
    "lowerAscii",
    "upperAscii",
    "replace",
    "reverse",
    "split",
    "substring",
    "trim",
    "format",
    "hasValue",
    "value",
    "orValue",
    "or",
    "quote",
];
pub(super) const NAMESPACES: [&str; 3] = ["math", "optional", "strings"];

pub(super) fn namespaced(namespace: &str) -> &'static [&'static str] {
    match namespace {
        "math" => &[
            "ceil",
            "floor",
            "round",
            "trunc",
            "isInf",
            "isNaN",
            "isFinite",
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
        ],
        "optional" => &["of", "none", "ofNonZeroValue"],
        "strings" => &["quote"],
        _ => &[],
    }
}

/// One for all: building it takes 24 us, which is ten times an evaluation.
pub(super) fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| match declare() {
        Ok(environment) => Arc::new(environment),
        // The names are constants, so this can only be a new version of the library that brings one of them itself; the tests see that.
        Err(error) => unreachable!("a function is declared twice: {error:?}"),
    });
    &ENVIRONMENT
}

fn declare() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)?;
    env.add_extension(extensions::math)?;
    cel::add_overload!(env, fn round_double: (CelDouble, CelInt) -> Result<CelDouble>, name = "round")?;
    cel::add_overload!(env, fn round_int: (CelInt, CelInt) -> Result<CelDouble>, name = "round")?;
    cel::add_overload!(env, fn matches: (CelString, CelString) -> Result<CelBool>)?;
    cel::add_member_overload!(env, fn matches: (CelString, CelString) -> Result<CelBool>)?;
    env.add_overload("sum", "sum(list)", vec![LIST_TYPE], sum)?;
    Ok(env)
}

fn round_double(x: &CelDouble, digits: &CelInt) -> Result<CelDouble, ExecutionError> {
    rounded(*x.inner(), *digits.inner())
        .map(CelDouble::from)
        .ok_or_else(|| ExecutionError::function_error("round", "the number of digits must be from 0 to 15"))
}

/// Rounds half away from zero, as people do with money: in decimal, since 1.005 * 100 is 100.49999 in binary. None: no such digits.
pub(super) fn rounded(x: f64, digits: i64) -> Option<f64> {
    const POWERS: [f64; 16] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let power = POWERS.get(usize::try_from(digits).ok()?)?;
    let shifted = x * power;
    // Most numbers lie far from the middle, by which binary and decimal differ, and dividing whole numbers rounds correctly.
    if shifted.abs() < (1u64 << 40) as f64 && (shifted.fract().abs() - 0.5).abs() > 0.001 {
        return Some(shifted.round() / power);
    }
    Some(rounded_as_text(x, digits))
}

pub(super) fn rounded_as_text(x: f64, digits: i64) -> f64 {
    // Display of f64 never writes an exponent, so that one can be appended; parsing rounds correctly.
    let shifted = |x: f64, by: i64| format!("{x}e{by}").parse::<f64>().unwrap_or(f64::NAN);
    let rounded = shifted(shifted(x, digits).round(), -digits);
    // What is too large to be shifted has no such digits.
    if rounded.is_finite() { rounded } else { x }
}

fn round_int(x: &CelInt, digits: &CelInt) -> Result<CelDouble, ExecutionError> {
    round_double(&CelDouble::from(*x.inner() as f64), digits)
}

/// The sum of a list of numbers: an int if all are, else a double.
fn sum<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let list: &dyn Iterable = match arguments.first().and_then(|list| list.as_iterable()) {
        Some(list) => list,
        None => return Err(ExecutionError::function_error("sum", "a list is needed")),
    };
    let (mut ints, mut doubles, mut all_ints) = (0i64, 0f64, true);
    let mut elements = list.iter();
    while let Some(element) = elements.next() {
        if let Some(int) = element.downcast_ref::<CelInt>() {
            ints = ints.checked_add(*int.inner()).ok_or_else(|| ExecutionError::function_error("sum", "exceeds the range of an int"))?;
        } else if let Some(double) = element.downcast_ref::<CelDouble>() {
            all_ints = false;
            doubles += *double.inner();
        } else if let Some(uint) = element.downcast_ref::<CelUInt>() {
            all_ints = false;
            doubles += *uint.inner() as f64;
        } else {
            return Err(ExecutionError::function_error("sum", format!("the list holds a {}", element.get_type().name())));
        }
    }
    Ok(if all_ints { CowVal::owned(CelInt::from(ints)) } else { CowVal::owned(CelDouble::from(ints as f64 + doubles)) })
}

fn matches(text: &CelString<'_>, pattern: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    /// More than any document has; at the bound the thread starts over.
    const KEPT: usize = 256;
    thread_local! {
        // An overload is a plain function and cannot carry its pattern along. Compiling takes 27 us, looking it up here 0.2.
        static COMPILED: RefCell<Vec<(String, Regex)>> = const { RefCell::new(Vec::new()) };
    }
    COMPILED.with_borrow_mut(|compiled| {
        if let Some((_, regex)) = compiled.iter().find(|(known, _)| known == pattern.inner()) {
            return Ok(CelBool::from(regex.is_match(text.inner())));
        }
        let regex = self::pattern(pattern.inner()).map_err(|error| ExecutionError::function_error("matches", error))?;
        let found = regex.is_match(text.inner());
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.push((pattern.inner().to_owned(), regex));
        Ok(CelBool::from(found))
    })
}

/// Patterns run in time linear to the text; what they may take in memory is bounded here.
pub(super) fn pattern(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(1 << 20).dfa_size_limit(1 << 20).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern needs too much memory: use smaller repetitions".to_owned(),
        error => format!("not a valid pattern: {}", error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
    })
}
