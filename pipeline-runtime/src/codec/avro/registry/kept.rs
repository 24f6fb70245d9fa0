//! The registry of `up`: a file beside the built-in broker's messages, which carry its numbers. It refuses what Confluent's does by default:
//! a schema that cannot read what was written by the one before.

use super::RegistryError;
use crate::codec::avro::read::Plan;
use crate::codec::avro::schema::Schema;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

#[derive(Debug)]
pub struct Kept {
    file: PathBuf,
    /// The number of each is its place, counted from 1.
    schemas: Mutex<Vec<Entry>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    subject: String,
    schema: String,
}

impl Kept {
    pub fn open(file: &Path) -> Result<Kept, RegistryError> {
        let schemas = match std::fs::read_to_string(file) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| away(file, &e.to_string()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(away(file, &e.to_string())),
        };
        Ok(Kept { file: file.to_owned(), schemas: Mutex::new(schemas) })
    }

    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry { subject: subject.to_owned(), schema: schema.to_owned() };
        if let Some(index) = schemas.iter().position(|known| *known == entry) {
            return Ok(index as u32 + 1);
        }
        if let Some(latest) = schemas.iter().rev().find(|known| known.subject == subject) {
            self.must_read(&latest.schema, schema)?;
        }
        let mut more = schemas.clone();
        more.push(entry);
        self.write(&more).map_err(|e| away(&self.file, &e.to_string()))?;
        *schemas = more;
        Ok(schemas.len() as u32)
    }

    pub fn schema(&self, id: u32) -> Result<String, RegistryError> {
        let schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
        let found = (id as usize).checked_sub(1).and_then(|index| schemas.get(index));
        found.map(|entry| entry.schema.clone()).ok_or_else(|| self.refused(format!("there is no schema {id}")))
    }

    fn must_read(&self, latest: &str, schema: &str) -> Result<(), RegistryError> {
        let parse = |text: &str| Schema::parse(text).map_err(|e| self.refused(e.to_string()));
        let plan = Plan::new(&parse(latest)?, &parse(schema)?);
        plan.map(drop).map_err(|why| self.refused(format!("this schema cannot read what was written by the one before: {why}")))
    }

    fn refused(&self, words: String) -> RegistryError {
        RegistryError::Refused { registry: self.file.display().to_string(), words }
    }

    /// As a whole or not at all: a message whose schema was lost could never be read.
    fn write(&self, schemas: &[Entry]) -> std::io::Result<()> {
        let next = self.file.with_extension("json.next");
        let mut file = std::fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec_pretty(schemas)?)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.file)?;
        std::fs::File::open(self.file.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn away(file: &Path, reason: &str) -> RegistryError {
    RegistryError::Away { registry: file.display().to_string(), reason: reason.to_owned() }
}
