//! The workspace's own programs, as Cargo built them beside the running test.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The path of a program of the workspace.
pub fn binary(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("where this test lies")?;
    // target/debug/deps/services-<hash> or, for a program of e2e, target/debug/<name>
    for dir in me.ancestors().skip(1).take(2) {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{name} is not built where {} lies: cargo build -p {name}", me.display())
}
