//! What is said, as the OpenTelemetry protocol writes it.

use crate::telemetry::logs::Line;
use crate::telemetry::metrics::{BOUNDS, Labels, Metric, Value};
use crate::telemetry::spans::{Attributes, Kind, Said, Span};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1 as proto;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1 as resource;
use opentelemetry_proto::tonic::trace::v1::{self as trace, ResourceSpans, ScopeSpans, Status, span::SpanKind, status::StatusCode};
use prost::Message;
use std::time::{SystemTime, UNIX_EPOCH};

/// Who says it: the attributes of this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource(pub Vec<(String, String)>);

impl Resource {
    fn written(&self) -> Option<resource::Resource> {
        let attributes = self.0.iter().map(|(name, value)| text(name, value)).collect();
        Some(resource::Resource { attributes, ..resource::Resource::default() })
    }
}

pub fn spans(resource: &Resource, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = vec![ScopeSpans { scope: scope(), spans: spans.into_iter().map(span).collect(), ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: resource.written(), scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

pub fn lines(resource: &Resource, lines: Vec<Line>) -> Vec<u8> {
    let scope_logs = vec![ScopeLogs { scope: scope(), log_records: lines.into_iter().map(record).collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { resource: resource.written(), scope_logs, ..ResourceLogs::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}

pub fn metrics(resource: &Resource, metrics: &[Metric], began: SystemTime, now: SystemTime) -> Vec<u8> {
    let at = (nanos(began), nanos(now));
    let metrics = metrics.iter().filter_map(|metric| written(metric, at)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: scope(), metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { resource: resource.written(), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

fn scope() -> Option<InstrumentationScope> {
    let (name, version) = (env!("CARGO_PKG_NAME").to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    Some(InstrumentationScope { name, version, ..InstrumentationScope::default() })
}

fn span(span: Span) -> trace::Span {
    let kind = match span.kind {
        Kind::Internal => SpanKind::Internal,
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    };
    trace::Span {
        trace_id: span.context.trace.to_be_bytes().to_vec(),
        span_id: span.context.span.to_be_bytes().to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: 1,
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes: attributes(span.attributes),
        status: span.failed.map(|message| Status { message, code: StatusCode::Error.into() }),
        ..trace::Span::default()
    }
}

fn record(line: Line) -> LogRecord {
    let at = nanos(line.at);
    LogRecord {
        time_unix_nano: at,
        observed_time_unix_nano: at,
        severity_number: line.severity,
        severity_text: line.level.to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(line.message)) }),
        attributes: attributes(line.attributes),
        trace_id: line.trace.map(|trace| trace.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: line.span.map(|span| span.to_be_bytes().to_vec()).unwrap_or_default(),
        ..LogRecord::default()
    }
}

fn written(Metric { name, help, points }: &Metric, (began, now): (u64, u64)) -> Option<proto::Metric> {
    const SINCE_THE_START: i32 = proto::AggregationTemporality::Cumulative as i32;
    let number = |(labels, value): &(Labels, Value)| {
        let (Value::Total(value) | Value::Level(value)) = value else { return None };
        Some(proto::NumberDataPoint {
            attributes: labelled(labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX))),
            ..proto::NumberDataPoint::default()
        })
    };
    let spread = |(labels, value): &(Labels, Value)| {
        let Value::Durations(spread) = value else { return None };
        Some(proto::HistogramDataPoint {
            attributes: labelled(labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            count: spread.count(),
            sum: Some(spread.seconds),
            bucket_counts: spread.buckets.to_vec(),
            explicit_bounds: BOUNDS.to_vec(),
            ..proto::HistogramDataPoint::default()
        })
    };
    let numbers = || points.iter().filter_map(number).collect();
    let (data, unit) = match points.first()?.1 {
        Value::Total(_) => {
            let sum = proto::Sum { data_points: numbers(), aggregation_temporality: SINCE_THE_START, is_monotonic: true };
            (metric::Data::Sum(sum), "1")
        }
        Value::Level(_) => (metric::Data::Gauge(proto::Gauge { data_points: numbers() }), "1"),
        Value::Durations(_) => {
            let data_points = points.iter().filter_map(spread).collect();
            (metric::Data::Histogram(proto::Histogram { data_points, aggregation_temporality: SINCE_THE_START }), "s")
        }
    };
    let (name, description, unit) = ((*name).to_owned(), (*help).to_owned(), unit.to_owned());
    Some(proto::Metric { name, description, unit, data: Some(data), ..proto::Metric::default() })
}

fn labelled(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| text(name, value)).collect()
}

fn attributes(attributes: Attributes) -> Vec<KeyValue> {
    let value = |said| match said {
        Said::Text(text) => any_value::Value::StringValue(text),
        Said::Number(number) => any_value::Value::IntValue(number),
    };
    attributes.into_iter().map(|(name, said)| pair(name, value(said))).collect()
}

fn text(name: &str, value: &str) -> KeyValue {
    pair(name, any_value::Value::StringValue(value.to_owned()))
}

fn pair(name: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
