#![forbid(unsafe_code)]
//! What the end-to-end tests stand on: real services, a proxy that can misbehave, and the binaries under test.

pub mod bed;
pub mod proxy;
