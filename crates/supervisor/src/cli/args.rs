//! The command line.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum, ValueHint};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the run ended, but not every task is complete; of `diff`: the runs part;
       of `doctor --would-allow`: it may not
  2    the command line is wrong
  3    bad input: a request, task, plan or configuration
  4    the daemon can't be reached or can't start
  130  interrupted; the run goes on";

/// Run many Claude Code agents at once
///
/// Splits a request among specialised agents, runs each in a container of its own, keeps to the order
/// that they depend on each other, and puts one answer together. Tasks, results and all that happens
/// are plain files; an interrupted run goes on where it stopped.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// The installation: the folder with `workspaces/`, `tasks/` and `results/`
    ///
    /// By default the current folder, or the nearest above it that has a `supervisor.toml`.
    #[arg(long, global = true, display_order = 100, value_name = "DIR", env = "SUPERVISOR_DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,

    /// When to use color
    #[arg(long, global = true, display_order = 101, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,

    /// Log more to stderr (can be repeated)
    ///
    /// `SUPERVISOR_LOG` takes a filter such as `supervisor=debug,bollard=info` and wins over this.
    #[arg(short, long, global = true, display_order = 102, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the daemon
    ///
    /// Ctrl-C, or SIGTERM, stops the daemon alone: its workers run on, and the next `up` takes them
    /// over. `supervisor down` stops both.
    Up(UpArgs),
    /// Stop the daemon and its workers; what was interrupted is resumed at the next `up`
    ///
    /// Where no daemon runs, it stops the workers that the last one left running.
    Down(DownArgs),
    /// Split a request, run its tasks, and answer it
    Submit(SubmitArgs),
    /// Split a request and print the plan with its price; start nothing
    ///
    /// The price goes by the latest 100 tasks of each worker that were completed and were no rehearsal, over all
    /// their attempts: the sum of the medians, and, to be cautious, that of the 90th percentiles.
    Plan(PlanArgs),
    /// Run one task without a plan
    Task(TaskArgs),
    /// Check task and plan files; start nothing
    Check(CheckArgs),
    /// Show what runs, what waits and why, and what failed and why
    Status(StatusArgs),
    /// Show what was used of the model, and what may be
    ///
    /// Tokens, what the prompt cache read and saved, dollars, what is held for requests whose end is not
    /// known, and how long requests waited for what: by worker, model and run, or by task and attempt; the
    /// budgets and the limits. Days are UTC.
    Usage(UsageArgs),
    /// Show what agents say and do
    Logs(LogsArgs),
    /// Print the answer of a run, or the result of a task
    Result(ResultArgs),
    /// Print what has happened in a run
    Events(EventsArgs),
    /// Show what left the containers of a run, and what was kept from it
    ///
    /// One line for each request to the model and each connection to another host: who, where to, how much, and whether
    /// it was let through. No daemon is needed.
    Egress(EgressArgs),
    /// Fold a run's journal again: how it stood at any point, and why
    ///
    /// Shows the run after its last event, or after the one that is asked for, with the reason of that
    /// event and of all that waits. No daemon is needed. Who had room and what was held is folded from
    /// the journals of all runs; limits are those of today's configuration.
    Replay(ReplayArgs),
    /// Show where two runs part
    ///
    /// Compares them task by task and event by event. Times, ids, tokens, sessions and replicas are left
    /// out, and so are the words of agents and what they cost. Ends with 1 when the runs part. No
    /// daemon is needed.
    Diff(DiffArgs),
    /// Write a plan of what is left of a run, for `submit --plan`
    ///
    /// All work of the run that is not complete. What is complete is not done again: the plan names it as
    /// `given`, so that the new run's tasks and its answer have those results. No daemon is needed.
    Rescue(RescueArgs),
    /// Put an end to a run or a task
    Cancel(TargetArgs),
    /// Do again what did not complete
    Retry(TargetArgs),
    /// List the questions that wait for you
    ///
    /// A budget that is used up, a credential that is refused, an account without credit: what it is
    /// about waits until somebody decides.
    Decisions(JsonArgs),
    /// Answer a question
    Decide(DecideArgs),
    /// List the workers
    Workers(JsonArgs),
    /// Sign workers in with a subscription of their own
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Look for everything that could stop a run, each with its cure
    Doctor(DoctorArgs),
    /// Remove what ended long ago and nothing needs any more
    ///
    /// What goes: the journals of such runs with the transcripts of their attempts; transcripts of other tasks
    /// that ended as long ago; sessions that nothing will go on with; files that a crash left unfinished;
    /// containers of this installation that have ended, and images of workers that nothing uses. What
    /// stays: all that is published in `results/`, unless `--results` is given; open runs, and runs on whose
    /// tasks others depend; the names and results of tasks without a run; what was spent; logins. A run that
    /// is gone can't be shown or retried. Works beside a daemon, and without one.
    Gc(GcArgs),
    /// Print the JSON Schema of a file format
    Schema(SchemaArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
}

