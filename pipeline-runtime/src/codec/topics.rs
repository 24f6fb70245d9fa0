//! How the data of each topic is written: JSON, or Avro with what a schema registry knows of it.

use super::avro::registry::Registry;
use super::avro::{AvroTopic, Unfit, Wanted};
use super::{DecodeError, Decoded, bare, envelope, finish, json};
use crate::broker::Incoming;
use bytes::Bytes;
use crds::json::Json;
use crds::pipeline::{ConfigMapKeyRef, Envelope};
use crds::runtime_config::{CodecConfig, RuntimeConfig, TopicConfig};
use futures::future::join_all;
use std::collections::HashMap;
use std::sync::Arc;

/// The codecs of all topics. Cheap to clone; where every topic is JSON it is empty.
#[derive(Clone, Default)]
pub struct Codecs {
    avro: Arc<HashMap<String, Arc<AvroTopic>>>,
    /// Topics that this pipeline writes to: only for these its schemas are registered.
    written: Arc<Vec<Arc<AvroTopic>>>,
}

/// Why a message is not taken apart.
#[derive(Debug)]
pub enum Undecoded {
    /// It never will be.
    Never(DecodeError),
    /// Somebody has to be asked first.
    NotYet(Wanted),
}

impl From<DecodeError> for Undecoded {
    fn from(error: DecodeError) -> Undecoded {
        Undecoded::Never(error)
    }
}

/// Why data is not written.
#[derive(Debug)]
pub enum Unwritten {
    Unfit(Unfit),
    NotYet(Wanted),
}

impl From<Unfit> for Unwritten {
    fn from(unfit: Unfit) -> Unwritten {
        Unwritten::Unfit(unfit)
    }
}

impl Codecs {
    /// `schema` finds the text of a schema, `registry` who keeps it.
    pub fn of(
        config: &RuntimeConfig,
        schema: impl Fn(&ConfigMapKeyRef) -> Result<String, String>,
        registry: impl Fn(&str) -> Result<Arc<Registry>, String>,
    ) -> Result<Codecs, String> {
        let mut registries: HashMap<&str, Arc<Registry>> = HashMap::new();
        let (mut avro, mut written) = (HashMap::new(), Vec::new());
        for topic in &config.topics {
            let CodecConfig::Avro { registry: url, schema: at } = &topic.codec else { continue };
            let kept_by = match registries.get(url.as_str()) {
                Some(known) => known.clone(),
                None => registries.entry(url.as_str()).or_insert(registry(url)?).clone(),
            };
            let wrong = |why: String| format!("the Avro schema {}/{} of topic {}: {why}", at.name, at.key, topic.name);
            let one = Arc::new(AvroTopic::new(&topic.name, schema(at)?, kept_by).map_err(wrong)?);
            if config.writes_to(&topic.name) {
                written.push(one.clone());
            }
            avro.insert(topic.name.clone(), one);
        }
        Ok(Codecs { avro: Arc::new(avro), written: Arc::new(written) })
    }

    /// Registers the schemas of what is written: at once where the registry answers, else as soon as it does.
    pub async fn register(self) {
        join_all(self.written.iter().map(|topic| topic.clone().register())).await;
    }

    /// Why something cannot be written now.
    pub fn trouble(&self) -> Option<String> {
        self.written.iter().find_map(|topic| topic.trouble())
    }

    fn avro(&self, topic: &TopicConfig) -> Option<&Arc<AvroTopic>> {
        if self.avro.is_empty() { None } else { self.avro.get(&topic.name) }
    }

    /// The body of a message of this data, which came as this JSON text; the data becomes what readers will see of it.
    pub fn body(&self, topic: &TopicConfig, text: Bytes, data: &mut Json<'_>) -> Result<Bytes, Unwritten> {
        self.avro(topic).map_or(Ok(text), |avro| avro.write(data))
    }

    /// Takes a message apart; its body is parsed once.
    pub fn decode<'m>(&self, topic: &TopicConfig, message: &'m Incoming) -> Result<Decoded<'m>, Undecoded> {
        let body = match &message.payload {
            Some(body) if !body.is_empty() => body,
            _ => return Err(DecodeError("the message has no body".into()).into()),
        };
        let body = match self.avro(topic) {
            Some(avro) => avro.read(body)?,
            None => json::parse(body, if topic.envelope == Envelope::Bare { "data" } else { "" })?,
        };
        let decoded = match topic.envelope {
            Envelope::Bare => bare::decode(message, body)?,
            Envelope::Attributes => envelope::decode(message, body)?,
        };
        Ok(finish(message, decoded)?)
    }

    /// The same where somebody may have to be asked first. The error says why that was in vain: the message may be read another time.
    pub async fn decode_asking<'m>(&self, topic: &TopicConfig, message: &'m Incoming) -> Result<Result<Decoded<'m>, DecodeError>, String> {
        loop {
            match self.decode(topic, message) {
                Ok(decoded) => return Ok(Ok(decoded)),
                Err(Undecoded::Never(error)) => return Ok(Err(error)),
                Err(Undecoded::NotYet(wanted)) => wanted.get().await?,
            }
        }
    }
}
