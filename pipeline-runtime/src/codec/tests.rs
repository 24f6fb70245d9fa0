use super::*;
use crate::broker::{Header, Partition};
use chrono::TimeZone;
use crds::pipeline::{Invalid, Producers};
use proptest::prelude::*;
use serde_json::json;
use std::time::Duration;

fn topic(envelope: Envelope) -> TopicConfig {
    TopicConfig {
        name: "orders".into(),
        partitions: 3,
        replicas: None,
        retention: Duration::from_secs(3600),
        max_message_bytes: 1 << 20,
        envelope,
        codec: Default::default(),
        producers: Producers::Pipeline,
        invalid: Invalid::DeadLetter,
        dead_letter: Some("orders-dlq".into()),
    }
}

fn decode(topic: &TopicConfig, message: &Incoming) -> Result<Decoded<'static>, DecodeError> {
    match Codecs::default().decode(topic, message) {
        Ok(Decoded { id, publish_time, attributes, data }) => {
            Ok(Decoded { id, publish_time, attributes: attributes.into_owned(), data: data.into_owned() })
        }
        Err(Undecoded::Never(error)) => Err(error),
        Err(Undecoded::NotYet(wanted)) => panic!("nobody has to be asked: {wanted:?}"),
    }
}

fn draft(data: &str) -> Draft {
    Draft {
        event: "OrderCreated".into(),
        id: "e-1".into(),
        time: Utc.with_ymd_and_hms(2025, 1, 31, 12, 0, 0).unwrap(),
        key: "o-1".into(),
        attributes: vec![("requestId".into(), "r \"1\"".into())],
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

fn message(headers: &[(&str, &[u8])], payload: Option<&[u8]>) -> Incoming {
    Incoming {
        at: Position { partition: Partition { topic: "orders".into(), number: 2 }, offset: 41 },
        key: None,
        headers: headers.iter().map(|(name, value)| Header { name: (*name).into(), value: Bytes::copy_from_slice(value) }).collect(),
        payload: payload.map(Bytes::copy_from_slice),
        timestamp_ms: 1_000,
    }
}

fn delivered(sent: Outgoing) -> Incoming {
    let mut incoming = message(&[], sent.payload.as_deref());
    incoming.headers = sent.headers;
    incoming.key = sent.key;
    incoming
}

fn mistake(envelope: Envelope, headers: &[(&str, &[u8])], payload: &[u8]) -> String {
    decode(&topic(envelope), &message(headers, Some(payload))).expect_err("must not be readable").to_string()
}

#[test]
fn what_was_encoded_is_decoded_in_both_envelopes() {
    for envelope in [Envelope::Bare, Envelope::Attributes] {
        let (topic, draft) = (topic(envelope), draft(r#"{"orderId":"o-1","total":12.5}"#));
        let sent = encode(&topic, &draft);
        assert_eq!(sent.key.as_deref(), Some(b"o-1".as_slice()));
        let read = decode(&topic, &delivered(sent)).unwrap();
        assert_eq!(read.id, "e-1");
        assert_eq!(read.publish_time, draft.time);
        assert_eq!(read.attributes.get("type").unwrap(), "OrderCreated");
        assert_eq!(read.attributes.get("requestId").unwrap(), "r \"1\"");
        assert_eq!(read.data, json!({"orderId": "o-1", "total": 12.5}));
        let foreseen = Decoded::of(&topic, &draft, read.data.clone());
        assert_eq!((foreseen.id, foreseen.publish_time, foreseen.attributes), (read.id, read.publish_time, read.attributes));
    }
}

#[test]
fn a_bare_message_carries_the_clients_own_bytes() {
    let draft = draft("{ \"orderId\" : \"o-1\" }");
    let sent = encode(&topic(Envelope::Bare), &draft).payload.unwrap();
    assert_eq!(sent.as_ptr(), draft.data.as_ptr(), "copied");
}

#[test]
fn a_message_without_id_and_time_has_its_place_and_the_brokers_time() {
    let bare = decode(&topic(Envelope::Bare), &message(&[("id", b""), ("time", b"noon")], Some(b"{}"))).unwrap();
    assert_eq!(bare.id, "orders/2/41@1000");
    assert_eq!(bare.publish_time.timestamp_millis(), 1_000);
    let wrapped = decode(&topic(Envelope::Attributes), &message(&[], Some(br#"{"data":null}"#))).unwrap();
    assert_eq!((wrapped.id.as_str(), wrapped.data), ("orders/2/41@1000", Json::Null));
}

#[test]
fn the_stamp_of_the_switch_and_binary_headers_of_others_are_no_attributes() {
    let headers: &[(&str, &[u8])] = &[("op-stamp", b"x:1"), ("trace", b"\xff\x00"), ("source", b"web"), ("source", b"pos")];
    let read = decode(&topic(Envelope::Bare), &message(headers, Some(b"1"))).unwrap();
    assert_eq!(Json::Object(read.attributes), json!({"source": "pos"}));
}

#[test]
fn what_cannot_be_read_is_said_in_a_sentence() {
    let bare = |payload: &[u8]| mistake(Envelope::Bare, &[], payload);
    assert_eq!(decode(&topic(Envelope::Bare), &message(&[], None)).expect_err("no body").to_string(), "the message has no body");
    assert_eq!(bare(b""), "the message has no body");
    assert_eq!(bare(b"{\"a\":\"\xff\"}"), "the body is not UTF-8: byte 6 is wrong");
    assert_eq!(bare(b"{\"a\":"), "the body is cut off: its JSON does not end (line 1, column 5)");
    assert_eq!(bare(b"{} x"), "the body is not JSON: trailing characters at line 1 column 4");
    assert_eq!(bare("[".repeat(10_000).as_bytes()), "the body is nested deeper than 127 levels (line 1, column 128)");
    assert_eq!(mistake(Envelope::Bare, &[("id", b"\xff")], b"{}"), "the header id is not UTF-8");
    assert!(mistake(Envelope::Bare, &[("id", &[b'x'; 501])], b"{}").contains("longer than 500"));

    let wrapped = |payload: &str| mistake(Envelope::Attributes, &[], payload.as_bytes());
    assert!(wrapped("[]").contains("must be an object of messageId"));
    assert!(wrapped("{}").starts_with("data is missing"));
    assert!(wrapped(r#"{"data":1,"attributes":[]}"#).contains("attributes must be an object"));
    assert!(wrapped(r#"{"data":1,"messageId":[]}"#).contains("messageId must be a text"));
    assert!(wrapped(r#"{"data":1,"publishTime":"noon"}"#).contains("publishTime must be a time"));
}

proptest! {
    #[test]
    fn no_bytes_whatever_make_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..200), header in proptest::collection::vec(any::<u8>(), 0..20)) {
        for envelope in [Envelope::Bare, Envelope::Attributes] {
            let _ = decode(&topic(envelope), &message(&[("id", &header), ("x", &header)], Some(&payload)));
        }
    }

    #[test]
    fn any_id_and_attribute_come_through(id in "\\PC{1,50}", value in "\\PC{0,50}") {
        for envelope in [Envelope::Bare, Envelope::Attributes] {
            let sent = Draft { id: id.clone(), attributes: vec![("source".into(), value.clone())], ..draft("{}") };
            let read = decode(&topic(envelope), &delivered(encode(&topic(envelope), &sent))).unwrap();
            prop_assert_eq!(&read.id, &id);
            prop_assert_eq!(read.attributes.get("source").and_then(Json::as_str), Some(&*value));
        }
    }
}

#[test]
fn a_body_that_would_fill_the_memory_is_a_dead_letter_and_no_crash() {
    let hostile = format!("[{}{{}}]", "{\"a\":1},".repeat(200_000));
    let error = decode(&topic(Envelope::Bare), &message(&[], Some(hostile.as_bytes()))).unwrap_err();
    assert!(error.to_string().contains("too many values"), "{error}");
    let long = format!("\"{}\"", "x".repeat(10 << 20));
    assert!(decode(&topic(Envelope::Bare), &message(&[], Some(long.as_bytes()))).is_ok(), "large is not heavy");
}

#[test]
fn a_message_that_was_replayed_has_the_id_and_the_time_of_its_first_place() {
    let origin: (&str, &[u8]) = (attribute::ORIGIN, b"orders/1/7@1700000000123");
    let read = |envelope, headers: &[(&str, &[u8])], body: &[u8]| decode(&topic(envelope), &message(headers, Some(body))).unwrap();
    for (envelope, body) in [(Envelope::Bare, &b"{}"[..]), (Envelope::Attributes, b"{\"data\": 1}")] {
        let replayed = read(envelope, &[origin], body);
        assert_eq!((&*replayed.id, replayed.publish_time.timestamp_millis()), ("orders/1/7@1700000000123", 1_700_000_000_123));
        assert!(replayed.attributes.is_empty(), "it is none of the message's own");
    }
    assert_eq!(read(Envelope::Bare, &[origin, ("id", b"own")], b"{}").id, "own");
    assert_eq!(read(Envelope::Bare, &[(attribute::ORIGIN, b"")], b"{}").id, "orders/2/41@1000");
}

#[test]
fn when_a_message_was_published_is_read_also_where_the_rest_of_it_cannot_be() {
    let time = |envelope, headers: &[(&str, &[u8])], body: &[u8]| publish_time(&topic(envelope), &message(headers, Some(body))).timestamp();
    let noon = Utc.with_ymd_and_hms(2025, 1, 31, 12, 0, 0).unwrap().timestamp();
    assert_eq!(time(Envelope::Attributes, &[], br#"{"attributes": 7, "publishTime": "2025-01-31T12:00:00Z"}"#), noon);
    assert_eq!(time(Envelope::Bare, &[("time", b"2025-01-31T12:00:00Z")], b"\xff{"), noon);
    for body in [&b"{broken"[..], br#"{"publishTime": 7}"#, b"{}"] {
        assert_eq!(time(Envelope::Attributes, &[], body), 1, "as the broker says");
    }
    assert_eq!(time(Envelope::Bare, &[(attribute::ORIGIN, b"orders/1/7@2000")], b""), 2, "for the first time");
}

#[test]
fn an_amount_that_would_be_changed_is_refused_and_the_same_as_a_text_is_kept() {
    let total = "12345678901234567890.12";
    let says = |path: &str| format!("{path} has more digits than a number keeps here: send fewer, or the same as a text in quotes");
    assert_eq!(mistake(Envelope::Bare, &[], format!(r#"{{"items":[{{"price":{total}}}]}}"#).as_bytes()), says("data.items[0].price"));
    assert_eq!(mistake(Envelope::Attributes, &[], format!(r#"{{"data":{{"total":{total}}}}}"#).as_bytes()), says("data.total"));
    let kept = decode(&topic(Envelope::Bare), &message(&[], Some(format!(r#"{{"total":"{total}"}}"#).as_bytes()))).unwrap();
    assert_eq!(kept.data["total"], total);
}
