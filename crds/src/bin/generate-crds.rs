//! Writes the CRDs beside this crate's `Cargo.toml`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    for (file, crd) in crds::manifests::all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        std::fs::write(&path, crds::manifests::yaml(&crd)?)?;
        println!("{}", path.display());
    }
    Ok(())
}
