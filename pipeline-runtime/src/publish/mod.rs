//! The gate and the publisher: the only way to a broker, for the API, the generator, emits and dead letters.

mod gate;
mod publisher;

pub use gate::{Gate, Pass, Shut};
pub use publisher::Publisher;
