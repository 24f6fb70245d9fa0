//! The operator against a real API server: installed from `config/`, run as its own program under its own ServiceAccount.
//! There is no node: pods stay pending until a test says that they are ready.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod changes;
mod documents;
mod lifecycle;
mod played;
mod switch_faults;
mod switch_requests;
mod switching;
mod world;
