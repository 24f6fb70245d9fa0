//! A checked document with every default filled in. The only place that knows the defaults which depend on other fields.

use super::*;
use crate::runtime_config::*;
use std::time::Duration;

/// Room on a dead-letter topic for the headers that say where a message came from and why it is there.
const DEAD_LETTER_HEADERS: u64 = 64 << 10;

/// Pure. What it makes of a document that `check` refuses is of no use, but it never panics.
pub fn resolve(pipeline: &OrderPipeline) -> RuntimeConfig {
    let spec = &pipeline.spec;
    let name = pipeline.metadata.name.clone().unwrap_or_default();
    RuntimeConfig {
        namespace: pipeline.metadata.namespace.clone().unwrap_or_else(|| "default".into()),
        backend: spec.backend_in_use().map(|b| b.name.0.clone()).unwrap_or_default(),
        backends: spec.backends.clone(),
        switching: switching(spec),
        topics: topics(spec),
        events: spec.events.iter().enumerate().map(|(index, event)| spec.event_config(index, event)).collect(),
        pii: spec.pii.as_ref().map(pii),
        store: store(spec.store.as_ref(), &name),
        api: spec.api.as_ref().map(|api| api_config(spec, api, &name)),
        worker: spec.worker.as_ref().map(|worker| worker_config(worker, &name)),
        generator: spec.generator.as_ref().map(|generator| generator_config(spec, generator)),
        telemetry: spec.telemetry.clone().unwrap_or_default(),
        pipeline: name,
    }
}

fn switching(spec: &OrderPipelineSpec) -> SwitchingConfig {
    let default = SwitchingConfig::default();
    let asked = spec.switching.as_ref();
    let read = |topic: &Topic| spec.events.iter().any(|event| spec.topics_of(event).contains(&topic.name.0));
    let own = spec.topics.iter().any(|topic| topic.producers == Producers::Pipeline && read(topic));
    let proceed = asked.filter(|asked| asked.drain.on_deadline == OnDrainDeadline::Proceed);
    SwitchingConfig {
        hold_deadline: GoDuration::or(asked.map(|asked| &asked.hold_deadline), default.hold_deadline),
        // Where nothing of the pipeline's own is read, nothing can be drained.
        drain_deadline: if own { proceed.and_then(|asked| asked.drain.deadline.parse()) } else { Some(Duration::ZERO) },
    }
}

impl Topic {
    /// Where its dead letters go. A topic that is itself the dead-letter topic of another one has none unless it names one.
    pub fn dead_letter_topic(&self, spec: &OrderPipelineSpec) -> Option<String> {
        let named = self.dead_letter.as_ref().and_then(|d| d.topic.as_ref());
        match named {
            Some(topic) => Some(topic.0.clone()),
            None if self.dead_letter.is_none() && spec.is_dead_letter_topic(&self.name) => None,
            None => Some(default_dead_letter(&self.name)),
        }
    }
}

fn default_dead_letter(topic: &str) -> String {
    format!("{topic}-dlq")
}

impl OrderPipelineSpec {
    /// The backend that the document asks for. None: it names one that is not there.
    pub fn backend_in_use(&self) -> Option<&Backend> {
        match &self.backend {
            Some(name) => self.backends.iter().find(|b| b.name == *name),
            None => self.backends.first(),
        }
    }

    fn is_dead_letter_topic(&self, name: &str) -> bool {
        self.topics.iter().filter(|t| t.name != *name).any(|t| match t.dead_letter.as_ref().and_then(|d| d.topic.as_ref()) {
            Some(topic) => *topic == *name,
            None => default_dead_letter(&t.name) == name,
        })
    }

    /// The topic of an event that names none: the only one that is not there for dead letters.
    pub fn only_topic(&self) -> Option<&Topic> {
        let mut topics = self.topics.iter().filter(|t| !self.is_dead_letter_topic(&t.name));
        topics.next().filter(|_| topics.next().is_none())
    }

    pub fn topics_of(&self, event: &Event) -> Vec<String> {
        match event.topics.is_empty() {
            false => event.topics.iter().map(|t| t.0.clone()).collect(),
            true => self.only_topic().map(|t| t.name.0.clone()).into_iter().collect(),
        }
    }

    pub fn effect_of(&self, index: usize, event: &Event) -> Effect {
        event.effect.unwrap_or(if index == 0 { Effect::Create } else { Effect::Update })
    }

