//! API keys: who asks. Each key belongs to a principal, whose name goes with everything that is published for it.

use crate::config::entries;
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The header that carries the key.
pub const HEADER: &str = "x-api-key";
/// The most keys that are looked through for each request.
const MOST: usize = 1000;

/// Principals and the digests of their keys. Digests, so that a comparison takes as long whatever is compared, and a key never shows in a dump.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    entries: Vec<(Arc<str>, [u8; 32])>,
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the API keys in {dir} cannot be read: {reason}")]
    Unreadable { dir: PathBuf, reason: String },
    #[error("the key of {principal:?} is empty: give every API key at least one character")]
    Empty { principal: String },
    #[error("{dir} holds no API key: its Secret needs one entry for each principal, with the key as its value")]
    None { dir: PathBuf },
    #[error("{count} API keys are more than the {MOST} that are possible")]
    TooMany { count: usize },
}

impl Keys {
    /// From principals and their keys.
    pub fn new<P: Into<String>, K: AsRef<[u8]>>(keys: impl IntoIterator<Item = (P, K)>) -> Result<Keys, KeysError> {
        let mut entries = Vec::new();
        for (principal, key) in keys {
            let principal: String = principal.into();
            if key.as_ref().is_empty() {
                return Err(KeysError::Empty { principal });
            }
            entries.push((Arc::from(principal), digest(key.as_ref())));
        }
        if entries.len() > MOST {
            return Err(KeysError::TooMany { count: entries.len() });
        }
        Ok(Keys { entries })
    }

    /// From a mounted Secret: a file for each principal, the key in it. A line's end behind the key does not belong to it.
    pub fn read(dir: &Path) -> Result<Keys, KeysError> {
        let found = entries(dir).map_err(|reason| KeysError::Unreadable { dir: dir.to_owned(), reason })?;
        if found.is_empty() {
            return Err(KeysError::None { dir: dir.to_owned() });
        }
        Keys::new(found)
    }

    /// Whose key it is.
    pub fn principal(&self, key: &[u8]) -> Option<Arc<str>> {
        let presented = digest(key);
        let mut found = None;
        // Every entry is looked at in full: how long it takes tells nothing about which one came close.
        for (principal, known) in &self.entries {
            let difference = presented.iter().zip(known).fold(0u8, |all, (a, b)| all | (a ^ b));
            if difference == 0 {
                found = Some(principal);
            }
        }
        found.cloned()
    }

    pub fn principals(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(principal, _)| &**principal)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.principals()).finish()
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Follows a mounted Secret, so that a key can be changed without a restart. Never ends.
pub async fn follow(keys: Arc<ArcSwap<Keys>>, dir: PathBuf, every: Duration) {
    let read = || Keys::read(&dir).map_err(|e| e.to_string());
    let take_up = |new: &Keys| {
        tracing::info!(principals = ?new, "the API keys have changed");
        keys.store(Arc::new(new.clone()));
        Ok(())
    };
    crate::config::follow(every, Keys::clone(&keys.load()), read, take_up).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_principal_and_any_other_nobody() {
        let keys = Keys::new([("web", "secret-1"), ("batch", "secret-2")]).unwrap();
        assert_eq!(keys.principal(b"secret-2").as_deref(), Some("batch"));
        for wrong in ["", "secret", "secret-3", "secret-1 "] {
            assert_eq!(keys.principal(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn an_empty_key_is_refused() {
        assert!(matches!(Keys::new([("web", "")]), Err(KeysError::Empty { .. })));
    }

    #[test]
    fn a_mounted_secret_is_read_without_its_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web"), "secret-1\n").unwrap();
        std::fs::create_dir(dir.path().join("..data")).unwrap();
        assert_eq!(Keys::read(dir.path()).unwrap(), Keys::new([("web", "secret-1")]).unwrap());
    }

    #[test]
    fn a_secret_without_entries_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Keys::read(dir.path()), Err(KeysError::None { .. })));
    }

    #[test]
    fn keys_never_show_in_a_dump() {
        assert_eq!(format!("{:?}", Keys::new([("web", "secret-1")]).unwrap()), r#"["web"]"#);
    }

    #[tokio::test]
    async fn a_changed_secret_is_followed_and_an_unreadable_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(ArcSwap::from_pointee(Keys::new([("web", "old")]).unwrap()));
        std::fs::write(dir.path().join("web"), "new").unwrap();
        let task = tokio::spawn(follow(keys.clone(), dir.path().to_owned(), Duration::from_millis(1)));
        while keys.load().principal(b"new").is_none() {
            tokio::task::yield_now().await;
        }
        std::fs::write(dir.path().join("web"), "").unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(keys.load().principal(b"new").is_some());
        task.abort();
    }
}
