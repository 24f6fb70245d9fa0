use crate::document::{Purpose, read, read_for};
use crate::mistake::Mistake;

/// A sound document with most of what there is; each case below breaks it in one place.
const SOUND: &str = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backend: kafka
  backends:
  - name: kafka
    kafka: {bootstrapServers: "a:9092,b:9092"}
  - name: azure
    eventHubs: {namespace: shop.servicebus.windows.net, auth: {connectionStringSecretRef: {name: hub, key: url}}}
  topics:
  - {name: orders, partitions: 6}
  - {name: updates}
  events:
  - name: OrderCreated
    topics: [orders]
    key: data.customerId
    schema: {type: object, required: [orderId], properties: {totalAmount: {type: number}}}
    rules:
    - {rule: data.totalAmount > 0.0, message: must cost something, field: data.totalAmount}
    set: {allocation: "'PENDING'"}
    emit: [{topic: updates, type: order.created}]
    example: {orderId: o1, customerId: c1, totalAmount: 12}
  - name: OrderStatusChanged
    topics: [updates]
    append: {notes: data.notes}
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
  api: {idempotency: Strict}
  worker: {retry: {base: 1s, max: 10s}}
  generator: {rate: 5}
"#;

/// Without their lines, which `document` tests.
fn mistakes(text: &str) -> Vec<String> {
    let unplaced = |mistake| Mistake { line: None, ..mistake };
    read(text).err().unwrap_or_default().into_iter().map(|mistake| unplaced(mistake).to_string()).collect()
}

#[test]
fn the_sound_document_has_no_mistake() {
    assert_eq!(mistakes(SOUND), Vec::<String>::new());
}

