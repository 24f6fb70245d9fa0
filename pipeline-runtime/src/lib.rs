//! The one image that every pod of a pipeline runs.
#![forbid(unsafe_code)]

pub mod api;
pub mod broker;
pub mod codec;
pub mod config;
pub mod contract;
pub mod control;
pub mod generator;
mod http;
pub mod pii;
pub mod publish;
pub mod roles;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod simulation;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod worker;