    pub fn first_with(&self, effect: Effect) -> Option<&Event> {
        self.events.iter().enumerate().find(|(index, event)| self.effect_of(*index, event) == effect).map(|(_, event)| event)
    }

    /// The event that the API writes for a new order.
    pub fn api_creates(&self) -> Option<String> {
        let api = self.api.as_ref()?;
        let named = match &api.cart {
            Some(cart) => cart.creates.as_ref(),
            None => api.orders.as_ref().and_then(|o| o.creates.as_ref()),
        };
        named.or_else(|| self.first_with(Effect::Create).map(|e| &e.name)).map(|name| name.0.clone())
    }

    /// The event that the API writes for a change.
    pub fn api_updates(&self) -> Option<String> {
        let api = self.api.as_ref()?;
        let named = match &api.cart {
            Some(cart) => cart.updates.as_ref(),
            None => api.orders.as_ref().and_then(|o| o.updates.as_ref()),
        };
        named.or_else(|| self.first_with(Effect::Update).map(|e| &e.name)).map(|name| name.0.clone())
    }

    pub fn generator_publishes(&self) -> Option<String> {
        let generator = self.generator.as_ref()?;
        generator.publishes.as_ref().or_else(|| self.first_with(Effect::Create).map(|e| &e.name)).map(|name| name.0.clone())
    }

    /// An event with its defaults.
    pub fn event_config(&self, index: usize, event: &Event) -> EventConfig {
        let order = order_expressions(self.effect_of(index, event), event);
        EventConfig {
            name: event.name.0.clone(),
            topics: self.topics_of(event),
            when: text(&event.when),
            key: text(&event.key).unwrap_or_else(|| order.id.clone()),
            id: text(&event.id),
            at: text(&event.at),
            schema: event.schema.as_ref().map(|s| s.0.clone()).or_else(|| self.dialect_schema(&event.name)),
            rules: event.rules.clone(),
            effect: self.effect_of(index, event),
            order,
            set: event.set.iter().map(|(field, e)| (field.clone(), e.0.clone())).collect(),
            append: event.append.iter().map(|(field, e)| (field.clone(), e.0.clone())).collect(),
            emit: event.emit.clone(),
            pii: event.pii.iter().map(|path| path.0.clone()).collect(),
        }
    }

    /// What the API takes for an event of its own that has no schema.
    fn dialect_schema(&self, event: &str) -> Option<serde_json::Value> {
        let dialect = self.api.as_ref()?.dialect();
        if self.api_creates().as_deref() == Some(event) {
            return Some(dialect::create_schema(dialect));
        }
        (self.api_updates().as_deref() == Some(event)).then(|| dialect::update_schema(dialect))
    }
}

impl Api {
    pub fn dialect(&self) -> Dialect {
        if self.cart.is_some() { Dialect::Cart } else { Dialect::Orders }
    }
}

fn text(expression: &Option<Expression>) -> Option<String> {
    expression.as_ref().map(|e| e.0.clone())
}

/// Where an order's fields usually lie. A path that is missing in an event leaves its field as it is. An Update that says itself what it
/// changes must not change more because its data happens to have a `status` of its own, say of a payment.
fn order_expressions(effect: Effect, event: &Event) -> OrderExpressions {
    let order = event.order.clone().unwrap_or_default();
    let OrderFields { customer, items, total, status, created_at, .. } = &order;
    let named = [customer, items, total, status, created_at].into_iter().any(Option::is_some);
    let says = named || !event.set.is_empty() || !event.append.is_empty();
    let changes_only_that = says && matches!(effect, Effect::Update | Effect::None);
    let or = |expression: &Option<Expression>, default: &str| text(expression).or_else(|| (!changes_only_that).then(|| default.to_owned()));
    OrderExpressions {
        id: text(&order.id).unwrap_or_else(|| "data.orderId".into()),
        tenant: Some(text(&order.tenant).unwrap_or_else(|| "data.tenantId".into())),
        customer: or(&order.customer, "data.customerId"),
        items: or(&order.items, "data.items"),
        total: or(&order.total, "data.totalAmount"),
        status: or(&order.status, "data.status"),
        created_at: text(&order.created_at),
    }
}

