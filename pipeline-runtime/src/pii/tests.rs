use super::fields::{Body, Fields};
use super::keys::{Keyring, Keys, KeysError, make};
use super::text::{Path, find};
use super::value::{Bound, PREFIX, Unreadable};
use crds::json::Json;
use crds::pipeline::FieldPath;
use proptest::prelude::*;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Data with texts of its own.
macro_rules! json {
    ($($json:tt)+) => { Json::from(&serde_json::json!($($json)+)).into_owned() };
}

fn secret(byte: u8) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

fn keys(names: &[&str]) -> Keys {
    let byte = |name: &str| name.bytes().fold(7u8, |all, byte| all.wrapping_mul(31).wrapping_add(byte));
    Keys::new(names.iter().map(|name| (*name, secret(byte(name))))).unwrap()
}

fn keyring(names: &[&str]) -> Arc<Keyring> {
    Keyring::new("shop", keys(names))
}

fn fields(event: &str, paths: &[(&str, bool)], keyring: &Arc<Keyring>) -> Fields {
    Fields::new(event, paths.iter().map(|(path, matching)| (FieldPath::parse(path).unwrap(), *matching)), keyring)
}

fn values(data: &Json<'_>) -> Vec<String> {
    match data {
        Json::String(text) if text.starts_with(PREFIX) => vec![text.clone().into_owned()],
        Json::Array(items) => items.iter().flat_map(values).collect(),
        Json::Object(map) => map.values().flat_map(values).collect(),
        _ => vec![],
    }
}

/// What a worker does: decrypts, looks, and hides again. Returns what it saw and what went further.
fn worked<'t>(own: &Fields, topic: &Fields, sent: &Json<'t>, body: &str) -> Result<(Json<'t>, Json<'t>), (String, Unreadable)> {
    let mut data = sent.clone();
    let opened = topic.open(&mut data)?;
    let seen = data.clone();
    own.hide(topic, opened, &mut data, Body { text: body, data: None }, "e-1")?;
    Ok((seen, data))
}

