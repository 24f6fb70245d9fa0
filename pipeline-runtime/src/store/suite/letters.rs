//! Dead letters that are kept.

use super::super::letters::{Content, Facts, Failed, FailedMessages, Filter, Letter};
use super::super::{Applied, Store};
use super::make::{Make, created, time, unique, updated};
use crate::broker::Header;
use bytes::Bytes;
use std::time::Duration;

fn letter(topic: &str, number: i64) -> Letter {
    Letter {
        facts: Facts {
            id: format!("{topic}/{number}"),
            topic: Some(topic.into()),
            partition: Some(2),
            offset: Some(number),
            key: Some("C-7".into()),
            event_id: Some(format!("e-{number}")),
            error_type: if number % 2 == 0 { "invalid" } else { "store" }.into(),
            reason: "data.total: must be above 0".into(),
            attempts: 5,
            published_at: time(1_700_000_000_123_000),
            failed_at: time(1_700_000_000_000_000 + number * 1_000_000),
            obstacle: None,
            letter: format!("kafka/{topic}-dlq/0/{number}"),
        },
        content: Content { headers: vec![Header { name: "source".into(), value: "shop".into() }], data: Some("{\"a\": 1}".into()) },
        alert: false,
    }
}

fn numbers(letters: &[Failed]) -> Vec<i64> {
    letters.iter().filter_map(|failed| failed.facts.offset).collect()
}

fn of(topic: &str) -> Filter {
    Filter { topic: Some(topic.into()), ..Filter::default() }
}

pub async fn letters(store: &dyn FailedMessages) {
    each_is_kept_once_and_comes_back_as_it_was(store).await;
    they_are_found_page_by_page(store).await;
    what_was_replayed_is_not_the_next_to_be_replayed(store).await;
    an_alert_is_handed_out_once_until_it_is_told(store).await;
    the_old_and_the_oldest_of_too_many_go(store).await;
}

/// It tidies everything away, and so wants a store of its own.
pub async fn the_note_of_an_event_stays_with_its_dead_letter(store: &(impl Store + FailedMessages)) {
    let (order, topic) = (unique("o"), unique("noted"));
    let [buried, other] = ["buried", "other"].map(|name| updated(&order, &format!("{name}-{order}")).append("payments", 1));
    store.apply(&[created(&order), buried.clone(), other.clone()]).await.unwrap();
    let mut letter = letter(&topic, 1);
    letter.facts.event_id = Some(buried.event_id.clone());
    store.keep(&[letter]).await.unwrap();
    assert!(!store.tidy(Duration::ZERO).await.unwrap());
    assert_eq!(store.apply(std::slice::from_ref(&buried)).await.unwrap(), [Applied::Repeat], "a replay takes effect at most once");
    assert_eq!(store.apply(&[other]).await.unwrap(), [Applied::Done], "who would remember all of them?");
    assert_eq!(store.forget_letters(Duration::ZERO, Duration::ZERO, 1_000_000).await.unwrap(), 1);
    store.tidy(Duration::ZERO).await.unwrap();
    assert_eq!(store.apply(&[buried]).await.unwrap(), [Applied::Done]);
}

async fn each_is_kept_once_and_comes_back_as_it_was(store: &dyn FailedMessages) {
    let topic = unique("kept");
    let mut strange = letter(&topic, 2);
    strange.facts.key = Some(Bytes::from_static(b"\xff"));
    strange.facts.reason = "a NUL \0 and an \u{e4}".into();
    strange.content.headers.push(Header { name: "trace".into(), value: Bytes::from_static(b"\x00\xff") });
    strange.content.data = Some(Bytes::from_static(b"\x00no text"));
    let mut bare = letter(&topic, 3);
    (bare.facts.topic, bare.facts.partition, bare.facts.offset) = (None, None, None);
    (bare.facts.key, bare.facts.event_id, bare.content.data) = (None, None, None);
    bare.facts.obstacle = Some("it says not where from".into());
    let all = [letter(&topic, 1), strange, bare, letter(&topic, 1)];
    assert_eq!(store.keep(&all).await.unwrap(), 3);
    let mut changed = letter(&topic, 1);
    changed.facts.attempts = 6;
    assert_eq!(store.keep(&[changed]).await.unwrap(), 0, "the same letter, written once more after a crash");
    for expected in &all[..3] {
        let (failed, content) = store.show(&expected.facts.id).await.unwrap().unwrap();
        let mut facts = expected.facts.clone();
        facts.reason = facts.reason.replace('\0', "\u{fffd}");
        assert_eq!((failed.facts, &content), (facts, &expected.content));
        assert_eq!(failed.bytes as usize, content.data.map_or(0, |data| data.len()));
        assert_eq!((failed.replays, failed.replayed_at, failed.alerted_at), (0, None, None));
    }
    for nobody in [unique("nobody"), "nul\0".into()] {
        assert_eq!(store.show(&nobody).await.unwrap(), None);
    }
    assert_eq!(store.keep(&[]).await.unwrap(), 0);
}

