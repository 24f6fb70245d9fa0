//! Where schemas are registered and found again by their number: one that Confluent's clients would use too, or, for `up` with nothing
//! installed, a file beside the built-in broker.

mod confluent;
mod kept;

pub use confluent::Confluent;
pub use kept::Kept;

/// What a registry did not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("the schema registry {registry} cannot be asked: {reason}")]
    Away { registry: String, reason: String },
    /// It answered, and these are its words.
    #[error("the schema registry {registry} refuses: {words}")]
    Refused { registry: String, words: String },
}

#[derive(Debug)]
pub enum Registry {
    Confluent(Confluent),
    Kept(Kept),
}

impl Registry {
    /// The number of this schema under the subject: the one that it has, or a new one if it is compatible with those before.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        match self {
            Registry::Confluent(registry) => registry.register(subject, schema).await,
            Registry::Kept(registry) => registry.register(subject, schema),
        }
    }

    /// The schema that has this number.
    pub async fn schema(&self, id: u32) -> Result<String, RegistryError> {
        match self {
            Registry::Confluent(registry) => registry.schema(id).await,
            Registry::Kept(registry) => registry.schema(id),
        }
    }
}
