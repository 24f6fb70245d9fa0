//! Where the configuration comes from: the operator's `config.json` or a document; at the start, and while the process runs.

use super::Environment;
use crate::generator;
use crds::Mistake;
use crds::document::{Purpose, note_lines, read_for};
use crds::runtime_config::{CodecConfig, RuntimeConfig, TopicConfig};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at. The kubelet swaps a mount by renaming a link, which file notifications miss
/// on some file systems; reading a few kilobytes every two seconds costs nothing and misses nothing.
const EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Source {
    pub file: PathBuf,
    pub purpose: Purpose,
    /// What overrides the file.
    pub environment: Environment,
}

/// What became of a changed configuration.
#[derive(Debug, PartialEq)]
pub enum Uptake {
    Now,
    /// Not by this process as it runs: these places are read only at the start.
    NeedsStart(Vec<String>),
}

impl Source {
    /// The configuration, and what the environment changed in it.
    pub fn read(&self) -> Result<(RuntimeConfig, Vec<String>), String> {
        let text = std::fs::read_to_string(&self.file).map_err(|e| format!("{} cannot be read: {e}", self.file.display()))?;
        self.understand(&text)
    }

    fn understand(&self, text: &str) -> Result<(RuntimeConfig, Vec<String>), String> {
        let mut config = if self.is_written_by_the_operator(text) {
            let unfit = |e| format!("{} is no runtime configuration of this version: {e}", self.file.display());
            serde_json::from_str(text).map_err(unfit)?
        } else {
            crds::resolve(&document(&self.file, text, self.purpose)?)
        };
        let said = self.environment.apply(&mut config)?;
        Ok((config, said))
    }

    /// A document may be JSON as well; it says its kind at its top. Deeper down anything may be called so.
    fn is_written_by_the_operator(&self, text: &str) -> bool {
        let says_its_kind = |object: Json| object.get("kind").is_some() || object.get("apiVersion").is_some();
        self.file.extension().is_some_and(|e| e == "json") && !serde_json::from_str(text).is_ok_and(says_its_kind)
    }

    /// Hands each new version of the file to `take_up`. A version that it refuses is logged, and the last good one goes on.
    /// Runs until dropped. What has changed since `at_start` was read is new too: a start may take long.
    pub async fn follow(self, at_start: &RuntimeConfig, take_up: impl Fn(RuntimeConfig) -> Result<Uptake, String>) {
        let mut watched = Watched { seen: None, missed: 0 };
        let mut at_start = Some(at_start);
        loop {
            tokio::time::sleep(EVERY).await;
            let file = self.file.display();
            let text = match watched.look(tokio::fs::read_to_string(&self.file).await) {
                Sight::Same => continue,
                Sight::Gone(reason) => {
                    tracing::warn!(%file, %reason, "the configuration cannot be read any more: the last good one goes on, and a new one is taken up when it is there");
                    continue;
                }
                Sight::Changed(text) => text,
            };
            let read = self.understand(text);
            if let Ok((config, _)) = &read
                && at_start.take() == Some(config)
            {
                continue;
            }
            match read.and_then(|(config, _)| take_up(config)) {
                Ok(Uptake::Now) => tracing::info!(%file, "the changed configuration is taken up"),
                Ok(Uptake::NeedsStart(places)) => {
                    let places = places.join(", ");
                    tracing::info!(%file, places, "this has changed and is read only at a start: what was read before goes on until this process or its roles start anew");
                }
                Err(reason) => {
                    tracing::error!(%file, reason, "the changed configuration is refused; the last good one goes on")
                }
            }
        }
    }
}

/// A file, as it is looked at again and again.
struct Watched {
    /// None: it was not looked at yet.
    seen: Option<String>,
    /// How often in a row it could not be read.
    missed: u32,
}

#[derive(Debug)]
enum Sight<'a> {
    Same,
    /// What is there now. It is what is taken up as well: read again it might be another one, and taken up twice.
    Changed(&'a str),
    /// Said once.
    Gone(std::io::Error),
}

impl Watched {
    fn look(&mut self, read: std::io::Result<String>) -> Sight<'_> {
        match read {
            Err(reason) => {
                self.missed = self.missed.saturating_add(1);
                // Between two versions there may be none for a moment.
                if self.missed == 2 { Sight::Gone(reason) } else { Sight::Same }
            }
            Ok(now) => {
                self.missed = 0;
                if self.seen.as_ref() == Some(&now) {
                    return Sight::Same;
                }
                Sight::Changed(self.seen.insert(now))
            }
        }
    }
}

