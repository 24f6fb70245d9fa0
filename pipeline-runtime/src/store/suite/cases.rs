//! One story for each promise.

use super::super::{Applied, Change, Expired, Mark, Order, Page, Query, Store};
use super::make::{Make, created, time, unique, updated};
use crds::pipeline::Effect;
use serde_json::json;
use std::time::Duration;

async fn one(store: &dyn Store, change: Change) -> Applied {
    store.apply(&[change]).await.unwrap().remove(0)
}

async fn order(store: &dyn Store, id: &str) -> Order {
    store.order(id).await.unwrap().unwrap_or_else(|| panic!("order {id} is not there"))
}

fn is_conflict(applied: &Applied, word: &str) -> bool {
    matches!(applied, Applied::Conflict(why) if why.contains(word))
}

pub async fn effects(store: &dyn Store) {
    let (a, b, c) = (unique("a"), unique("b"), unique("c"));
    let event = |name: &str| format!("{name}-{a}");
    // a batch of many kinds, each done once
    let batch = [
        created(&b),
        created(&a).total("12.5"),
        updated(&a, &event("paid")).status("PAID"),
        updated(&a, &event("paid")).status("PAID"),
        created(&a).total("12.5"),
        updated(&c, &event("seen")).effect(Effect::None),
        updated(&c, &event("seen")).effect(Effect::None),
        updated(&c, &event("upsert")).effect(Effect::Upsert).status("MADE"),
        updated(&c, &event("upsert")).effect(Effect::Upsert).status("MADE"),
    ];
    use Applied::{Done, Repeat};
    let outcomes = store.apply(&batch).await.unwrap();
    assert_eq!(outcomes, [Done, Done, Done, Repeat, Repeat, Done, Repeat, Done, Repeat]);
    // and once more it does nothing
    assert_eq!(store.apply(&batch).await.unwrap(), vec![Repeat; batch.len()]);

    let stored = order(store, &a).await;
    assert_eq!(stored.status.as_deref(), Some("PAID"));
    assert_eq!(stored.total_amount.as_ref().map(|a| a.0.as_str()), Some("12.50"));
    assert_eq!(stored.customer_id.as_deref(), Some("CUST-7"));
    assert_eq!(stored.created_at, batch[1].published_at);
    let items: serde_json::Value = serde_json::from_str(&stored.items.unwrap().0).unwrap();
    assert_eq!(items, json!([{"name": "Pad Thai", "quantity": 2, "price": 12.5}]));
    assert_eq!(order(store, &c).await.status.as_deref(), Some("MADE"));
    // an Upsert changes an order that is there
    let again = updated(&c, &event("upsert 2")).effect(Effect::Upsert).status("CHANGED");
    assert_eq!(one(store, again).await, Done);
    assert_eq!(order(store, &c).await.status.as_deref(), Some("CHANGED"));
    // nothing to do is nothing
    assert_eq!(store.apply(&[]).await.unwrap(), []);
    assert_eq!(store.order(&unique("nobody")).await.unwrap(), None);
    store.ready().await.unwrap();
}

pub async fn dates_and_lists(store: &dyn Store) {
    let a = unique("a");
    let event = |name: &str| format!("{name}-{a}");
    let dated = |name: &str, at: i64| updated(&a, &event(name)).at(at).set("step", name).append("steps", name);
    let batch = [created(&a).set("step", "made"), dated("second", 2_000_000), dated("first", 1_000_000).status("OLD")];
    assert_eq!(store.apply(&batch).await.unwrap(), vec![Applied::Done; 3]);
    let stored = order(store, &a).await;
    assert_eq!(stored.fields["step"], "second", "an older event must not overwrite a newer one's field");
    assert_eq!(stored.fields["steps"], json!(["second", "first"]), "a list takes all");
    assert_eq!(stored.status.as_deref(), Some("OLD"), "nothing newer has set the status");
    // the time is kept: also in a later batch the older event loses, a newer one and one of the same time win
    assert_eq!(one(store, dated("late", 1_999_999)).await, Applied::Done);
    assert_eq!(order(store, &a).await.fields["step"], "second");
    assert_eq!(one(store, dated("same time", 2_000_000)).await, Applied::Done);
    assert_eq!(order(store, &a).await.fields["step"], "same time");
    // without a time the arrival decides, now and for the next one
    assert_eq!(one(store, updated(&a, &event("now")).set("step", "now")).await, Applied::Done);
    assert_eq!(one(store, dated("older", 1_000)).await, Applied::Done);
    let stored = order(store, &a).await;
    assert_eq!(stored.fields["step"], "older");
    assert_eq!(stored.fields["steps"].as_array().map(Vec::len), Some(5));
    // a value of any shape comes back as it was
    let value = json!({"text": "ä\"\\\n😀", "n": [1, -2.5, 1e20, null, true], "deep": {"er": {}}});
    assert_eq!(one(store, updated(&a, &event("shape")).set("shape", value.clone())).await, Applied::Done);
    assert_eq!(order(store, &a).await.fields["shape"], value);
}

