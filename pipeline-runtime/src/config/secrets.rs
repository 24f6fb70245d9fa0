//! Secret values: files that the cluster mounts, else the environment.

use super::Environment;
use crds::pipeline::{SecretKeyRef, SecretRef};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where secrets are looked up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Secrets {
    folder: PathBuf,
    environment: Environment,
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("secret {name}/{key} is missing: expected the file {file} or the environment variable {variable}")]
pub struct SecretError {
    name: String,
    key: String,
    file: String,
    variable: String,
}

impl Secrets {
    /// `folder` holds `<name>/<key>`, as Secrets are mounted.
    pub fn new(folder: impl Into<PathBuf>, environment: Environment) -> Secrets {
        Secrets { folder: folder.into(), environment }
    }

    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The value of a key, read anew at each call: it may have been rotated.
    pub fn value(&self, reference: &SecretKeyRef) -> Result<String, SecretError> {
        let file = self.file(reference);
        if let Ok(text) = std::fs::read_to_string(&file) {
            return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
        }
        let variable = variable(&reference.name, &reference.key);
        self.environment.get(&variable).map(str::to_owned).ok_or_else(|| SecretError {
            name: reference.name.clone(),
            key: reference.key.clone(),
            file: file.display().to_string(),
            variable,
        })
    }

    /// The file that holds the value, where it is mounted.
    pub fn file(&self, reference: &SecretKeyRef) -> PathBuf {
        self.folder.join(&reference.name).join(&reference.key)
    }

    /// Where all keys of a secret are mounted.
    pub fn folder(&self, reference: &SecretRef) -> PathBuf {
        self.folder.join(&reference.name)
    }
}

/// A longer entry is a file that was put there by mistake.
const LONGEST: u64 = 4096;

/// All entries of a mounted Secret, a file each. A line's end behind a value does not belong to it.
pub fn entries(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let unreadable = |error: std::io::Error| error.to_string();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `..data` and its like are how a mounted Secret is replaced as a whole.
        if name.starts_with("..") {
            continue;
        }
        let facts = std::fs::metadata(entry.path()).map_err(unreadable)?;
        if !facts.is_file() {
            continue;
        }
        if facts.len() > LONGEST {
            return Err(format!("{name} is longer than the {LONGEST} bytes that a key may have"));
        }
        let value = std::fs::read(entry.path()).map_err(unreadable)?;
        found.insert(name, value.trim_ascii_end().to_vec());
    }
    Ok(found)
}

/// `db`, `url` -> `DB_URL`
fn variable(name: &str, key: &str) -> String {
    format!("{name}_{key}").chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reference(name: &str, key: &str) -> SecretKeyRef {
        SecretKeyRef { name: name.into(), key: key.into() }
    }

    #[test]
    fn a_mounted_file_rules_then_the_environment_and_else_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(folder.path(), Environment::of([("DB_URL", "from-env")]));
        assert_eq!(secrets.value(&reference("db", "url")).unwrap(), "from-env");
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("db/url"), "from-file\n").unwrap();
        assert_eq!(secrets.value(&reference("db", "url")).unwrap(), "from-file");
        let error = secrets.value(&reference("api-keys", "shop")).unwrap_err().to_string();
        assert!(error.contains("API_KEYS_SHOP") && error.contains("api-keys/shop"), "{error}");
    }
}