/// The topics of the document, then the dead-letter topics that it does not declare itself.
pub(super) fn topics(spec: &OrderPipelineSpec) -> Vec<TopicConfig> {
    let mut topics: Vec<TopicConfig> = spec.topics.iter().map(|topic| topic_config(spec, topic)).collect();
    let declared = topics.len();
    for source in 0..declared {
        let Some(name) = topics[source].dead_letter.clone() else { continue };
        if topics[..declared].iter().any(|t| t.name == name) {
            continue;
        }
        let wanted = dead_letter_config(name, &topics[source]);
        match topics[declared..].iter_mut().find(|t| t.name == wanted.name) {
            // Shared by several topics: large enough for each of them.
            Some(shared) => {
                shared.partitions = shared.partitions.max(wanted.partitions);
                shared.replicas = shared.replicas.max(wanted.replicas);
                shared.retention = shared.retention.max(wanted.retention);
                shared.max_message_bytes = shared.max_message_bytes.max(wanted.max_message_bytes);
            }
            None => topics.push(wanted),
        }
    }
    topics
}

fn topic_config(spec: &OrderPipelineSpec, topic: &Topic) -> TopicConfig {
    TopicConfig {
        name: topic.name.0.clone(),
        partitions: topic.partitions,
        replicas: topic.replicas,
        retention: topic.retention.parse().unwrap_or(Duration::from_secs(168 * 3600)),
        max_message_bytes: bytes(topic.max_message_size.bytes().unwrap_or(1 << 20)),
        envelope: topic.envelope,
        codec: match topic.codec.as_ref().and_then(|codec| codec.avro.as_ref()) {
            Some(avro) => CodecConfig::Avro { registry: avro.registry.url.0.clone(), schema: avro.schema_config_map_ref.clone() },
            None => CodecConfig::Json,
        },
        producers: topic.producers,
        invalid: topic.invalid,
        dead_letter: topic.dead_letter_topic(spec),
    }
}

