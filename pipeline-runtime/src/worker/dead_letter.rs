//! Dead letters: the message as it came, with headers that say where from, why and after how many attempts.

use super::Shared;
use super::about::tell_failure;
use super::failure::Failure;
use super::health::Ended;
use super::lanes::InHand;
use super::privacy::Buried;
use crate::broker::{Header, Outgoing, Position, PublishError, Target};
use crate::codec::{self, attribute};
use crate::publish::For;
use crate::store::Change;
use crate::telemetry::Context;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The headers of a dead letter. Those of the message itself stay as they were, so that a replay is the message again.
pub mod header {
    /// Follows from where the message lay: the same letter, written once more after a crash, has the same.
    pub const ID: &str = "dlq-id";
    pub const TOPIC: &str = "dlq-topic";
    pub const PARTITION: &str = "dlq-partition";
    pub const OFFSET: &str = "dlq-offset";
    /// Where it is not long; the letter's own key is the same.
    pub const KEY: &str = "dlq-key";
    pub const PUBLISH_TIME: &str = "dlq-publish-time";
    pub const REASON: &str = "dlq-reason";
    pub const ERROR_TYPE: &str = "dlq-error-type";
    pub const ATTEMPTS: &str = "dlq-attempts";
    pub const TIME: &str = "dlq-time";
    pub const EVENT_ID: &str = "dlq-event-id";
    /// The size in bytes of the original's body, headers or key, where the dead-letter topic does not take it whole.
    pub const CUT_FROM: &str = "dlq-cut-from";
    pub const HEADERS_CUT_FROM: &str = "dlq-headers-cut-from";
    pub const KEY_CUT_FROM: &str = "dlq-key-cut-from";
    /// `change` where the body is not the message but what the store had kept of it.
    pub const BODY: &str = "dlq-body";
    pub const ALL: [&str; 15] = [
        ID,
        TOPIC,
        PARTITION,
        OFFSET,
        KEY,
        PUBLISH_TIME,
        REASON,
        ERROR_TYPE,
        ATTEMPTS,
        TIME,
        EVENT_ID,
        CUT_FROM,
        HEADERS_CUT_FROM,
        KEY_CUT_FROM,
        BODY,
    ];
}

/// The most characters of a reason, and bytes of a key that is noted beside the letter's own: headers count against the message's size.
const LONGEST_NOTE: usize = 2000;
/// What a broker adds to a message, with room to spare.
const OVERHEAD: usize = 512;
/// What the headers take that say what was cut.
const MARKS: usize = 160;
/// How long one attempt to publish may take.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// How long what a broker said about a topic's limit is believed.
const LIMIT_HOLDS: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// The id of the letter of a message that lay there.
pub fn letter_id(backend: &str, at: &Position, timestamp_ms: i64) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("dead letter\n{backend}\n{}", codec::place_in_time(at, timestamp_ms)).as_bytes())
}

/// The dead letter of a message that was read from this backend. `most` bounds its size where the topic's limit is known.
pub fn letter(
    topic: &str,
    backend: &str,
    buried: &Buried<'_>,
    failure: &Failure,
    attempts: u32,
    now: DateTime<Utc>,
    most: Option<usize>,
) -> Outgoing {
    let message = &*buried.message;
    let Position { partition, offset } = &message.at;
    let mut headers: Vec<Header> =
        message.headers.iter().filter(|h| &*h.name != attribute::STAMP && !header::ALL.contains(&&*h.name)).cloned().collect();
    if message.header(attribute::ORIGIN).is_none() {
        headers.push(Header { name: attribute::ORIGIN.into(), value: codec::place_in_time(&message.at, message.timestamp_ms).into() });
    }
    let own = headers.len();
    let mut note = |name: &str, value: Bytes| headers.push(Header { name: name.into(), value });
    note(header::ID, letter_id(backend, &message.at, message.timestamp_ms).to_string().into());
    note(header::TOPIC, Bytes::copy_from_slice(partition.topic.as_bytes()));
    note(header::PARTITION, partition.number.to_string().into());
    note(header::OFFSET, offset.to_string().into());
    if let Some(key) = message.key.as_ref().filter(|key| key.len() <= LONGEST_NOTE) {
        note(header::KEY, key.clone());
    }
    note(header::PUBLISH_TIME, rfc3339(buried.published));
    note(header::REASON, brief(&failure.reason));
    note(header::ERROR_TYPE, Bytes::from_static(failure.kind.name().as_bytes()));
    note(header::ATTEMPTS, attempts.to_string().into());
    note(header::TIME, rfc3339(now));
    if let Some(id) = &failure.event_id {
        note(header::EVENT_ID, brief(id));
    }
    let mut letter =
        Outgoing { topic: topic.into(), target: Target::Key, key: message.key.clone(), headers, payload: message.payload.clone() };
    fit(&mut letter, own, most, |room| buried.shortened(room));
    letter
}

