//! The keys: read from a mounted Secret, followed, and which of them encrypts now.

use crate::config::{self, entries};
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, LessSafeKey, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crds::pipeline::MATCHING_KEY;
use rand::RngCore;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The environment variable that stands for the Secret: `2025-01=<base64>,match=<base64>`.
pub const VARIABLE: &str = "PII_KEYS";
/// Of a key, in bytes.
const LENGTH: usize = 32;
const MOST: usize = 100;
const LONGEST_NAME: usize = 40;

/// Keys by their names.
#[derive(Clone)]
pub struct Keys {
    /// All but `match`, each with the time from which it encrypts.
    all: BTreeMap<String, (Arc<Key>, Instant)>,
    matching: Arc<Key>,
}

pub(super) struct Key {
    pub name: String,
    pub aead: LessSafeKey,
    pub nonces: hmac::Key,
    pub hashes: hmac::Key,
    /// Of the key itself: whether two are the same.
    fingerprint: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("the keys of encrypted fields cannot be read: {0}")]
    Unreadable(String),
    #[error(
        "the key {name:?} of encrypted fields is none: it must be {LENGTH} random bytes in base64, as `openssl rand -base64 {LENGTH}` makes them"
    )]
    NoKey { name: String },
    #[error("the key's name {name:?} may hold letters, digits, dot, dash and underscore, at most {LONGEST_NAME}")]
    Name { name: String },
    #[error(
        "the keys of encrypted fields have no entry {MATCHING_KEY:?}: add one with {LENGTH} random bytes in base64, and never change it"
    )]
    NoMatching,
    #[error(
        "there is no key to encrypt fields with beside {MATCHING_KEY:?}: add one, named so that newer ones sort behind it, such as by its date"
    )]
    None,
    #[error("{count} keys of encrypted fields are more than the {MOST} that are possible")]
    TooMany { count: usize },
    #[error(
        "the key {name:?} of encrypted fields has another value than before: what it has encrypted could never be read again; put it back, and \
         give a new key a name of its own"
    )]
    Changed { name: String },
}

impl Keys {
    /// From names and base64.
    pub fn new<N: Into<String>, K: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, K)>) -> Result<Keys, KeysError> {
        let mut all = BTreeMap::new();
        for (name, text) in entries {
            let name: String = name.into();
            all.insert(name.clone(), (Arc::new(Key::new(name, text.as_ref())?), Instant::now()));
        }
        if all.len() > MOST {
            return Err(KeysError::TooMany { count: all.len() });
        }
        let (matching, _) = all.remove(MATCHING_KEY).ok_or(KeysError::NoMatching)?;
        if all.is_empty() { Err(KeysError::None) } else { Ok(Keys { all, matching }) }
    }

    /// From a mounted Secret: a file for each key.
    pub fn read(folder: &Path) -> Result<Keys, KeysError> {
        Keys::new(entries(folder).map_err(KeysError::Unreadable)?)
    }

    /// As [`VARIABLE`] has them.
    pub fn listed(text: &str) -> Result<Keys, KeysError> {
        let each = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Keys::new(each.map(|entry| entry.split_once('=').unwrap_or((entry, ""))))
    }

    /// These instead of those that were read before: what is new begins to encrypt only later.
    fn follow(mut self, before: &Keys, new_key_after: Duration) -> Result<Keys, KeysError> {
        let changed = |key: &Key, was: &Key| key.fingerprint != was.fingerprint;
        let later = Instant::now() + new_key_after;
        for (name, (key, encrypts_from)) in &mut self.all {
            match before.all.get(name) {
                Some((was, _)) if changed(key, was) => return Err(KeysError::Changed { name: name.clone() }),
                Some((_, since)) => *encrypts_from = *since,
                None => *encrypts_from = later,
            }
        }
        if changed(&self.matching, &before.matching) {
            return Err(KeysError::Changed { name: MATCHING_KEY.to_owned() });
        }
        Ok(self)
    }

    /// The newest that all processes have by now; of several that none of them may have, the oldest.
    fn encrypting(&self) -> Option<&Arc<Key>> {
        let now = Instant::now();
        let newest = self.all.values().rev().find(|(_, encrypts_from)| *encrypts_from <= now);
        newest.or_else(|| self.all.values().next()).map(|(key, _)| key)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Keys) -> bool {
        let prints = |keys: &Keys| {
            let keys = keys.all.values().map(|(key, _)| key).chain([&keys.matching]);
            keys.map(|key| (key.name.clone(), key.fingerprint)).collect::<Vec<_>>()
        };
        prints(self) == prints(other)
    }
}

