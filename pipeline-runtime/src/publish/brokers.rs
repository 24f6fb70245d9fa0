use crate::broker::Broker;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Makes the client of a backend, or says in a sentence why that cannot be.
type Open = dyn Fn(&str) -> Result<Arc<dyn Broker>, String> + Send + Sync;

/// The brokers of a pipeline by the names of their backends, each opened when it is first asked for. One that cannot be opened is tried
/// again when it is asked for again: a Secret may have come.
pub struct Brokers {
    open: Box<Open>,
    opened: Mutex<BTreeMap<Arc<str>, Arc<dyn Broker>>>,
}

impl Brokers {
    pub fn new(open: impl Fn(&str) -> Result<Arc<dyn Broker>, String> + Send + Sync + 'static) -> Arc<Brokers> {
        Arc::new(Brokers { open: Box::new(open), opened: Mutex::default() })
    }

    /// Those, and no others.
    pub fn of(brokers: impl IntoIterator<Item = Arc<dyn Broker>>) -> Arc<Brokers> {
        let all = Brokers::new(|name| Err(format!("there is no backend {name}")));
        for broker in brokers {
            all.opened().insert(broker.name().into(), broker);
        }
        all
    }

    pub fn get(&self, backend: &str) -> Result<Arc<dyn Broker>, String> {
        let mut opened = self.opened();
        if let Some(broker) = opened.get(backend) {
            return Ok(broker.clone());
        }
        let broker = (self.open)(backend)?;
        opened.insert(backend.into(), broker.clone());
        Ok(broker)
    }

    pub fn all_opened(&self) -> Vec<Arc<dyn Broker>> {
        self.opened().values().cloned().collect()
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<dyn Broker>>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
