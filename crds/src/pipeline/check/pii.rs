//! Encrypted fields: whether they exist, and whether everything that reads them can do without what they say.

use super::Found;
use crate::document::nearest::nearest;
use crate::expression::{self, How, Read, Scope};
use crate::mistake::{at, below};
use crate::pipeline::*;
use crate::runtime_config::EventConfig;
use serde_json::Value as Json;
use std::time::Duration;

const LONGEST_TAKE_UP: Duration = Duration::from_secs(24 * 3600);
/// References of a schema that lead through each other end here.
const MAX_REFERENCES: usize = 16;

pub(super) fn check(spec: &OrderPipelineSpec, found: &mut Found) {
    for (index, event) in spec.events.iter().enumerate().filter(|(_, event)| !event.pii.is_empty()) {
        let place = at("spec.events", index);
        fields(&below(&place, "pii"), event, found);
        let config = spec.event_config(index, event);
        order_id(spec, &place, &config, found);
        avro(spec, &below(&place, "pii"), &config, found);
        if spec.pii.is_none() {
            let message = "needs the keys that fields are encrypted with: spec.pii: {keysSecretRef: {name: ...}}, a Secret with an entry \
                           `match` and one named by its date, each 32 random bytes in base64";
            found.add(below(&place, "pii"), message);
        }
    }
    alert(spec, found);
    let Some(pii) = &spec.pii else { return };
    found.duration("spec.pii.newKeyAfter", &pii.new_key_after, LONGEST_TAKE_UP);
}

/// What is encrypted is found and replaced in a message's text, and Avro is none.
fn avro(spec: &OrderPipelineSpec, place: &str, config: &EventConfig, found: &mut Found) {
    let is_avro = |topic: &&Topic| topic.codec.as_ref().is_some_and(|codec| codec.avro.is_some());
    let of_event = |topic: &&Topic| config.topics.iter().any(|name| *name == *topic.name);
    if let Some(topic) = spec.topics.iter().filter(of_event).find(is_avro) {
        let name = &topic.name;
        let message =
            format!("cannot be on the topic {name}, which is Avro: fields are encrypted in JSON. Remove its codec.avro, or these fields");
        found.add(place, message);
    }
}

/// Dead letters are judged as they lie on their topic.
fn alert(spec: &OrderPipelineSpec, found: &mut Found) {
    let alert = spec.worker.as_ref().and_then(|worker| worker.dead_letters.as_ref()?.alert.as_ref()?.when.as_ref());
    let Some(Ok(when)) = alert.map(|when| expression::compile(when, &Scope::default())) else { return };
    let reads = when.reads();
    let mut fields = spec.events.iter().flat_map(|event| &event.pii).filter_map(|text| FieldPath::parse(text).ok());
    if let Some(field) = fields.find(|field| reads.iter().any(|read| read.touches(field))) {
        let message = format!("reads {field}, which is encrypted in dead letters as well: judge by the topic, attributes or other fields");
        found.add("spec.worker.deadLetters.alert.when", message);
    }
}

fn fields(place: &str, event: &Event, found: &mut Found) {
    let mut before: Vec<FieldPath> = Vec::new();
    for (index, text) in event.pii.iter().enumerate() {
        let place = at(place, index);
        let path = match FieldPath::parse(text) {
            Ok(path) => path,
            Err(message) => {
                found.add(place, message);
                continue;
            }
        };
        if let Some(other) = before.iter().find(|other| other.holds(&path) || path.holds(other)) {
            let (outer, inner) = if other.holds(&path) { (other, &path) } else { (&path, other) };
            let message = if outer == inner {
                format!("{outer} stands here twice: remove one of the two")
            } else {
                format!("{inner} lies in {outer}, which is encrypted as a whole: remove one of the two")
            };
            found.add(place, message);
        } else if let Some(other) = before.iter().find(|other| contradict(other, &path)) {
            found.add(place, format!("contradicts {other}: what is a list for one of the two is none for the other"));
        } else if let Some(message) = event.schema.as_ref().and_then(|schema| lacks(&schema.0, &path)) {
            found.add(place, message);
        }
        before.push(path);
    }
}

fn contradict(one: &FieldPath, other: &FieldPath) -> bool {
    let shared = one.shared_with(other);
    matches!((one.steps().get(shared), other.steps().get(shared)), (Some(one), Some(other)) if (*one == Step::Items) != (*other == Step::Items))
}

