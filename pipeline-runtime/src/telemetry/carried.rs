//! What of a process is carried to a collector, from its start to its end.

use super::logs;
use super::metrics::Metrics;
use super::otlp::{self, EVERY, Exporter, Resource};
use super::spans::Tracer;
use crate::config::Environment;
use arc_swap::ArcSwap;
use crds::runtime_config::RuntimeConfig;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What carrying the last of it may take when the process ends.
pub const FLUSH: Duration = Duration::from_secs(2);

/// The telemetry of a process. Where the document names no collector there is no exporter, and no span is ever made.
pub struct Carried {
    pub metrics: Metrics,
    pub tracer: Tracer,
    exporter: Option<Exporter>,
}

impl Carried {
    /// `role`: None where one process is all of the pipeline.
    pub fn start(config: &Arc<ArcSwap<RuntimeConfig>>, role: Option<&str>, environment: &Environment) -> Result<Carried, String> {
        let (metrics, document) = (Metrics::default(), config.load());
        let Some(otlp) = &document.telemetry.otlp else {
            return Ok(Carried { metrics, tracer: Tracer::default(), exporter: None });
        };
        let resource = resource(&document, role, environment)?;
        let (exporter, spans, lines) = otlp::start(&otlp.endpoint, resource, &metrics, every(environment)?)?;
        logs::carry(Some(lines));
        tracing::info!(collector = otlp.endpoint, "traces, metrics and log lines are sent to a collector");
        Ok(Carried { metrics, tracer: Tracer::new(config.clone(), spans), exporter: Some(exporter) })
    }

    /// The very last of a process.
    pub async fn end(self) {
        if let Some(exporter) = self.exporter {
            logs::carry(None);
            exporter.end(FLUSH).await;
        }
    }
}

fn every(environment: &Environment) -> Result<Duration, String> {
    const NAME: &str = "OTEL_METRIC_EXPORT_INTERVAL";
    let Some(text) = environment.get(NAME) else { return Ok(EVERY) };
    let ms = text.parse().ok().filter(|ms| *ms > 0).ok_or_else(|| format!("{NAME}={text}: write milliseconds, such as 15000"))?;
    Ok(Duration::from_millis(ms))
}

/// Who this is, in the words of OpenTelemetry. What OTEL_RESOURCE_ATTRIBUTES says goes before.
fn resource(config: &RuntimeConfig, role: Option<&str>, environment: &Environment) -> Result<Resource, String> {
    let given = match environment.get("OTEL_RESOURCE_ATTRIBUTES") {
        Some(text) => attributes(text).ok_or_else(|| format!("OTEL_RESOURCE_ATTRIBUTES={text}: write name=value,name=value"))?,
        None => Vec::new(),
    };
    let name = |role: &str| format!("{}-{role}", config.pipeline);
    let name = environment.get("OTEL_SERVICE_NAME").map_or_else(|| role.map_or_else(|| config.pipeline.clone(), name), str::to_owned);
    let instance = environment.get("POD_NAME").map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    let own = [
        ("service.name", name),
        ("service.namespace", config.namespace.clone()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", instance),
    ];
    let own =
        own.into_iter().map(|(name, value)| (name.to_owned(), value)).filter(|(name, _)| given.iter().all(|(taken, _)| taken != name));
    let own: Vec<_> = own.collect();
    Ok(Resource(own.into_iter().chain(given).collect()))
}

/// None: it is not written as it should be.
fn attributes(text: &str) -> Option<Vec<(String, String)>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(pair).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(telemetry: &str) -> RuntimeConfig {
        let text = format!(
            "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {{name: shop, namespace: food}}\nspec:\n  \
             backends: [{{name: kafka, kafka: {{bootstrapServers: 'kafka:9092'}}}}]\n  topics: [{{name: orders}}]\n  \
             events: [{{name: OrderCreated}}]\n  telemetry: {telemetry}\n"
        );
        crds::resolve(&crds::document::read(&text).unwrap())
    }

    #[tokio::test]
    async fn a_document_that_names_no_collector_has_no_exporter() {
        let carried = |telemetry: &str| {
            Carried::start(&Arc::new(ArcSwap::from_pointee(config(telemetry))), Some("api"), &Environment::default()).unwrap()
        };
        let without = carried("{samplingPercent: 100}");
        assert!(without.exporter.is_none() && !without.tracer.is_on() && without.metrics.read().is_empty());
        let with = carried("{otlp: {endpoint: 'http://127.0.0.1:9'}}");
        assert!(with.exporter.is_some() && with.tracer.is_on());
        with.end().await;
    }

    #[test]
    fn what_the_environment_says_of_the_process_goes_before_its_own_name() {
        let said = |variables: [(&str, &str); 2]| resource(&config("{}"), Some("worker"), &Environment::of(variables)).map(|r| r.0);
        let pod = ("POD_NAME", "shop-worker-7");
        let own = said([pod, ("OTHER", "")]).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(own[..2], [pair("service.name", "shop-worker"), pair("service.namespace", "food")]);
        assert_eq!(own[3], pair("service.instance.id", "shop-worker-7"));
        let given = said([pod, ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace = prod, team=orders,")]).unwrap();
        assert!(given.contains(&pair("service.namespace", "prod")) && given.contains(&pair("team", "orders")), "{given:?}");
        assert_eq!(given.len(), 5);
        assert!(said([pod, ("OTEL_RESOURCE_ATTRIBUTES", "team")]).unwrap_err().contains("name=value"));
    }
}
