//! What of a document's Avro can be wrong before anything runs: a schema that is missing or none, an example or a generator's orders that do
//! not fit it, a registry that would refuse it. A registry that cannot be reached from here is no mistake of the document.

use super::registry::Confluent;
use super::{Own, Unfit, subject};
use crate::codec::Decoded;
use crate::config::Schemas;
use crate::contract::{Contract, EventContract, Message, Violation};
use crate::generator;
use chrono::Utc;
use crds::json::{Json, Object};
use crds::pipeline::{AvroCodec, Topic};
use crds::runtime_config::{RuntimeConfig, TopicConfig};
use crds::{Mistake, OrderPipeline};

#[derive(Debug, Default)]
pub struct Remarks {
    pub mistakes: Vec<Mistake>,
    /// What was not checked, and why.
    pub notes: Vec<String>,
}

pub async fn check(pipeline: &OrderPipeline, schemas: &Schemas) -> Remarks {
    let (mut remarks, config) = (Remarks::default(), crds::resolve(pipeline));
    for (index, topic) in pipeline.spec.topics.iter().enumerate() {
        let Some(avro) = topic.codec.as_ref().and_then(|codec| codec.avro.as_ref()) else { continue };
        let place = format!("spec.topics[{index}].codec.avro");
        let parse = |text: String| Own::parse(&text).map(|own| (own, text)).map_err(|e| format!("is no Avro schema: {e}"));
        match schemas.text(&avro.schema_config_map_ref).and_then(parse) {
            Ok((own, text)) => {
                examples(pipeline, &config, topic, &own, &mut remarks);
                emissions(pipeline, &config, topic, &own, &mut remarks);
                generated(&config, topic, &own, &mut remarks);
                registry(&place, topic, avro, &text, &mut remarks).await;
            }
            Err(why) => remarks.mistakes.push(Mistake::new(format!("{place}.schemaConfigMapRef"), why)),
        }
    }
    remarks
}

/// Of the events that are written there.
fn examples(pipeline: &OrderPipeline, config: &RuntimeConfig, topic: &Topic, own: &Own, remarks: &mut Remarks) {
    let (spec, contract) = (&pipeline.spec, Contract::unencrypted(config).ok());
    for (index, event) in spec.events.iter().enumerate() {
        let Some(example) = event.example.as_ref().filter(|_| spec.topics_of(event).contains(&topic.name.0)) else { continue };
        let mut seen = Json::from(&example.0);
        let message = match own.write(&mut seen, &mut Vec::new()) {
            Err(unfit) => Some(format!("does not fit the Avro schema of topic {}: {} {}", topic.name, unfit.path, unfit.message)),
            Ok(()) => contract.as_ref().and_then(|contract| {
                let event = contract.event(&event.name)?;
                // What does not hold as it stands there is told already, or asks for attributes that an example does not have.
                let violation = broken(event, topic, seen).filter(|_| broken(event, topic, Json::from(&example.0)).is_none())?;
                let (topic, field, message) = (&topic.name, violation.field, violation.message);
                Some(format!("holds as it stands here, but not as the readers of {topic} see it, which is Avro: {field}: {message}"))
            }),
        };
        remarks.mistakes.extend(message.map(|message| Mistake::new(format!("spec.events[{index}].example"), message)));
    }
}

/// Of what is emitted there: what does not fit could not be written, and its event would become a dead letter.
fn emissions(pipeline: &OrderPipeline, config: &RuntimeConfig, topic: &Topic, own: &Own, remarks: &mut Remarks) {
    let Ok(contract) = Contract::unencrypted(config) else { return };
    for (index, event) in pipeline.spec.events.iter().enumerate() {
        let (Some(example), Some(known)) = (&event.example, contract.event(&event.name)) else { continue };
        let decoded = Decoded { id: "example".into(), publish_time: Utc::now(), attributes: Object::new(), data: Json::from(&example.0) };
        let read = known.config.topics.first().map_or("", String::as_str);
        let emitted = known.emissions(&Message { topic: read, key: Some("example"), decoded: &decoded }).unwrap_or_default();
        for (n, emission) in emitted.iter().enumerate().filter(|(_, emission)| *emission.topic == *topic.name) {
            let Ok(mut data) = serde_json::from_str::<Json>(&emission.data) else { continue };
            if let Err(unfit) = own.write(&mut data, &mut Vec::new()) {
                let message = format!(
                    "does not fit the Avro schema of topic {} on this event's example: {} {}",
                    topic.name, unfit.path, unfit.message
                );
                remarks.mistakes.push(Mistake::new(format!("spec.events[{index}].emit[{n}]"), message));
            }
        }
    }
}

/// The first thing of data that the API and the worker would refuse.
fn broken(event: &EventContract, topic: &Topic, data: Json<'_>) -> Option<Violation> {
    let decoded = Decoded { id: "example".into(), publish_time: Utc::now(), attributes: Object::new(), data };
    let message = Message { topic: &topic.name, key: None, decoded: &decoded };
    let key = event.key(&message);
    let message = Message { key: key.as_deref().ok(), ..message };
    let first = event.violations(&message).into_iter().next();
    first.or_else(|| key.clone().err()).or_else(|| event.change_unsourced(&message).err())
}

fn generated(config: &RuntimeConfig, topic: &Topic, own: &Own, remarks: &mut Remarks) {
    let told = |unfit: Unfit| format!("{} {}, by the Avro schema of topic {}", unfit.path, unfit.message, topic.name);
    let seen = |to: &TopicConfig, data: &mut Json<'_>| (to.name == *topic.name).then(|| own.write(data, &mut Vec::new()).map_err(told));
    remarks.mistakes.extend(generator::misfit(config, seen).map(|why| Mistake::new("spec.generator.shape", why)));
}

async fn registry(place: &str, topic: &Topic, avro: &AvroCodec, schema: &str, remarks: &mut Remarks) {
    let url = avro.registry.url.as_str();
    let asked = match Confluent::new(url) {
        Ok(registry) => registry.objection(&subject(&topic.name), schema).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(None) => {}
        Ok(Some(words)) => {
            let message = format!("the schema registry {url} would refuse the schema of {}: {words}", topic.name);
            remarks.mistakes.push(Mistake::new(format!("{place}.registry"), message));
        }
        Err(error) => remarks.notes.push(format!("{place}.registry: not checked whether it takes the schema: {error}")),
    }
}