/// Why no message that this schema lets in can have the field, where that is certain enough to be a mistake of writing.
fn lacks(root: &Json, path: &FieldPath) -> Option<String> {
    let mut schema = referred(root, root)?;
    let mut way = "data".to_owned();
    for step in path.steps() {
        schema = match step {
            Step::Field(name) => {
                // What other keywords let in, nobody follows here.
                if ["allOf", "anyOf", "oneOf", "patternProperties"].iter().any(|keyword| schema.get(keyword).is_some()) {
                    return None;
                }
                let fields = schema.get("properties").and_then(Json::as_object);
                match (fields.and_then(|fields| fields.get(name)), schema.get("additionalProperties")) {
                    (Some(field), _) => {
                        way = format!("{way}.{name}");
                        referred(root, field)?
                    }
                    (None, Some(Json::Object(_))) => return None,
                    (None, _) if fields.is_none() && schema.get("type").is_none_or(|kind| kind == "object") => return None,
                    (None, _) => {
                        let near = nearest(name, fields.into_iter().flatten().map(|(name, _)| name.as_str()));
                        let hint = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
                        return Some(format!("the event's schema has no field {name} in {way}{hint}"));
                    }
                }
            }
            Step::Items => {
                if schema.get("type").is_some_and(|kind| kind != "array") {
                    return Some(format!("{way} is no list in the event's schema: write it without []"));
                }
                way.push_str("[]");
                referred(root, schema.get("items")?)?
            }
        };
    }
    None
}

/// The schema that a reference names.
fn referred<'a>(root: &'a Json, mut schema: &'a Json) -> Option<&'a Json> {
    for _ in 0..MAX_REFERENCES {
        let Some(target) = schema.get("$ref").and_then(Json::as_str) else { return Some(schema) };
        schema = root.pointer(target.strip_prefix('#')?)?;
    }
    None
}

/// The id of an order stands where nothing is encrypted, once there is an API.
fn order_id(spec: &OrderPipelineSpec, place: &str, config: &EventConfig, found: &mut Found) {
    if spec.api.is_none() {
        return;
    }
    let Ok(id) = expression::compile(&config.order.id, &Scope::default()) else { return };
    let reads = id.reads();
    let is_read = |(_, field): &(usize, FieldPath)| field.to_string() == "data.orderId" || reads.iter().any(|read| read.touches(field));
    for (index, field) in encrypted(config).into_iter().enumerate().filter(is_read) {
        let message = format!(
            "{field} is the id of the order, which stands in the API's addresses, answers and logs: choose an id that says nothing of a person"
        );
        found.add(at(&below(place, "pii"), index), message);
    }
}

/// The paths that can be read as such.
pub(super) fn encrypted(config: &EventConfig) -> Vec<FieldPath> {
    config.pii.iter().filter_map(|text| FieldPath::parse(text).ok()).collect()
}

