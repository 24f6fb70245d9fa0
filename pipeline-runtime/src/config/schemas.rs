//! Avro schemas: files that the cluster mounts, else files beside the document.

use crds::pipeline::ConfigMapKeyRef;
use std::path::{Path, PathBuf};

/// Where schemas are looked up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Schemas {
    mounted: PathBuf,
    beside: PathBuf,
}

impl Schemas {
    /// `mounted` holds `<name>/<key>`, as ConfigMaps are mounted; beside the document the key is the file's name.
    pub fn new(mounted: impl Into<PathBuf>, document: &Path) -> Schemas {
        let beside = document.parent().unwrap_or(Path::new("")).to_owned();
        Schemas { mounted: mounted.into(), beside }
    }

    pub fn text(&self, at: &ConfigMapKeyRef) -> Result<String, String> {
        let mounted = self.mounted.join(&at.name).join(&at.key);
        let beside = self.beside.join(&at.key);
        let file = if mounted.exists() { &mounted } else { &beside };
        std::fs::read_to_string(file).map_err(|e| {
            let (name, key) = (&at.name, &at.key);
            format!("the Avro schema {name}/{key} is missing: expected the file {} or {} ({e})", mounted.display(), beside.display())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_file_rules_then_the_one_beside_the_document_and_else_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let schemas = Schemas::new(folder.path().join("mounted"), &folder.path().join("pipeline.yaml"));
        let at = ConfigMapKeyRef { name: "schemas".into(), key: "order.avsc".into() };
        let error = schemas.text(&at).unwrap_err();
        assert!(error.contains("mounted/schemas/order.avsc") && error.contains("schemas/order.avsc is missing"), "{error}");
        std::fs::write(folder.path().join("order.avsc"), "beside").unwrap();
        assert_eq!(schemas.text(&at).unwrap(), "beside");
        std::fs::create_dir_all(folder.path().join("mounted/schemas")).unwrap();
        std::fs::write(folder.path().join("mounted/schemas/order.avsc"), "mounted").unwrap();
        assert_eq!(schemas.text(&at).unwrap(), "mounted");
    }
}
