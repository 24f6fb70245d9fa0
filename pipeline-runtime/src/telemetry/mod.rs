//! Logs: JSON lines in a pod, plain lines on a terminal.

use crds::pipeline::LogLevel;
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// Puts another filter in the place of the first one; none where `RUST_LOG` decides.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Starts logging to stderr. `RUST_LOG` overrides the document's level, for as long as the process runs.
pub fn start(level: LogLevel) {
    let overriding = EnvFilter::try_from_default_env().ok();
    let overridden = overriding.is_some();
    let lines = tracing_subscriber::fmt().with_env_filter(overriding.unwrap_or_else(|| filter(level))).with_writer(std::io::stderr);
    // A filter that cannot be changed any more belongs to a process that ends.
    let (started, change): (_, Box<dyn Fn(EnvFilter) + Send + Sync>) = if std::io::stderr().is_terminal() {
        let lines = lines.with_target(false).compact().with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| drop(handle.reload(filter))))
    } else {
        let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter_reloading();
        let handle = lines.reload_handle();
        (lines.try_init(), Box::new(move |filter| drop(handle.reload(filter))))
    };
    // A second start, as tests do, keeps the first one's settings.
    if started.is_ok() && !overridden {
        let _ = CHANGE.set(change);
    }
}

/// The document has another level now.
pub fn follow(level: LogLevel) {
    if let Some(change) = CHANGE.get() {
        change(filter(level));
    }
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
