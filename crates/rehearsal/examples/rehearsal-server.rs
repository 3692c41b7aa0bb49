//! Serves the stand-in for the model's API, for trying it by hand.
//!
//! ```text
//! cargo run -p rehearsal --example rehearsal-server -- --port 8091 --log requests.jsonl
//! ANTHROPIC_BASE_URL=http://127.0.0.1:8091 ANTHROPIC_API_KEY=none claude -p hello
//! ```

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use rehearsal::{Rehearsal, Scenario, ScenarioError};
use tokio::net::{TcpListener, UnixListener};

/// Serves the stand-in for the model's API until interrupted.
#[derive(Debug, Parser)]
struct Options {
    /// Listen on this port of 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0, conflicts_with = "socket")]
    port: u16,
    /// Listen on this unix socket instead.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Answer by this scenario, a .toml or .json file.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Append a line of JSON for each request.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            if let Some(error) = error.downcast_ref::<ScenarioError>() {
                eprintln!("Hint: {}", error.hint());
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let scenario = options.scenario.as_deref().map(Scenario::load).transpose()?;
    let scenario = scenario.unwrap_or_default();
    let rehearsal = match &options.log {
        None => Rehearsal::new(scenario),
        Some(path) => {
            let log = Mutex::new(OpenOptions::new().create(true).append(true).open(path)?);
            Rehearsal::observed(scenario, move |seen| {
                let line = serde_json::json!(seen);
                let written = log.lock().map(|mut log| writeln!(log, "{line}"));
                if !matches!(written, Ok(Ok(()))) {
                    eprintln!("Error: cannot write the log");
                }
            })
        }
    };
    let interrupted = async {
        // Without the handler there is still SIGKILL, so going on is no trap.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    if let Some(path) = &options.socket {
        let listener = UnixListener::bind(path)?;
        println!("{}", path.display());
        rehearsal.serve_unix(listener, interrupted).await;
    } else {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        println!("http://{}", listener.local_addr()?);
        rehearsal.serve_tcp(listener, interrupted).await;
    }
    Ok(())
}
