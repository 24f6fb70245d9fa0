//! Logs: JSON lines in a pod, plain lines for a person; over OTLP as well where the document names a collector.
//!
//! A line about one order names what is known of it, always under the same names: `orderId` (by which all lines about it are found),
//! `tenantId`, `requestId`, `eventId`, and `traceId` and `spanId` where the message carries a trace.

use super::otlp::Queue;
use super::spans::{Attributes, Said};
use arc_swap::ArcSwapOption;
use crds::pipeline::LogLevel;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt as written, reload};

/// Puts another filter in the place of the first one; none where `RUST_LOG` decides.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();
/// Where lines wait for the collector.
static CARRIED: ArcSwapOption<Queue<Line>> = ArcSwapOption::const_empty();

/// For whom the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// JSON, for whoever collects them; plain where a person has started it on a terminal.
    Collected,
    Plain,
}

/// Starts logging to stderr. `RUST_LOG` overrides the document's level, for as long as the process runs.
pub fn start(level: LogLevel, lines: Lines) {
    let overriding = EnvFilter::try_from_default_env().ok();
    let overridden = overriding.is_some();
    let (filter, handle) = reload::Layer::new(overriding.unwrap_or_else(|| filter(level)));
    let terminal = std::io::stderr().is_terminal();
    let lines = match terminal || lines == Lines::Plain {
        true => written::layer().with_writer(std::io::stderr).with_target(false).with_ansi(terminal).compact().boxed(),
        false => {
            let json = written::layer().with_writer(std::io::stderr).json();
            json.flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).with(Carry).try_init();
    // A second start, as tests do, keeps the first one's settings.
    if started.is_ok() && !overridden {
        // A filter that cannot be changed any more belongs to a process that ends.
        let _ = CHANGE.set(Box::new(move |filter| drop(handle.reload(filter))));
    }
}

/// The document has another level now.
pub fn follow(level: LogLevel) {
    if let Some(change) = CHANGE.get() {
        change(filter(level));
    }
}

/// From now on lines are carried to a collector as well; with None no longer.
pub(super) fn carry(to: Option<Queue<Line>>) {
    CARRIED.store(to.map(Arc::new));
}

/// Libraries at their own warnings: the level of the document is about orders.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    EnvFilter::new(format!("warn,pipeline_runtime={level},dead_letter=info"))
}

/// A line on its way to the collector.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: SystemTime,
    pub level: &'static str,
    /// As OpenTelemetry numbers levels.
    pub severity: i32,
    pub message: String,
    pub attributes: Attributes,
    pub trace: Option<u128>,
    pub span: Option<u64>,
}

struct Carry;

impl<S: Subscriber> Layer<S> for Carry {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(queue) = &*CARRIED.load() {
            queue.put(Line::of(event));
        }
    }
}

impl Line {
    fn of(event: &Event<'_>) -> Line {
        let meta = event.metadata();
        let severity = match *meta.level() {
            Level::TRACE => 1,
            Level::DEBUG => 5,
            Level::INFO => 9,
            Level::WARN => 13,
            Level::ERROR => 17,
        };
        let attributes = vec![("target", Said::Text(meta.target().to_owned()))];
        let level = meta.level().as_str();
        let mut line = Line { at: SystemTime::now(), level, severity, message: String::new(), attributes, trace: None, span: None };
        event.record(&mut line);
        line
    }

    fn text(&mut self, name: &'static str, value: String) {
        match name {
            "message" => self.message = value,
            // They have places of their own, by which lines are found from a trace.
            "traceId" => self.trace = u128::from_str_radix(&value, 16).ok(),
            "spanId" => self.span = u64::from_str_radix(&value, 16).ok(),
            _ => self.attributes.push((name, Said::Text(value))),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value.to_owned());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attributes.push((field.name(), Said::Number(value)));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.attributes.push((field.name(), Said::Number(i64::try_from(value).unwrap_or(i64::MAX))));
    }
}
