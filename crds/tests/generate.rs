//! The program that writes the CRDs.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn with_an_argument_it_says_its_usage_and_writes_nothing() {
    for argument in ["--help", "--check", "elsewhere"] {
        let out = Command::new(env!("CARGO_BIN_EXE_generate-crds")).arg(argument).output().unwrap();
        let (said, written) = (String::from_utf8(out.stderr).unwrap(), String::from_utf8(out.stdout).unwrap());
        assert_eq!((out.status.code(), &*written), (Some(2), ""), "every file that is written is named: {said}");
        assert!(said.starts_with("usage: generate-crds\n"), "{said}");
    }
}
