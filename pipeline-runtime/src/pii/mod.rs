//! Fields of persons (`events[].pii`): encrypted before anything of them leaves the process, on the broker, in the store and in logs.
//!
//! **What is encrypted.** A value is encrypted as the JSON text that it is, so that a number comes back with the digits it was written
//! with. In its place stands a text, `pii:1:<key>:<event>/<field>:<base64>`; null and what is missing stay as they are. `keys` has the
//! keys, `value` is one value, `fields` are those of an event within its data, `text` finds them in JSON that is not taken apart.
//!
//! **Where in a message's way.** API and generator encrypt behind the contract's check and before the message is encoded. A worker
//! decrypts behind the decoding: `when`, schema and rules see what a field says. Then it puts the encrypted value back, and everything
//! that leaves the process is made of that: the partition key, ids, the order's columns, `set`, `append`, emitted events and callbacks.
//! So no expression can let a plain value out; one that computes with an encrypted field there is refused by `check`. Whoever gets an
//! emitted event or a callback and may know more asks the API. What an event emits that this document names too is encrypted for that one.
//! The API shows `***`, and what a field says only to the readers of `spec.pii`.
//!
//! **How.** AES-256-GCM-SIV with a nonce that is an HMAC of all that goes in: keys, what it is bound to, the event's id, the value. A
//! random nonce of plain AES-GCM may be used 2^32 times with one key, which at 1000 orders a second is 50 days; this has no such bound, a
//! nonce that came twice would tell no more than that the same was encrypted, and a repeat of an event is the same bytes whichever pod makes
//! it. The event's id is left out where a value must be equal to be found: in fields that `key`, `id`, `order.id` or `order.customer` of
//! the event reads. These have a key of their own (`match`), which is never rotated: with a new one every key would move to another
//! partition, and no repeat would be known. The hash by which a repeated Create or request is known is an HMAC under it, so that nobody
//! who has the store can try values.
//!
//! **Bound.** A value opens only in the pipeline, the event and the field that it was encrypted for, whichever broker it comes from; one
//! that must be equal to be found is bound to the pipeline alone, since several events share it. What is opened for a reader of the API is
//! bound to nothing more than it says itself: who can write to the store can move it there to another field.
//!
//! **Keys.** All decrypt, the one whose name sorts last encrypts. One that appears while a process runs encrypts only after
//! `newKeyAfter`: by then all have it. A value under a key that is not here (yet) costs no attempt: its partition key waits for some
//! minutes, then it fails as anything fails, and ends as a dead letter. One that does not open at all is a dead letter at once.
//!
//! **What others write** (`producers: External`) may be plain. It lies on the broker as they wrote it; here it is encrypted before it is
//! stored, emitted or becomes a dead letter: the fields within their message, the whole body where it cannot be read. A replay of either
//! is the message again.
//!
//! **Limits.** How long a value is can be seen. Its key, where others have chosen it, lies in the dead letter as they chose it. A text of
//! others that begins like an encrypted value is taken for one. An event keeps its name for as long as encrypted messages of it are
//! under way. Orders from before `pii` was switched on stay as they are, and a repeat of one of their Creates is a conflict. In a codec
//! with a schema of its own (Avro) an encrypted field has to be a text.

mod fields;
mod keys;
mod text;
mod value;

pub use fields::{Body, Encrypted, Fields, Opened};
pub use keys::{Keyring, Keys, KeysError, VARIABLE, make};
pub use value::{PREFIX, Unreadable};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