#[test]
fn a_value_comes_back_with_the_digits_it_was_written_with() {
    let keyring = keyring(&["match", "2025-01"]);
    let own = fields("Made", &[("data.person", false), ("data.lines[].note", false), ("data.code", true)], &keyring);
    let text = r#"{ "code" : "C1", "person": {"balance": 1.10, "born": "1980"}, "lines": [{"note":"a","q":1.50},{"q":2},{"note":null}] }"#;
    let plain: Json = serde_json::from_str(text).unwrap();
    let mut data = plain.clone();
    let (mut hidden, sent) = own.encrypt(&mut data, Some(text), "e-1").unwrap();
    let sent = std::str::from_utf8(&sent).unwrap().to_owned();
    assert_eq!(serde_json::from_str::<Json>(&sent).unwrap(), data, "both are the same message");
    assert!(sent.contains(r#""q":1.50"#) && !sent.contains("1980") && !sent.contains("1.10") && !sent.contains("C1"), "{sent}");
    assert!(sent.contains("pii:1:2025-01:Made/data.person:") && sent.contains("pii:1:match:*:"), "{sent}");
    assert_eq!(values(&data).len(), 3, "null says nothing");

    own.swap(&mut data, &mut hidden);
    assert_eq!(data, plain);
    own.swap(&mut data, &mut hidden);

    let (seen, further) = worked(&own, &own, &data, &sent).unwrap();
    assert_eq!((&seen, &further), (&plain, &data), "what came encrypted goes further as it came");
    let answer = json!({"customer": data["code"], "who": [data["person"]], "note": "pii:1:is no value"}).to_string();
    let read = keyring.reveal(&answer, true).unwrap();
    assert_eq!(read, r#"{"customer":"C1","note":"pii:1:is no value","who":[{"balance": 1.10, "born": "1980"}]}"#);
    assert_eq!(keyring.reveal(&answer, false).unwrap(), r#"{"customer":"***","note":"pii:1:is no value","who":["***"]}"#);
    assert_eq!(keyring.reveal(r#"{"a":"b"}"#, false), None);
}

#[test]
fn what_others_write_in_plain_is_encrypted_from_their_own_digits() {
    let keyring = keyring(&["match", "2025-01"]);
    let own = fields("Made", &[("data.balance", false)], &keyring);
    let body = r#"{"messageId": "m", "data": {"balance": 1.10}}"#;
    let mut data = json!({"balance": 1.1});
    let opened = own.open(&mut data).unwrap();
    own.hide(&own, opened, &mut data, Body { text: body, data: Some("data") }, "m").unwrap();
    assert_eq!(keyring.reveal(&data.to_string(), true).unwrap(), r#"{"balance":1.10}"#);
    let letter = own.hide_text(Body { text: body, data: Some("data") }, "m").unwrap().unwrap();
    let letter = std::str::from_utf8(&letter).unwrap();
    assert!(letter.starts_with(r#"{"messageId": "m", "data": {"balance": "pii:1:"#), "{letter}");
    assert_eq!(keyring.reveal(letter, true).unwrap(), body);
    assert_eq!(own.hide_text(Body { text: letter, data: Some("data") }, "m").unwrap(), None, "nothing in it is plain");
    let whole = own.hide_body("orders", b"\xff no json").unwrap();
    assert_eq!(own.open_body("orders", &whole).unwrap().unwrap(), &b"\xff no json"[..]);
    assert_eq!(own.open_body("others", &whole).unwrap(), Err(Unreadable::Forged));
    assert!(own.open_body("orders", b"{}").is_none());
}

#[test]
fn a_value_opens_only_where_it_belongs() {
    let ring = keyring(&["match", "2025-01"]);
    let paths = [("data.a", false), ("data.b", false), ("data.code", true)];
    let (made, changed) = (fields("Made", &paths, &ring), fields("Changed", &paths, &ring));
    let mut data = json!({"a": "x", "b": "x", "code": "x"});
    made.encrypt(&mut data, None, "e-1").unwrap();
    assert_ne!(data["a"], data["b"], "equal values of two fields are told apart by nobody");
    let forged = |event: &Fields, data: Json<'_>| worked(event, event, &data, "").unwrap_err().1;
    assert_eq!(forged(&made, json!({"a": data["b"]})), Unreadable::Forged, "another field");
    assert_eq!(forged(&changed, json!({"a": data["a"]})), Unreadable::Forged, "another event");
    assert_eq!(forged(&fields("Made", &paths, &Keyring::new("other", keys(&["match", "2025-01"]))), data.clone()), Unreadable::Forged);
    assert!(worked(&changed, &changed, &json!({"code": data["code"]}), "").is_ok(), "what must be equal is the same in all events");
    let unknown = forged(&fields("Made", &paths, &keyring(&["match", "2025-02"])), json!({"a": data["a"]}));
    assert_eq!(unknown, Unreadable::UnknownKey { key: "2025-01".into() });
    assert!(unknown.to_string().contains("\"2025-01\", which is not in the Secret"));
}

#[test]
fn equal_values_of_two_events_are_equal_only_where_they_must_be() {
    let ring = keyring(&["match", "2025-01"]);
    let own = fields("Made", &[("data.code", true), ("data.name", false)], &ring);
    let encrypted = |id: &str| {
        let mut data = json!({"code": "C1", "name": "Ann"});
        own.encrypt(&mut data, None, id).unwrap();
        data
    };
    let (one, two) = (encrypted("e-1"), encrypted("e-2"));
    assert_eq!(one, encrypted("e-1"), "a repeat is the same bytes, whichever pod makes it");
    assert_eq!(one["code"], two["code"]);
    assert_ne!(one["name"], two["name"]);
    assert_ne!(ring.hash(&[1; 32]), keyring(&["match", "2025-01"]).hash(&[2; 32]));
    assert_eq!(ring.hash(&[1; 32]), keyring(&["match", "2026-01"]).hash(&[1; 32]), "a rotation changes nothing of it");
}

#[test]
fn of_several_events_on_a_topic_each_hides_its_own() {
    let ring = keyring(&["match", "2025-01"]);
    let (whole, part) = (fields("Whole", &[("data.person", false)], &ring), fields("Part", &[("data.person.name", false)], &ring));
    let topic = Fields::of_all([&part, &whole], &ring);
    let none = fields("None", &[], &ring);
    let plain = json!({"person": {"name": "Ann", "age": 3}});
    for own in [&whole, &part] {
        let (seen, further) = worked(own, &topic, &plain, "").unwrap();
        assert_eq!(seen, plain);
        let (seen, again) = worked(own, &topic, &further, "").unwrap();
        assert_eq!((&seen, &again), (&plain, &further));
        assert_eq!(worked(&none, &topic, &further, "").unwrap_err().1, Unreadable::Forged, "it was encrypted for another event");
    }
    assert_eq!(worked(&none, &topic, &plain, "").unwrap().1, plain, "what another event encrypts is nothing of this one's");
    let hidden = topic.hide_text(Body { text: &plain.to_string(), data: None }, "m").unwrap().unwrap();
    assert!(!std::str::from_utf8(&hidden).unwrap().contains("Ann") && !std::str::from_utf8(&hidden).unwrap().contains("age"));
}

#[test]
fn what_follows_is_encrypted_for_the_event_that_it_is() {
    let ring = keyring(&["match", "2025-01"]);
    let (from, to) = (fields("Made", &[("data.name", false)], &ring), fields("Told", &[("data.who", false)], &ring));
    let mut data = json!({"name": "Ann"});
    from.encrypt(&mut data, None, "e-1").unwrap();
    let mut told = json!({"who": data["name"]});
    to.adopt(&mut told, "e-2").unwrap();
    assert_eq!(worked(&to, &to, &told, "").unwrap().0, json!({"who": "Ann"}));
}

#[test]
fn data_of_another_shape_is_encrypted_where_it_departs_from_the_path() {
    let ring = keyring(&["match", "2025-01"]);
    let own = fields("Made", &[("data.lines[].note", false)], &ring);
    for data in [json!({"lines": {"note": "Ann"}}), json!({"lines": "Ann"}), json!({"lines": ["Ann", {"note": "Ann"}]}), json!("Ann")] {
        let mut sent = data.clone();
        own.encrypt(&mut sent, Some(&data.to_string()), "e-1").unwrap();
        assert!(!sent.to_string().contains("Ann"), "{sent}");
        assert_eq!(worked(&own, &own, &sent, "").unwrap(), (data, sent));
    }
}

#[test]
fn what_stands_in_the_place_of_several_fields_is_encrypted_once() {
    let ring = keyring(&["match", "2025-01"]);
    let own = fields("Made", &[("data.person.name", false), ("data.person.email", false), ("data.code", false)], &ring);
    for data in
        [json!({"person": "Ann", "code": 1}), json!({"person": ["Ann"]}), json!({"person": {"name": "Ann", "email": "Ann"}}), json!("Ann")]
    {
        let (text, mut sent) = (data.to_string(), data.clone());
        let (_, body) = own.encrypt(&mut sent, Some(&text), "e-1").unwrap();
        assert_eq!(serde_json::from_slice::<Json>(&body).unwrap(), sent);
        assert!(!sent.to_string().contains("Ann"), "{sent}");
        assert_eq!(worked(&own, &own, &sent, std::str::from_utf8(&body).unwrap()).unwrap(), (data, sent));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_key_decrypts_at_once_and_encrypts_when_all_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, byte| std::fs::write(folder.path().join(name), secret(byte)).unwrap();
    write("match", 1);
    write("2025-01", 2);
    let ring = Keyring::new("shop", Keys::read(folder.path()).unwrap());
    let seconds = Duration::from_secs;
    tokio::spawn(ring.clone().follow(folder.path().to_owned(), seconds(1), seconds(120)));
    let own = fields("Made", &[("data.name", false)], &ring);
    let encrypted = || {
        let mut data = json!({"name": "Ann"});
        own.encrypt(&mut data, None, "e-1").unwrap();
        data["name"].as_str().unwrap().to_owned()
    };
    let old = encrypted();
    assert!(old.starts_with("pii:1:2025-01:"));
    write("2025-02", 3);
    tokio::time::sleep(seconds(60)).await;
    assert!(encrypted().starts_with("pii:1:2025-01:"), "others may not have it yet");
    let newer = Keyring::new("shop", Keys::new([("match", secret(1)), ("2025-02", secret(3))]).unwrap());
    let theirs = newer.encrypt(Bound::To { event: "Made", field: "data.name" }, "e", b"\"Ann\"").unwrap();
    assert_eq!(worked(&own, &own, &json!({ "name": theirs }), "").unwrap().0, json!({"name": "Ann"}));
    tokio::time::sleep(seconds(70)).await;
    assert!(encrypted().starts_with("pii:1:2025-02:"));
    assert_eq!(worked(&own, &own, &json!({ "name": old }), "").unwrap().0, json!({"name": "Ann"}), "the old one still decrypts");
    // Another key under a known name is not taken up: what the old one has encrypted could never be read again.
    write("2025-02", 9);
    write("match", 9);
    tokio::time::sleep(seconds(200)).await;
    assert_eq!(worked(&own, &own, &json!({ "name": theirs }), "").unwrap().0, json!({"name": "Ann"}));
}

#[test]
fn what_are_no_keys_is_said() {
    let of = |entries: &[(&str, &str)]| Keys::new(entries.iter().copied()).unwrap_err();
    let good = secret(1);
    assert!(matches!(of(&[("2025-01", &good)]), KeysError::NoMatching));
    assert!(matches!(of(&[("match", &good)]), KeysError::None));
    for short in ["", "abc", "AAAA"] {
        let error = of(&[("match", &good), ("2025-01", short)]).to_string();
        assert!(error.contains("\"2025-01\"") && error.contains("openssl rand -base64 32"), "{error}");
    }
    assert!(matches!(of(&[("a/b", &good)]), KeysError::Name { .. }));
    let listed = Keys::listed(&format!("match={good}, 2025-01={good}")).unwrap();
    assert_eq!(format!("{listed:?}"), "[\"2025-01\"]", "names only");
    let folder = tempfile::tempdir().unwrap();
    let laptop = folder.path().join("shop/pii-keys");
    assert!(make(&laptop, "2025-01-31").unwrap());
    let made = Keys::read(&laptop).unwrap();
    assert!(!make(&laptop, "2025-02-28").unwrap() && made == Keys::read(&laptop).unwrap(), "made once");
}

fn arbitrary_json() -> impl Strategy<Value = Json<'static>> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(Json::from),
        (-1e9..1e9f64).prop_map(|number| Json::Number(serde_json::Number::from_f64(number).unwrap())),
        "\\PC{0,12}".prop_map(Json::from),
        Just(Json::from("pii:1:x:*:AAAA")),
        Just(Json::from("a \" \\ \u{1}")),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            proptest::collection::btree_map("[abc]{1,2}|é\"", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

const PATHS: [&str; 5] = ["data.a", "data.b.a", "data.c[]", "data.ab[].b", "data.ba[][].c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever it is: it comes back as it was, what is sent is the data, and nothing of it is hidden twice.
    #[test]
    fn any_data_comes_back(data in arbitrary_json(), pretty in any::<bool>()) {
        let ring = keyring(&["match", "2025-01"]);
        let own = fields("Made", &PATHS.map(|path| (path, path == "data.a")), &ring);
        let text = if pretty { serde_json::to_string_pretty(&data).unwrap() } else { data.to_string() };
        let mut sent = data.clone();
        let (mut hidden, body) = own.encrypt(&mut sent, Some(&text), "e-1").unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Json>(&body).unwrap(), &sent);
        let body = String::from_utf8(body.to_vec()).unwrap();
        let (seen, further) = worked(&own, &own, &sent, &body).unwrap();
        prop_assert_eq!(&seen, &data);
        prop_assert_eq!(&further, &sent);
        prop_assert_eq!(own.hide_text(Body { text: &body, data: None }, "e-1").unwrap(), None);
        let mut swapped = sent.clone();
        own.swap(&mut swapped, &mut hidden);
        prop_assert_eq!(&swapped, &data);
    }

    /// The text and the data agree on where the fields are.
    #[test]
    fn the_text_is_searched_as_the_data_is(data in arbitrary_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&data).unwrap() } else { data.to_string() };
        let paths = PATHS.map(|path| FieldPath::parse(path).unwrap());
        let path = |path: &FieldPath| Path { steps: path.steps().iter().cloned().map(Cow::Owned).collect(), shared: None };
        let found = find(&text, &paths.iter().map(path).collect::<Vec<_>>());
        for (index, path) in paths.iter().enumerate() {
            let mut expected = Vec::new();
            path.each(&mut data.clone(), &mut |value| expected.push(value.clone()));
            let of = found.iter().filter(|found| found.field == index);
            let texts: Vec<Json> = of.map(|found| serde_json::from_str(&text[found.at.clone()]).unwrap()).collect();
            prop_assert_eq!(texts, expected);
        }
    }

    /// One character of an encrypted value is another: it opens no more, or was none any more.
    #[test]
    fn what_was_changed_does_not_open(plain in "\\PC{0,20}", at in any::<prop::sample::Index>(), other in "[0-9A-Za-z:*/._-]") {
        let ring = keyring(&["match", "2025-01"]);
        for bound in [Bound::To { event: "Made", field: "data.a" }, Bound::Matching] {
            let value = ring.encrypt(bound, "e-1", plain.as_bytes()).unwrap();
            let at = at.index(value.len());
            let mut changed = value.clone();
            changed.replace_range(at..at + 1, &other);
            match ring.decrypt(&changed) {
                Some(Ok((opened, of))) => prop_assert!(changed == value && opened == plain.as_bytes() && of == bound, "{changed}"),
                Some(Err(_)) | None => prop_assert_ne!(changed, value),
            }
        }
    }

    #[test]
    fn no_text_whatever_makes_it_panic(text in "\\PC{0,40}", tail in "[\\[\\]{}\",:0-9a-c\\\\ ]{0,40}") {
        let ring = keyring(&["match", "2025-01"]);
        let own = fields("Made", &PATHS.map(|path| (path, false)), &ring);
        let _ = ring.decrypt(&format!("{PREFIX}{text}"));
        let _ = ring.reveal(&format!("\"{PREFIX}{text}{tail}"), true);
        let _ = own.hide_text(Body { text: &tail, data: None }, "e");
        let _ = own.open_body("orders", format!("{PREFIX}{text}").as_bytes());
    }
}
