//! The test bed, the clients, the fault tools and the ledger: the product seen from outside.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test tool that cannot go on should say so and stop

pub mod bed;
pub mod fleet;
pub mod ledger;
pub mod load;
pub mod pipeline;
pub mod product;
pub mod proxy;

/// An HTTP client for loopback.
pub fn http(timeout: std::time::Duration) -> reqwest::Client {
    // The first one installs it; for the others it is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().timeout(timeout).build().expect("a client without special settings can be built")
}
