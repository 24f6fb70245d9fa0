//! What passes between a user, the operator and the runtime: types, and pure functions on them.
//! Nothing here does I/O, reads a clock or draws a random number.
#![forbid(unsafe_code)]
// Every printer column of a resource has a type and a path: clippy takes that for a repetition.
#![allow(clippy::duplicated_attributes)]

pub mod document;
pub mod expression;
pub mod json;
pub mod manifests;
pub mod member;
pub mod mistake;
pub mod pipeline;
pub mod role;
pub mod runtime_config;
pub mod schema;
pub mod switch;

pub use mistake::Mistake;
pub use pipeline::{OrderPipeline, OrderPipelineSpec, check, resolve};
pub use role::Role;
