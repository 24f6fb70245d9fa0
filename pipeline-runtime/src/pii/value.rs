//! One encrypted value: `pii:1:<key>:<event>/<field>:<base64 of nonce, ciphertext and tag>`; in the place of event and field a star where
//! it must be equal to be found.

use super::keys::{Key, Keyring};
use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How every encrypted value begins.
pub const PREFIX: &str = "pii:1:";
const TAG: usize = 16;
const ANYWHERE: &str = "*";

/// What a value is encrypted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound<'a> {
    To {
        event: &'a str,
        field: &'a str,
    },
    /// It must be equal to be found.
    Matching,
}

/// Why a value does not open. Nothing of it is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error(
        "is encrypted with the key {key:?}, which is not in the Secret of spec.pii: put it there, old keys stay as long as their values"
    )]
    UnknownKey { key: String },
    #[error("is encrypted and does not open: it was changed, or belongs to another pipeline, event or field")]
    Forged,
    #[error("cannot be encrypted: there is no key")]
    NoKey,
}

/// The parts of an encrypted value.
struct Parts<'a> {
    key: &'a str,
    bound: Bound<'a>,
    body: &'a str,
}

/// Whether a text is written as an encrypted value is; what it says, and whether it opens, is another question.
pub(super) fn is_one(text: &str) -> bool {
    parts(text).is_some()
}

/// None: it is no encrypted value.
fn parts(text: &str) -> Option<Parts<'_>> {
    let mut parts = text.strip_prefix(PREFIX)?.splitn(3, ':');
    let (key, bound, body) = (parts.next()?, parts.next()?, parts.next()?);
    // A sentence may name the key, so that it must be none of a person's words.
    if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
        return None;
    }
    let bound = match bound.split_once('/') {
        None if bound == ANYWHERE => Bound::Matching,
        Some((event, field)) => Bound::To { event, field },
        None => return None,
    };
    Some(Parts { key, bound, body })
}

impl Keyring {
    /// `event_id` sets equal values of several events apart.
    pub(super) fn encrypt(&self, bound: Bound<'_>, event_id: &str, plain: &[u8]) -> Result<String, Unreadable> {
        let key = self.encrypting(bound == Bound::Matching).ok_or(Unreadable::NoKey)?;
        let about = self.about(bound);
        let nonce = nonce(&key, &about, if bound == Bound::Matching { "" } else { event_id }, plain);
        let mut body = Vec::with_capacity(NONCE_LEN + plain.len() + TAG);
        body.extend_from_slice(&nonce);
        body.extend_from_slice(plain);
        let tag = key.aead.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&about), &mut body[NONCE_LEN..]);
        body.extend_from_slice(tag.map_err(|_| Unreadable::NoKey)?.as_ref());
        let mut text = String::with_capacity(PREFIX.len() + key.name.len() + about.len() + body.len() * 4 / 3 + 8);
        text.push_str(PREFIX);
        text.push_str(&key.name);
        text.push(':');
        match bound {
            Bound::To { event, field } => text.extend([event, "/", field]),
            Bound::Matching => text.push_str(ANYWHERE),
        }
        text.push(':');
        URL_SAFE_NO_PAD.encode_string(&body, &mut text);
        Ok(text)
    }

    /// What a value says, and what it was encrypted for. None: it is no encrypted value.
    pub(super) fn decrypt<'a>(&self, text: &'a str) -> Option<Result<(Vec<u8>, Bound<'a>), Unreadable>> {
        let Parts { key, bound, body } = parts(text)?;
        Some(self.open(key, bound, body).map(|plain| (plain, bound)))
    }

    fn open(&self, key: &str, bound: Bound<'_>, body: &str) -> Result<Vec<u8>, Unreadable> {
        let key = self.key(key).ok_or_else(|| Unreadable::UnknownKey { key: key.chars().take(40).collect() })?;
        let mut body = URL_SAFE_NO_PAD.decode(body).map_err(|_| Unreadable::Forged)?;
        let (nonce, sealed) = body.split_first_chunk_mut::<NONCE_LEN>().ok_or(Unreadable::Forged)?;
        let opened = key.aead.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(self.about(bound)), sealed);
        let length = opened.map_err(|_| Unreadable::Forged)?.len();
        body.drain(..NONCE_LEN);
        body.truncate(length);
        Ok(body)
    }

    /// Names hold no NUL, so that no two bindings are the same bytes.
    fn about(&self, bound: Bound<'_>) -> Vec<u8> {
        match bound {
            Bound::To { event, field } => [PREFIX, &self.pipeline, event, field].join("\0").into_bytes(),
            Bound::Matching => [PREFIX, &self.pipeline].join("\0").into_bytes(),
        }
    }
}

/// The same for the same, and else another one: with this cipher it need not even be.
fn nonce(key: &Key, about: &[u8], event_id: &str, plain: &[u8]) -> [u8; NONCE_LEN] {
    let mut all = hmac::Context::with_key(&key.nonces);
    for part in [about, event_id.as_bytes()] {
        all.update(&(part.len() as u64).to_le_bytes());
        all.update(part);
    }
    all.update(plain);
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&all.sign().as_ref()[..NONCE_LEN]);
    nonce
}