/// (what stands in the sound document, what stands there instead, where the mistake must be, what it must say)
#[rustfmt::skip]
const BROKEN: &[(&str, &str, &str, &str)] = &[
    // The envelope.
    ("orderpipeline.dev/v1alpha1", "orderpipeline.dev/v1", "apiVersion", "must be orderpipeline.dev/v1alpha1"),
    ("{name: shop}", "{}", "metadata.name", "is required"),
    ("{name: shop}", "{name: My_Shop}", "metadata.name", "small letters, digits and dashes"),
    ("{name: shop}", "{name: 1shop}", "metadata.name", "begins with a letter"),
    ("{name: shop}", "{name: a23456789-123456789-123456789-123456789-1}", "metadata.name", "at most 40"),
    ("{name: shop}", "{name: shop, lables: {}}", "metadata.lables", "did you mean labels?"),
    ("\nspec:", "\nstats: {}\nspec:", "stats", "no such field"),
    // Structure: from the schema.
    ("  backend: kafka", "  bakcend: kafka", "spec.bakcend", "did you mean backend?"),
    ("partitions: 6", "partition: 6", "spec.topics[0].partition", "did you mean partitions?"),
    ("partitions: 6", "partitions: six", "spec.topics[0].partitions", "must be a whole number, but is the text \"six\""),
    ("partitions: 6", "partitions: 0", "spec.topics[0].partitions", "between 1 and 1000, but is 0"),
    ("partitions: 6", "partitions: 2.5", "spec.topics[0].partitions", "must be a whole number, but is 2.5"),
    ("partitions: 6", "envelope: Atributes", "spec.topics[0].envelope", "did you mean Attributes?"),
    ("partitions: 6", "retention: 7d", "spec.topics[0].retention", "must be a duration such as"),
    ("partitions: 6", "maxMessageSize: 10MB", "spec.topics[0].maxMessageSize", "must be a size such as"),
    ("{name: updates}", "{name: 5}", "spec.topics[1].name", "but is the number 5: write it in quotes"),
    ("{name: updates}", "{name: -updates}", "spec.topics[1].name", "begins and ends with a letter or digit"),
    ("{name: updates}", "{partitions: 1}", "spec.topics[1].name", "is required"),
    ("{name: updates}", "{name: orders}", "spec.topics[1].name", "orders is already the name of spec.topics[0]"),
    ("  topics:", "  topics: []\n  topicz:", "spec.topics", "needs at least 1 entry"),
    ("api: {idempotency: Strict}", "api:", "spec.api", "is empty: give it a value"),
    ("rate: 5", "rate: -5", "spec.generator.rate", "but is -5"),
    ("worker: {", "worker: {callback: {url: example.com}, ", "spec.worker.callback.url", "must begin with http"),
    // The CEL rules of the schema.
    ("kafka: {bootstrapServers: \"a:9092,b:9092\"}\n", "kafka: {bootstrapServers: \"a:1\"}\n    eventHubs: {namespace: a.b, auth: {workloadIdentity: {clientId: x}}}\n", "spec.backends[0]", "exactly one of kafka and eventHubs"),
    ("bootstrapServers: \"a:9092,b:9092\"", "auth: {plain: {username: u, passwordSecretRef: {name: s, key: k}}}", "spec.backends[0].kafka", "exactly one of strimzi and bootstrapServers"),
    ("bootstrapServers: \"a:9092,b:9092\"", "bootstrapServers: \"a:1\", strimzi: {name: k}", "spec.backends[0].kafka", "exactly one of strimzi"),
    ("  backend: kafka\n", "", "spec", "backend is required when there is more than one"),
    ("  backend: kafka\n", "  backend: kafak\n", "spec", "backend must be the name of one of spec.backends"),
    ("postgres: {urlSecretRef: {name: db, key: url}}", "", "spec.store", "exactly one of postgres and memory"),
    ("worker: {", "worker: {replicas: 2, scaling: {max: 3}, ", "spec.worker", "replicas and scaling exclude each other"),
    // Backends.
    ("a:9092,b:9092", "a:9092,b", "spec.backends[0].kafka.bootstrapServers", "must be host:port"),
    ("name: azure", "name: Kafka", "spec.backends[1].name", "too much like kafka"),
    ("shop.servicebus.windows.net,", "'https://shop.servicebus.windows.net',", "spec.backends[1].eventHubs.namespace", "must be the host name"),
    ("windows.net, auth", "windows.net, hubs: {order: x}, auth", "spec.backends[1].eventHubs.hubs.order", "did you mean orders?"),
    ("  topics:\n  - {name: orders", "  switching: {holdDeadline: 0s}\n  topics:\n  - {name: orders", "spec.switching.holdDeadline", "longer than 0"),
    ("  topics:\n  - {name: orders", "  switching: {holdDeadline: 1ms}\n  topics:\n  - {name: orders", "spec.switching.holdDeadline", "at least 100ms"),
    ("key: url}}}\n  topics", "key: a/b}}}\n  topics", "spec.backends[1].eventHubs.auth.connectionStringSecretRef.key", "as keys of Secrets do"),
    ("{name: db, key: url}", "{name: My_DB, key: url}", "spec.store.postgres.urlSecretRef.name", "as names of Secrets do"),
    // Topics.
    ("partitions: 6", "retention: 0s", "spec.topics[0].retention", "longer than 0"),
    ("partitions: 6", "maxMessageSize: 1Gi", "spec.topics[0].maxMessageSize", "between 1Ki and 64Mi"),
    ("partitions: 6", "deadLetter: {topic: orders}", "spec.topics[0].deadLetter.topic", "must be another topic"),
    ("partitions: 6}\n  - {name: updates}", "deadLetter: {topic: dead}}\n  - {name: updates}\n  - {name: dead, deadLetter: {topic: orders}}", "spec.topics[0].deadLetter.topic", "for ever: orders -> dead -> orders"),
    ("partitions: 6}", "maxMessageSize: 10Mi}\n  - {name: orders-dlq}", "spec.topics[0].deadLetter.topic", "raise maxMessageSize of orders-dlq"),
    ("{name: updates}", "{name: updates}\n  - {name: a.b}\n  - {name: a_b}", "spec.topics[3].name", "Kafka refuses such a pair"),
    // Events and their names.
    ("topics: [orders]", "topics: [order]", "spec.events[0].topics[0]", "there is no topic order in spec.topics: did you mean orders?"),
    ("topics: [orders]", "topics: [orders, orders]", "spec.events[0].topics[1]", "stands here twice"),
    ("    topics: [orders]\n", "", "spec.events[0].topics", "is required where there is more than one topic"),
    ("emit: [{topic: updates", "emit: [{topic: update", "spec.events[0].emit[0].topic", "did you mean updates?"),
    ("emit: [{topic: updates, type: order.created}]", "emit: [{topic: orders, type: OrderCreated}]", "spec.events[0].emit[0]", "would be emitted again"),
    ("    append:", "    when: 'true'\n    schema: {type: object}\n    emit: [{topic: orders, type: OrderCreated}]\n    append:", "spec.events[0].emit[0]", "OrderCreated would be emitted again"),
    ("    append:", "    when: topic == 'updates'\n    schema: {type: object}\n    emit: [{topic: orders, type: OrderCreated}]\n    append:", "spec.events[0].emit[0]", "OrderCreated would be emitted again"),
    ("type: order.created}", "type: OrderStatusChanged, data: \"'just ' + data.orderId\"}", "spec.events[0].emit[0]", "OrderStatusChanged could not take what comes of this event's example on updates: data: data must be an object but is a text"),
    ("    append:", "    schema: {type: object, required: [notes]}\n  - name: Told\n    topics: [orders]\n    emit: [{topic: updates, type: OrderStatusChanged}]\n    example: {orderId: o1}\n    append:", "spec.events[2].emit[0]", "data.notes: notes is required"),
    ("    key: data.customerId", "    when: attributes.source == 'shop'\n    key: data.customerId", "spec.events[0].when", "cannot be judged, since attributes.source is missing for the event's own example when the API writes it"),
    ("    key: data.customerId", "    key: data.customerId\n    order: {id: data.customerId}", "spec.events[0].order.id", "must be data.orderId, but is data.customerId"),
    ("    append:", "    schema: {type: object, additionalProperties: false, properties: {notes: {type: string}}}\n    append:", "spec.events[1].schema", "has no room for orderId"),
    ("{retry:", "{tenants: [north], retry:", "spec.worker.tenants", "cannot tell whose OrderCreated is: its schema has no data.tenantId"),
    ("name: OrderStatusChanged", "name: orderCreated", "spec.events[1].name", "differs from OrderCreated only in case"),
    ("    topics: [updates]", "    when: 'false'\n    topics: [updates]", "spec.events[1].when", "never holds"),
    ("    append:", "    when: attributes.a == 'b'\n  - name: Late\n    when: attributes.a   == \"b\"\n    topics: [updates]\n    append:", "spec.events[2].when", "is never reached: OrderStatusChanged"),
    ("append: {notes: data.notes}", "append: {allocation: data.notes}", "spec.events[1].append.allocation", "OrderCreated sets it to a value"),
    ("append: {notes: data.notes}", "append: {status: data.notes}", "spec.events[1].append.status", "no list"),
    ("append: {notes: data.notes}", "set: {orderId: data.notes}", "spec.events[1].set.orderId", "kept by the store"),
    ("append: {notes: data.notes}", "append: {'my notes': data.notes}", "spec.events[1].append[\"my notes\"]", "letters, digits and underscores"),
    ("append: {notes: data.notes}", "effect: None\n    append: {notes: data.notes}", "spec.events[1].effect", "nothing is set or appended"),
    ("field: data.totalAmount", "field: the total", "spec.events[0].rules[0].field", "must be the path of a field"),
    ("field: data.totalAmount", "field: data.totalAmuont", "spec.events[0].rules[0].field", "did you mean data.totalAmount?"),
    ("field: data.totalAmount", "field: data.tax", "spec.events[0].rules[0].field", "data.tax is no field of the event's schema: it has totalAmount"),
    ("    append:", "    when: attributes.type == 'a' && attributes.type == 'b'\n    append:", "spec.events[1].when", "never holds, since attributes.type cannot be \"a\" and \"b\" at once: no message could be this event"),
    ("    append:", "  - name: Late\n    topics: [updates]\n    when: data.vip == true && attributes.type == 'OrderStatusChanged'\n    append:", "spec.events[2].when", "is never reached: OrderStatusChanged stands before it"),
    // Expressions, schemas, examples.
    ("schema: {type: object, required:", "schema: {type: object, requried:", "spec.events[0].schema.requried", "did you mean required?"),
    ("totalAmount: {type: number}}}", "totalAmount: {type: number}, email: {type: string}}}\n    at: \"!has(data.email) || data.email + 1 == 'x' ? '2025-01-31T12:00:00Z' : ''\"", "spec.events[0].at", "does not go together: `+` does not take string and int"),
    ("totalAmount: {type: number}}}", "totalAmount: {type: number}, quantity: {type: integer}}}\n    at: data.quantity", "spec.events[0].at", "must give a time, but data.quantity gives a number by"),
    ("totalAmount: {type: number}}}", "totalAmount: {type: number}, slug: {type: string, pattern: '^([a-z0-9]+-?)+(?<!-)$'}}}", "spec.events[0].schema.properties.slug.pattern", "looks around or back"),
    ("totalAmount: {type: number}}}", "totalAmount: {type: number}, slug: {type: string, pattern: '^(a{1,900}){1,900}$'}}}", "spec.events[0].schema.properties.slug.pattern", "too large a regular expression"),
    ("totalAmount: {type: number}}}", "totalAmount: {type: number}}, patternProperties: {'(?=x)': {type: string}}}", "spec.events[0].schema.patternProperties", "looks around or back"),
    ("customerId: c1, totalAmount: 12}", "customerId: c1, totalAmount: 12, tax: 1e2x}\n    order: {total: data.tax}", "spec.events[0].order.total", "must give a number"),
    ("customerId: c1, totalAmount: 12}", "customerId: c1, totalAmount: 12, tax: '1e2'}\n    order: {total: data.tax}", "spec.events[0].order.total", "must give a number, but gives \"1e2\""),
    ("rule: data.totalAmount > 0.0", "rule: data.totalAmount >", "spec.events[0].rules[0].rule", "ends too early"),
    ("rule: data.totalAmount > 0.0", "rule: dta.totalAmount > 0.0", "spec.events[0].rules[0].rule", "dta"),
    ("rule: data.totalAmount > 0.0", "rule: data.totalAmount", "spec.events[0].rules[0].rule", "must give true or false"),
    ("rule: data.totalAmount > 0.0", "rule: data.total > 0.0", "spec.events[0].rules[0].rule", "data.total is no field of the event's schema: it has totalAmount; add total to its properties"),
    ("rule: data.totalAmount > 0.0", "rule: data.totalAmount > 100.0", "spec.events[0].rules[0].rule", "does not hold on the event's own example"),
    ("    key: data.customerId", "    key: data.customer", "spec.events[0].key", "data.customer is no field of the event's schema"),
    ("    key: data.customerId", "    at: data.customerId", "spec.events[0].at", "must be a time"),
    ("    key: data.customerId", "    order: {total: data.customerId}", "spec.events[0].order.total", "must give a number"),
    ("    key: data.customerId", "    order: {id: data.id}", "spec.events[0].order.id", "data.id is no field of the event's schema"),
    ("orderId: o1, ", "", "spec.events[0].example", "breaks the event's own schema: data.orderId"),
    ("required: [orderId]", "required: orderId", "spec.events[0].schema.required", "must be a list but is a text"),
    ("schema: {type: object", "schema: {type: objekt", "spec.events[0].schema.type", "did you mean object?"),
    ("append: {notes: data.notes}", "append: {notes: 'f(data)'}", "spec.events[1].append.notes", "f"),
    ("rule: data.totalAmount > 0.0", "rule: data.totalAmout > 0.0", "spec.events[0].rules[0].rule", "did you mean data.totalAmount?"),
    ("rule: data.totalAmount > 0.0", "rule: 1 > 2", "spec.events[0].rules[0].rule", "never holds: no event could pass it"),
    ("    key: data.customerId", "    when: topic == 'order'", "spec.events[0].when", "never holds for the event's topics, which are orders"),
    ("set: {allocation: \"'PENDING'\"}", "order: {status: data.state}\n    set: {status: \"'NEW'\"}", "spec.events[0].set.status", "order.status says already what status is"),
    ("set: {allocation: \"'PENDING'\"}", "set: {totalAmount: data.totalAmount * 1.123}", "spec.events[0].set.totalAmount", "an amount has two decimals"),
    ("totalAmount: 12}", "totalAmount: 100000000}", "spec.events[0].order.total", "an amount lies between -99999999.99 and 99999999.99"),
    ("partitions: 6}", "maxMessageSize: 10Mi}", "spec.events[0].emit[0].topic", "updates takes messages up to 1Mi, and what is emitted there as it came may have the 10Mi of orders"),
    ("    topics: [updates]", "    topics: [updates]\n    when: 'true'\n  - name: Late\n    topics: [updates]", "spec.events[2]", "is never reached: OrderStatusChanged stands before it"),
    ("    append:", "    schema: {type: object, properties: {n: {type: integer}, f: {type: number}, notes: {type: array}}}\n    rules: [{rule: data.n * data.f > 1.0}]\n    append:", "spec.events[1].rules[0].rule", "does not go together: `*` does not take int and double"),
    ("    append:", "    schema: {type: object, properties: {f: {type: number}, notes: {type: array}}}\n    key: data.f\n    append:", "spec.events[1].key", "must give a text, but data.f gives a number that need not be whole"),
    ("    append:", "    schema: {type: object, properties: {order_id: {type: string}, notes: {type: array}}}\n    append:", "spec.events[1].order.id", "is data.orderId by default, but data.orderId is no field of the event's schema: did you mean data.order_id?"),
    // Roles.
    ("api: {idempotency: Strict}", "api: {orders: {creates: OrderCreate}}", "spec.api.orders.creates", "did you mean OrderCreated?"),
    ("api: {idempotency: Strict}", "api: {orders: {updates: OrderCreated}}", "spec.api.orders.updates", "must be an event with the effect Update"),
    ("api: {idempotency: Strict}", "api: {orders: {creates: OrderStatusChanged}}", "spec.api.orders.creates", "must be an event with the effect Create"),
    ("    key: data.customerId", "    effect: Update", "spec.api", "needs an event with the effect Create"),
    ("    key: data.customerId", "    effect: Upsert", "spec.api", "one with Upsert, as OrderCreated has it, must be named: spec.api.orders.creates: OrderCreated"),
    ("    key: data.customerId", "    effect: Upsert", "spec.generator", "must be named: spec.generator.publishes: OrderCreated"),
    ("    key: data.customerId", "    effect: Update", "spec.generator", "needs an event with the effect Create"),
    ("postgres: {urlSecretRef: {name: db, key: url}}", "memory: {}", "spec.api.idempotency", "set spec.store.postgres"),
    ("api: {", "api: {publishDeadline: 10m, ", "spec.api.publishDeadline", "at most 60s"),
    ("base: 1s, max: 10s", "base: 1m, max: 10s", "spec.worker.retry.base", "longer than max"),
    ("worker: {", "worker: {deadline: 2s, callback: {url: 'http://x'}, ", "spec.worker.callback.timeout", "longer than the 2s"),
    ("worker: {", "worker: {deadLetters: {alert: {when: 'true'}}, ", "spec.worker.deadLetters.alert", "exactly one of url and urlSecretRef"),
    ("worker: {", "worker: {deadLetters: {keep: 0s}, ", "spec.worker.deadLetters.keep", "longer than 0"),
    ("worker: {", "worker: {deadLetters: {alert: {url: 'http://x', timeout: 2m}}, ", "spec.worker.deadLetters.alert.timeout", "at most 60s"),
    ("worker: {", "worker: {deadLetters: {alert: {url: 'http://x', when: atributes.severity == 'x'}}, ", "spec.worker.deadLetters.alert.when", "atributes"),
    ("worker: {", "worker: {deadLetters: {alert: {url: 'http://x', when: topic}}, ", "spec.worker.deadLetters.alert.when", "must give true or false"),
    ("worker: {", "worker: {deadLetters: {alert: {url: 'http://x', when: attributes.attempts > '3'}}, ", "spec.worker.deadLetters.alert.when", "does not go together"),
    ("worker: {", "worker: {scaling: {min: 4, max: 3}, ", "spec.worker.scaling.min", "more than max"),
    ("api: {", "api: {template: {labels: {app.kubernetes.io/name: x}}, ", "spec.api.template.labels[\"app.kubernetes.io/name\"]", "set by the operator"),
    ("api: {", "api: {template: {nodeSelector: {a b: x}}, ", "spec.api.template.nodeSelector[\"a b\"]", "is no name of a label"),
    ("rate: 5", "publishes: OrderMade", "spec.generator.publishes", "there is no event OrderMade"),
    ("topics: [updates]", "topics: [orders]", "spec.events[1].key", "their keys must be the same, but are data.orderId and data.customerId"),
    ("topics: [updates]", "topics: [orders-dlq]\n  - name: X\n    topics: [updates]", "spec.events[1].topics[0]", "there is no topic orders-dlq"),
    ("{name: updates}", "{name: updates, deadLetter: {topic: orders}}", "spec.events[0].topics", "holds the dead letters of updates"),
    ("key: data.customerId", "key: data.customerId\n    id: \"'x'\"", "spec.events[0].id", "is the same for every message"),
    ("append: {notes: data.notes}", "order: {id: \"'x'\"}", "spec.events[1].order.id", "is the same for every message"),
    ("api: {", "api: {template: {resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}}, ", "spec.api.template.resources.requests.cpu", "is 2, more than the limit, which is 1500m"),
    ("api: {", "api: {template: {resources: {limits: {memory: 128}}}, ", "spec.api.template.resources.limits.memory", "is 128, with which no process could start"),
    ("api: {", "api: {template: {resources: {limits: {memory: 31Mi}}}, ", "spec.api.template.resources.limits.memory", "at least 32Mi"),
    ("{urlSecretRef: {name: db, key: url}}", "{schema: pg_shop, urlSecretRef: {name: db, key: url}}", "spec.store.postgres.schema", "PostgreSQL keeps for itself"),
    ("{name: shop}", "{name: pg-shop}", "spec.store.postgres.schema", "pg_shop is a name that PostgreSQL keeps for itself"),
    ("worker: {", "worker: {callback: {url: 'http://'}, ", "spec.worker.callback.url", "must be an address such as http://shipping/orders, but is \"http://\": it names no host"),
    ("worker: {", "worker: {deadLetters: {alert: {url: 'http://:99999'}}, ", "spec.worker.deadLetters.alert.url", "it names no host"),
    ("generator: {", "telemetry: {otlp: {endpoint: 'http://a b'}}\n  generator: {", "spec.telemetry.otlp.endpoint", "there is a space in it"),
    ("api: {", "api: {template: {terminationGracePeriodSeconds: 5}, ", "spec.api.template.terminationGracePeriodSeconds", "between 30 and 3600"),
    // Not yet.
    ("generator: {rate: 5}", "deletionPolicy: Delete", "spec.deletionPolicy", "not supported"),
    ("  backend: kafka", "  backend: azure", "spec.backend", "not supported by this version yet"),
    ("partitions: 6", "codec: {avro: {registry: {url: 'registry:8081'}, schemaConfigMapRef: {name: s, key: k}}}", "spec.topics[0].codec.avro.registry.url", "http://registry:8081"),
    ("partitions: 6", "codec: {avro: {registry: {url: 'http://r'}, schemaConfigMapRef: {name: s, key: a/b}}}", "spec.topics[0].codec.avro.schemaConfigMapRef.key", "order-event.avsc"),
    ("partitions: 6", "envelope: Attributes, codec: {avro: {registry: {url: 'http://r'}, schemaConfigMapRef: {name: s, key: k}}}", "spec.topics[0].envelope", "leave it Bare"),
    ("api: {idempotency: Strict}", "api: {cart: {creates: Made}}", "spec.api.cart.creates", "there is no event Made"),
];

