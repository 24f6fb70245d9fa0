//! From files, environment and flags to one [`RuntimeConfig`], and to the secrets that it names.

mod env_file;
mod environment;
mod follow;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod mistakes;
mod schemas;
mod secrets;
mod source;

pub use env_file::ENV_FILE;
pub use environment::Environment;
pub use follow::follow;
pub use schemas::Schemas;
pub use secrets::{SecretError, Secrets, entries};
pub use source::{Source, Uptake, document};
