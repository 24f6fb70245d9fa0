use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io;

/// The hash of what data says: spaces and the order of fields do not count, so that a client may write the same order anew.
/// (A number counts as it is written: 1.0 is not 1.)
pub fn content_hash(value: &impl Serialize) -> [u8; 32] {
    let mut hash = Hashing { sha: Sha256::new(), waiting: [0; 512], len: 0 };
    // serde_json's maps are sorted by key. Writing into a hash cannot fail, and a value parsed from JSON can be written as JSON.
    let _ = serde_json::to_writer(&mut hash, value);
    hash.flush_waiting();
    hash.sha.finalize().into()
}

/// Many tiny writes into one hash.
struct Hashing {
    sha: Sha256,
    waiting: [u8; 512],
    len: usize,
}

impl Hashing {
    fn flush_waiting(&mut self) {
        self.sha.update(&self.waiting[..self.len]);
        self.len = 0;
    }
}

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.len + bytes.len() > self.waiting.len() {
            self.flush_waiting();
        }
        if bytes.len() > self.waiting.len() {
            self.sha.update(bytes);
        } else {
            self.waiting[self.len..self.len + bytes.len()].copy_from_slice(bytes);
            self.len += bytes.len();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
