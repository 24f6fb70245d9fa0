//! What it takes to know an event: which one it is, its schema and its rules; beside parsing it, which nobody can do without.

use crate::median;
use anyhow::{Context, Result, ensure};
use crds::json::Json;
use pipeline_runtime::broker::{Incoming, Partition, Position};
use pipeline_runtime::codec::Codecs;
use pipeline_runtime::codec::avro::read::Plan;
use pipeline_runtime::codec::avro::schema::Schema;
use pipeline_runtime::codec::avro::write;
use pipeline_runtime::contract::{Contract, Message};
use pipeline_runtime::pii::{Body, Fields, Keyring, Keys};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

pub fn of_examples(rounds: usize) -> Result<()> {
    let lines = |count: usize, of: fn(usize) -> Value| (1..=count).map(of).collect::<Vec<_>>();
    let order = json!({
        "orderId": "7d1f2c3a-0001-4000-8000-000000000000", "customerId": "customer-42", "tenantId": "north", "channel": "web", "totalAmount": 30,
        "items": lines(6, |n| json!({"sku": format!("SKU-{n}-MARGHERITA"), "name": "Margherita", "quantity": 1, "unitPrice": 5})),
    });
    let large = json!({
        "orderId": "R-1001", "customerId": "C000042", "orderDate": "2025-01-10T12:00:00Z", "isForceAllocation": true, "t1MembershipId": "T1-0042-7781", "totals": {"total": 33},
        "lineItems": lines(33, |n| json!({"lineId": n, "sku": format!("SKU-{n:04}"), "quantity": 1, "unitPrice": 1, "note": "n".repeat(70)})),
    });
    let envelope = json!({"messageId": "m-1", "publishTime": "2025-01-10T12:00:00Z", "attributes": {"source": "shop"}, "data": large});
    as_avro(&order, rounds)?;
    of_message("orders", "orders", &order.to_string(), rounds)?;
    of_message("retail", "order-create", &envelope.to_string(), rounds)
}

/// The same order as JSON and as Avro: what each takes to be written and to be read.
fn as_avro(order: &Value, rounds: usize) -> Result<()> {
    let text = |name: &str| json!({"name": name, "type": "string"});
    let line = json!([text("sku"), text("name"), {"name": "quantity", "type": "int"}, {"name": "unitPrice", "type": "double"}]);
    let items = json!({"type": "array", "items": {"type": "record", "name": "Line", "fields": line}});
    let fields = ["orderId", "customerId", "tenantId", "channel"].map(text).into_iter();
    let fields: Vec<Value> =
        fields.chain([json!({"name": "totalAmount", "type": "double"}), json!({"name": "items", "type": items})]).collect();
    let schema = Schema::parse(&json!({"type": "record", "name": "Order", "fields": fields}).to_string())?;
    let plan = Plan::new(&schema, &schema).map_err(anyhow::Error::msg)?;
    let data = Json::from(order);
    let encode = || {
        let mut bytes = Vec::with_capacity(1024);
        write(&schema, &data, &mut bytes).map(|()| bytes).map_err(|unfit| anyhow::anyhow!("{unfit:?}"))
    };
    let (json, avro) = (order.to_string(), encode()?);
    // Not the same in JSON: a double of Avro comes back as 5.0.
    let price = |read: &Value| read["items"][5]["unitPrice"].as_f64();
    let same = |read: Value| read["orderId"] == order["orderId"] && price(&read) == price(order);
    ensure!(plan.read(&avro).is_ok_and(|read| same((&read).into())), "it does not come back");
    let parse = || serde_json::from_str::<Json>(black_box(&json)).map(drop);
    let (mut times, works): (Vec<Vec<f64>>, [&dyn Fn(); 4]) = (
        vec![Vec::new(); 4],
        [&|| drop(black_box(data.to_string())), &|| drop(black_box(parse())), &|| drop(black_box(encode())), &|| {
            drop(black_box(plan.read(black_box(&avro))))
        }],
    );
    for _ in 0..rounds {
        works.iter().zip(&mut times).for_each(|(work, times)| times.push(each(*work)));
    }
    let [json_out, json_in, avro_out, avro_in] = std::array::from_fn(|n| median(&mut times[n]));
    println!(
        "codec, an order: JSON {} B, {json_out:.1} us to write, {json_in:.1} us to read; Avro {} B, {avro_out:.1} us, {avro_in:.1} us (medians)",
        json.len(),
        avro.len()
    );
    Ok(())
}

fn each(work: &dyn Fn()) -> f64 {
    const TIMES: u32 = 2000;
    let begun = Instant::now();
    (0..TIMES).for_each(|_| work());
    begun.elapsed().as_nanos() as f64 / f64::from(TIMES) / 1000.0
}

