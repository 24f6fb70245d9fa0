//! Stories of a running pipeline, told with the real binaries on real services, with things going wrong meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod broker_away;
mod cart;
mod dead_letters;
mod food;
mod killed;
mod money;
mod poison;
mod privacy;
mod retail;
mod same_request;
mod stopping;
mod switch_limits;
mod switching;
mod telemetry;
mod up;