/// Which runtime to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RuntimeChoice {
    /// Containers where an engine answers, else processes
    #[default]
    Auto,
    /// Containers
    Docker,
    /// Plain processes, without a container's walls
    Process,
}

/// Arguments of `supervisor up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Go on in the background once the daemon is healthy
    #[arg(short, long)]
    pub detach: bool,

    /// What runs the workers
    #[arg(long, value_name = "RUNTIME")]
    pub runtime: Option<RuntimeChoice>,

    /// Use the built-in stand-in for the model, even with a key
    #[arg(long)]
    pub rehearsal: bool,
}

/// Arguments of `supervisor down`.
#[derive(Args, Debug)]
pub struct DownArgs {
    /// First let what runs come to its end
    #[arg(long)]
    pub drain: bool,
}

/// Arguments of `supervisor submit`.
#[derive(Args, Debug)]
pub struct SubmitArgs {
    /// The request as text, or with --plan a plan; `-` reads standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// The file is a plan: nothing is left to split
    #[arg(long)]
    pub plan: bool,

    /// Return as soon as the run is safe
    #[arg(short, long)]
    pub detach: bool,

    /// A name for the run
    #[arg(long)]
    pub name: Option<String>,

    /// The priority of its tasks
    #[arg(long, value_name = "PRIORITY", default_value = "medium", value_parser = parse_priority)]
    pub priority: protocol::Priority,

    /// The most that the run may spend, in US dollars
    #[arg(long, value_name = "USD", value_parser = parse_budget, allow_negative_numbers = true)]
    pub budget: Option<f64>,

    /// The most tokens that the run may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub budget_tokens: Option<u64>,

    /// Print one line of JSON at the end
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The request as text; `-` reads standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// Print the plan as JSON, for `submit --plan`; its price goes to standard error
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor task`.
#[derive(Args, Debug)]
pub struct TaskArgs {
    /// The worker
    pub worker: protocol::WorkerId,

    /// What to do; `-` reads standard input
    pub text: String,

    /// A task that must be complete first (can be repeated)
    #[arg(long, value_name = "TASK")]
    pub after: Vec<protocol::TaskId>,

    /// The name of the task; made up when left out
    #[arg(long, value_name = "TASK")]
    pub id: Option<protocol::TaskId>,

    /// How soon, when several could run
    #[arg(long, value_name = "PRIORITY", default_value = "medium", value_parser = parse_priority)]
    pub priority: protocol::Priority,

    /// Seconds that one attempt may take
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub timeout: Option<u32>,

    /// Further attempts after a failure that may pass
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=20))]
    pub retries: Option<u32>,

    /// What becomes of it when a task that it depends on fails: skip or run
    #[arg(long, value_name = "WHAT", default_value = "skip", value_parser = ["skip", "run"])]
    pub on_dependency_failure: String,

    /// The most that the task may spend over all its attempts, in US dollars
    #[arg(long, value_name = "USD", value_parser = parse_budget, allow_negative_numbers = true)]
    pub budget: Option<f64>,

    /// The most tokens that the task may use over all its attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub budget_tokens: Option<u64>,

    /// A pattern that an artifact must match (can be repeated)
    #[arg(long, value_name = "GLOB")]
    pub verify_artifact: Vec<String>,

    /// A shell command that must end with 0, run beside the artifacts
    #[arg(long, value_name = "COMMAND")]
    pub verify_command: Option<String>,

    /// Return as soon as the task is safe
    #[arg(short, long)]
    pub detach: bool,

    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Task and plan files
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// Arguments of `supervisor status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// A run, by its id or short form; without it, all that are open and the latest that ended
    pub run: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor usage`.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// A run, by its id or short form; without it, today and all there was
    pub run: Option<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// A run, a task or a worker
    pub id: String,

    /// Go on as more is said
    #[arg(short, long)]
    pub follow: bool,
}

/// Arguments of `supervisor result`.
#[derive(Args, Debug)]
pub struct ResultArgs {
    /// A run or a task
    pub id: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor events`.
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// A run
    pub run: String,

    /// Go on as more happens
    #[arg(short, long)]
    pub follow: bool,

    /// Print the journal as it is: one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor egress`.
#[derive(Args, Debug)]
pub struct EgressArgs {
    /// A run, by its id or short form, or a task
    pub id: String,

    /// Print the lines as they are: one JSON object each
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// A run, by its id or short form
    pub run: String,

    /// The last event: its number, or a time such as 12:01:07 or 2026-11-20T12:01:07Z
    #[arg(long, value_name = "EVENT|TIME")]
    pub(crate) until: Option<super::replay::Until>,

