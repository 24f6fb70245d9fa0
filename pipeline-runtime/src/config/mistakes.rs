//! Every file of `pipeline-runtime/mistakes` is a document with one mistake, and begins with what `check` says of it.

use super::document;
use crds::document::Purpose;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn documents() -> BTreeMap<String, String> {
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("mistakes")).unwrap();
    let files = folder.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&file).unwrap())).collect()
}

/// What the comments say at the beginning of a document.
fn expected(text: &str) -> Vec<&str> {
    text.lines().map_while(|line| line.strip_prefix("# ")).collect()
}

fn said(text: &str) -> Vec<String> {
    let said = document(Path::new("x"), text, Purpose::Deploy).err().unwrap_or_default();
    said.lines().map(|line| line.trim_start_matches("x: ").to_owned()).collect()
}

#[test]
fn check_says_of_every_wrong_document_what_stands_at_its_beginning() {
    let documents = documents();
    let wrong: Vec<String> = documents
        .iter()
        .filter(|(_, text)| expected(text) != said(text))
        .map(|(name, text)| format!("{name}:\n  written {:#?}\n  said    {:#?}", expected(text), said(text)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let different: BTreeSet<String> =
        documents.values().flat_map(|text| said(text)).map(|said| said.chars().filter(|c| !c.is_ascii_digit()).collect()).collect();
    assert!(different.len() >= documents.len() && documents.len() >= 30, "{} documents, {} sentences", documents.len(), different.len());
}
