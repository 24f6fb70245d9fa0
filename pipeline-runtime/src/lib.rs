//! The one image that every pod of a pipeline runs.
#![forbid(unsafe_code)]

pub mod api;
pub mod broker;
pub mod codec;
pub mod config;
pub mod contract;
pub mod control;
pub mod generator;
pub mod publish;
pub mod roles;
pub mod sqlite;
pub mod store;
pub mod telemetry;
pub mod worker;
