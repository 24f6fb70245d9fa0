//! Writes the CRDs beside this crate's `Cargo.toml`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    if std::env::args_os().len() > 1 {
        eprintln!(
            "usage: generate-crds\nIt takes no arguments: it writes the CRDs of the types that it is built of beside their crate's Cargo.toml."
        );
        return Ok(ExitCode::from(2));
    }
    for (file, crd) in crds::manifests::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        std::fs::write(&path, crds::manifests::yaml(&crd)?)?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
