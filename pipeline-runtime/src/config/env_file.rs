//! A `.env` file: variables that a person has written down, read as other programs read such a file.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// The file beside the process's own variables.
pub const ENV_FILE: &str = ".env";

#[derive(Debug, Default)]
pub struct EnvFile {
    variables: BTreeMap<String, String>,
    /// As it is written.
    text: String,
}

impl EnvFile {
    /// None is an empty one. One that is there and cannot be read is a mistake: other keys would be in force than its author believes.
    pub fn read(file: &Path) -> Result<EnvFile, String> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(EnvFile::of(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(EnvFile::default()),
            Err(error) => Err(format!("{} cannot be read: {error}; mend it or remove it", file.display())),
        }
    }

    pub fn of(text: &str) -> EnvFile {
        EnvFile { variables: parse(text), text: text.to_owned() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    #[cfg(test)]
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// Whether a line is the variable's name and nothing but its value, in quotes or not, and no other line speaks of it.
    pub fn has_plainly(&self, name: &str) -> bool {
        let simple = |c: char| c == ' ' || c.is_ascii_graphic() && !"'\"".contains(c);
        let Some(value) = self.get(name).filter(|value| value.chars().all(simple) && value.trim() == *value) else { return false };
        let assignments = ["", "'", "\""].map(|quote| format!("{name}={quote}{value}{quote}"));
        let mut lines = self.text.split('\n').filter(|line| !line.starts_with('#') && line.contains(name));
        let plain = |line: &str| assignments.iter().any(|plain| line.strip_prefix("export ").unwrap_or(line) == plain);
        !value.is_empty() && lines.next().is_some_and(plain) && lines.next().is_none()
    }
}

/// `KEY=value` lines; `#` begins a comment line, and a comment behind a space; a value may stand in quotes.
fn parse(text: &str) -> BTreeMap<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .map(|line| line.trim().trim_start_matches("export "))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), bare(value).to_owned()))
        .collect()
}

/// A value without its quotes and the comment behind it.
fn bare(value: &str) -> &str {
    let quoted = |quote: char| {
        let (inner, behind) = value.trim_start().strip_prefix(quote)?.split_once(quote)?;
        uncommented(behind).is_empty().then_some(inner)
    };
    let plain = uncommented(value);
    // A quote may also stand within quotes of its own kind.
    let odd = |quote: char| plain.strip_prefix(quote)?.strip_suffix(quote);
    ['"', '\''].into_iter().find_map(|quote| quoted(quote).or_else(|| odd(quote))).unwrap_or(plain)
}

fn uncommented(text: &str) -> &str {
    let comment = text.match_indices('#').find(|(at, _)| text[..*at].ends_with(char::is_whitespace));
    text[..comment.map_or(text.len(), |(at, _)| at)].trim()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_env_file_may_quote_comment_and_export() {
        let read = EnvFile::of(
            "# keys\nexport API_KEY='s3 cret'\nKAFKA_BROKERS = a:9092,b:9092 \nEMPTY=\nnonsense\nURL=\"postgres://u:p@h/d?x=1\"\n",
        );
        assert_eq!(read.get("API_KEY"), Some("s3 cret"));
        assert_eq!(read.get("KAFKA_BROKERS"), Some("a:9092,b:9092"));
        assert_eq!(read.get("URL"), Some("postgres://u:p@h/d?x=1"));
        assert_eq!(read.names().count(), 4);
    }

    fn in_file(text: &[u8]) -> Result<EnvFile, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ENV_FILE), text).unwrap();
        EnvFile::read(&folder.path().join(ENV_FILE))
    }

    #[test]
    fn an_env_file_that_is_there_and_cannot_be_read_is_told_and_none_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(ENV_FILE);
        assert_eq!(EnvFile::read(&file).unwrap().get("API_KEY"), None);
        std::fs::create_dir(&file).unwrap();
        let told = EnvFile::read(&file).unwrap_err();
        assert!(told.contains(".env cannot be read: "), "{told}");
        assert!(in_file(b"API_KEY=\xff\n").unwrap_err().contains("UTF-8"));
        let marked = in_file("\u{feff}API_KEY=three\n".as_bytes()).unwrap();
        assert_eq!(marked.get("API_KEY"), Some("three"));
    }

    #[test]
    fn a_space_and_a_sharp_begin_a_comment_but_not_in_quotes() {
        let read = |value: &str| EnvFile::of(&format!("K={value}")).get("K").unwrap().to_owned();
        for (written, meant) in [
            ("secret3 # my key", "secret3"),
            ("secret3#mine", "secret3#mine"),
            ("#secret", "#secret"),
            (" # nothing yet", ""),
            ("'a # b'", "a # b"),
            ("'a # b' # it's mine", "a # b"),
            ("\"it's\"# not a comment", "\"it's\"# not a comment"),
            ("'it\"s'", "it\"s"),
            ("'it's'", "it's"),
            ("'", "'"),
        ] {
            assert_eq!(read(written), meant, "{written}");
        }
    }

    #[test]
    fn a_key_stands_plainly_where_a_line_is_its_name_and_nothing_but_its_value() {
        let plainly = |text: &str| EnvFile::of(text).has_plainly("API_KEY");
        for text in ["API_KEY=three\n", "# API_KEY\nA=1\nexport API_KEY='three'", "API_KEY=\"th#ree\"\n", "API_KEY='two words'\n"] {
            assert!(plainly(text), "{text}");
        }
        for text in [
            "",
            "API_KEY=",
            "API_KEY=three\r\n",
            "API_KEY =three\n",
            "API_KEY='it\"s'\n",
            "API_KEY=' padded '\n",
            "API_KEY=three # mine\n",
            "API_KEY=one\nAPI_KEY=two\n",
            "\u{feff}API_KEY=three\n",
            "MY_API_KEY=three\n",
        ] {
            assert!(!plainly(text), "{text}");
        }
    }
}
