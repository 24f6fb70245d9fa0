//! What `up` says when it starts: what runs where, and commands to try that work as they stand.

use super::up::Grounds;
use crate::config::{ENV_FILE, Environment};
use crds::OrderPipeline;
use crds::runtime_config::{Dialect, RuntimeConfig};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The key where none is set.
pub const DEV_KEY: &str = "dev";

/// Where the API's key comes from.
pub enum Key {
    /// A shell that is told to use the variable has it too.
    Variable,
    /// No shell knows it. `plainly`: a line of the file is nothing but its name and itself, so that a shell can take it from there.
    File {
        file: PathBuf,
        plainly: bool,
    },
    Dev,
}

impl Key {
    pub fn of(environment: &Environment, folder: &Path) -> Key {
        match environment.get("API_KEY") {
            // Another terminal may stand in another folder.
            Some(_) if environment.is_from_file("API_KEY") => {
                let file = folder.canonicalize().unwrap_or_else(|_| folder.to_owned()).join(ENV_FILE);
                Key::File { file, plainly: environment.stands_plainly("API_KEY") }
            }
            Some(_) => Key::Variable,
            None => Key::Dev,
        }
    }
}

/// What gives a shell the key of a file.
fn taken_from(file: &Path, plainly: bool) -> String {
    if !plainly {
        return format!("API_KEY='...'    (write the key there: it is API_KEY in {})", file.display());
    }
    let pattern = r#"s/^ *(export )? *API_KEY *= *["']?([^"']*[^"' ])["']? *$/\2/p"#;
    format!("API_KEY=$(sed -nE {} {} | tail -n 1)", quoted(pattern), quoted(&file.to_string_lossy()))
}

/// The last line: how it ends, and what is there afterwards.
fn farewell(keeps: bool) -> &'static str {
    if keeps { "Ctrl-C ends it; the next `up` goes on where it stopped." } else { "Ctrl-C ends it, and what the store holds is gone." }
}

/// As a word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What runs where, and what to try next.
pub fn greeting(
    config: &RuntimeConfig,
    place: &Grounds,
    address: SocketAddr,
    key: &Key,
    encrypted_with: &str,
    example: &str,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{} runs", config.pipeline)?;
    if config.api.is_some() {
        let origin = match key {
            Key::Variable => "from API_KEY".into(),
            Key::File { file, .. } => format!("API_KEY from {}", file.display()),
            Key::Dev => format!("{DEV_KEY:?}, since API_KEY is neither set nor in {ENV_FILE}"),
        };
        writeln!(text, "  api        http://{address}, key {origin}")?;
    }
    if let Some(worker) = &config.worker {
        let topics: Vec<&str> = config.topics_read().map(|topic| topic.name.as_str()).collect();
        writeln!(text, "  worker     group {}, topics {}", worker.group, topics.join(" "))?;
    }
    if let Some(generator) = &config.generator {
        writeln!(text, "  generator  {} {} a second", generator.rate, generator.publishes)?;
    }
    writeln!(text, "  broker     {}", place.broker_is)?;
    writeln!(text, "  store      {}", place.store_is)?;
    if !encrypted_with.is_empty() {
        writeln!(text, "  pii keys   {encrypted_with}")?;
    }
    if let Some(api) = &config.api {
        // Not the key itself: terminals are recorded and shared.
        let shown = if matches!(key, Key::Dev) { DEV_KEY } else { "$API_KEY" };
        writeln!(text, "try")?;
        if let Key::File { file, plainly } = key {
            writeln!(text, "  {}", taken_from(file, *plainly))?;
        }
        let (create, look) = match api.dialect {
            Dialect::Orders => ("orders", "orders?limit=5"),
            Dialect::Cart => ("create-order", "getAllOrderIdsFromTopic?topic="),
        };
        let topic = config.event(&api.creates).and_then(|event| event.topics.first());
        let topic = topic.filter(|_| api.dialect == Dialect::Cart).map_or("", String::as_str);
        writeln!(text, "  curl http://{address}/{create} -H \"X-API-Key: {shown}\" --json {}", quoted(example))?;
        writeln!(text, "  curl \"http://{address}/{look}{topic}\" -H \"X-API-Key: {shown}\"")?;
        if let Some(other) = config.backends.iter().find(|backend| backend.name != *config.backend) {
            writeln!(
                text,
                "  pipeline-runtime switch {} --url http://{address}    (or save the document with another spec.backend)",
                other.name
            )?;
        }
    }
    writeln!(text, "{}", farewell(place.keeps))?;
    Ok(text)
}

/// The document's own example of an order, else one of ours.
pub fn example(pipeline: &OrderPipeline, config: &RuntimeConfig) -> String {
    let event = config.api.as_ref().and_then(|api| pipeline.spec.events.iter().find(|e| e.name == *api.creates));
    let ours = config.api.as_ref().map_or(EXAMPLE, |api| if api.dialect == Dialect::Cart { CART_EXAMPLE } else { EXAMPLE });
    event.and_then(|e| e.example.as_ref()).map_or_else(|| ours.to_owned(), |e| e.0.to_string())
}

/// Orders that the dialects' own schemas accept.
const CART_EXAMPLE: &str = r#"{"orderId":"o-1","itemsCount":2}"#;
const EXAMPLE: &str = r#"{"customerId":"c-1","items":[{"sku":"tea","quantity":2,"unitPrice":3.5}],"totalAmount":7}"#;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_gets_the_key_of_a_file_by_the_command_that_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("it's.env");
        for written in ["API_KEY=th#r$ee\n", "# API_KEY\nexport API_KEY='th#r$ee'", "A=1\nAPI_KEY=\"th#r$ee\"\nB=2\n"] {
            std::fs::write(&file, written).unwrap();
            let command = format!("{}\nprintf %s \"$API_KEY\"", taken_from(&file, true));
            let shell = Command::new("sh").arg("-c").arg(command).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), "th#r$ee", "{written}");
        }
    }

    #[test]
    fn where_no_command_gives_the_key_a_person_is_told_where_it_is() {
        let told = taken_from(Path::new("/shop/.env"), false);
        assert!(told.starts_with("API_KEY=") && told.contains("/shop/.env") && !told.contains("sed"), "{told}");
    }
}