fn of_message(example: &str, topic: &str, body: &str, rounds: usize) -> Result<()> {
    let text = std::fs::read_to_string(format!("{}/../examples/{example}/pipeline.yaml", env!("CARGO_MANIFEST_DIR")))?;
    let config =
        crds::document::read(&text).map(|pipeline| crds::resolve(&pipeline)).map_err(|mistakes| anyhow::anyhow!("{mistakes:?}"))?;
    let random = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let keys = || Ok::<_, anyhow::Error>(Keyring::new(&config.pipeline, Keys::new([("match", random), ("2025-01", random)])?));
    let keyring = config.pii.as_ref().map(|_| keys()).transpose()?;
    let (contract, topic) = (Contract::with_keys(&config, keyring.as_ref())?, config.topic(topic).context("no such topic")?);
    let incoming = Incoming {
        at: Position { partition: Partition { topic: topic.name.as_str().into(), number: 0 }, offset: 0 },
        key: None,
        headers: Vec::new(),
        payload: Some(body.to_owned().into()),
        timestamp_ms: 0,
    };
    let codecs = Codecs::default();
    let decode = |incoming| codecs.decode(topic, incoming).map_err(|why| anyhow::anyhow!("{why:?}"));
    let decoded = decode(&incoming)?;
    let message = Message { topic: &topic.name, key: Some("C000042"), decoded: &decoded };
    let known = || contract.recognise(&message).ok().flatten().map(|event| event.violations(&message));
    ensure!(known().is_some_and(|violations| violations.is_empty()), "{:?}", known());
    // What a worker does with it until it is handed to the store.
    let all = || {
        let decoded = decode(&incoming).ok()?;
        let message = Message { topic: &topic.name, key: Some("C000042"), decoded: &decoded };
        let event = contract.recognise(&message).ok().flatten().filter(|event| event.violations(&message).is_empty())?;
        Some((event.change(&message, event.content(&decoded.data), String::from("orders/0/0")).ok()?, event.emissions(&message).ok()?))
    };
    ensure!(all().is_some(), "it makes no change");
    // To compare: a tree that copies every text.
    let owned = || serde_json::from_str::<Value>(black_box(body)).map(drop);
    let (mut into_own, mut parsing, mut knowing, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        into_own.push(each(&|| drop(black_box(owned()))));
        parsing.push(each(&|| drop(black_box(decode(black_box(&incoming))))));
        knowing.push(each(&|| drop(black_box(known()))));
        whole.push(each(&|| drop(black_box(all()))));
    }
    let least = |figures: &[f64]| figures.iter().copied().fold(f64::INFINITY, f64::min);
    let leasts = [&parsing, &knowing, &whole, &into_own].map(|figures| least(figures));
    println!(
        "contract, {example}, {} B: parsing {:.1} us (least {:.1}; into serde_json's own tree {:.1}, {:.1}); when, schema and rules {:.1} us ({:.1}); with the change and what is emitted {:.1} us in all ({:.1})",
        body.len(),
        median(&mut parsing),
        leasts[0],
        median(&mut into_own),
        leasts[3],
        median(&mut knowing),
        leasts[1],
        median(&mut whole),
        leasts[2]
    );
    if let Some(fields) = contract.encrypted(&topic.name) {
        one_field(fields, &decoded.data, rounds)?;
    }
    Ok(())
}

/// What one encrypted field costs: the writer, who finds it in the text and makes that anew, and the worker, who decrypts it and puts it back.
fn one_field(fields: &Fields, plain: &Json<'_>, rounds: usize) -> Result<()> {
    const TIMES: u32 = 2000;
    let (text, mut data) = (plain.to_string(), plain.clone());
    let (mut writing, mut working) = (Vec::new(), Vec::new());
    let of_one = |begun: Instant| begun.elapsed().as_nanos() as f64 / f64::from(TIMES) / 1000.0;
    for _ in 0..rounds {
        let begun = Instant::now();
        for _ in 0..TIMES {
            let (mut hidden, sent) = fields.encrypt(&mut data, Some(&text), "m-1")?;
            black_box(sent);
            fields.swap(&mut data, &mut hidden);
        }
        writing.push(of_one(begun));
        let mut sent = data.clone();
        fields.encrypt(&mut sent, None, "m-1")?;
        let begun = Instant::now();
        for _ in 0..TIMES {
            let failed = |(field, why)| anyhow::anyhow!("{field} {why}");
            let opened = fields.open(&mut sent).map_err(failed)?;
            let body = Body { text: &text, data: None };
            fields.hide(fields, opened, black_box(&mut sent), body, "m-1").map_err(failed)?;
        }
        working.push(of_one(begun));
    }
    let (writing, working) = (median(&mut writing), median(&mut working));
    println!("one encrypted field of {} B: writer {writing:.1} us, worker {working:.1} us (medians)", text.len());
    Ok(())
}