/// Reads and checks a document. The error lists every mistake with its line and place, one a line.
pub fn document(file: &Path, text: &str, purpose: Purpose) -> Result<crds::OrderPipeline, String> {
    let told = |mistakes: Vec<Mistake>| {
        let lines: Vec<String> = mistakes.iter().map(|m| format!("{}: {m}", file.display())).collect();
        lines.join("\n")
    };
    let pipeline = read_for(text, purpose).map_err(told)?;
    // What Avro makes of an order is known where its schema is.
    let seen = |topic: &TopicConfig, _: &mut crds::json::Json<'_>| (topic.codec == CodecConfig::Json).then_some(Ok(()));
    match generator::misfit(&crds::resolve(&pipeline), seen) {
        None => Ok(pipeline),
        Some(why) => {
            let mut mistakes = vec![Mistake::new("spec.generator.shape", why)];
            note_lines(text, &mut mistakes);
            Err(told(mistakes))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {strimzi: {name: events}}}]
  topics: [{name: orders}]
  events:
  - {name: OrderCreated, schema: {type: object, properties: {kind: {type: string}, apiVersion: {type: string}}}}
"#;

    fn read(name: &str, text: &str, purpose: Purpose) -> Result<RuntimeConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        Source { file, purpose, environment: Environment::default() }.read().map(|(config, _)| config)
    }

    #[test]
    fn what_the_operator_wrote_is_no_document_though_a_field_of_an_order_is_called_kind() {
        let written = read("pipeline.yaml", DOCUMENT, Purpose::Embedded).unwrap();
        let text = serde_json::to_string(&written).unwrap();
        assert!(text.contains("\"kind\""));
        assert_eq!(read("config.json", &text, Purpose::Deploy).unwrap(), written);
    }

    #[test]
    fn a_file_that_stays_away_is_said_once_and_one_that_is_only_replaced_never() {
        let mut watched = Watched { seen: Some("one".to_owned()), missed: 0 };
        let gone = || Err(std::io::ErrorKind::NotFound.into());
        let looks: [std::io::Result<String>; 10] =
            [gone(), Ok("one".to_owned()), gone(), Ok("two".to_owned()), gone(), gone(), gone(), Ok("two".to_owned()), gone(), gone()];
        let sights = looks.map(|look| match watched.look(look) {
            Sight::Same => '-',
            Sight::Changed(_) => 'c',
            Sight::Gone(_) => 'g',
        });
        assert_eq!(sights.iter().collect::<String>(), "---c-g---g");
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_while_the_process_was_starting_is_taken_up_and_what_did_not_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pipeline.yaml");
        let save = |topic: &str| std::fs::write(&file, DOCUMENT.replace("name: orders", topic)).unwrap();
        save("name: orders");
        let source = Source { file: file.clone(), purpose: Purpose::Embedded, environment: Environment::default() };
        let (at_start, _) = source.read().unwrap();
        let (sender, mut taken_up) = tokio::sync::mpsc::unbounded_channel();
        let take_up = |config: RuntimeConfig| {
            sender.send(config.topics[0].name.clone()).unwrap();
            Ok(Uptake::Now)
        };
        let mut unchanged = std::pin::pin!(source.clone().follow(&at_start, take_up));
        assert!(tokio::time::timeout(EVERY * 5, &mut unchanged).await.is_err());
        assert!(taken_up.try_recv().is_err(), "it is what was read at the start");
        save("name: later");
        assert!(tokio::time::timeout(EVERY * 5, &mut unchanged).await.is_err());
        assert_eq!(taken_up.try_recv().unwrap(), "later");
        let late = source.follow(&at_start, take_up);
        assert!(tokio::time::timeout(EVERY * 5, late).await.is_err());
        assert_eq!(taken_up.try_recv().unwrap(), "later", "it was saved before it was followed");
        assert!(taken_up.try_recv().is_err(), "once");
    }

    #[test]
    fn a_document_may_be_json() {
        let document: Json = serde_yaml::from_str(DOCUMENT).unwrap();
        let config = read("pipeline.json", &document.to_string(), Purpose::Embedded).unwrap();
        assert_eq!(config, read("pipeline.yaml", DOCUMENT, Purpose::Embedded).unwrap());
    }

    #[test]
    fn a_backend_that_cannot_be_reached_yet_matters_only_where_it_is_used() {
        let refused = read("pipeline.yaml", DOCUMENT, Purpose::Deploy).unwrap_err();
        assert!(refused.contains("Strimzi"), "{refused}");
    }
}