/// A dead letter is the message as it was, with headers that say why it is there: as many lanes, as long kept, a little larger.
fn dead_letter_config(name: String, source: &TopicConfig) -> TopicConfig {
    TopicConfig {
        name,
        partitions: source.partitions,
        replicas: source.replicas,
        retention: source.retention,
        max_message_bytes: source.max_message_bytes.saturating_add(bytes(DEAD_LETTER_HEADERS)),
        envelope: Envelope::Bare,
        codec: CodecConfig::Json,
        producers: Producers::Pipeline,
        invalid: Invalid::Drop,
        dead_letter: None,
    }
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn pii(pii: &Pii) -> PiiConfig {
    PiiConfig {
        keys: pii.keys_secret_ref.clone(),
        readers: pii.readers.clone(),
        new_key_after: pii.new_key_after.parse().unwrap_or(Duration::from_secs(120)),
    }
}

fn store(store: Option<&Store>, pipeline: &str) -> StoreConfig {
    match store.and_then(|s| s.postgres.as_ref()) {
        Some(postgres) => StoreConfig::Postgres {
            url: postgres.url_secret_ref.clone(),
            schema: postgres.schema.clone().unwrap_or_else(|| default_schema(pipeline)),
        },
        None => StoreConfig::Memory { max_orders: store.and_then(|s| s.memory.clone()).unwrap_or_default().max_orders },
    }
}

/// An unquoted name of PostgreSQL has no dashes and begins with no digit.
pub(super) fn default_schema(pipeline: &str) -> String {
    let name = pipeline.replace(['-', '.'], "_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// The Secret of an API that names none: without keys it could not start.
fn default_keys(pipeline: &str) -> SecretRef {
    SecretRef { name: format!("{pipeline}-api-keys") }
}

fn api_config(spec: &OrderPipelineSpec, api: &Api, pipeline: &str) -> ApiConfig {
    ApiConfig {
        dialect: api.dialect(),
        creates: spec.api_creates().unwrap_or_default(),
        updates: spec.api_updates(),
        keys: api.keys_secret_ref.clone().unwrap_or_else(|| default_keys(pipeline)),
        admin_keys: api.admin_keys_secret_ref.clone(),
        idempotency: api.idempotency,
        publish_deadline: api.publish_deadline.parse().unwrap_or(Duration::from_secs(5)),
    }
}

fn worker_config(worker: &Worker, pipeline: &str) -> WorkerConfig {
    WorkerConfig {
        group: worker.group.as_ref().map_or_else(|| pipeline.to_owned(), |g| g.0.clone()),
        tenants: worker.tenants.clone(),
        batch_size: bytes(worker.batch.size.into()),
        poll_interval: worker.batch.poll_interval.parse().unwrap_or(Duration::from_millis(100)),
        deadline: worker.deadline.parse().unwrap_or(Duration::from_secs(60)),
        retry: RetryPolicy {
            attempts: worker.retry.attempts,
            base: worker.retry.base.parse().unwrap_or(Duration::from_secs(1)),
            max: worker.retry.max.parse().unwrap_or(Duration::from_secs(300)),
            jitter_percent: worker.retry.jitter_percent,
        },
        callback: worker.callback.as_ref().map(|callback| CallbackConfig {
            url: callback.url.clone(),
            timeout: callback.timeout.parse().unwrap_or(Duration::from_secs(5)),
        }),
        dead_letters: worker.dead_letters.as_ref().map(dead_letters_config).unwrap_or_default(),
    }
}

fn dead_letters_config(letters: &DeadLetters) -> DeadLettersConfig {
    let default = DeadLettersConfig::default();
    let alert = letters.alert.as_ref().and_then(|alert| {
        let url = match (&alert.url, &alert.url_secret_ref) {
            (Some(url), _) => AlertUrl::Plain(url.clone()),
            (None, Some(reference)) => AlertUrl::Secret(reference.clone()),
            (None, None) => return None,
        };
        Some(AlertConfig { when: text(&alert.when), url, timeout: alert.timeout.parse().unwrap_or(Duration::from_secs(5)) })
    });
    DeadLettersConfig { keep: letters.keep.parse().unwrap_or(default.keep), alert }
}

fn generator_config(spec: &OrderPipelineSpec, generator: &Generator) -> GeneratorConfig {
    GeneratorConfig {
        publishes: spec.generator_publishes().unwrap_or_default(),
        shape: generator.shape,
        rate: generator.rate,
        customers: generator.customers,
        seed: generator.seed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::switch::{SwitchState, nobody_drains};

    fn resolved(spec: &str) -> RuntimeConfig {
        let text = format!(
            "apiVersion: orderpipeline.dev/v1alpha1\nkind: OrderPipeline\nmetadata: {{name: my-shop, namespace: shop}}\nspec:\n{spec}"
        );
        resolve(&crate::document::read(&text).unwrap())
    }

    const SMALLEST: &str = "
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}, {name: OrderStatusChanged}]
  api: {}
  worker: {}
  generator: {}
";

    #[test]
    fn the_smallest_document_gets_every_default() {
        let config = resolved(SMALLEST);
        assert_eq!((config.pipeline.as_str(), config.namespace.as_str(), config.backend.as_str()), ("my-shop", "shop", "kafka"));
        let created = config.event("OrderCreated").unwrap();
        assert_eq!(created.topics, ["orders"]);
        assert_eq!((created.effect, created.key.as_str(), created.order.id.as_str()), (Effect::Create, "data.orderId", "data.orderId"));
        assert_eq!(created.order.total.as_deref(), Some("data.totalAmount"));
        assert_eq!(created.order.created_at, None);
        assert_eq!(created.schema, Some(dialect::create_schema(Dialect::Orders)));
        let changed = config.event("OrderStatusChanged").unwrap();
        assert_eq!((changed.effect, &changed.schema), (Effect::Update, &Some(dialect::update_schema(Dialect::Orders))));
        let api = config.api.clone().unwrap();
        assert_eq!((api.creates.as_str(), api.updates.as_deref()), ("OrderCreated", Some("OrderStatusChanged")));
        assert_eq!(api.keys.name, "my-shop-api-keys");
        assert_eq!(config.worker.clone().unwrap().group, "my-shop");
        assert_eq!(config.generator.clone().unwrap().publishes, "OrderCreated");
        assert_eq!(config.store, StoreConfig::Memory { max_orders: 20_000 });
        assert_eq!(config.telemetry.sampling_percent, 10);
    }

    #[test]
    fn the_dead_letter_topic_comes_with_its_topic_and_is_a_little_larger() {
        let config = resolved(SMALLEST);
        assert_eq!(config.topics.len(), 2);
        let (orders, dead) = (config.topic("orders").unwrap(), config.topic("orders-dlq").unwrap());
        assert_eq!(orders.dead_letter.as_deref(), Some("orders-dlq"));
        assert_eq!(dead.dead_letter, None);
        assert_eq!(dead.partitions, 3);
        assert_eq!(dead.max_message_bytes, (1 << 20) + (64 << 10));
    }

    #[test]
    fn a_shared_dead_letter_topic_has_room_for_the_largest() {
        let config = resolved(
            "
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics:
  - {name: a, partitions: 2, deadLetter: {topic: dead}}
  - {name: b, partitions: 6, maxMessageSize: 4Mi, retention: 200h, deadLetter: {topic: dead}}
  events: [{name: A, topics: [a]}, {name: B, topics: [b]}]
",
        );
        let dead = config.topic("dead").unwrap();
        assert_eq!((config.topics.len(), dead.partitions, dead.max_message_bytes), (3, 6, (4 << 20) + (64 << 10)));
        assert_eq!(dead.retention, Duration::from_secs(200 * 3600));
    }

    #[test]
    fn a_declared_dead_letter_topic_keeps_its_settings_and_has_no_dead_letters_of_its_own() {
        let config = resolved(
            "
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}, {name: orders-dlq, partitions: 1, maxMessageSize: 2Mi}]
  events: [{name: OrderCreated}]
",
        );
        let dead = config.topic("orders-dlq").unwrap();
        assert_eq!((config.topics.len(), dead.partitions, &dead.dead_letter), (2, 1, &None));
        assert_eq!(config.event("OrderCreated").unwrap().topics, ["orders"], "the dead-letter topic does not make the default ambiguous");
    }

    #[test]
    fn an_update_that_says_what_it_changes_changes_nothing_else() {
        let config = resolved(
            "
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}]
  events:
  - {name: Created, set: {a: data.a}}
  - {name: Changed}
  - {name: Paid, append: {payments: data}}
  - {name: Moved, order: {id: data.order, customer: data.to}}
",
        );
        let fields = |event: &str| {
            let of = config.event(event).unwrap().order.clone();
            [of.tenant, of.customer, of.items, of.total, of.status].map(|field| field.is_some())
        };
        assert_eq!((fields("Created"), fields("Changed")), ([true; 5], [true; 5]));
        assert_eq!((fields("Paid"), fields("Moved")), ([true, false, false, false, false], [true, true, false, false, false]));
    }

    #[test]
    fn what_is_written_and_read_by_nobody_here_keeps_no_drain_waiting() {
        let with = |topics: &str| {
            resolved(&format!(
                "
  backends: [{{name: kafka, kafka: {{bootstrapServers: 'kafka:9092'}}}}]
  topics: [{{name: orders, producers: External}}, {{name: told}}]
  events: [{{name: OrderCreated, topics: {topics}, emit: [{{topic: told, type: t}}]}}]
  worker: {{}}
"
            ))
        };
        assert_eq!(with("[orders]").switching.drain_deadline, Some(Duration::ZERO));
        assert_eq!(with("[orders, told]").switching.drain_deadline, None);
        let lacking = |config: &RuntimeConfig| nobody_drains(&SwitchState::first("l", "kafka"), config).is_some();
        assert!(!lacking(&with("[orders, told]")));
        let alone = |topics: &str| RuntimeConfig { worker: None, ..with(topics) };
        assert!(lacking(&alone("[orders, told]")), "a worker that comes back must not find what it would have read first behind the rest");
        assert!(!lacking(&alone("[orders]")));
    }

    #[test]
    fn two_documents_mean_the_same_brokers_whatever_else_they_say() {
        let with = |backends: &str| {
            resolved(&format!("\n  backend: a\n  backends: [{backends}]\n  topics: [{{name: orders}}]\n  events: [{{name: E}}]\n"))
                .brokers()
        };
        let (a, b) = ("{name: a, kafka: {bootstrapServers: 'a:1, A:2'}}", "{name: b, kafka: {bootstrapServers: 'b:1'}}");
        let both = with(&format!("{a}, {b}"));
        assert_eq!(with(&format!("{b}, {}", a.replace("a:1, A:2", "a:2,a:1"))), both);
        for other in [format!("{a}, {}", b.replace("b:1", "c:1")), a.to_owned(), format!("{a}, {}", b.replace("name: b", "name: c"))] {
            assert_ne!(with(&other), both, "{other}");
        }
    }

    #[test]
    fn the_schema_of_postgres_is_the_pipelines_name_without_dashes() {
        let config = resolved(
            "
  backends: [{name: kafka, kafka: {bootstrapServers: 'kafka:9092'}}]
  topics: [{name: orders}]
  events: [{name: OrderCreated}]
  store: {postgres: {urlSecretRef: {name: db, key: url}}}
",
        );
        let StoreConfig::Postgres { schema, url } = config.store else { panic!("not postgres") };
        assert_eq!((schema.as_str(), url.name.as_str()), ("my_shop", "db"));
    }

    #[test]
    fn what_the_operator_writes_the_runtime_reads_back_unchanged() {
        let config = resolved(SMALLEST);
        let written = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RuntimeConfig>(&written).unwrap(), config);
    }
}