fn brief(text: &str) -> Bytes {
    text.chars().take(LONGEST_NOTE).collect::<String>().into()
}

fn size(letter: &Outgoing) -> usize {
    let headers: usize = letter.headers.iter().map(weight).sum();
    headers + letter.key.as_ref().map_or(0, Bytes::len) + letter.payload.as_ref().map_or(0, Bytes::len) + OVERHEAD
}

fn weight(header: &Header) -> usize {
    header.name.len() + header.value.len() + 8
}

/// Shortens a letter until it fits: the body, then the message's own headers (so many are the first ones; the last of them go first), then
/// the key, then what we note at length. Of the first three a header says how large they were: what is left of them is not the message, and
/// is not replayed.
fn fit(letter: &mut Outgoing, own: usize, most: Option<usize>, body: impl Fn(usize) -> (Bytes, Option<usize>)) {
    let Some(most) = most.filter(|most| size(letter) > *most) else { return };
    let most = most.saturating_sub(MARKS);
    let over = |letter: &Outgoing| size(letter).saturating_sub(most);
    let mut marks = Vec::new();
    if letter.payload.take_if(|body| !body.is_empty()).is_some() {
        let (shortened, from) = body(most.saturating_sub(size(letter)));
        letter.payload = Some(shortened);
        marks.extend(from.map(|from| (header::CUT_FROM, from)));
    }
    let (mut excess, mut kept) = (over(letter), own);
    if excess > 0 && own > 0 {
        marks.push((header::HEADERS_CUT_FROM, letter.headers[..own].iter().map(weight).sum()));
        while excess > 0 && kept > 0 {
            kept -= 1;
            excess = excess.saturating_sub(weight(&letter.headers[kept]));
        }
        letter.headers.drain(kept..own);
    }
    let excess = over(letter);
    if let Some(key) = letter.key.as_mut().filter(|key| excess > 0 && !key.is_empty()) {
        marks.push((header::KEY_CUT_FROM, key.len()));
        key.truncate(key.len().saturating_sub(excess));
    }
    for name in [header::REASON, header::EVENT_ID] {
        let excess = over(letter);
        if let Some(note) = letter.headers.iter_mut().find(|header| &*header.name == name) {
            note.value.truncate(note.value.len().saturating_sub(excess));
        }
    }
    letter.headers.extend(marks.into_iter().map(|(name, from)| Header { name: name.into(), value: from.to_string().into() }));
}

/// A smaller one, where that is what the broker wants: what it or our client takes need not be what it says.
fn smaller(letter: &Outgoing, error: &PublishError, made: impl Fn(Option<usize>) -> Outgoing) -> Option<Outgoing> {
    let PublishError::TooLarge { .. } = error else { return None };
    let half = made(Some(size(letter) / 2));
    (size(&half) < size(letter)).then_some(half)
}

fn rfc3339(time: DateTime<Utc>) -> Bytes {
    time.to_rfc3339_opts(SecondsFormat::Millis, true).into()
}

/// The dead letter of an update whose order never came: the message is no longer at hand, what the store kept of it is.
pub fn expired(topic: &str, change: &Change, failure: &Failure, now: DateTime<Utc>, most: Option<usize>) -> Outgoing {
    let (from, partition, offset) = place_of(&change.source).unwrap_or((&change.source, "", ""));
    let body = json!({
        "id": change.event_id, "type": change.event, "orderId": change.order_id, "publishTime": change.published_at, "at": change.at,
        "tenant": change.fields.tenant, "customer": change.fields.customer, "items": change.fields.items, "total": change.fields.total,
        "status": change.fields.status, "set": change.set, "append": change.append,
    });
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("expired\n{}\n{}", change.source, change.event_id).as_bytes());
    let notes = [
        (header::ID, id.to_string()),
        (header::TOPIC, from.to_owned()),
        (header::PARTITION, partition.to_owned()),
        (header::OFFSET, offset.to_owned()),
        (header::PUBLISH_TIME, change.published_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        (header::REASON, failure.reason.clone()),
        (header::ERROR_TYPE, failure.kind.name().to_owned()),
        (header::ATTEMPTS, "1".to_owned()),
        (header::TIME, now.to_rfc3339_opts(SecondsFormat::Millis, true)),
        (header::EVENT_ID, change.event_id.clone()),
        (header::BODY, "change".to_owned()),
    ];
    let headers = notes.into_iter().map(|(name, value)| Header { name: name.into(), value: value.into() }).collect();
    let key = Some(change.order_id.clone().into());
    let body = Bytes::from(body.to_string());
    let mut letter = Outgoing { topic: topic.into(), target: Target::Key, key, headers, payload: Some(body.clone()) };
    fit(&mut letter, 0, most, |room| (body.slice(..room.min(body.len())), Some(body.len())));
    letter
}

