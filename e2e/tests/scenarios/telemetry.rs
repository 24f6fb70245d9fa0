//! What a pipeline tells of itself, to a real OpenTelemetry collector: one trace from the request to the callback, metrics by their
//! names, log lines with the ids of their order. And a collector that is away, that hangs, that comes later.

use anyhow::{Context, Result, ensure};
use axum::http::HeaderMap;
use axum::routing::post;
use e2e::bed::collector::{Got, Span};
use e2e::bed::{Collector, Kafka, eventually, free_port};
use e2e::pipeline::{KEY, Pipeline, READY, dead, header, metric};
use e2e::product::Product;
use e2e::proxy::{Proxy, Way};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::{Value as Json, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: traced}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "BOOTSTRAP"}}]
  topics: [{name: orders, partitions: 3}, {name: told, partitions: 1}]
  events:
  - name: OrderCreated
    topics: [orders]
    rules: [{rule: data.totalAmount > 0, message: must be above 0, field: data.totalAmount}]
    emit: [{topic: told, type: order.created}]
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
  api: {}
  worker: {retry: {attempts: 2, base: 100ms}, callback: {url: "CALLBACK"}}
  telemetry: {otlp: {endpoint: "COLLECTOR"}, samplingPercent: 0, logLevel: debug}
"#;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
const SOON: [(&str, &str); 2] = [("OTEL_METRIC_EXPORT_INTERVAL", "500"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")];

/// A service that is told of each order. Returns its address, and the headers that came to it.
async fn service() -> Result<(String, Arc<Mutex<Vec<HeaderMap>>>)> {
    let heard: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let hears = heard.clone();
    let routes = axum::Router::new().route("/", post(async move |headers: HeaderMap| hears.lock().unwrap().push(headers)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok((address, heard))
}

async fn pipeline(kafka: &Kafka, collector: &str, callback: &str) -> Result<Pipeline> {
    let text = DOCUMENT.replace("BOOTSTRAP", &kafka.bootstrap()).replace("CALLBACK", callback).replace("COLLECTOR", collector);
    Pipeline::of(kafka, &text).await
}

fn order(id: &str) -> Json {
    json!({"orderId": id, "customerId": "C1", "tenantId": "T1", "channel": "web", "totalAmount": 5,
           "items": [{"sku": "a", "quantity": 1, "price": 5}]})
}

async fn post_order(url: &str, order: &Json, traced: bool) -> Result<()> {
    let request = e2e::http(Duration::from_secs(10)).post(format!("{url}/orders")).header("x-api-key", KEY);
    let request = request.header("x-request-id", format!("r-{}", order["orderId"].as_str().unwrap_or_default()));
    let request = if traced { request.header("traceparent", format!("00-{TRACE}-{CLIENT}-01")) } else { request };
    let answer = request.json(order).send().await?;
    ensure!(answer.status() == 202, "{}", answer.text().await?);
    Ok(())
}

/// The only span of a trace by its name.
fn span<'a>(got: &'a Got, name: &str) -> Result<&'a Span> {
    let named: Vec<&Span> = got.spans.iter().filter(|span| span.name == name && span.trace == TRACE).collect();
    match named.as_slice() {
        &[one] => Ok(one),
        _ => Err(anyhow::anyhow!("{} spans {name} among {:?}", named.len(), names(got))),
    }
}

fn names(got: &Got) -> Vec<&str> {
    got.spans.iter().map(|span| span.name.as_str()).collect()
}

/// The value of the only point of that name with these labels.
fn value(got: &Got, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let fits = |of: &e2e::bed::collector::Named| labels.iter().all(|(name, value)| of.get(*name).is_some_and(|v| v == value));
    let last = got.points.iter().rev().find(|point| point.name == name && fits(&point.attributes));
    Ok(last.with_context(|| format!("no point {name} {labels:?}"))?.value)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_runs_from_the_request_to_the_callback_and_metrics_and_lines_come_along() {
    let (kafka, collector) = (Kafka::start(1).await.unwrap(), Collector::start().await.unwrap());
    let (callback, heard) = service().await.unwrap();
    let pipeline = pipeline(&kafka, &collector.endpoint(), &callback).await.unwrap();
    let (mut api, url) = pipeline.start_with("api", &SOON).await.unwrap();
    let (mut worker, _) = pipeline.start_with("worker", &SOON).await.unwrap();
    post_order(&url, &order("O1"), true).await.unwrap();
    post_order(&url, &order("not-sampled"), false).await.unwrap();
    eventually("the callback is told of both", READY, || async {
        let count = heard.lock().unwrap().len();
        ensure!(count == 2, "{count}");
        Ok(())
    })
    .await
    .unwrap();

    // What lies on the topics carries the trace on, each message its own step of it.
    let created = kafka.messages("orders").await.unwrap();
    let told = kafka.messages("told").await.unwrap();
    let told = told.iter().map(|message| header(message, "traceparent")).collect::<Vec<_>>();
    let sampled: Vec<String> = created.iter().map(|message| header(message, "traceparent")).filter(|trace| !trace.is_empty()).collect();
    assert_eq!(sampled.len(), 1, "the one that nobody samples carries nothing");

    for product in [&mut api, &mut worker] {
        assert!(product.terminate(Duration::from_secs(25)).await.unwrap().success());
    }
    let all = || async {
        let got = collector.got()?;
        let steps = ["POST /orders", "publish orders", "consume orders", "process orders", "store apply", "publish told", "callback"]
            .map(|name| span(&got, name).cloned());
        steps.into_iter().collect::<Result<Vec<Span>>>()
    };
    let steps = eventually("the whole trace is there", READY, all).await.unwrap();
    let [http, publish, consume, process, store, emit, called] = steps.as_slice() else { panic!("{steps:?}") };
    let parents = [(http, CLIENT), (publish, &*http.id), (consume, &*publish.id), (process, &*consume.id)];
    for (span, parent) in parents.into_iter().chain([(store, &*process.id), (emit, &*process.id), (called, &*process.id)]) {
        assert_eq!(span.parent, parent, "{span:#?}");
    }
    let kinds = [http, publish, consume, process, store, called].map(|span| &*span.kind);
    assert_eq!(kinds, ["Server", "Producer", "Consumer", "Internal", "Client", "Client"]);
    for span in [publish, consume, process, store] {
        assert_eq!(span.attributes.get("orderId").map(String::as_str), Some("O1"), "{span:#?}");
    }
    assert_eq!(http.attributes["http.response.status_code"], "202");
    assert_eq!((&*http.resource["service.name"], &*http.resource["deployment.environment"]), ("traced-api", "test"));
    assert_eq!(process.resource["service.name"], "traced-worker");
    assert_eq!(sampled[0], format!("00-{TRACE}-{}-01", publish.id));
    assert!(told.contains(&format!("00-{TRACE}-{}-01", emit.id)), "{told:?}");
    let callbacks: Vec<HeaderMap> = heard.lock().unwrap().clone();
    let carried: Vec<_> = callbacks.iter().filter_map(|headers| headers.get("traceparent")?.to_str().ok()).collect();
    assert_eq!(carried, [format!("00-{TRACE}-{}-01", called.id)]);

    let got = collector.got().unwrap();
    assert!(got.spans.iter().all(|span| span.trace == TRACE), "what is not sampled has no spans: {:?}", names(&got));
    metrics_have_their_names(&got);
    lines_name_their_order(&got, process);
}

fn metrics_have_their_names(got: &Got) {
    let of_topic = |name, value| [("topic", "orders"), ("subscription", "traced"), (name, value)];
    for (name, labels, expected) in [
        ("http_requests_total", vec![("method", "POST"), ("route", "/orders"), ("status", "202")], 2.0),
        ("publish_duration_seconds", vec![("outcome", "acknowledged")], 2.0),
        ("publish_failures_total", vec![("outcome", "refused")], 0.0),
        ("idempotency_cache_depth", vec![], 2.0),
        ("orders_processed_total", vec![], 2.0),
        ("orders_failed_total", vec![], 0.0),
        ("retries_total", vec![], 0.0),
        ("worker_concurrency", vec![], 4.0),
        ("processing_duration_seconds", vec![], 2.0),
        ("message_processing_time", of_topic("status", "success").to_vec(), 2.0),
        ("message_count", of_topic("result", "processed").to_vec(), 2.0),
        ("dlq_messages", vec![("original_topic", "orders"), ("error_type", "invalid")], 0.0),
    ] {
        // The worker publishes too: what is asked for is the API's.
        let own = |point: &&e2e::bed::collector::Point| !name.starts_with("publish") || point.resource["service.name"] == "traced-api";
        let of_one = Got { points: got.points.iter().filter(own).cloned().collect(), ..Got::default() };
        assert_eq!(value(&of_one, name, &labels).unwrap(), expected, "{name}");
    }
    value(got, "current_backlog", &[]).unwrap();
    value(got, "subscription_lag", &[("subscription", "traced")]).unwrap();
}

fn lines_name_their_order(got: &Got, process: &Span) {
    let of = |body: &str, order: &str| {
        let line = got.lines.iter().find(|line| line.body == body && line.attributes.get("orderId").is_some_and(|id| id == order));
        line.unwrap_or_else(|| panic!("no line {body:?} of {order} among {:#?}", got.lines)).clone()
    };
    let (accepted, effect) = (of("accepted", "O1"), of("took effect", "O1"));
    assert_eq!((&*accepted.trace, &*effect.trace, &*effect.span), (TRACE, TRACE, &*process.id));
    assert_eq!((&*effect.attributes["tenantId"], &*effect.attributes["requestId"]), ("T1", "r-O1"));
    assert_eq!((&*effect.severity, &*accepted.attributes["requestId"]), ("DEBUG", "r-O1"));
    assert_eq!(of("took effect", "not-sampled").trace, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_part_of_its_trace_and_its_lines_are_found_by_the_order() {
    let (kafka, collector) = (Kafka::start(1).await.unwrap(), Collector::start().await.unwrap());
    let (callback, _) = service().await.unwrap();
    let pipeline = pipeline(&kafka, &collector.endpoint(), &callback).await.unwrap();
    let (worker, worker_url) = pipeline.start_with("worker", &SOON).await.unwrap();
    let bad = json!({"orderId": "O2", "tenantId": "T2", "totalAmount": -1}).to_string();
    let parent = format!("00-{TRACE}-{CLIENT}-01");
    let headers = [("type", "OrderCreated"), ("requestId", "r-2"), ("traceparent", &parent)];
    let headers = headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let producer: FutureProducer = kafka.client().create().unwrap();
    let message = FutureRecord::to("orders").key("O2").payload(&bad).headers(headers);
    producer.send(message, Duration::from_secs(10)).await.unwrap();
    let letters = dead(&kafka, "orders", 1).await;
    let line = || async {
        let printed = worker.printed();
        let line = printed.lines().find(|line| line.contains("event became a dead letter")).context("no line")?;
        Ok(serde_json::from_str::<Json>(line)?)
    };
    let line = eventually("it is said", READY, line).await.unwrap();
    assert_eq!(line["traceId"], TRACE, "{line}");
    assert_eq!((&line["orderId"], &line["tenantId"], &line["requestId"]), (&json!("O2"), &json!("T2"), &json!("r-2")), "{line}");
    let all = || async {
        let got = collector.got()?;
        Ok((span(&got, "consume orders")?.clone(), span(&got, "process orders")?.clone(), span(&got, "publish orders-dlq")?.clone()))
    };
    let (consume, process, buried) = eventually("the spans are there", READY, all).await.unwrap();
    assert_eq!((&*consume.parent, &*process.parent, &*buried.parent), (CLIENT, &*consume.id, &*process.id));
    assert_eq!((&*process.status, &*process.attributes["result"]), ("Error", "dead_letter"));
    assert_eq!(header(&letters[0], "traceparent"), format!("00-{TRACE}-{}-01", buried.id));
    assert_eq!(line["spanId"], process.id.as_str());
    assert_eq!(metric(&worker_url, "dlq_messages{original_topic=\"orders\",error_type=\"invalid\"}").await.unwrap(), 1.0);
}

/// How long it takes until so many orders are accepted one after the other.
async fn take(url: &str, orders: std::ops::Range<usize>, name: &str) -> Result<Duration> {
    let began = Instant::now();
    for index in orders {
        post_order(url, &order(&format!("{name}-{index}")), true).await?;
    }
    Ok(began.elapsed())
}

fn said(product: &Product, what: &str) -> usize {
    product.printed().lines().filter(|line| line.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_hangs_costs_nothing_and_one_that_comes_later_gets_what_is_left() {
    const GONE: &str = "the collector does not take telemetry";
    const BACK: &str = "the collector takes telemetry again";
    let kafka = Kafka::start(1).await.unwrap();
    let (callback, _) = service().await.unwrap();
    let port = free_port().unwrap();
    let proxy = Proxy::start(format!("127.0.0.1:{port}")).await.unwrap();
    let pipeline = pipeline(&kafka, &format!("http://127.0.0.1:{}", proxy.port()), &callback).await.unwrap();
    // Nobody listens behind the proxy yet.
    let (mut api, url) = pipeline.start_with("api", &SOON).await.unwrap();
    take(&url, 0..50, "away").await.unwrap();
    eventually("it is said that the collector is away", READY, || async {
        ensure!(said(&api, GONE) > 0);
        Ok(())
    })
    .await
    .unwrap();
    proxy.set(Way::Stalled);
    let hanging = take(&url, 0..100, "hangs").await.unwrap();
    proxy.set(Way::Open);
    let collector = Collector::start_at(port).await.unwrap();
    let late = || async {
        let got = collector.got()?;
        ensure!(got.spans.iter().any(|span| span.name == "POST /orders"), "{:?}", names(&got));
        ensure!(said(&api, BACK) == 1, "it is not said that it is back");
        Ok(())
    };
    eventually("what had waited is carried", READY, late).await.unwrap();
    assert_eq!(said(&api, GONE), 1, "it is said once, however often it is tried");
    println!("100 orders one after the other while the collector hangs: {hanging:?}");
    // Also a collector that hangs does not keep a process from ending in time.
    proxy.set(Way::Stalled);
    take(&url, 100..150, "hangs").await.unwrap();
    let began = Instant::now();
    assert!(api.terminate(Duration::from_secs(25)).await.unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
