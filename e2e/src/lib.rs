//! The test bed, the clients, the fault tools and the ledger: the product seen from outside.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test tool that cannot go on should say so and stop

pub mod bed;
pub mod ledger;
pub mod load;
pub mod product;
pub mod proxy;
