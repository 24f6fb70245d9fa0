//! The broker's tables, and how a message lies in them.

use crate::broker::Header;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// A message's id is its partition's row and its offset in one number. So the table is one tree in which a partition lies together:
/// appending is at the end of it, reading is a range, and there is no second index to write.
const OFFSET_BITS: u32 = 40;
pub const MAX_OFFSET: i64 = (1 << OFFSET_BITS) - 1;

pub fn message_id(row: i64, offset: i64) -> i64 {
    (row << OFFSET_BITS) | offset
}

pub fn offset_of(id: i64) -> i64 {
    id & MAX_OFFSET
}

/// `next` is the offset behind what retention has removed: the end of a partition that has become empty.
pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS broker_topics (
  id INTEGER PRIMARY KEY,
  backend TEXT NOT NULL,
  name TEXT NOT NULL,
  retention_ms INTEGER NOT NULL,
  max_message_bytes INTEGER NOT NULL,
  UNIQUE (backend, name)
);
CREATE TABLE IF NOT EXISTS broker_partitions (
  id INTEGER PRIMARY KEY,
  topic INTEGER NOT NULL REFERENCES broker_topics (id),
  number INTEGER NOT NULL,
  next INTEGER NOT NULL DEFAULT 0,
  UNIQUE (topic, number)
);
CREATE TABLE IF NOT EXISTS broker_messages (
  id INTEGER PRIMARY KEY,
  timestamp_ms INTEGER NOT NULL,
  key BLOB,
  headers BLOB,
  payload BLOB
);
CREATE TABLE IF NOT EXISTS broker_commits (
  partition INTEGER NOT NULL REFERENCES broker_partitions (id),
  group_name TEXT NOT NULL,
  next INTEGER NOT NULL,
  metadata TEXT NOT NULL,
  PRIMARY KEY (partition, group_name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS broker_probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL);
CREATE VIEW IF NOT EXISTS broker_log AS
SELECT t.backend, t.name AS topic, p.number AS partition, m.id & 1099511627775 AS offset,
       datetime(m.timestamp_ms / 1000, 'unixepoch') AS published, CAST(m.key AS TEXT) AS key, CAST(m.payload AS TEXT) AS payload
FROM broker_messages m JOIN broker_partitions p ON p.id = m.id >> 40 JOIN broker_topics t ON t.id = p.topic;
";

/// A topic with one of its partitions, and the last message there.
pub const LOAD: &str = "
SELECT t.name, t.retention_ms, t.max_message_bytes, p.id, p.number, p.next,
       (SELECT max(m.id) FROM broker_messages m WHERE m.id >= p.id << 40 AND m.id < (p.id + 1) << 40)
FROM broker_topics t JOIN broker_partitions p ON p.topic = t.id WHERE t.backend = ? ORDER BY t.id, p.number";

/// From an id, before another, at most so many, and together at most so many bytes; but one message comes whatever its size.
/// `length` of a stored value does not read it, so finding the cut is cheap.
pub const READ: &str = "
SELECT id, timestamp_ms, key, headers, payload FROM broker_messages WHERE id >= ?1 AND id <= (
  SELECT max(id) FROM (
    SELECT id, bytes, sum(bytes) OVER (ORDER BY id) AS total FROM (
      SELECT id, ifnull(length(key), 0) + ifnull(length(headers), 0) + ifnull(length(payload), 0) AS bytes
      FROM broker_messages WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3))
  WHERE total <= ?4 OR total = bytes)
ORDER BY id";

/// Names and values, each behind its length. None where there are no headers.
pub fn encode_headers(headers: &[Header]) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let mut out = BytesMut::with_capacity(headers.iter().map(|h| h.name.len() + h.value.len() + 8).sum());
    for header in headers {
        for part in [header.name.as_bytes(), &header.value] {
            // What a message may take is bounded far below 4 GiB.
            out.put_u32_le(part.len() as u32);
            out.put_slice(part);
        }
    }
    Some(out.into())
}

/// The names that have been met, so that a name that comes with every message is one allocation for all of them.
#[derive(Default)]
pub struct Names(Vec<Arc<str>>);

impl Names {
    const MOST: usize = 32;

    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        if self.0.len() < Names::MOST {
            self.0.push(new.clone());
        }
        new
    }
}

/// None when the bytes are not what `encode_headers` writes.
pub fn decode_headers(mut bytes: Bytes, names: &mut Names) -> Option<Vec<Header>> {
    let part = |bytes: &mut Bytes| -> Option<Bytes> {
        let length = bytes.try_get_u32_le().ok()? as usize;
        (length <= bytes.len()).then(|| bytes.split_to(length))
    };
    let mut headers = Vec::new();
    while !bytes.is_empty() {
        let (name, value) = (part(&mut bytes)?, part(&mut bytes)?);
        headers.push(Header { name: names.get(std::str::from_utf8(&name).ok()?), value });
    }
    Some(headers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were(pairs in prop::collection::vec((".{0,10}", prop::collection::vec(any::<u8>(), 0..10)), 0..6)) {
            let headers: Vec<Header> = pairs.into_iter().map(|(name, value)| Header { name: name.into(), value: value.into() }).collect();
            let stored = encode_headers(&headers);
            prop_assert_eq!(stored.is_none(), headers.is_empty());
            prop_assert_eq!(decode_headers(stored.unwrap_or_default().into(), &mut Names::default()), Some(headers));
        }

        #[test]
        fn other_bytes_are_no_headers_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            let _ = decode_headers(bytes.into(), &mut Names::default());
        }

        #[test]
        fn ids_sort_by_partition_then_offset(a in (1_i64..1 << 22, 0..=MAX_OFFSET), b in (1_i64..1 << 22, 0..=MAX_OFFSET)) {
            prop_assert_eq!(message_id(a.0, a.1).cmp(&message_id(b.0, b.1)), a.cmp(&b));
            prop_assert_eq!(offset_of(message_id(a.0, a.1)), a.1);
        }
    }
}
