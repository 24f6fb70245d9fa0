//! What of a document's Avro can be wrong before anything runs: a schema that is missing or none, an example that does not fit it, a registry
//! that would refuse it. A registry that cannot be reached from here is no mistake of the document.

use super::registry::Confluent;
use super::schema::Schema;
use super::{subject, write};
use crate::config::Schemas;
use crds::pipeline::{AvroCodec, Topic};
use crds::{Mistake, OrderPipeline};

#[derive(Debug, Default)]
pub struct Remarks {
    pub mistakes: Vec<Mistake>,
    /// What was not checked, and why.
    pub notes: Vec<String>,
}

pub async fn check(pipeline: &OrderPipeline, schemas: &Schemas) -> Remarks {
    let mut remarks = Remarks::default();
    for (index, topic) in pipeline.spec.topics.iter().enumerate() {
        let Some(avro) = topic.codec.as_ref().and_then(|codec| codec.avro.as_ref()) else { continue };
        let place = format!("spec.topics[{index}].codec.avro");
        let read = schemas.text(&avro.schema_config_map_ref);
        let read = read.and_then(|text| Schema::parse(&text).map(|schema| (text, schema)).map_err(|e| format!("is no Avro schema: {e}")));
        match read {
            Ok((text, schema)) => {
                examples(pipeline, topic, &schema, &mut remarks);
                registry(&place, topic, avro, &text, &mut remarks).await;
            }
            Err(why) => remarks.mistakes.push(Mistake::new(format!("{place}.schemaConfigMapRef"), why)),
        }
    }
    remarks
}

/// Of the events that are written there.
fn examples(pipeline: &OrderPipeline, topic: &Topic, schema: &Schema, remarks: &mut Remarks) {
    let spec = &pipeline.spec;
    for (index, event) in spec.events.iter().enumerate() {
        let Some(example) = event.example.as_ref().filter(|_| spec.topics_of(event).contains(&topic.name.0)) else { continue };
        if let Err(unfit) = write(schema, &example.0, &mut Vec::new()) {
            let message = format!("does not fit the Avro schema of topic {}: {} {}", topic.name, unfit.path, unfit.message);
            remarks.mistakes.push(Mistake::new(format!("spec.events[{index}].example"), message));
        }
    }
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
