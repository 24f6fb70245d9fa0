//! From files, environment and flags to one [`RuntimeConfig`], and to the secrets that it names.

mod environment;
pub mod reload;
mod secrets;

pub use environment::Environment;
pub use secrets::{SecretError, Secrets};

use crds::runtime_config::RuntimeConfig;
use std::path::Path;

/// Reads what a role is to run: the operator's `config.json`, or an `OrderPipeline` document.
pub fn read(file: &Path) -> Result<RuntimeConfig, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    if file.extension().is_some_and(|e| e == "json") && !text.contains("\"kind\"") {
        return serde_json::from_str(&text).map_err(|e| format!("{} is no runtime configuration of this version: {e}", file.display()));
    }
    let pipeline = document(file, &text)?;
    Ok(crds::resolve(&pipeline))
}

/// Reads and checks a document. The error lists every mistake with its place, one a line.
pub fn document(file: &Path, text: &str) -> Result<crds::OrderPipeline, String> {
    crds::document::read(text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(|m| format!("{}: {m}", file.display())).collect();
        lines.join("\n")
    })
}