/// topic/partition/offset. A topic's name holds no slash.
pub fn place_of(source: &str) -> Option<(&str, &str, &str)> {
    let (rest, offset) = source.rsplit_once('/')?;
    let (topic, partition) = rest.rsplit_once('/')?;
    Some((topic, partition, offset))
}

impl Shared {
    /// Writes the dead letter of an event and waits for its ack, as long as it takes. None: we stop, or the partition went to another.
    pub(super) async fn bury(&self, work: &InHand, failure: &Failure) -> Option<Ended> {
        let config = self.deps.config.load_full();
        let topic = &*work.message.at.partition.topic;
        let attempts = work.attempts.max(1);
        let about = self.about(work, failure);
        self.deps.health.counters.failed(failure.kind);
        let Some(to) = config.topic(topic).and_then(|topic| topic.dead_letter.clone()) else {
            tell_failure!(error, work, about, failure, attempts, "event dropped: its topic has no dead-letter topic");
            return Some(Ended::Dropped);
        };
        let contract = self.deps.contract.load_full();
        let buried = match Buried::of(&config, &contract, &self.deps.codecs, &work.message) {
            Ok(buried) => buried,
            Err(reason) => {
                let at = &work.message.at;
                let (partition, offset) = (at.partition.number, at.offset);
                tracing::error!(topic, partition, offset, %reason, "a dead letter is not written: what it would say in plain");
                return None;
            }
        };
        let now = Utc::now();
        let made = |most| letter(&to, self.deps.broker.name(), &buried, failure, attempts, now, most);
        if !self.write_letter(&to, work.trace(), made, || self.desk().wanted(work)).await {
            return None;
        }
        self.note_burial(topic, failure);
        tell_failure!(warn, work, about, failure, attempts, deadLetterTopic = to, "event became a dead letter");
        Some(Ended::DeadLetter)
    }

    /// As `bury`, for an update that waited too long in the store.
    pub(super) async fn bury_expired(&self, change: &Change, failure: &Failure) -> bool {
        let config = self.deps.config.load_full();
        let from = place_of(&change.source).map_or("", |(topic, _, _)| topic);
        let to = config.topic(from).and_then(|topic| topic.dead_letter.clone());
        self.deps.health.counters.failed(failure.kind);
        let Some(to) = to else {
            tracing::error!(
                source = change.source,
                eventId = change.event_id,
                orderId = change.order_id,
                tenantId = change.fields.tenant,
                "update dropped: its order never came, and its topic has no dead-letter topic"
            );
            return true;
        };
        let now = Utc::now();
        let buried = self.write_letter(&to, None, |most| expired(&to, change, failure, now, most), || true).await;
        if buried {
            self.note_burial(from, failure);
            tracing::warn!(
                source = change.source,
                eventId = change.event_id,
                orderId = change.order_id,
                tenantId = change.fields.tenant,
                deadLetterTopic = to,
                "an update whose order never came became a dead letter"
            );
        }
        buried
    }

    fn note_burial(&self, topic: &str, failure: &Failure) {
        self.deps.health.counters.dead_letters.add(1);
        if let Some(of_topic) = self.of_topics.get(topic) {
            of_topic.buried(failure.kind);
        }
    }

    /// The smaller of what the document and the broker allow.
    async fn letter_limit(&self, topic: &str) -> Option<usize> {
        let documented = self.deps.config.load().topic(topic).map(|topic| topic.max_message_bytes);
        let told = self.told_limit(topic).await;
        [documented, told].into_iter().flatten().min()
    }

