//! What this process obeys and reports when its pipeline moves from one broker to another: where the state of the switch comes from,
//! and where answers go. A pipeline with one backend has none of this.

mod local;
mod prepare;
mod switching;

pub use local::{Kept, Local, gate as local_gate};
pub use switching::Switching;
