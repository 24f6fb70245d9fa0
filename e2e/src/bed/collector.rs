//! A real OpenTelemetry collector, and what it got: read from what it prints.

use super::{Process, READY_WITHIN, Room, eventually, free_port, prepared};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

pub struct Collector {
    process: Process,
    port: u16,
    printed: PathBuf,
    _room: Arc<Room>,
}

pub type Named = BTreeMap<String, String>;

/// A span as the collector got it.
#[derive(Clone, Debug, Default)]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: String,
    pub status: String,
    pub attributes: Named,
    pub resource: Named,
}

/// A line of a log.
#[derive(Clone, Debug, Default)]
pub struct Line {
    pub body: String,
    pub severity: String,
    pub trace: String,
    pub span: String,
    pub attributes: Named,
    pub resource: Named,
}

/// A point of a metric: its value, of a histogram how many were measured.
#[derive(Clone, Debug, Default)]
pub struct Point {
    pub name: String,
    pub kind: String,
    pub attributes: Named,
    pub value: f64,
    pub resource: Named,
}

/// All that a collector got so far.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub spans: Vec<Span>,
    pub lines: Vec<Line>,
    pub points: Vec<Point>,
}

impl Collector {
    pub async fn start() -> Result<Collector> {
        Collector::start_at(free_port()?).await
    }

    /// At a port where it is awaited already.
    pub async fn start_at(port: u16) -> Result<Collector> {
        let room = Room::new("collector")?;
        let config = format!(
            "yaml:{{receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:{port}'}}}}}}}}, \
             exporters: {{debug: {{verbosity: detailed, use_internal_logger: false}}}}, service: {{pipelines: {{\
             traces: {{receivers: [otlp], exporters: [debug]}}, metrics: {{receivers: [otlp], exporters: [debug]}}, \
             logs: {{receivers: [otlp], exporters: [debug]}}}}}}}}"
        );
        let printed = room.path().join("collector.log");
        let out = File::create(&printed)?;
        let mut command = Command::new(prepared("collector")?.join("otelcol"));
        command.args(["--config", &config]).stdout(out.try_clone()?).stderr(out);
        let mut process = Process::start(&mut command)?;
        eventually("the collector listens", READY_WITHIN, || {
            let ended = process.ended();
            let printed = printed.clone();
            async move {
                if let Some(status) = ended? {
                    bail!("it ended ({status}): {}", std::fs::read_to_string(&printed)?);
                }
                tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.context("connecting")?;
                Ok(())
            }
        })
        .await?;
        Ok(Collector { process, port, printed, _room: room })
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn got(&self) -> Result<Got> {
        Ok(read(&std::fs::read_to_string(&self.printed)?))
    }
}

/// Where a line of what it prints belongs.
enum Part {
    Nothing,
    Span,
    Line,
    Metric,
    Point,
}

/// The text of the debug exporter: each thing begins with its kind and number, then name and value, one a line.
fn read(text: &str) -> Got {
    let (mut got, mut resource, mut part) = (Got::default(), Named::new(), Part::Nothing);
    let mut metric = (String::new(), String::new());
    let mut of_resource = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if ["ResourceSpans #", "ResourceLog #", "ResourceMetrics #"].iter().any(|kind| trimmed.starts_with(kind)) {
            (resource, part) = (Named::new(), Part::Nothing);
        } else if trimmed == "Resource attributes:" {
            of_resource = true;
        } else if trimmed.starts_with("Scope") || trimmed.starts_with("InstrumentationScope") {
            (of_resource, part) = (false, Part::Nothing);
        } else if trimmed.starts_with("Span #") {
            got.spans.push(Span { resource: resource.clone(), ..Span::default() });
            part = Part::Span;
        } else if trimmed.starts_with("LogRecord #") {
            got.lines.push(Line { resource: resource.clone(), ..Line::default() });
            part = Part::Line;
        } else if trimmed.starts_with("Metric #") {
            part = Part::Metric;
        } else if trimmed.starts_with("NumberDataPoints #") || trimmed.starts_with("HistogramDataPoints #") {
            let (name, kind) = metric.clone();
            got.points.push(Point { name, kind, resource: resource.clone(), ..Point::default() });
            part = Part::Point;
        } else if let Some((name, value)) = trimmed.strip_prefix("-> ").and_then(|pair| pair.split_once(": ")) {
            let attributes = match part {
                _ if of_resource => Some(&mut resource),
                Part::Span => got.spans.last_mut().map(|span| &mut span.attributes),
                Part::Line => got.lines.last_mut().map(|line| &mut line.attributes),
                Part::Point => got.points.last_mut().map(|point| &mut point.attributes),
                Part::Metric | Part::Nothing => None,
            };
            match (attributes, name) {
                (Some(attributes), _) => drop(attributes.insert(name.to_owned(), bare(value))),
                (None, "Name") => metric.0 = value.to_owned(),
                (None, "DataType") => metric.1 = value.to_owned(),
                (None, _) => {}
            }
        } else if let Some((name, value)) = trimmed.split_once(':') {
            note(&mut got, &part, name.trim(), value.trim());
        }
    }
    got
}

fn note(got: &mut Got, part: &Part, name: &str, value: &str) {
    let value = value.to_owned();
    match (part, got) {
        (Part::Span, Got { spans, .. }) => {
            let Some(span) = spans.last_mut() else { return };
            match name {
                "Trace ID" => span.trace = value,
                "Parent ID" => span.parent = value,
                "ID" => span.id = value,
                "Name" => span.name = value,
                "Kind" => span.kind = value,
                "Status code" => span.status = value,
                _ => {}
            }
        }
        (Part::Line, Got { lines, .. }) => {
            let Some(line) = lines.last_mut() else { return };
            match name {
                "Body" => line.body = bare(&value),
                "SeverityText" => line.severity = value,
                "Trace ID" => line.trace = value,
                "Span ID" => line.span = value,
                _ => {}
            }
        }
        (Part::Point, Got { points, .. }) => {
            let Some(point) = points.last_mut() else { return };
            if matches!(name, "Value" | "Count") {
                point.value = value.parse().unwrap_or(f64::NAN);
            }
        }
        _ => {}
    }
}

/// `Str(orders)` -> `orders`
fn bare(value: &str) -> String {
    let inner = value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(value).to_owned()
}
