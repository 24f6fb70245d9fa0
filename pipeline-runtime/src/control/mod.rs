//! What this process obeys and reports when its pipeline moves from one broker to another: where the state of the switch comes from,
//! and where answers go. A pipeline with one backend has none of this.

mod switching;

pub use switching::Switching;