pub async fn early_updates(store: &dyn Store) {
    let (a, b, c) = (unique("a"), unique("b"), unique("c"));
    let event = |name: &str| format!("{name}-{a}");
    let early = |name: &str| updated(&a, &event(name)).status(name).append("steps", name);
    let batch = [early("one"), early("two"), early("one")];
    assert_eq!(store.apply(&batch).await.unwrap(), vec![Applied::Waiting; 3]);
    assert_eq!(one(store, early("one")).await, Applied::Waiting, "a repeat waits on");
    assert_eq!(store.order(&a).await.unwrap(), None, "nobody sees an order that is not made");
    assert_eq!(one(store, created(&a)).await, Applied::Done);
    let stored = order(store, &a).await;
    assert_eq!(stored.fields["steps"], json!(["one", "two"]), "in the order of arrival");
    assert_eq!(stored.status.as_deref(), Some("two"));
    assert_eq!(one(store, early("two")).await, Applied::Repeat);

    // the Create comes later in the same batch, behind one that waited before
    let event = |name: &str| format!("{name}-{b}");
    let early = |name: &str| updated(&b, &event(name)).append("steps", name);
    assert_eq!(one(store, early("zero")).await, Applied::Waiting);
    let batch = [early("one"), created(&b), early("two")];
    assert_eq!(store.apply(&batch).await.unwrap(), [Applied::Waiting, Applied::Done, Applied::Done]);
    assert_eq!(order(store, &b).await.fields["steps"], json!(["zero", "one", "two"]));
    assert_eq!(store.apply(&batch).await.unwrap(), vec![Applied::Repeat; 3]);

    // an Upsert makes the order as well
    let event = |name: &str| format!("{name}-{c}");
    assert_eq!(one(store, updated(&c, &event("early")).set("early", 1)).await, Applied::Waiting);
    assert_eq!(one(store, updated(&c, &event("made")).effect(Effect::Upsert)).await, Applied::Done);
    assert_eq!(order(store, &c).await.fields["early"], 1);
}

pub async fn conflicts(store: &dyn Store) {
    let (a, b) = (unique("a"), unique("b"));
    let event = |name: &str| format!("{name}-{a}");
    assert_eq!(one(store, created(&a).tenant("red")).await, Applied::Done);
    assert!(is_conflict(&one(store, created(&a).tenant("red").content(8)).await, "another content"));
    assert!(is_conflict(&one(store, created(&a).tenant("blue")).await, "tenant"));
    assert!(is_conflict(&one(store, updated(&a, &event("foreign")).tenant("blue").status("STOLEN")).await, "tenant"));
    assert_eq!(one(store, updated(&a, &event("own")).tenant("red").set("word", "x")).await, Applied::Done);
    assert_eq!(one(store, updated(&a, &event("nobody's")).set("n", 1)).await, Applied::Done);
    let scalar = one(store, updated(&a, &event("list")).append("word", "y").status("HALF")).await;
    assert!(is_conflict(&scalar, "word"), "{scalar:?}");
    let stored = order(store, &a).await;
    assert_eq!(stored.status.as_deref(), Some("NEW"), "a conflict changes nothing");
    assert_eq!(stored.tenant_id.as_deref(), Some("red"));

    // the second of two Creates in one batch; what is beside it goes on
    let outcomes = store.apply(&[created(&b), created(&b).content(9), updated(&b, &event("b")).status("ON")]).await.unwrap();
    assert_eq!(outcomes[0], Applied::Done);
    assert!(is_conflict(&outcomes[1], "another content"));
    assert_eq!(outcomes[2], Applied::Done);
    // an event id under another order: noted, in the same batch, or waiting
    assert!(is_conflict(&one(store, updated(&b, &event("own")).status("LOST")).await, "one order"));
    let outcomes = store.apply(&[updated(&a, &event("twice")).tenant("red"), updated(&b, &event("twice"))]).await.unwrap();
    assert!(outcomes[0] == Applied::Done && is_conflict(&outcomes[1], "one order"), "{outcomes:?}");
    assert_eq!(one(store, updated(&unique("nobody"), &event("waits"))).await, Applied::Waiting);
    assert!(is_conflict(&one(store, updated(&b, &event("waits"))).await, "one order"));
    store.takes_changes().await.unwrap();
    // a Create after an Upsert of the same order
    let c = unique("c");
    assert_eq!(one(store, updated(&c, &event("upsert")).effect(Effect::Upsert)).await, Applied::Done);
    assert!(is_conflict(&one(store, created(&c)).await, "Upsert"));
}

