//! What every client of an HTTP service here begins with.

use std::error::Error;

/// Also where no program has chosen who encrypts: without that the client panics.
pub fn client() -> reqwest::ClientBuilder {
    // Ours or the one that is already installed: both do.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
}

/// An error with all that caused it: reqwest says only that sending failed.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
