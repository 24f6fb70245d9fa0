//! The gate and the publisher: the only way to a broker, for the API, the generator, emits and dead letters.

mod brokers;
mod counted;
mod gate;
mod publisher;
mod seal;
mod states;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use brokers::Brokers;
pub use counted::Counted;
pub use gate::{Gate, NotNow, Pass};
pub use publisher::{For, Publisher};
pub use seal::{Unsealed, of_nobody, seal};
pub use states::States;
