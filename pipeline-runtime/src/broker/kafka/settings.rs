//! Where a cluster is, how to log in, and the settings that every client of it shares.

use crate::broker::BrokerError;
use crds::pipeline::{Kafka as Document, SecretKeyRef, UserAndPassword};
use rdkafka::ClientConfig;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// The backend's name in the document.
    pub name: String,
    /// host:port, separated by commas.
    pub bootstrap_servers: String,
    pub tls: Option<Tls>,
    pub auth: Option<Auth>,
    pub publishing: Publishing,
}

#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The CA that signed the brokers' certificates, as PEM text; None: those that the system trusts.
    pub ca: Option<String>,
}

#[derive(Clone)]
pub enum Auth {
    ScramSha512 {
        username: String,
        password: String,
    },
    Plain {
        username: String,
        password: String,
    },
    /// Both as PEM text. It implies TLS.
    Mtls {
        certificate: String,
        key: String,
    },
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::ScramSha512 { username, .. } => write!(f, "ScramSha512({username})"),
            Auth::Plain { username, .. } => write!(f, "Plain({username})"),
            Auth::Mtls { .. } => write!(f, "Mtls"),
        }
    }
}

/// Well under the usual limit of 1 MB.
const BATCH_BYTES: usize = 128 << 10;

/// How messages are sent.
#[derive(Clone, Copy, Debug)]
pub struct Publishing {
    /// How long a message waits for others to travel with.
    pub linger: Duration,
    /// When the one who publishes gives up.
    pub deadline: Duration,
    /// The most that travels together. A broker that finds it too large for the topic refuses all of it.
    pub batch_bytes: usize,
}

impl Default for Publishing {
    /// For the API, where somebody waits for each ack.
    fn default() -> Self {
        Publishing { linger: Duration::ZERO, deadline: Duration::from_secs(5), batch_bytes: BATCH_BYTES }
    }
}

impl Publishing {
    /// For topics of which the smallest takes messages of so many bytes.
    pub fn for_topics_of(self, smallest: usize) -> Publishing {
        Publishing { batch_bytes: self.batch_bytes.min(smallest.max(1)), ..self }
    }

    /// For those who keep many messages in flight: fewer and fuller requests.
    pub fn throughput() -> Publishing {
        Publishing { linger: Duration::from_millis(5), ..Publishing::default() }
    }
}

impl KafkaSettings {
    /// From a backend of the document. `secret` reads a key of a Secret; certificates and CA are PEM text.
    pub fn read<E: fmt::Display>(
        name: &str,
        document: &Document,
        secret: impl Fn(&SecretKeyRef) -> Result<String, E>,
    ) -> Result<KafkaSettings, BrokerError> {
        let refuse = |reason: String| BrokerError::Refused { backend: name.into(), reason };
        let text =
            |at: &SecretKeyRef| secret(at).map_err(|why| refuse(format!("key {} of Secret {} cannot be read: {why}", at.key, at.name)));
        let login = |by: &UserAndPassword| -> Result<(String, String), BrokerError> {
            // Files made by hand end in a line break that is no part of the password.
            Ok((by.username.clone(), text(&by.password_secret_ref)?.trim_end_matches(['\n', '\r']).to_string()))
        };
        let bootstrap_servers = match &document.bootstrap_servers {
            Some(servers) => servers.to_string(),
            None => return Err(refuse("it names a Strimzi resource, whose address only the operator knows: set bootstrapServers".into())),
        };
        let tls = match &document.tls {
            Some(tls) => Some(Tls { ca: tls.ca_secret_ref.as_ref().map(text).transpose()? }),
            None => None,
        };
        let auth = match &document.auth {
            Some(auth) => match (&auth.scram_sha512, &auth.plain, &auth.mtls) {
                (Some(by), ..) => login(by).map(|(username, password)| Some(Auth::ScramSha512 { username, password }))?,
                (_, Some(by), _) => login(by).map(|(username, password)| Some(Auth::Plain { username, password }))?,
                (.., Some(by)) => Some(Auth::Mtls { certificate: text(&by.certificate_secret_ref)?, key: text(&by.key_secret_ref)? }),
                _ => None,
            },
            None => None,
        };
        Ok(KafkaSettings { name: name.into(), bootstrap_servers, tls, auth, publishing: Publishing::default() })
    }