pub async fn what_a_database_cannot_hold(store: &dyn Store) {
    let id = |n: usize| unique(&format!("bad{n}"));
    let mut batch = vec![
        created(&id(0)).status("NUL \0"),
        created(&format!("{}\0", id(1))),
        created(&id(2)).set("note", "NUL \0"),
        created(&id(3)).set("n\0", 1),
        created(&id(4)).total("12.345"),
        created(&id(5)).total("100000000.00"),
        created(&id(6)).total("NaN"),
        created(&"x".repeat(5000)),
        created(&id(8)),
        created(&id(9)),
        created(&id(10)),
    ];
    batch[8].fields.items = Some(r#"[{"name":"\u0000"}]"#.into());
    batch[9].fields.items = Some("[1e99999]".into());
    batch[10].fields.created_at = Some(chrono::DateTime::<chrono::Utc>::MIN_UTC);
    let bad = batch.len();
    batch.push(created(&id(11)).append("deep", (0..110).fold(json!(1), |value, _| json!([value]))));
    let bad = bad + 1;
    let (good, edge) = (unique("good"), unique("edge"));
    batch.push(created(&good));
    batch.push(created(&edge).total("-99999999.99").set("edge", "\u{1}\u{7f}\u{ffff}\u{10ffff}"));
    let deep = (0..100).fold(json!(1), |value, _| json!([value]));
    assert_eq!(one(store, created(&id(12)).append("deep", deep.clone())).await, Applied::Done);
    let outcomes = store.apply(&batch).await.unwrap();
    for (n, outcome) in outcomes[..bad].iter().enumerate() {
        assert!(matches!(outcome, Applied::Refused(_)), "{n}: {outcome:?}");
    }
    assert_eq!(outcomes[bad..], [Applied::Done, Applied::Done], "the others go on");
    assert_eq!(order(store, &edge).await.total_amount.unwrap().0, "-99999999.99");
    assert_eq!(order(store, &edge).await.fields["edge"], "\u{1}\u{7f}\u{ffff}\u{10ffff}");
    assert_eq!(store.order("\0").await.unwrap(), None);
}

pub async fn reading(store: &dyn Store) {
    let tenant = unique("tenant");
    let ids: Vec<String> = (0..5).map(|n| unique(&format!("r{n}"))).collect();
    // the newest by when the order was made, not by when it came: beyond all others of this suite
    let batch: Vec<Change> = [3, 0, 4, 1, 2]
        .map(|n: usize| {
            let mut change = created(&ids[n]).tenant(&tenant);
            change.fields.created_at = Some(time(4_000_000_000_000_000 + n as i64));
            change
        })
        .into();
    assert_eq!(store.apply(&batch).await.unwrap(), vec![Applied::Done; 5]);
    let recent = |limit, tenant: Option<&String>| store_recent(store, limit, tenant.cloned());
    let newest = |n: usize| ids.iter().rev().take(n).cloned().collect::<Vec<_>>();
    assert_eq!(recent(3, Some(&tenant)).await, newest(3));
    assert_eq!(recent(50, Some(&tenant)).await, newest(5));
    assert_eq!(recent(0, Some(&tenant)).await, newest(0));
    assert_eq!(recent(50, Some(&unique("nobody"))).await, newest(0));
    assert_eq!(recent(5, None).await.len(), 5);
    let stored = order(store, &ids[1]).await;
    assert_eq!(stored.created_at, time(4_000_000_000_000_001));
    let shown = serde_json::to_value(&stored).unwrap();
    assert_eq!(shown["totalAmount"], 25.0, "{shown}");
    assert_eq!(shown["items"][0]["quantity"], 2, "{shown}");
}

async fn store_recent(store: &dyn Store, limit: u32, tenant: Option<String>) -> Vec<String> {
    let query = Query { limit, max_bytes: u32::MAX, tenant, after: None };
    store.recent(&query).await.unwrap().orders.into_iter().map(|o| o.order_id).collect()
}

/// A page ends where its room does, and tells whether it was the last; page after page all orders come, each once.
pub async fn pages(store: &dyn Store) {
    const LARGE: usize = 10_000;
    const FAR: i64 = 5_000_000_000_000_000; // beyond the orders of all other stories
    let tenant = unique("tenant");
    let ids: Vec<String> = (0..7).map(|n| unique(&format!("p{n}"))).collect();
    let batch = ids.iter().enumerate().map(|(n, id)| {
        let mut change = created(id).tenant(&tenant);
        // three of one time: then the ids decide
        change.fields.created_at = Some(time(FAR + n.clamp(2, 4) as i64));
        let text: String = (0..LARGE / unique("").len()).map(|_| unique("")).collect();
        match n {
            0 => {}
            5 => change = change.set("note", text.repeat(3)), // alone larger than the page
            n if n % 2 == 0 => change = change.set("note", text),
            _ => change.fields.items = Some(json!([{ "note": text }]).to_string()),
        }
        change
    });
    store.apply(&batch.collect::<Vec<_>>()).await.unwrap();
    let mut newest: Vec<(i64, &String)> = ids.iter().enumerate().map(|(n, id)| (n.clamp(2, 4) as i64, id)).collect();
    newest.sort();
    newest.reverse();
    let page = async |limit, max_bytes, tenant: Option<&String>, after: Option<&Order>| {
        let after = after.map(|order| Mark { created_at: order.created_at, order_id: order.order_id.clone() });
        store.recent(&Query { limit, max_bytes, tenant: tenant.cloned(), after }).await.unwrap()
    };
    for (limit, max_bytes, largest) in [(50, 2 * LARGE as u32 + 5000, 3), (2, u32::MAX, 2), (50, 0, 1), (7, u32::MAX, 7), (6, u32::MAX, 6)]
    {
        let mut seen: Vec<Order> = Vec::new();
        loop {
            let Page { orders, more } = page(limit, max_bytes, Some(&tenant), seen.last()).await;
            assert!((1..=largest).contains(&orders.len()), "{} orders in a page of {limit} and {max_bytes} bytes", orders.len());
            let held: usize = orders.iter().map(|o| serde_json::to_string(o).unwrap().len()).sum();
            assert!(orders.len() == 1 || held < max_bytes.saturating_add(2000) as usize, "{held} bytes in a page of {max_bytes}");
            seen.extend(orders);
            assert_eq!(more, seen.len() < ids.len(), "after {} of {}", seen.len(), ids.len());
            if !more {
                break;
            }
        }
        let seen: Vec<&String> = seen.iter().map(|o| &o.order_id).collect();
        assert_eq!(seen, newest.iter().map(|(_, id)| *id).collect::<Vec<_>>(), "pages of {limit} and {max_bytes} bytes");
    }
    let last = page(50, u32::MAX, Some(&tenant), None).await.orders.pop();
    assert_eq!(page(50, u32::MAX, Some(&tenant), last.as_ref()).await, Page { orders: Vec::new(), more: false });
    assert!(page(1, 0, None, None).await.more);
}

pub async fn dead_letters(store: &dyn Store) {
    let (a, b) = (unique("a"), unique("b"));
    let event = |name: &str| format!("{name}-{a}");
    let stranger = updated(&a, &event("stranger")).tenant("blue").status("STOLEN").at(5).set("x", json!([1, "two"]));
    let lost = updated(&b, &event("lost")).total("1.50");
    assert_eq!(one(store, stranger.clone()).await, Applied::Waiting);
    assert_eq!(one(store, lost.clone()).await, Applied::Waiting);
    assert_eq!(one(store, created(&a).tenant("red")).await, Applied::Done);
    assert_eq!(order(store, &a).await.status.as_deref(), Some("NEW"), "the other tenant's update has no effect");

    let hour = Duration::from_secs(3600);
    let ours = |letters: Vec<Expired>| letters.into_iter().filter(|e| e.change.event_id.ends_with(&a)).collect::<Vec<_>>();
    // what contradicts its order is returned at once, with the reason; what only waits is not
    let refused = ours(store.expired(hour).await.unwrap());
    assert_eq!(refused.iter().map(|e| &e.change).collect::<Vec<_>>(), [&stranger]);
    assert!(refused[0].refused.as_deref().is_some_and(|why| why.contains("tenant")), "{refused:?}");
    assert_eq!(ours(store.expired(hour).await.unwrap()), [], "somebody has it");
    assert_eq!(ours(store.expired(Duration::ZERO).await.unwrap()), [Expired { change: lost.clone(), refused: None }]);
    // once handed out it never takes effect
    assert_eq!(one(store, created(&b)).await, Applied::Done);
    assert_eq!(order(store, &b).await.total_amount.unwrap().0, "25.00");
    assert_eq!(one(store, lost.clone()).await, Applied::Waiting, "it is kept until the dead letter is written");
    store.forget(&[event("lost"), event("stranger"), event("no such")]).await.unwrap();
    // what is sent again after that (an operator replays the dead letter) is judged anew
    assert_eq!(one(store, lost).await, Applied::Done);
    assert!(is_conflict(&one(store, stranger).await, "tenant"));
    assert_eq!(order(store, &b).await.total_amount.unwrap().0, "1.50");
}