    /// Show each event on the way, why it happened and what it changed
    ///
    /// On a terminal it waits for Enter after each.
    #[arg(long)]
    pub step: bool,

    /// Print JSON: the state, or with --step one object for each event
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// A run, by its id or short form
    #[arg(value_name = "RUN")]
    pub left: String,

    /// The run that it is compared with
    #[arg(value_name = "RUN")]
    pub right: String,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor rescue`.
#[derive(Args, Debug)]
pub struct RescueArgs {
    /// A run, by its id or short form
    pub run: String,

    /// Write the plan into this new file instead of printing it
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

/// Arguments of `supervisor cancel` and `supervisor retry`.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// A run or a task
    pub id: String,
}

/// Arguments of `supervisor decide`.
#[derive(Args, Debug)]
pub struct DecideArgs {
    /// Which one, as `supervisor decisions` lists it: d1
    #[arg(value_name = "DECISION")]
    pub id: protocol::DecisionId,

    /// The answer.
    #[command(subcommand)]
    pub answer: Answer,
}

/// An answer to a question.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Answer {
    /// Let what waits go on where it was stopped
    ///
    /// Where a budget is used up, it takes a larger one.
    GoOn {
        /// The most that may be spent from now on, in US dollars, what is spent included
        #[arg(long, value_name = "USD", value_parser = parse_budget, allow_negative_numbers = true)]
        budget: Option<f64>,

        /// The most tokens that may be used from now on, those that are used included
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        budget_tokens: Option<u64>,
    },
    /// Leave it at that
    ///
    /// A task fails, a run is cancelled; of a worker or of the whole installation, those tasks fail that
    /// were stopped, and the others go on.
    Stop,
}

/// Arguments of commands that only list.
#[derive(Args, Debug)]
pub struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What to do about a worker's own login.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Sign a worker in
    Login {
        /// The worker
        worker: protocol::WorkerId,
    },
    /// Show how workers are signed in
    Status {
        /// A worker; all of them when left out
        worker: Option<protocol::WorkerId>,
    },
}

/// Arguments of `supervisor doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print each value of the configuration with its origin
    #[arg(long)]
    pub config: bool,

    /// Say whether a worker may reach a host, or a URL, and by which rule
    ///
    /// Checks nothing else. Ends with 1 when it may not, and says which line would allow it.
    #[arg(long, num_args = 2, value_names = ["HOST", "WORKER"], conflicts_with = "config")]
    pub would_allow: Option<Vec<String>>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor gc`.
#[derive(Args, Debug)]
pub struct GcArgs {
    /// How long to keep what has ended: 30d, 12h, 2w
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_age)]
    pub keep: std::time::Duration,

    /// Remove nothing: print what would go
    #[arg(long)]
    pub dry_run: bool,

    /// Remove the published results and answers too; only so do tasks go that were dropped by hand
    #[arg(long)]
    pub results: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `supervisor schema`.
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// The format
    #[arg(value_parser = protocol::schema::NAMES)]
    pub name: String,
}

/// Arguments of `supervisor completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Which shell
    pub shell: clap_complete::Shell,
}

fn parse_priority(text: &str) -> Result<protocol::Priority, String> {
    match text {
        "low" => Ok(protocol::Priority::Low),
        "medium" => Ok(protocol::Priority::Medium),
        "high" => Ok(protocol::Priority::High),
        _ => Err("must be high, medium or low".to_owned()),
    }
}

/// Reads a time as people write it: a number and a unit, in any case, with or without a space.
fn parse_age(text: &str) -> Result<std::time::Duration, String> {
    let text = text.trim();
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let seconds: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 7 * 86_400,
        "" => return Err("a unit is missing: write 30d, 12h or 2w".to_owned()),
        _ => return Err("must be a number and a unit: 30d, 12h, 90min or 2w".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "must begin with a number, as in 30d")?;
    let seconds = number.checked_mul(seconds).ok_or("is longer than anything")?;
    Ok(std::time::Duration::from_secs(seconds))
}

fn parse_budget(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(usd) if protocol::checked::is_budget(usd) => Ok(usd),
        _ => Err("must be from 0.0001 to 1000000 (US dollars)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_age;

    #[test]
    fn ages_are_read_as_people_write_them() {
        let seconds = |text| parse_age(text).map(|age| age.as_secs());
        assert_eq!(seconds("30d"), Ok(30 * 86_400));
        assert_eq!(seconds(" 12 H "), Ok(12 * 3_600));
        assert_eq!(seconds("2weeks"), Ok(14 * 86_400));
        assert_eq!(seconds("0s"), Ok(0));
        for wrong in ["30", "d", "", "1y", "-3d", "1.5d", "99999999999999999999d"] {
            parse_age(wrong).unwrap_err();
        }
    }
}