    /// Who we are there, for people.
    pub(super) fn user(&self) -> String {
        match &self.auth {
            Some(Auth::ScramSha512 { username, .. } | Auth::Plain { username, .. }) => format!("user {username}"),
            Some(Auth::Mtls { .. }) => "the user of this client certificate".into(),
            None => "a client without a login".into(),
        }
    }

    /// What every client of the cluster is configured with.
    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config.set("client.id", "orderpipeline");
        // A broker that is back is found within half a second; the default waits up to ten.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "500");
        config.set("socket.timeout.ms", "10000").set("socket.connection.setup.timeout.ms", "5000").set("socket.keepalive.enable", "true");
        // Topics are made on purpose, with their partitions: never by asking for them. And one that is missing is missing soon.
        config.set("allow.auto.create.topics", "false").set("topic.metadata.propagation.max.ms", "1000");
        config.set("log.connection.close", "false");
        self.secure(&mut config);
        config
    }

    fn secure(&self, config: &mut ClientConfig) {
        let encrypted = self.tls.is_some() || matches!(self.auth, Some(Auth::Mtls { .. }));
        if let Some(ca) = self.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            config.set("ssl.ca.pem", ca);
        }
        let mut by_password = |mechanism: &str, username: &str, password: &str| {
            config.set("sasl.mechanism", mechanism).set("sasl.username", username).set("sasl.password", password);
        };
        match &self.auth {
            Some(Auth::ScramSha512 { username, password }) => by_password("SCRAM-SHA-512", username, password),
            Some(Auth::Plain { username, password }) => by_password("PLAIN", username, password),
            Some(Auth::Mtls { certificate, key }) => {
                config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key);
            }
            None => {}
        }
        let protocol = match (&self.auth, encrypted) {
            (Some(Auth::ScramSha512 { .. } | Auth::Plain { .. }), true) => "SASL_SSL",
            (Some(Auth::ScramSha512 { .. } | Auth::Plain { .. }), false) => "SASL_PLAINTEXT",
            (_, true) => "SSL",
            (_, false) => "PLAINTEXT",
        };
        config.set("security.protocol", protocol);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::io;

    fn read(document: &str) -> Result<KafkaSettings, BrokerError> {
        let document: Document = serde_yaml::from_str(document).unwrap();
        KafkaSettings::read("events", &document, |at| match at.key.as_str() {
            "gone" => Err(io::Error::other("no such file")),
            key => Ok(format!("<{key}>\n")),
        })
    }

    #[test]
    fn a_password_comes_from_its_secret_without_the_line_break_and_is_not_shown() {
        let settings =
            read("{bootstrapServers: 'a:1,b:2', auth: {scramSha512: {username: app, passwordSecretRef: {name: s, key: p}}}}").unwrap();
        let client = settings.client();
        assert_eq!(client.get("bootstrap.servers"), Some("a:1,b:2"));
        assert_eq!(client.get("sasl.password"), Some("<p>"));
        assert_eq!(client.get("security.protocol"), Some("SASL_PLAINTEXT"));
        assert!(!format!("{settings:?}").contains("<p>"));
    }

    #[test]
    fn a_client_certificate_implies_tls() {
        let settings =
            read("{bootstrapServers: 'a:1', auth: {mtls: {certificateSecretRef: {name: s, key: crt}, keySecretRef: {name: s, key: key}}}}")
                .unwrap();
        assert_eq!(settings.client().get("security.protocol"), Some("SSL"));
        assert_eq!(settings.client().get("ssl.key.pem"), Some("<key>\n"));
    }

    #[test]
    fn a_secret_that_cannot_be_read_is_named() {
        let error = read("{bootstrapServers: 'a:1', tls: {caSecretRef: {name: trust, key: gone}}}").unwrap_err();
        assert_eq!(error.to_string(), "events refuses: key gone of Secret trust cannot be read: no such file");
    }
}
