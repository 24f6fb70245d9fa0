//! Tests against real services. They need what `e2e/prepare` installs: run that once, then `cargo test -p e2e --test services`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bed;
mod kafka;
mod store;
