//! The controller of OrderPipelines: makes the cluster what their documents say.
#![forbid(unsafe_code)]

mod again;
pub mod build;
pub mod context;
pub mod controller;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod plugin;
pub mod reconcile;
pub mod switch;