async fn they_are_found_page_by_page(store: &dyn FailedMessages) {
    let topic = unique("paged");
    let all: Vec<Letter> = (0..7).map(|number| letter(&topic, number)).collect();
    store.keep(&all).await.unwrap();
    let first = store.list(&of(&topic), None, 3).await.unwrap();
    assert_eq!((numbers(&first.letters), first.more), (vec![6, 5, 4], true));
    let second = store.list(&of(&topic), Some(first.letters[2].seq), 4).await.unwrap();
    assert_eq!((numbers(&second.letters), second.more), (vec![3, 2, 1, 0], false));
    let only = async |filter: Filter| numbers(&store.list(&filter, None, 100).await.unwrap().letters);
    assert_eq!(only(Filter { error_type: Some("store".into()), ..of(&topic) }).await, [5, 3, 1]);
    let (from, to) = (Some(time(1_700_000_002_000_000)), Some(time(1_700_000_004_000_000)));
    assert_eq!(only(Filter { from, to, ..of(&topic) }).await, [3, 2], "from then, and before then");
    assert_eq!(only(of(&unique("nothing"))).await, [0; 0]);
}

async fn what_was_replayed_is_not_the_next_to_be_replayed(store: &dyn FailedMessages) {
    let topic = unique("replayed");
    store.keep(&[letter(&topic, 1), letter(&topic, 2), letter(&topic, 3)]).await.unwrap();
    let open = Filter { replayed: Some(false), ..of(&topic) };
    let (first, content) = store.first_above(&open, 0).await.unwrap().unwrap();
    assert_eq!((first.facts.offset, content), (Some(1), letter(&topic, 1).content));
    store.note_replay(&first.facts.id, "anna").await.unwrap();
    assert_eq!(store.first_above(&open, 0).await.unwrap().map(|(next, _)| next.facts.offset), Some(Some(2)));
    assert_eq!(store.first_above(&of(&topic), 0).await.unwrap().map(|(any, _)| any.facts.offset), Some(Some(1)));
    let (seen, _) = store.show(&first.facts.id).await.unwrap().unwrap();
    assert_eq!((seen.replays, seen.replayed_by.as_deref(), seen.replayed_at.is_some()), (1, Some("anna"), true));
    assert_eq!(numbers(&store.list(&Filter { replayed: Some(true), ..of(&topic) }, None, 9).await.unwrap().letters), [1]);
    let last = store.list(&of(&topic), None, 1).await.unwrap().letters[0].seq;
    assert_eq!(store.first_above(&open, last).await.unwrap(), None);
}

async fn an_alert_is_handed_out_once_until_it_is_told(store: &dyn FailedMessages) {
    let topic = unique("alerts");
    let critical = |number| Letter { alert: true, ..letter(&topic, number) };
    store.keep(&[letter(&topic, 1), critical(2), critical(3)]).await.unwrap();
    let ours = async || {
        let due = store.alerts(100).await.unwrap().into_iter();
        let ours: Vec<(i64, u32)> =
            due.filter(|(f, _)| f.facts.topic.as_ref() == Some(&topic)).map(|(f, n)| (f.facts.offset.unwrap(), n)).collect();
        ours
    };
    let mut due = ours().await;
    due.sort_unstable();
    assert_eq!(due, [(2, 0), (3, 0)]);
    assert_eq!(ours().await, [], "handed out a moment ago");
    store.note_alert(&format!("{topic}/2")).await.unwrap();
    store.note_alert_failure(&format!("{topic}/3"), "503", true, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(ours().await, [(3, 1)]);
    store.note_alert_failure(&format!("{topic}/3"), "cannot be reached", false, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(ours().await, [(3, 1)], "it was not tried");
    store.note_alert_failure(&format!("{topic}/3"), "given up", true, None).await.unwrap();
    assert_eq!(ours().await, []);
    let (told, _) = store.show(&format!("{topic}/2")).await.unwrap().unwrap();
    let (given_up, _) = store.show(&format!("{topic}/3")).await.unwrap().unwrap();
    assert_eq!((told.alerted_at.is_some(), told.alert_failure), (true, None));
    assert_eq!((given_up.alerted_at, given_up.alert_failure.as_deref()), (None, Some("given up")));
}

/// The last one: it forgets all others.
async fn the_old_and_the_oldest_of_too_many_go(store: &dyn FailedMessages) {
    let topic = unique("many");
    let all: Vec<Letter> = (0..20).map(|number| letter(&topic, number)).collect();
    store.keep(&all).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(store.forget_letters(hour, hour, 1_000_000).await.unwrap(), 0);
    assert!(store.forget_letters(hour, hour, 5).await.unwrap() >= 15);
    assert_eq!(numbers(&store.list(&Filter::default(), None, 100).await.unwrap().letters), [19, 18, 17, 16, 15]);
    store.note_replay(&format!("{topic}/17"), "ann").await.unwrap();
    assert_eq!(store.forget_letters(Duration::ZERO, hour, 1_000_000).await.unwrap(), 4);
    assert_eq!(numbers(&store.list(&Filter::default(), None, 100).await.unwrap().letters), [17], "it may be under way");
    assert_eq!(store.forget_letters(Duration::ZERO, Duration::ZERO, 1_000_000).await.unwrap(), 1);
}
