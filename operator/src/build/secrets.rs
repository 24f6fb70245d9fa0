//! Which Secrets the document names, and which of them the pods of a role mount: only what they need.

use crate::names::Role;
use crds::pipeline::{SecretKeyRef, SecretRef};
use crds::runtime_config::{RuntimeConfig, StoreConfig};
use std::collections::{BTreeMap, BTreeSet};

/// The keys of a Secret that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// One for each client of the API.
    All,
    /// Those of encrypted fields: which there are, only their names say.
    Encrypting,
    These(BTreeSet<String>),
}

/// By the Secret's name.
pub type Secrets = BTreeMap<String, Keys>;

pub fn of_role(config: &RuntimeConfig, role: Role) -> Secrets {
    let mut secrets = Secrets::new();
    config.backends.iter().flat_map(|backend| backend.secret_keys()).for_each(|reference| key(&mut secrets, reference));
    if role != Role::Generator
        && let StoreConfig::Postgres { url, .. } = &config.store
    {
        key(&mut secrets, url);
    }
    if role == Role::Worker
        && let Some(url) = config.worker.as_ref().and_then(|worker| worker.alert_secret())
    {
        key(&mut secrets, url);
    }
    if let Some(pii) = &config.pii {
        secrets.insert(pii.keys.name.clone(), Keys::Encrypting);
    }
    if role == Role::Api
        && let Some(api) = &config.api
    {
        [Some(&api.keys), api.admin_keys.as_ref()].into_iter().flatten().for_each(|whole| all(&mut secrets, whole));
    }
    secrets
}

/// Those of every role that the pipeline has.
pub fn of_pipeline(config: &RuntimeConfig) -> Secrets {
    let mut secrets = Secrets::new();
    for role in config.roles() {
        for (name, keys) in of_role(config, role) {
            match (secrets.get_mut(&name), keys) {
                (Some(Keys::These(known)), Keys::These(more)) => known.extend(more),
                (Some(Keys::All | Keys::Encrypting), _) => {}
                (_, keys) => {
                    secrets.insert(name, keys);
                }
            }
        }
    }
    secrets
}

fn key(secrets: &mut Secrets, reference: &SecretKeyRef) {
    if let Keys::These(keys) = secrets.entry(reference.name.clone()).or_insert_with(|| Keys::These(BTreeSet::new())) {
        keys.insert(reference.key.clone());
    }
}

fn all(secrets: &mut Secrets, reference: &SecretRef) {
    secrets.insert(reference.name.clone(), Keys::All);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::*;
    use super::*;
    use crds::runtime_config::{AlertConfig, AlertUrl};
    use std::time::Duration;

    fn these(keys: &[&str]) -> Keys {
        Keys::These(keys.iter().map(|&k| k.to_owned()).collect())
    }

    #[test]
    fn each_role_mounts_what_it_needs() {
        let config = crds::resolve(&pipeline(DOCUMENT));
        let broker = ("broker".to_owned(), these(&["ca.crt", "password"]));
        let db = ("db".to_owned(), these(&["url"]));
        let keys = ("keys".to_owned(), Keys::All);
        assert_eq!(of_role(&config, Role::Api), Secrets::from([broker.clone(), db.clone(), keys.clone()]));
        assert_eq!(of_role(&config, Role::Worker), Secrets::from([broker.clone(), db.clone()]));
        assert_eq!(of_role(&config, Role::Generator), Secrets::from([broker.clone()]));
        assert_eq!(of_pipeline(&config), Secrets::from([broker, db, keys]));
    }

    #[test]
    fn the_address_of_an_alert_that_is_a_secret_is_mounted_by_workers_alone() {
        let mut config = crds::resolve(&pipeline(DOCUMENT));
        let reference = SecretKeyRef { name: "chat".into(), key: "url".into() };
        let alert = AlertConfig { when: None, url: AlertUrl::Secret(reference), timeout: Duration::from_secs(5) };
        config.worker.as_mut().unwrap().dead_letters.alert = Some(alert);
        assert_eq!(of_role(&config, Role::Worker).get("chat"), Some(&these(&["url"])));
        assert_eq!(of_role(&config, Role::Api).get("chat"), None);
    }

    #[test]
    fn every_role_mounts_the_keys_of_encrypted_fields() {
        let config = crds::resolve(&pipeline(&DOCUMENT.replace("  api:", "  pii: {keysSecretRef: {name: pii-keys}}\n  api:")));
        for role in Role::ALL {
            assert_eq!(of_role(&config, role).get("pii-keys"), Some(&Keys::Encrypting));
        }
        assert_eq!(of_pipeline(&config).get("pii-keys"), Some(&Keys::Encrypting));
    }
}