/// Why an expression cannot do its work on what is encrypted. `what` is its place in the event: `order.total`, `set.vip`.
pub(super) fn refused(what: &str, reads: &[Read], fields: &[FieldPath]) -> Option<String> {
    // These decide, and what they see stays in the process.
    if what == "when" || what.starts_with("rules[") {
        return None;
    }
    let (read, field) = reads.iter().find_map(|read| Some((read, fields.iter().find(|field| read.touches(field))?)))?;
    let name = field.name();
    match what {
        "at" | "order.total" | "order.createdAt" | "set.totalAmount" | "set.createdAt" => {
            Some(format!("reads {field}, which is encrypted, and an encrypted value is neither an amount nor a time"))
        }
        "order.tenant" | "set.tenantId" => Some(format!(
            "reads {field}, which is encrypted: tenants are compared with worker.tenants and with tenantId of GET /orders, so their names \
             cannot be"
        )),
        _ if !read.is(field) => {
            Some(format!("reads {}, which is within {field}, and that is encrypted as a whole: hand on {name}, or encrypt less", read.path))
        }
        "key" | "id" if read.how != How::Computed => None,
        _ if read.how == How::HandedOn => None,
        _ => Some(format!(
            "computes with {field}, which is encrypted where its result goes: hand {name} on as it is (only `when` and rules see what it says)"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use crate::document::read;
    use crate::mistake::Mistake;

    const SOUND: &str = r##"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backends: [{name: kafka, kafka: {bootstrapServers: "a:9092"}}]
  topics: [{name: orders}, {name: told}]
  events:
  - name: OrderCreated
    topics: [orders]
    key: data.customerId
    order: {customer: data.customerId, total: data.total}
    schema:
      type: object
      properties:
        orderId: {type: string}
        customerId: {type: string}
        person: {$ref: "#/$defs/person"}
        total: {type: number}
        lines: {type: array, items: {type: object, properties: {sku: {type: string}, note: {type: string}}}}
      $defs:
        person: {type: object, properties: {name: {type: string}, born: {type: string, format: date}}}
    rules: [{rule: "data.person.name.size() > 1 && data.lines.all(line, line.note != '')"}]
    set: {giftNotes: "data.lines.map(line, line.note)", orderer: data.person}
    emit: [{topic: told, type: order.created, data: "{'id': data.orderId, 'who': data.customerId}"}]
    pii: [data.customerId, data.person, "data.lines[].note"]
    example: {orderId: o1, customerId: c1, total: 12, person: {name: Ann, born: "1980-01-31"}, lines: [{sku: TEA, note: for you}]}
  pii: {keysSecretRef: {name: shop-pii}, readers: [support]}
  api: {}
"##;

    fn mistakes(text: &str) -> Vec<Mistake> {
        read(text).err().unwrap_or_default()
    }

    #[test]
    fn what_an_emission_lacks_for_its_reader_is_told_where_fields_are_encrypted_too() {
        let reader = "  - name: order.created\n    topics: [told]\n    effect: None\n    order: {id: data.id}\n    \
                      schema: {type: object, required: [id, who], properties: {id: {type: string}, who: {type: integer}}}\n  pii:";
        let read = SOUND.replacen("\n  pii:", &format!("\n{reader}"), 1);
        assert_eq!(mistakes(&read), [], "what it is by then is not known here");
        let found = mistakes(&read.replace(", 'who': data.customerId}", "}"));
        assert!(found.len() == 1 && found[0].place == "spec.events[0].emit[0]" && found[0].message.contains("who"), "{found:?}");
    }

    #[test]
    fn what_hands_on_encrypted_fields_as_they_are_is_sound() {
        assert_eq!(mistakes(SOUND), []);
        let shipped = SOUND.replace("key: data.customerId", "key: \"'customer/' + data.customerId\"");
        assert_eq!(mistakes(&shipped), [], "a key may be a text with an encrypted value in it");
    }

    #[test]
    fn every_mistake_with_encrypted_fields_has_its_place_and_says_what_to_do() {
        let pii = "pii: [data.customerId, data.person, \"data.lines[].note\"]";
        let with = |fields: &str| (pii.to_owned(), format!("pii: [{fields}]"));
        let set = |expression: &str| ("orderer: data.person".to_owned(), format!("orderer: \"{expression}\""));
        let cases = [
            (with("person.name"), "spec.events[0].pii[0]", "must be the path of a field below data"),
            (with("data.custmerId"), "spec.events[0].pii[0]", "no field custmerId in data: did you mean customerId?"),
            (with("data.person.phone"), "spec.events[0].pii[0]", "no field phone in data.person"),
            (with("data.lines.note"), "spec.events[0].pii[0]", "no field note in data.lines"),
            (with("\"data.total[]\""), "spec.events[0].pii[0]", "data.total is no list"),
            (with("data.total, data.total"), "spec.events[0].pii[1]", "stands here twice"),
            (with("data.person.name, data.person"), "spec.events[0].pii[1]", "lies in data.person, which is encrypted as a whole"),
            (with("data.lines.sku, \"data.lines[].note\""), "spec.events[0].pii[1]", "what is a list for one of the two"),
            (with("data.orderId"), "spec.events[0].pii[0]", "choose an id that says nothing of a person"),
            (
                (
                    "{name: orders}".to_owned(),
                    "{name: orders, codec: {avro: {registry: {url: 'http://r'}, schemaConfigMapRef: {name: s, key: k}}}}".to_owned(),
                ),
                "spec.events[0].pii",
                "cannot be on the topic orders, which is Avro",
            ),
            (with("data.total"), "spec.events[0].order.total", "neither an amount nor a time"),
            (set("data.person.name"), "spec.events[0].set.orderer", "encrypted as a whole: hand on person"),
            (set("data.customerId.startsWith('G') ? 'yes' : 'no'"), "spec.events[0].set.orderer", "only `when` and rules"),
            (set("'Mr ' + data.customerId"), "spec.events[0].set.orderer", "computes with data.customerId"),
            (("{'id': data.orderId".to_owned(), "{'id': size(data.customerId)".to_owned()), "spec.events[0].emit[0].data", "computes with"),
            (
                ("{customer: data.customerId,".to_owned(), "{customer: data.customerId, tenant: data.customerId,".to_owned()),
                "spec.events[0].order.tenant",
                "tenants are compared",
            ),
            (
                ("key: data.customerId".to_owned(), "key: data.customerId\n    at: data.person.born".to_owned()),
                "spec.events[0].at",
                "neither an amount nor a time",
            ),
            (("rules: [".to_owned(), "rules: [{rule: key != ''}, ".to_owned()), "spec.events[0].rules[0].rule", "read the field itself"),
            (
                ("  pii: {keysSecretRef: {name: shop-pii}, readers: [support]}\n".to_owned(), String::new()),
                "spec.events[0].pii",
                "needs the keys",
            ),
            (
                (
                    "  api: {}".to_owned(),
                    "  api: {}\n  worker: {deadLetters: {alert: {url: 'http://x', when: data.person.name == 'Ann'}}}".to_owned(),
                ),
                "spec.worker.deadLetters.alert.when",
                "reads data.person, which is encrypted in dead letters as well",
            ),
            (("readers: [support]".to_owned(), "newKeyAfter: 48h".to_owned()), "spec.pii.newKeyAfter", "at most"),
            (("keysSecretRef: {name: shop-pii}, ".to_owned(), String::new()), "spec.pii.keysSecretRef", "is required"),
        ];
        for ((sound, broken), place, says) in cases {
            assert!(SOUND.contains(&sound), "{sound} is not in the sound document");
            let found = mistakes(&SOUND.replacen(&sound, &broken, 1));
            assert!(found.iter().any(|mistake| mistake.place == place && mistake.message.contains(says)), "{broken}: {found:#?}");
        }
    }
}