#[test]
fn every_broken_document_is_refused_with_its_place_and_reason() {
    let mut wrong = Vec::new();
    for (sound, broken, place, says) in BROKEN {
        assert!(SOUND.contains(sound), "{sound} is not in the sound document");
        let found = read(&SOUND.replacen(sound, broken, 1)).err().unwrap_or_default();
        if !found.iter().any(|m| m.place == *place && m.message.contains(says)) {
            let found: Vec<String> = found.iter().map(Mistake::to_string).collect();
            wrong.push(format!("{broken}\n  expected {place}: ...{says}...\n  found    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn dead_letters_are_not_put_among_events() {
    let text = SOUND
        .replace("{name: updates}", "{name: updates, deadLetter: {topic: dead}}\n  - {name: dead}")
        .replace("  store: {postgres", "  - {name: Buried, topics: [dead], effect: None}\n  store: {postgres");
    let found = mistakes(&text);
    assert!(found.len() == 1 && found[0].contains("deadLetter.topic: dead is read as Buried"), "{found:?}");
}

#[test]
fn one_mistake_makes_one_message() {
    // These break two things by their nature; and a name that changes is missed by whatever uses it.
    let twofold = ["topicz", "effect: Update", "effect: Upsert", "stats", "shop.servicebus", "effect: None"];
    let one = |(_, broken, place, _): &&(&str, &str, &str, &str)| !twofold.iter().any(|t| broken.contains(t)) && !place.ends_with(".name");
    for (sound, broken, place, _) in BROKEN.iter().filter(one) {
        let found = mistakes(&SOUND.replacen(sound, broken, 1));
        assert!(found.len() <= 2, "{broken} at {place} makes {} messages: {found:#?}", found.len());
    }
}

#[test]
fn every_mistake_is_found_at_once() {
    let text = SOUND
        .replace("partitions: 6", "partitions: 0, colour: red")
        .replace("topics: [updates]", "topics: [update]")
        .replace("base: 1s", "base: 1h")
        .replace("data.totalAmount > 0.0", "data.totalAmount >< 0.0");
    let places: Vec<String> = read(&text).unwrap_err().into_iter().map(|m| m.place).collect();
    for place in [
        "spec.topics[0].partitions",
        "spec.topics[0].colour",
        "spec.events[1].topics[0]",
        "spec.worker.retry.base",
        "spec.events[0].rules[0].rule",
    ] {
        assert!(places.iter().any(|p| p == place), "{place} is not in {places:?}");
    }
}

#[test]
fn no_mistake_hides_another() {
    let text = r#"
apiVersion: orderpipeline.dev/v1alpha1
kind: OrderPipeline
metadata: {name: shop}
spec:
  backend: kafak
  backends: [{name: kafka, kafka: {bootstrapServers: "kafka"}}, {name: other, kafka: {}}]
  topics:
  - 5
  - {partitions: 2}
  - {name: orders, partitions: -1, envelope: Atributes, maxMessageSize: 1Gi}
  - {name: orders}
  events:
  - {name: OrderCreated, topics: [order], effect: Creat, rules: [{rule: data.total}, {rule: 1 +}, {rule: "'x'"}], schema: {type: object, properties: {total: {type: number}}}}
  - {name: OrderPaid, topics: [orders, orders], schema: {type: strin, required: paid}}
  api: {publishDeadline: 0s, idempotency: Strikt, scaling: {min: 5, max: 2}}
  worker: {replicas: 2, scaling: {min: 7, max: 3}, retry: {base: 1h, max: soon}, batch: {size: many}}
"#;
    let found = mistakes(text);
    for place in [
        "spec: backend must be the name of one of spec.backends",
        "spec.backends[0].kafka.bootstrapServers: must be host:port",
        "spec.backends[1].kafka: exactly one of strimzi and bootstrapServers",
        "spec.topics[0]: must be a map of fields, but is 5",
        "spec.topics[1].name: is required",
        "spec.topics[2].partitions: must be between 1 and 1000, but is -1",
        "spec.topics[2].envelope: must be one of",
        "spec.topics[2].maxMessageSize: must be between 1Ki and 64Mi",
        "spec.topics[3].name: orders is already the name of spec.topics[2]: give one of the two another name, or remove it",
        "spec.events[0].topics[0]: there is no topic order in spec.topics: did you mean orders?",
        "spec.events[0].effect: must be one of",
        "spec.events[0].rules[0].rule: must give true or false, but data.total gives a number",
        "spec.events[0].rules[1].rule: column 4",
        "spec.events[0].rules[2].rule: must give true or false, but 'x' gives a text",
        "spec.events[1].topics[1]: orders stands here twice: remove one of the two",
        "spec.events[1].schema.type: must be one of string",
        "spec.events[1].schema.required: must be a list",
        "spec.api.publishDeadline: must be longer than 0",
        "spec.api.idempotency: must be one of",
        "spec.api.scaling.min: is 5, more than max, which is 2",
        "spec.worker: replicas and scaling exclude each other",
        "spec.worker.scaling.min: is 7, more than max, which is 3",
        "spec.worker.retry.max: must be a duration",
        "spec.worker.batch.size: must be a whole number",
    ] {
        assert!(found.iter().any(|m| m.starts_with(place)), "{place} is not in {found:#?}");
    }
    assert_eq!(found.len(), 24, "and nothing that only follows: {found:#?}");
}

#[test]
fn what_yaml_itself_refuses_says_what_to_do() {
    for (sound, broken, says) in [
        ("  backend: kafka", "\tbackend: kafka", "the line is indented with a tab, which YAML does not allow: use spaces"),
        ("  backend: kafka", "  backend: *kafka", "a word that begins with * is an alias"),
        ("  backend: kafka", "  backend: @kafka", "must stand in quotes"),
        ("  backend: kafka", "  backend: a: b", "a text with a colon must stand in quotes"),
        ("rate: 5}", "rate: 5", "a bracket is not closed"),
        ("rate: 5}", "rate: \"5}", "a quote or a bracket is not closed"),
    ] {
        let found = mistakes(&SOUND.replacen(sound, broken, 1));
        assert!(found.len() == 1 && found[0].contains(says), "{broken}: {found:?}");
    }
}

#[test]
fn a_document_without_topics_is_told_what_one_looks_like() {
    let text = "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {name: shop}\nspec:\n  \
                backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:1'}}]\n  topics: []\n  events: [{name: OrderCreated}]\n";
    assert_eq!(mistakes(text), ["spec.topics: needs at least 1 entry, such as - {name: orders}"]);
}

#[test]
fn mistakes_without_end_are_cut() {
    let topics: String = (0..5000).map(|n| format!("  - {{nam: t{n}}}\n")).collect();
    let text = SOUND.replace("  events:\n", &format!("{topics}  events:\n")).replace("- {name: orders, partitions: 6}", "- {name: orders}");
    let found = mistakes(&text);
    assert!((1..=100).contains(&found.len()), "{}", found.len());
    let unknown: String = (0..5000).map(|n| format!("  field{n}: 1\n")).collect();
    assert_eq!(mistakes(&format!("{SOUND}{unknown}")).len(), 100);
}

#[test]
fn what_is_emitted_to_a_topic_of_dead_letters_is_told() {
    let text = SOUND.replace("{name: updates}", "{name: updates}\n  - {name: dead, maxMessageSize: 2Mi}");
    let text = text.replace("partitions: 6", "deadLetter: {topic: dead}").replace("{topic: updates, type", "{topic: dead, type");
    let said = "spec.events[0].emit[0].topic: dead holds the dead letters of orders: emit to another topic";
    assert_eq!(mistakes(&text), [said]);
}

#[test]
fn on_a_laptop_the_backend_need_not_be_one_that_can_be_reached() {
    let azure = SOUND.replace("  backend: kafka", "  backend: azure");
    assert_eq!(mistakes(&azure).len(), 1);
    assert!(read_for(&azure, Purpose::Embedded).is_ok());
}

#[test]
fn a_typed_document_is_checked_like_its_text() {
    let mut pipeline = read(SOUND).unwrap();
    assert_eq!(crate::check(&pipeline), []);
    pipeline.spec.topics[1].name = "orders".into();
    let found = crate::check(&pipeline);
    assert!(found.iter().any(|m| m.place == "spec.topics[1].name"), "{found:?}");
}

#[test]
fn the_pipeline_is_found_among_other_objects_and_must_be_the_only_one() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\n";
    assert!(read(&format!("{secret}---{SOUND}")).is_ok());
    assert!(mistakes(&format!("{SOUND}---{SOUND}"))[0].contains("there are 2 OrderPipelines in this file"));
    assert!(mistakes(secret)[0].contains("only Secret"));
    assert!(mistakes("")[0].contains("the file is empty"));
    assert!(mistakes("just text")[0].contains("must be a map of fields"));
    assert!(mistakes("spec: {}").iter().any(|m| m == "kind: is required: kind: OrderPipeline"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Whatever stands in a file: an answer, and the same one for the object that it is.
    #[test]
    fn a_mangled_document_never_panics(cuts in proptest::collection::vec((0usize..1400, 0usize..12, "[ -~\\n]{0,8}"), 1..4)) {
        let mut text = SOUND.to_owned();
        for (from, length, instead) in cuts {
            let from = from.min(text.len());
            text.replace_range(from..(from + length).min(text.len()), &instead);
        }
        match read(&text) {
            Ok(pipeline) => proptest::prop_assert_eq!(crate::check(&pipeline), vec![]),
            Err(mistakes) => proptest::prop_assert!(!mistakes.is_empty() && mistakes.iter().all(|m| !m.message.is_empty())),
        }
    }
}

#[test]
fn what_kubectl_would_read_differently_is_refused() {
    let found = mistakes(&SOUND.replace("customerId: c1", "customerId: no"));
    assert_eq!(found, ["kubectl reads no as false: write \"no\" in quotes, or false"]);
}

#[test]
fn a_text_from_elsewhere_is_held_to_what_its_place_in_a_document_allows() {
    let misfit = |place: &str, text: &str| crate::pipeline::misfit(place, text).unwrap_or_default();
    for (place, text) in [
        ("spec.topics[].name", "orders.v2"),
        ("spec.worker.group", "shop"),
        ("spec.worker.batch.pollInterval", "1m"),
        ("spec.backends[].kafka.bootstrapServers", "a:9092, [::1]:9092"),
        ("spec.backends[].kafka.auth.scramSha512.username", "shop"),
        ("spec.telemetry.otlp.endpoint", "http://collector:4318"),
    ] {
        assert_eq!(misfit(place, text), "", "{place}");
    }
    assert!(misfit("spec.topics[].name", "a b").contains("begins and ends with a letter or digit, but is"));
    assert_eq!(misfit("spec.topics[].name", &"x".repeat(201)), "has 201 characters, at most 200 are allowed");
    assert_eq!(misfit("spec.worker.group", ""), "must not be empty");
    assert_eq!(misfit("spec.worker.batch.pollInterval", "0s"), "must be longer than 0");
    assert_eq!(misfit("spec.worker.batch.pollInterval", "61s"), "must be at most 60s, but is 61s");
    assert!(misfit("spec.worker.batch.pollInterval", "soon").starts_with("must be a duration"));
    assert!(misfit("spec.backends[].kafka.bootstrapServers", "a:9092,b").contains("holds \"b\""));
    assert!(misfit("spec.telemetry.otlp.endpoint", "collector:4318").starts_with("must "));
    assert!(!misfit("spec.topics[].nowhere", "x").is_empty(), "a place that is none allows nothing");
}
