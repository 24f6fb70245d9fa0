//! Logs: JSON lines in a pod, plain lines on a terminal.

use crds::pipeline::LogLevel;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr. `RUST_LOG` overrides the document's level.
pub fn start(level: LogLevel) {
    let default = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Libraries at their own warnings: the level of the document is about orders.
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("warn,pipeline_runtime={default},dead_letter=info")));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        lines.with_target(false).compact().try_init()
    } else {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    // A second start, as tests do, keeps the first one's settings.
    let _ = started;
}