/// Names only.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Key {
    fn new(name: String, text: &[u8]) -> Result<Key, KeysError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
            return Err(KeysError::Name { name });
        }
        let secret = STANDARD.decode(text.trim_ascii()).unwrap_or_default();
        // One key for each use: none of them tells anything about another.
        let secret = (secret.len() == LENGTH).then(|| hmac::Key::new(hmac::HMAC_SHA256, &secret));
        let aead = secret.as_ref().and_then(|secret| UnboundKey::new(&AES_256_GCM_SIV, hmac::sign(secret, b"values").as_ref()).ok());
        let (Some(secret), Some(aead)) = (secret, aead) else { return Err(KeysError::NoKey { name }) };
        let derived = |of: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&secret, of).as_ref());
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(hmac::sign(&secret, b"fingerprint").as_ref());
        Ok(Key { name, aead: LessSafeKey::new(aead), nonces: derived(b"nonces"), hashes: derived(b"hashes"), fingerprint })
    }
}

/// Makes the keys of a laptop, where there are none yet. Whether it did.
pub fn make(folder: &Path, name: &str) -> std::io::Result<bool> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if folder.exists() {
        return Ok(false);
    }
    // All of them or none: a process that is killed in between leaves nothing that looks like keys.
    let making = folder.with_extension("making");
    let _ = std::fs::remove_dir_all(&making);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&making)?;
    for name in [name, MATCHING_KEY] {
        let mut key = [0; LENGTH];
        rand::rng().fill_bytes(&mut key);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(making.join(name))?;
        std::io::Write::write_all(&mut file, STANDARD.encode(key).as_bytes())?;
        file.sync_all()?;
    }
    std::fs::rename(&making, folder)?;
    Ok(true)
}

/// The keys of a running process, and the pipeline that values are bound to.
pub struct Keyring {
    pub(super) pipeline: String,
    keys: ArcSwap<Keys>,
}

impl Keyring {
    pub fn new(pipeline: &str, keys: Keys) -> Arc<Keyring> {
        Arc::new(Keyring { pipeline: pipeline.to_owned(), keys: ArcSwap::from_pointee(keys) })
    }

    /// Follows the folder of a mounted Secret. Never ends.
    pub async fn follow(self: Arc<Keyring>, folder: PathBuf, every: Duration, new_key_after: Duration) {
        let read = || Keys::read(&folder).map_err(|e| e.to_string());
        let take_up = |new: &Keys| {
            self.replace(new.clone(), new_key_after).map_err(|e| e.to_string())?;
            tracing::info!(keys = ?new, "the keys of encrypted fields have changed; a new one encrypts in {new_key_after:?}");
            Ok(())
        };
        config::follow(every, Keys::clone(&self.keys.load()), read, take_up).await;
    }

    fn replace(&self, new: Keys, new_key_after: Duration) -> Result<(), KeysError> {
        let new = new.follow(&self.keys.load(), new_key_after)?;
        self.keys.store(Arc::new(new));
        Ok(())
    }

    pub(super) fn encrypting(&self, matching: bool) -> Option<Arc<Key>> {
        let keys = self.keys.load();
        if matching { Some(keys.matching.clone()) } else { keys.encrypting().cloned() }
    }

    pub(super) fn key(&self, name: &str) -> Option<Arc<Key>> {
        let keys = self.keys.load();
        if name == MATCHING_KEY { Some(keys.matching.clone()) } else { keys.all.get(name).map(|(key, _)| key.clone()) }
    }

    /// A hash that says nothing to whoever has not the key.
    pub fn hash(&self, digest: &[u8; 32]) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.keys.load().matching.hashes, digest).as_ref());
        hash
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.keys.load().fmt(f)
    }
}
