//! What a process tells of itself: logs, metrics, and traces.
//!
//! Each room has its own instruments and says what its spans are; here is what they are made of, and who carries away what they say.

mod carried;
mod logs;
mod metrics;
mod otlp;
mod spans;
mod trace;

pub use carried::{Carried, FLUSH};
pub use logs::{Lines, follow, start};
pub use metrics::{Count, Durations, Instruments, Labels, Metric, Metrics, Share, Spread, Value};
pub use spans::{End, Kind, Open, Tracer};
pub use trace::{Context, TRACEPARENT};
