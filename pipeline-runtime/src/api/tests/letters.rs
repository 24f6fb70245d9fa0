//! Dead letters over the API.

use super::*;
use crate::broker::Header;
use crate::codec::attribute;
use crate::sqlite::Place;
use crate::store::{Content, Facts, FailedMessages, Letter, SqliteStore, Store};
use chrono::DateTime;

const KEY: &str = "admin-secret";

fn letter(number: i64) -> Letter {
    Letter {
        facts: Facts {
            id: format!("00000000-0000-0000-0000-{number:012}"),
            topic: Some("orders".into()),
            partition: Some(2),
            offset: Some(number),
            key: Some("C-7".into()),
            event_id: Some(format!("e-{number}")),
            error_type: "store".into(),
            reason: "deadlock".into(),
            attempts: 5,
            published_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
            failed_at: DateTime::from_timestamp_millis(1_700_000_100_000 + number).unwrap(),
            obstacle: None,
            letter: format!("kafka/orders-dlq/0/{number}"),
        },
        content: Content { headers: vec![Header { name: "source".into(), value: "shop".into() }], data: Some("{\"a\":1}".into()) },
        alert: false,
    }
}

async fn with_letters(letters: &[Letter]) -> (Process, Arc<SqliteStore>) {
    let store = Arc::new(SqliteStore::open(&Place::Memory, None).await.unwrap());
    store.migrate().await.unwrap();
    store.keep(letters).await.unwrap();
    (with_admin(Some(store.clone())), store)
}

fn with_admin(letters: Option<Arc<dyn FailedMessages>>) -> Process {
    let config = config();
    let (broker, store) = (FakeBroker::new(), FakeStore::new());
    let keys = |key| Arc::new(ArcSwap::from_pointee(Keys::new([("anna", key)]).unwrap()));
    let health = Health::new("test", false, Codecs::default());
    health.set(health::Links::default());
    let admin = Admin { keys: keys(KEY), requests: None, config: Arc::new(ArcSwap::from_pointee(config.clone())), letters };
    let parts = ApiParts {
        admin: Some(admin),
        codecs: Codecs::default(),
        keyring: None,
        contract: Arc::new(ArcSwap::from_pointee(Contract::compile(&config).unwrap())),
        publisher: Publisher::new(broker.clone(), Gate::open()),
        store: store.clone(),
        keys: keys("secret"),
        health,
        metrics: Metrics::default(),
    };
    let api = ApiState::new(&config, parts).unwrap();
    Process { router: router(api.clone()), api, broker, store }
}

fn as_admin(method: &str, path: &str, body: impl Into<Body>) -> HttpRequest<Body> {
    let mut request = request(method, path, body);
    request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
    request
}

async fn get(process: &Process, path: &str) -> Reply {
    process.send(as_admin("GET", path, Body::empty())).await
}

async fn replay(process: &Process, wish: Json) -> Reply {
    process.send(as_admin("POST", "/admin/dead-letters/replay", wish.to_string())).await
}

