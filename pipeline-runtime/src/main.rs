#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use crds::Role;
use crds::document::{MAX_BYTES, Purpose, note_lines};
use crds::runtime_config::SCHEMAS_DIR;
use pipeline_runtime::codec::avro::{self, Remarks};
use pipeline_runtime::config::Schemas;
use pipeline_runtime::roles::{self, LetterFlags, PodFlags, SwitchFlags, UpFlags, complain, say};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc; // settings: .cargo/config.toml

/// Runs an OrderPipeline: all of it on a laptop (`up`), or one role of it in a pod.
#[derive(Debug, Parser)]
#[command(name = "pipeline-runtime", version)]
struct Command {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run the whole document here, with nothing else installed.
    Up(UpFlags),
    /// Ask a pipeline that runs for another backend, over its API, and follow how it goes.
    Switch(SwitchFlags),
    /// See and replay the dead letters of a pipeline that runs, over its API.
    Dlq(LetterFlags),
    /// Report every mistake of a document with its place.
    Check {
        /// Documents; - reads one from the standard input.
        files: Vec<PathBuf>,
    },
    /// Serve the HTTP API.
    Api(PodFlags),
    /// Apply events to the store.
    Worker(PodFlags),
    /// Make orders.
    Generator(PodFlags),
}

fn main() -> ExitCode {
    let command = Command::parse();
    // HTTPS callbacks need one; nothing else has installed any this early.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = match command.what {
        What::Check { files } => return runtime.block_on(check(&files)),
        What::Up(flags) => runtime.block_on(roles::up(flags)),
        What::Dlq(flags) => runtime.block_on(roles::dlq(flags)),
        What::Switch(flags) => runtime.block_on(roles::switch(flags)),
        What::Api(flags) => runtime.block_on(roles::pod(Role::Api, flags)),
        What::Worker(flags) => runtime.block_on(roles::pod(Role::Worker, flags)),
        What::Generator(flags) => runtime.block_on(roles::pod(Role::Generator, flags)),
    };
    // Threads of client libraries that block are not waited for: everything that matters has been settled.
    runtime.shutdown_background();
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    complain(format!("{error:#}"));
    ExitCode::FAILURE
}

/// No more of it than shows that it is too large.
fn standard_input() -> std::io::Result<String> {
    let mut text = String::new();
    std::io::stdin().take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

async fn check(files: &[PathBuf]) -> ExitCode {
    let mut good = !files.is_empty();
    if files.is_empty() {
        complain("check needs at least one file");
    }
    for file in files {
        let (name, read) = match file.as_os_str().to_str() {
            Some("-") => (Path::new("stdin"), standard_input()),
            _ => (file.as_path(), std::fs::read_to_string(file)),
        };
        let read = read.map_err(|e| format!("{} cannot be read: {e}", name.display()));
        let read = read.and_then(|text| Ok((pipeline_runtime::config::document(name, &text, Purpose::Deploy)?, text)));
        match read {
            Ok((pipeline, text)) => {
                let Remarks { mut mistakes, notes } = avro::check(&pipeline, &Schemas::new(SCHEMAS_DIR, name)).await;
                note_lines(&text, &mut mistakes);
                notes.iter().for_each(|note| complain(format!("{}: {note}", name.display())));
                mistakes.iter().for_each(|mistake| complain(format!("{}: {mistake}", name.display())));
                good &= mistakes.is_empty() && say(format!("{}: good", name.display())).is_ok();
            }
            Err(mistakes) => {
                good = false;
                complain(mistakes);
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
