//! Confluent's HTTP interface, which Apicurio, Karapace and others have too. Three questions of it are asked.

use super::RegistryError;
use crate::http;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Of what a registry says, so much is passed on.
const MOST_WORDS: usize = 2000;
/// A larger answer is no schema.
const LARGEST: usize = 4 << 20;

#[derive(Debug)]
pub struct Confluent {
    url: String,
    http: Client,
}

#[derive(Deserialize)]
struct Id {
    id: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Json>,
}

#[derive(Deserialize)]
struct Compatible {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

impl Confluent {
    pub fn new(url: &str) -> Result<Confluent, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let http = http::client()
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(|e| RegistryError::Away { registry: url.clone(), reason: e.to_string() })?;
        Ok(Confluent { url, http })
    }

    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let Id { id } = self.ask(self.post(&format!("/subjects/{subject}/versions"), schema)).await?;
        Ok(id)
    }

    pub async fn schema(&self, id: u32) -> Result<String, RegistryError> {
        let Found { schema, schema_type, references } = self.ask(self.http.get(format!("{}/schemas/ids/{id}", self.url))).await?;
        match schema_type.as_deref() {
            None | Some("AVRO") if references.is_empty() => Ok(schema),
            None | Some("AVRO") => Err(self.refused(format!("schema {id} refers to other subjects, which this runtime does not follow"))),
            Some(other) => Err(self.refused(format!("schema {id} is no Avro but {other}"))),
        }
    }

    /// Why a schema would be refused; None if it would not. Nothing is registered.
    pub async fn objection(&self, subject: &str, schema: &str) -> Result<Option<String>, RegistryError> {
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        match self.ask::<Compatible>(self.post(&path, schema)).await {
            Ok(Compatible { is_compatible: true, .. }) => Ok(None),
            Ok(Compatible { messages, .. }) if messages.is_empty() => Ok(Some("it is not compatible with the latest version".into())),
            Ok(Compatible { messages, .. }) => Ok(Some(messages.join("; "))),
            // Of a subject that is not there every schema may be the first.
            Err(RegistryError::Refused { words, .. }) if words.starts_with("404") => Ok(None),
            Err(RegistryError::Refused { words, .. }) => Ok(Some(words)),
            Err(away) => Err(away),
        }
    }

    fn post(&self, path: &str, schema: &str) -> RequestBuilder {
        let body = json!({"schema": schema, "schemaType": "AVRO"}).to_string();
        self.http.post(format!("{}{path}", self.url)).header("content-type", CONTENT_TYPE).body(body)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, request: RequestBuilder) -> Result<T, RegistryError> {
        let away = |reason: String| RegistryError::Away { registry: self.url.clone(), reason };
        let answer = request.header("accept", format!("{CONTENT_TYPE}, application/json"));
        let mut answer = answer.send().await.map_err(|e| away(http::causes(&e.without_url())))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|e| away(http::causes(&e.without_url())))? {
            if body.len() + piece.len() > LARGEST {
                return Err(self.refused(format!("its answer has more than {} MiB", LARGEST >> 20)));
            }
            body.extend_from_slice(&piece);
        }
        match status {
            status if status.is_success() => {
                serde_json::from_slice(&body).map_err(|e| away(format!("its answer is none of a schema registry: {e}")))
            }
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Err(self.refused(words(status, &body))),
            // Its own code tells a schema that is not there from an address at which there is no registry.
            StatusCode::NOT_FOUND if says_code(&body) => Err(self.refused(words(status, &body))),
            // What a person mends (a login, an address) must not turn messages into dead letters meanwhile.
            status => Err(away(words(status, &body))),
        }
    }

    fn refused(&self, words: String) -> RegistryError {
        RegistryError::Refused { registry: self.url.clone(), words }
    }
}

/// What it says itself, behind the status.
fn words(status: StatusCode, body: &[u8]) -> String {
    let json: Json = serde_json::from_slice(body).unwrap_or_default();
    let message = json.get("message").and_then(Json::as_str).map_or_else(|| String::from_utf8_lossy(body), Into::into);
    format!("{} {}", status.as_u16(), message.trim()).chars().take(MOST_WORDS).collect()
}

fn says_code(body: &[u8]) -> bool {
    serde_json::from_slice::<Json>(body).is_ok_and(|json| json.get("error_code").is_some())
}