fn numbers(reply: &Reply) -> Vec<i64> {
    reply.json["deadLetters"].as_array().unwrap().iter().map(|letter| letter["offset"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn they_are_listed_the_newest_first_and_shown_whole() {
    let (process, _) = with_letters(&[letter(1), letter(2), letter(3)]).await;
    let first = get(&process, "/admin/dead-letters?topic=orders&errorType=store&limit=2").await;
    assert_eq!((first.status, numbers(&first)), (200, vec![3, 2]));
    assert!(!first.text.contains("\\\"a\\\""), "a list holds no data");
    let second = get(&process, &format!("/admin/dead-letters?below={}", first.json["next"])).await;
    assert_eq!((numbers(&second), &second.json["next"]), (vec![1], &Json::Null));
    let shown = get(&process, &format!("/admin/dead-letters/{}", letter(2).facts.id)).await.json;
    let facts = ["key", "data", "reason", "errorType", "publishTime", "deadLetter"].map(|name| shown[name].as_str().unwrap());
    assert_eq!(facts, ["C-7", "{\"a\":1}", "deadlock", "store", "2023-11-14T22:13:20.123Z", "kafka/orders-dlq/0/2"]);
    assert_eq!((&shown["headers"], &shown["attempts"]), (&json!([["source", "shop"]]), &json!(5)));
    assert_eq!(get(&process, "/admin/dead-letters/nobody").await.status, 404);
    assert_eq!(get(&process, "/admin/dead-letters?from=yesterday").await.fields(), ["from"]);
    assert_eq!(get(&process, "/admin/dead-letters?topics=orders").await.fields(), ["topics"]);
}

#[tokio::test]
async fn a_path_that_cannot_be_read_is_refused_as_everything_is_and_only_to_administrators() {
    let (process, _) = with_letters(&[]).await;
    let path = "/admin/dead-letters/%FF";
    assert_eq!(process.get(path).await.status, 401, "whoever has no key learns nothing");
    let reply = get(&process, path).await;
    assert_eq!((reply.status, &reply.json["error"]), (400, &json!("invalid_path")), "{}", reply.text);
    assert_eq!(process.api.lists.available_permits(), LISTS);
}

#[tokio::test]
async fn a_replay_is_the_message_again_and_says_where_it_lay_first() {
    let (process, store) = with_letters(&[letter(1)]).await;
    let id = letter(1).facts.id;
    for times in 1..=2 {
        let reply = replay(&process, json!({"ids": [id]})).await;
        assert_eq!((reply.status, &reply.json["replayed"][0]["eventId"]), (200, &json!("e-1")), "{}", reply.text);
        let (failed, _) = store.show(&id).await.unwrap().unwrap();
        assert_eq!((failed.replays, failed.replayed_by.as_deref()), (times, Some("anna")));
    }
    let written = process.broker.written();
    let origin = Header { name: attribute::ORIGIN.into(), value: "orders/2/1@1700000000123".into() };
    assert_eq!(written.len(), 2);
    for message in written {
        assert_eq!(
            (&*message.topic, message.key.as_deref(), message.payload.as_deref()),
            ("orders", Some(&b"C-7"[..]), Some(&b"{\"a\":1}"[..]))
        );
        assert_eq!(message.headers, [letter(1).content.headers[0].clone(), origin.clone()]);
    }
}

#[tokio::test]
async fn many_are_replayed_the_oldest_first_and_what_cannot_be_holds_up_nothing() {
    let mut cut = letter(2);
    cut.facts.obstacle = Some("its data was cut".into());
    let mut elsewhere = letter(3);
    elsewhere.facts.topic = Some("nowhere".into());
    let mut first = letter(5);
    first.content.headers.push(Header { name: attribute::ORIGIN.into(), value: "orders/0/7@1".into() });
    let (process, store) = with_letters(&[letter(1), cut, elsewhere, letter(4), first]).await;
    let part = replay(&process, json!({"limit": 3})).await.json;
    assert_eq!((part["replayed"].as_array().unwrap().len(), &part["skipped"][0]["reason"]), (1, &json!("its data was cut")));
    assert!(part["skipped"][1]["reason"].as_str().unwrap().contains("no event of the document is read from topic nowhere"));
    let rest = replay(&process, json!({"above": part["next"]})).await.json;
    assert_eq!((rest["replayed"].as_array().unwrap().len(), &rest["next"]), (2, &Json::Null));
    let offsets: Vec<String> =
        process.broker.written().iter().map(|message| String::from_utf8(message.headers.last().unwrap().value.to_vec()).unwrap()).collect();
    assert_eq!(
        offsets,
        ["orders/2/1@1700000000123", "orders/2/4@1700000000123", "orders/0/7@1"],
        "what was replayed before keeps its first place"
    );
    let again = replay(&process, json!({"topic": "orders"})).await.json;
    assert_eq!(again["replayed"], json!([]), "what was replayed is not replayed again");
    assert_eq!(store.show(&letter(4).facts.id).await.unwrap().unwrap().0.replays, 1);
}

#[tokio::test]
async fn a_broker_that_is_away_stops_it_and_nothing_is_noted_that_did_not_happen() {
    let (process, store) = with_letters(&[letter(1), letter(2)]).await;
    process.broker.fail(fakes::Fault::Away);
    let reply = replay(&process, json!({})).await.json;
    assert!(reply["stopped"].as_str().unwrap().contains("the cable is cut"), "{reply}");
    assert_eq!((&reply["replayed"], store.show(&letter(1).facts.id).await.unwrap().unwrap().0.replays), (&json!([]), 0));
    process.broker.fail(fakes::Fault::None);
    assert_eq!(replay(&process, json!({"above": reply["next"]})).await.json["replayed"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn only_administrators_see_them_and_what_is_asked_wrongly_is_said() {
    let (process, _) = with_letters(&[letter(1)]).await;
    assert_eq!(process.get("/admin/dead-letters").await.status, 401, "the key of a client is none of an administrator");
    assert_eq!(super::process().get("/admin/dead-letters").await.status, 404);
    assert_eq!(replay(&process, json!({"id": ["x"]})).await.status, 422);
    assert_eq!(replay(&process, json!({"limit": 1000})).await.fields(), ["limit"]);
    let unknown = replay(&process, json!({"ids": ["nobody"]})).await;
    assert!(unknown.json["skipped"][0]["reason"].as_str().unwrap().contains("no dead letter nobody is kept"), "{}", unknown.text);
    let reply = get(&with_admin(None), "/admin/dead-letters").await;
    assert_eq!((reply.status, reply.json["error"].as_str()), (409, Some("not_kept")));
}