    /// What the broker says, which takes a connection of its own: it is asked by one for all, and once a minute.
    async fn told_limit(&self, topic: &str) -> Option<usize> {
        let mut limits = self.letter_limits.lock().await;
        let broker = self.deps.publisher.broker();
        let of = (broker.name().to_owned(), topic.to_owned());
        if let Some((told, _)) = limits.get(&of).filter(|(_, since)| since.elapsed() < LIMIT_HOLDS) {
            return *told;
        }
        let facts = tokio::time::timeout(PUBLISH_DEADLINE, broker.topic(topic)).await.ok()?.ok()?;
        let told = facts.and_then(|facts| facts.max_message_bytes);
        limits.insert(of, (told, Instant::now()));
        told
    }

    /// Writes a letter and waits for its ack, as long as it takes. False: we stop, or nobody wants it of us any more. `made` makes it, of at
    /// most so many bytes.
    ///
    /// No message is passed without its letter. One that is refused for its size is made smaller; for any other refusal (a right that is
    /// missing, a demand of the topic) somebody has to mend the topic, and the log says which.
    async fn write_letter(
        &self,
        topic: &str,
        trace: Option<Context>,
        made: impl Fn(Option<usize>) -> Outgoing,
        wanted: impl Fn() -> bool,
    ) -> bool {
        let broker = || self.deps.publisher.broker().name().to_owned();
        let mut written_for = broker();
        let mut letter = made(self.letter_limit(topic).await);
        let mut backoff = FIRST_BACKOFF;
        loop {
            let published = self.deps.publisher.publish_for(For { trace, order_id: None }, &letter, PUBLISH_DEADLINE).await;
            let Err(error) = published else { return true };
            if self.stopping() || !wanted() {
                tracing::info!(topic, %error, "a dead letter is left to whoever reads this event next");
                return false;
            }
            if let Some(smaller) = smaller(&letter, &error, &made) {
                tracing::warn!(topic, %error, "a dead letter is larger than its topic takes: it is cut");
                letter = smaller;
                continue;
            }
            let pause = self.bounded(backoff);
            tracing::error!(topic, %error, "a dead letter cannot be written; trying again in {pause:?}, its event waits");
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
            if !self.sleep(pause).await {
                return false;
            }
            // Another broker may take less.
            if written_for != broker() {
                written_for = broker();
                letter = made(self.letter_limit(topic).await);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::failure::Kind;
    use super::*;
    use crate::broker::{Incoming, Partition};
    use std::borrow::Cow;

    /// Published a little before the broker had it.
    fn buried(message: Incoming) -> Buried<'static> {
        let published = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        Buried { message: Cow::Owned(message), published, plain: None }
    }

    fn message(body: &'static [u8]) -> Incoming {
        let headers = [("source", "shop"), (attribute::STAMP, "x:3"), (header::REASON, "of a replay")];
        Incoming {
            at: Position { partition: Partition { topic: "orders".into(), number: 2 }, offset: 77 },
            key: Some("C1".into()),
            headers: headers.into_iter().map(|(n, v)| Header { name: n.into(), value: v.into() }).collect(),
            payload: Some(Bytes::from_static(body)),
            timestamp_ms: 1_700_000_000_123,
        }
    }

    fn value(letter: &Outgoing, name: &str) -> Vec<String> {
        letter.headers.iter().filter(|h| &*h.name == name).map(|h| String::from_utf8(h.value.to_vec()).unwrap()).collect()
    }

    fn failure() -> Failure {
        Failure::new(Kind::Invalid, "data.total: must be above 0", Some("e-1"))
    }

    #[test]
    fn a_letter_holds_the_message_untouched_and_says_what_happened() {
        let message = buried(message(b"\xff{"));
        let letter = letter("orders-dlq", "kafka", &message, &failure(), 5, DateTime::UNIX_EPOCH, Some(100_000));
        assert_eq!((letter.key.as_deref(), letter.payload.as_deref()), (Some(&b"C1"[..]), Some(&b"\xff{"[..])));
        let expected = [
            ("source", "shop"),
            (header::TOPIC, "orders"),
            (header::PARTITION, "2"),
            (header::OFFSET, "77"),
            (header::KEY, "C1"),
            (header::PUBLISH_TIME, "2023-11-14T22:13:20.000Z"),
            (attribute::ORIGIN, "orders/2/77@1700000000123"),
            (header::REASON, "data.total: must be above 0"),
            (header::ERROR_TYPE, "invalid"),
            (header::ATTEMPTS, "5"),
            (header::TIME, "1970-01-01T00:00:00.000Z"),
            (header::EVENT_ID, "e-1"),
        ];
        for (name, text) in expected {
            assert_eq!(value(&letter, name), [text], "{name}, once, and not that of an earlier death");
        }
        let id = value(&letter, header::ID);
        let again = self::letter("orders-dlq", "kafka", &message, &failure(), 6, Utc::now(), None);
        let elsewhere = self::letter("orders-dlq", "azure", &message, &failure(), 5, DateTime::UNIX_EPOCH, None);
        assert_eq!((id.len(), value(&again, header::ID)), (1, id.clone()), "the same letter once more");
        assert_ne!(value(&elsewhere, header::ID), id, "another message at the same place of another broker");
        assert!(value(&letter, attribute::STAMP).is_empty(), "a stamp belongs to the message that was, not to this one");
    }

    #[test]
    fn a_letter_too_large_for_its_topic_is_cut_and_says_so() {
        let body: &'static [u8] = vec![b'x'; 10_000].leak();
        let letter = letter("orders-dlq", "kafka", &buried(message(body)), &failure(), 1, DateTime::UNIX_EPOCH, Some(4096));
        let size: usize =
            letter.headers.iter().map(|h| h.name.len() + h.value.len()).sum::<usize>() + letter.payload.as_ref().unwrap().len();
        assert!((2000..4096).contains(&size), "{size}");
        assert_eq!(value(&letter, header::CUT_FROM), ["10000"]);
        assert_eq!((value(&letter, "source"), letter.key.as_deref()), (vec!["shop".to_owned()], Some(&b"C1"[..])), "the rest has room");
    }

    #[test]
    fn a_letter_fits_whatever_its_parts_are_and_says_what_of_the_message_is_cut() {
        let most = 4096;
        let of = |key: usize, headers: usize, reason: usize| {
            let mut message = message(b"{broken");
            message.key = Some(vec![b'k'; key].into());
            message.headers.extend((0..headers).map(|n| Header { name: format!("h{n}").into(), value: vec![b'h'; 500].into() }));
            let failure = Failure::new(Kind::Invalid, "\u{e4}".repeat(reason), Some(&"e".repeat(reason)));
            letter("orders-dlq", "kafka", &buried(message), &failure, 1, DateTime::UNIX_EPOCH, Some(most))
        };
        // The key, own headers, the reason and the event's id; what is cut of body, headers and key.
        for (key, headers, reason, cut) in [
            (2900, 0, 10, [false, false, false]),
            (2, 20, 10, [true, true, false]),
            (6000, 0, 10, [true, true, true]),
            (6000, 20, 6000, [true, true, true]),
        ] {
            let letter = of(key, headers, reason);
            assert!(size(&letter) <= most, "{key}, {headers}, {reason}: {}", size(&letter));
            let marks = [header::CUT_FROM, header::HEADERS_CUT_FROM, header::KEY_CUT_FROM].map(|name| !value(&letter, name).is_empty());
            assert_eq!(marks, cut, "{key}, {headers}, {reason}");
            assert_eq!(value(&letter, header::TOPIC), ["orders"]);
        }
        let some = of(2, 7, 10);
        assert_eq!((value(&some, "h3").len(), value(&some, "h6").len()), (1, 0), "of the headers what has room");
        assert_eq!(value(&of(6000, 0, 10), header::KEY_CUT_FROM), ["6000"]);
    }

    #[test]
    fn the_letter_of_an_update_that_waited_in_vain_fits_too() {
        let change = Change {
            event_id: "e-1".into(),
            event: "Noted".into(),
            effect: crds::pipeline::Effect::Update,
            order_id: "o-1".into(),
            content: [0; 32],
            fields: Default::default(),
            set: [("note".to_owned(), "x".repeat(10_000).into())].into_iter().collect(),
            append: Default::default(),
            at: None,
            published_at: DateTime::UNIX_EPOCH,
            source: "orders/0/7".into(),
        };
        let letter = expired("orders-dlq", &change, &failure(), DateTime::UNIX_EPOCH, Some(4096));
        assert!(size(&letter) <= 4096, "{}", size(&letter));
        assert_eq!(value(&letter, header::BODY), ["change"]);
    }

    #[test]
    fn the_source_of_a_change_is_taken_apart_again() {
        assert_eq!(place_of("order-create/3/99"), Some(("order-create", "3", "99")));
        assert_eq!(place_of("nowhere"), None);
    }
}
