//! The one image that every pod of a pipeline runs.
#![forbid(unsafe_code)]

pub mod api;
pub mod broker;
pub mod codec;
pub mod contract;
pub mod publish;
pub mod sqlite;
pub mod store;
