//! What this process obeys and reports when its pipeline moves from one broker to another: where the state of the switch comes from,
//! and where answers go. A pipeline with one backend has none of this.
//!
//! - `switching`: the one state that the process obeys, and what its workers have to say of it.
//! - `requests`: where someone asks this process for another backend.
//! - `keeper`: what a process does at its gate, wherever the state comes from; `prepare`: whether a broker can be used.
//! - `kubernetes`: a pod: state from the API server, answers in a PipelineMember.
//! - `local`: a process that is alone (`up`), and its own coordinator.

mod keeper;
pub mod kubernetes;
mod local;
mod prepare;
mod requests;
mod switching;

#[cfg(test)]
pub use keeper::keep;
pub use local::{Kept, Local, gate as local_gate, names_all};
pub use prepare::{Needs, usable};
pub use requests::Requests;
pub use switching::Switching;
