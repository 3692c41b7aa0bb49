//! An installation in a temporary folder, with a daemon's API that a test plays.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Parser;
use futures_util::{StreamExt, stream};
use protocol::atomic_file::{Durability, replace};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::cli::args::Cli;
use crate::cli::context::Context;
use crate::cli::screen::Screen;
use crate::cli::{Stop, dispatch, exit_code, report};
use crate::client::Client;

/// What a command did.
#[derive(Debug)]
pub(super) struct Did {
    pub(super) code: u8,
    pub(super) out: String,
    pub(super) err: String,
}

/// An installation.
#[derive(Debug)]
pub(super) struct World {
    pub(super) dir: TempDir,
}

impl World {
    /// Returns an installation with two workers and the orchestrator, where no daemon runs.
    pub(super) fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for worker in ["marie", "anga", "orchestrator"] {
            let file = format!("workspaces/{worker}/worker.toml");
            world.file(&file, "description = \"Somebody who does things.\"\n");
        }
        world
    }

    /// Returns the same with a daemon that answers by these routes.
    pub(super) fn with_daemon(routes: Router) -> Self {
        let world = Self::new();
        let sockets = world.make_sockets();
        let listener = UnixListener::bind(sockets.join(Client::SOCKET)).unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        world
    }

    /// Makes the folder of the sockets, as a daemon would.
    pub(super) fn make_sockets(&self) -> PathBuf {
        let installation = crate::install::Installation::at(self.dir.path()).unwrap();
        let sockets = self.dir.path().join(format!("supervisor-{}", installation.id()));
        fs::create_dir(&sockets).unwrap();
        self.file(".supervisor/run", &format!("{}\n", sockets.display()));
        sockets
    }

    /// Makes a file with the folders above it.
    pub(super) fn file(&self, path: &str, contents: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        replace(&path, contents.as_bytes(), Durability::Volatile).unwrap();
    }

    pub(super) fn path(&self, path: &str) -> String {
        self.dir.path().join(path).display().to_string()
    }

    /// Carries out a command line.
    pub(super) async fn run(&self, args: &[&str]) -> Did {
        let out = Buffer::default();
        let (code, err) = self.run_to(args, out.clone()).await;
        Did { code, out: self.shown(&out), err }
    }

    /// Carries out a command line whose data goes to `out`.
    pub(super) async fn run_to(
        &self,
        args: &[&str],
        out: impl Write + Send + 'static,
    ) -> (u8, String) {
        let err = Buffer::default();
        let cli = Cli::try_parse_from(["supervisor"].iter().chain(args)).unwrap();
        let screen = Screen::to(out, err.clone());
        let mut context = Context::of(screen, self.dir.path().to_owned());
        // A command that does not end fails its test, and holds no other up.
        let command = dispatch(cli, &mut context, async |_, _| Ok(()));
        let limit = std::time::Duration::from_secs(30);
        let result = tokio::time::timeout(limit, command).await.expect("it should end");
        if let Err(Stop::Failed(failure)) = &result {
            context.screen.err(&report::failure(failure));
        }
        (exit_code(&result), self.shown(&err))
    }

    /// What was written, with the folder's name left out.
    fn shown(&self, buffer: &Buffer) -> String {
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let dir = self.dir.path();
        let real = fs::canonicalize(dir).unwrap();
        let without = |text: String, dir: &Path| text.replace(&dir.display().to_string(), "DIR");
        without(without(text, dir), &real)
    }
}

#[derive(Clone, Debug, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output that somebody has closed.
#[derive(Debug)]
pub(super) struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns an answer in JSON.
pub(super) fn json(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Returns routes that answer a GET of each path with that JSON.
pub(super) fn answers(answers: &[(&str, Value)]) -> Router {
    answers.iter().fold(Router::new(), |router, (path, body)| {
        let body = body.clone();
        router.route(path, get(async move || json(200, body)))
    })
}

/// The events of a run, which a test lets break off.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    lines: Arc<Vec<String>>,
    /// After how many lines each of the next streams breaks.
    breaks: Arc<Mutex<Vec<usize>>>,
    /// After which event each stream was asked for.
    pub(super) asked: Arc<Mutex<Vec<u64>>>,
    /// Whether each stream begins at the beginning, whatever is asked for.
    pub(super) repeats: bool,
}

#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

impl Journal {
    pub(super) fn new(events: &[Value], breaks: &[usize]) -> Self {
        let line = |(at, event): (usize, &Value)| {
            let mut record = serde_json::json!({
                "v": 1, "seq": at + 1, "at": format!("2026-11-20T12:00:{:02}Z", at),
            });
            let fields = event.as_object().unwrap().clone();
            record.as_object_mut().unwrap().extend(fields);
            format!("{record}\n")
        };
        let lines = events.iter().enumerate().map(line).collect();
        let (breaks, asked) = (Arc::new(Mutex::new(breaks.to_vec())), Arc::default());
        Self { lines: Arc::new(lines), breaks, asked, repeats: false }
    }

    /// Returns a route that streams them.
    pub(super) fn route(self, path: &str) -> Router {
        Router::new().route(path, get(Self::stream)).with_state(self)
    }

    async fn stream(State(journal): State<Self>, Query(After { after }): Query<After>) -> Body {
        journal.asked.lock().unwrap().push(after);
        let after = if journal.repeats { 0 } else { after };
        let lines: Vec<String> =
            journal.lines.iter().skip(after.try_into().unwrap()).cloned().collect();
        let lines = lines.into_iter();
        let mut breaks = journal.breaks.lock().unwrap();
        if breaks.is_empty() {
            return Body::from_stream(stream::iter(lines.map(Ok::<_, io::Error>)));
        }
        let whole = lines.take(breaks.remove(0)).map(Ok).collect::<Vec<_>>();
        // Half a line, and then the connection is gone.
        let rest = [Ok("{\"v\":1,\"seq\":".to_owned()), Err(io::Error::other("restarted"))];
        // Apart, so that what was written before the break arrives.
        let slowly = stream::iter(whole.into_iter().chain(rest)).then(async |item| {
            tokio::task::yield_now().await;
            item
        });
        Body::from_stream(slowly)
    }
}
