//! The switch from one message broker to another, as pure state machines: no I/O, no clock (time comes in as a `Duration` since the
//! process started), no randomness. The operator, `up`, the model and the simulation run the same functions; none knows a kind of backend.
//!
//! - `state`: what is written down, and the only ways from one revision to the next.
//! - `request`: who may ask for a backend, and which request rules.
//! - `coordinator`: the next step, from the state and what is observed. Without memory: any leader goes on from any step.
//! - `excused`: whether a member's answer has to be waited for.
//! - `roll`: who has to answer, and what they have said, from a list and a watch.
//! - `gate`: in every pod: may a message be handed to a broker now, to which one, and what does the pod answer.
//! - `reader`: in every worker: which broker is read, how far, what is sealed and what is drained.
//! - `names`: what the objects of a switch are called.
//! - `stamp`: which epoch a message belongs to.
//! - `rules`: the rules of the protocol by name. The model (tests only) drops one after the other and must find what breaks.

mod coordinator;
mod excused;
mod gate;
pub mod names;
mod reader;
mod request;
mod roll;
mod rules;
mod stamp;
mod state;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use coordinator::{Listing, Member, Observed, Settings, Sight, Since, Step, nobody_drains, step};
pub use excused::{Container, Pod, counts};
pub use gate::{Admit, Closed, Gate, Limits, Opening, Source, Verdict};
pub use reader::{Reader, Reading, Seals, Take, drained};
pub use request::{Asked, Request, Standing};
pub use roll::{Heard, Roll, Written};
#[cfg(any(test, feature = "drop-rules"))]
pub use rules::ALL_RULES;
pub use rules::{Rule, Rules};
pub use stamp::Stamp;
pub use state::{Attempt, MOST_OPEN, NotAllowed, OpenEpoch, Outcome, Phase, StateError, SwitchState, VERSION};
