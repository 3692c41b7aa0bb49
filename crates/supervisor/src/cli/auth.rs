//! `supervisor auth`: workers that sign in with a subscription of their own.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use protocol::{Auth, Time, WorkerConfig, WorkerId};
use serde::Deserialize;

use super::context::Context;
use super::table::{Cell, Table};
use super::text::{self, BAD, GOOD, NOTE, moment, paint};
use super::{Outcome, Stop, check, doctor};
use crate::config::{Config, Flags};
use crate::failure::Failure;
use crate::install::{Installation, cant_write};

/// What the CLI's own login may need of the environment: a terminal, a browser, a way out. No key of
/// somebody else is among it.
const PASSED_ON: [&str; 23] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PATH",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "BROWSER",
    "SSH_CONNECTION",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
];

/// Signs a worker in.
pub(crate) async fn login(context: &mut Context, worker: &WorkerId) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    known(&installation, worker)?;
    let config = Config::load(&installation, Flags::default(), |name| std::env::var(name).ok())?;
    let claude = doctor::find_claude(&installation, &config).ok_or_else(|| {
        Failure::unavailable("the Claude Code CLI is not here")
            .hint("`make up` fetches it; or name it by the setting `claude` in `supervisor.toml`.")
    })?;
    let home = make_home(&installation, worker)?;
    context.screen.err(&format!(
        "Signing in {worker} with Claude Code's own login. What it writes stays in {}, which git \
         never sees.\n\n",
        installation.relative(&home)
    ));
    // It has the terminal now, and what is typed there is for it alone.
    let ended = super::interrupt::beside_interrupts(
        tokio::process::Command::new(&claude)
            .args(["auth", "login"])
            .env_clear()
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("CLAUDE_CONFIG_DIR", &home)
            .status(),
    )
    .await
    .map_err(|e| Failure::unavailable(format!("`{}` can't be run", claude.display())).because(e))?;
    let found = Credentials::of(&home);
    if !ended.success() || matches!(found, Credentials::None) {
        return Err(Failure::unavailable(format!("{worker} is not signed in"))
            .because(format!("the login ended with {ended}"))
            .hint(format!("Try again with `supervisor auth login {worker}`."))
            .into());
    }
    context.screen.err(&format!(
        "\n{worker} is signed in. So that it is used, set in workspaces/{worker}/worker.toml:\n\n  \
         auth = \"home\"\n\nthen: supervisor down; make up\n"
    ));
    Ok(Outcome::Done)
}

/// Shows how workers are signed in.
pub(crate) fn status(context: &mut Context, worker: Option<&WorkerId>) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let workers = match worker {
        Some(worker) => {
            known(&installation, worker)?;
            vec![worker.clone()]
        }
        None => check::workers(&installation),
    };
    let rows: Vec<Row> = workers.into_iter().map(|worker| Row::of(&installation, worker)).collect();
    context.screen.out(&render(&rows, text::now(), &context.zone))?;
    let tracked = doctor::tracked_credentials(&installation)?;
    if !tracked.is_empty() {
        let warning = format!("\ngit tracks {}. {}\n", text::list(&tracked), doctor::UNTRACK);
        context.screen.err(&paint(BAD, warning));
    }
    Ok(Outcome::Done)
}

fn known(installation: &Installation, worker: &WorkerId) -> Result<(), Failure> {
    let workers = check::workers(installation);
    if workers.contains(worker) {
        return Ok(());
    }
    let names = || workers.iter().map(WorkerId::as_str);
    let hint = match protocol::strict::nearest(worker.as_str(), names()) {
        Some(name) => format!("Did you mean `{name}`?"),
        None => format!("There are: {}.", text::list(names())),
    };
    Err(Failure::bad_input(format!("there is no worker `{worker}`")).hint(hint))
}

/// Makes the folder of a worker's login, for the user alone.
fn make_home(installation: &Installation, worker: &WorkerId) -> Result<PathBuf, Failure> {
    let home = installation.auth_home(worker);
    let failed = |error| cant_write(&home, error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).map_err(failed)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    Ok(home)
}

/// What is known of a login, without its secrets.
#[derive(Debug, PartialEq)]
enum Credentials {
    None,
    Unreadable,
    Present { subscription: Option<String>, expires: Option<Time> },
}

impl Credentials {
    fn of(home: &Path) -> Self {
        // The tokens themselves are never taken in.
        #[derive(Deserialize)]
        struct File {
            #[serde(rename = "claudeAiOauth")]
            oauth: Option<Login>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Login {
            expires_at: Option<u64>,
            subscription_type: Option<String>,
        }
        let bytes = match fs::read(home.join(".credentials.json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::None,
            Err(_) => return Self::Unreadable,
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(File { oauth: Some(login) }) => Self::Present {
                subscription: login.subscription_type,
                expires: login.expires_at.map(Time::from_millis),
            },
            Ok(File { oauth: None }) => Self::Present { subscription: None, expires: None },
            Err(_) => Self::Unreadable,
        }
    }
}

#[derive(Debug)]
struct Row {
    worker: WorkerId,
    /// `None` when its `worker.toml` can't be read.
    auth: Option<Auth>,
    credentials: Credentials,
}

impl Row {
    fn of(installation: &Installation, worker: WorkerId) -> Self {
        let path = installation.workspace(&worker).join("worker.toml");
        let config = fs::read_to_string(path).ok().map(|text| WorkerConfig::from_toml(&text));
        let auth = config.and_then(Result::ok).map(|config| config.auth);
        let credentials = Credentials::of(&installation.auth_home(&worker));
        Self { worker, auth, credentials }
    }
}

fn render(rows: &[Row], now: Time, zone: &TimeZone) -> String {
    let mut table = Table::new(&["WORKER", "AUTH", "SIGNED IN", "TOKEN UNTIL", "NOTE"]);
    for row in rows {
        let auth = match row.auth {
            Some(Auth::Gateway) => "gateway",
            Some(Auth::Home) => "home",
            None => "?",
        };
        let (signed_in, until): (Cell, String) = match &row.credentials {
            Credentials::None => ("no".into(), "-".to_owned()),
            Credentials::Unreadable => (Cell::styled(BAD, "can't be read"), "-".to_owned()),
            Credentials::Present { subscription, expires } => (
                Cell::styled(GOOD, subscription.as_deref().unwrap_or("yes")),
                expires.map_or_else(|| "-".to_owned(), |time| moment(time, zone)),
            ),
        };
        table.row([
            row.worker.as_str().into(),
            auth.into(),
            signed_in,
            until.into(),
            note(row, now),
        ]);
    }
    table.render()
}

fn note(row: &Row, now: Time) -> Cell {
    let worker = &row.worker;
    match (row.auth, &row.credentials) {
        (None, _) => Cell::styled(BAD, "worker.toml can't be read: `supervisor doctor`"),
        (Some(Auth::Home), Credentials::None | Credentials::Unreadable) => {
            Cell::styled(BAD, format!("`supervisor auth login {worker}` signs it in"))
        }
        (Some(Auth::Home), Credentials::Present { expires: Some(time), .. }) if *time < now => {
            // Nothing in a container can renew it: it reaches the gateway alone.
            Cell::styled(
                BAD,
                format!("expired: `supervisor auth login {worker}` signs it in again"),
            )
        }
        (Some(Auth::Gateway), Credentials::Present { .. }) => {
            Cell::styled(NOTE, "not used: set auth = \"home\" in worker.toml")
        }
        (Some(Auth::Gateway), _) => "uses the supervisor's key".into(),
        (Some(Auth::Home), Credentials::Present { .. }) => "".into(),
    }
}
