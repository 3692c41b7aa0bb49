//! The routes: each asks the dispatcher, or reads a file that is known to be safe.

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use protocol::{Event, Plan, Record, RunId, RunMode, strict};
use scheduler::{Input, Target};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::types::{
    ApiError, DecisionAnswer, DecisionView, ErrorKind, GcReport, GcRequest, Health, NewTask,
    RunView, Shutdown, StatusReport, SubmitRun, TargetName, Transcript, WorkerView,
};
use super::usage::{Estimate, UsageReport};
use crate::admit;
use crate::dispatch::Dispatcher;
use crate::failure::{Failure, FailureKind};
use crate::inbox::Inbox;
use crate::install::Installation;
use crate::journal::Committed;
use crate::{decisions, estimate, usage, view};

/// What the routes need.
#[derive(Clone, Debug)]
pub struct Api {
    /// The dispatcher.
    pub inbox: Inbox,
    /// How far the journals are safe.
    pub committed: Committed,
    /// The installation.
    pub installation: Installation,
    /// What does not change while the daemon runs; without notices.
    pub health: Health,
    /// Where to say that the daemon is to end.
    pub shutdown: mpsc::UnboundedSender<Shutdown>,
}

/// Returns the routes.
pub fn router(api: Api) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, route)| router.route(path, route))
        .fallback(async || missing("there is no such address").into_response())
        // A plan of many tasks; a single file is bounded by the format.
        .layer(DefaultBodyLimit::max(16 << 20))
        .with_state(api)
}

/// Returns each route with what it does. [`openapi`](super::openapi) describes them.
fn routes() -> [(&'static str, MethodRouter<Api>); 19] {
    [
        ("/v1/health", get(health)),
        ("/v1/status", get(status)),
        ("/v1/runs", post(open_run)),
        ("/v1/runs/{id}", get(run)),
        ("/v1/runs/{id}/plan", get(plan)),
        ("/v1/runs/{id}/estimate", get(estimate_plan)),
        ("/v1/runs/{id}/events", get(events)),
        ("/v1/tasks", post(add_task)),
        ("/v1/tasks/{id}", get(task)),
        ("/v1/cancel", post(cancel)),
        ("/v1/retry", post(retry)),
        ("/v1/decisions", get(open_decisions)),
        ("/v1/decisions/{id}", post(decide)),
        ("/v1/usage", get(used)),
        ("/v1/workers", get(workers)),
        ("/v1/logs/{id}", get(logs)),
        ("/v1/gc", post(clear_old)),
        ("/v1/shutdown", post(shut_down)),
        ("/v1/openapi.json", get(async || Json(super::openapi::document()))),
    ]
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::BadInput => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self)).into_response()
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let kind = match failure.kind() {
            FailureKind::BadInput => ErrorKind::BadInput,
            FailureKind::Unavailable => ErrorKind::Unavailable,
        };
        let hint = failure.cure().map(str::to_owned);
        Self { kind, message: failure.to_string(), causes: failure.causes(), hint }
    }
}

fn error(kind: ErrorKind, message: impl Into<String>, hint: &str) -> ApiError {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    ApiError { kind, message: message.into(), causes: Vec::new(), hint }
}

fn missing(message: impl Into<String>) -> ApiError {
    error(ErrorKind::NotFound, message, "`supervisor status` lists runs and tasks.")
}

fn ending() -> ApiError {
    error(ErrorKind::Unavailable, "the supervisor is ending", "Try again when it is up.")
}

type Answer<T> = Result<T, ApiError>;

impl Api {
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Dispatcher) -> T + Send + 'static,
    ) -> Answer<T> {
        self.inbox.ask(question).await.ok_or_else(ending)
    }

    async fn look<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Dispatcher) -> T + Send + 'static,
    ) -> Answer<T> {
        self.inbox.look(question).await.ok_or_else(ending)
    }

    fn health(&self, dispatcher: &Dispatcher) -> Health {
        let notices = [dispatcher.notices(), usage::notices(dispatcher)].concat();
        Health { notices, ..self.health.clone() }
    }
}

/// Parses a body; unlike axum's own, it says which field is wrong and what to do.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    strict::from_slice(bytes).map_err(|fault| {
        let hint = fault.hint();
        Failure::bad_input("the request's body is not right").because(fault).hint(hint).into()
    })
}

async fn health(State(api): State<Api>) -> Answer<Json<Health>> {
    let this = api.clone();
    api.look(move |d| Json(this.health(d))).await
}

#[derive(Debug, Deserialize)]
struct RunQuery {
    run: Option<String>,
}

/// How many runs that have ended are shown where none was asked for.
const ENDED_SHOWN: usize = 5;

async fn status(
    State(api): State<Api>,
    Query(query): Query<RunQuery>,
) -> Answer<Json<StatusReport>> {
    let this = api.clone();
    api.look(move |d| {
        let runs = match &query.run {
            Some(id) => vec![view_run(d, find_run(d, id)?)],
            None => {
                let runs: Vec<_> = d.scheduler().runs().collect();
                let ended = runs.iter().filter(|run| view::has_ended(run)).count();
                let mut hidden = ended.saturating_sub(ENDED_SHOWN);
                let mut shown = Vec::new();
                for run in runs {
                    let idle = run.mode == RunMode::Adhoc
                        && d.scheduler().run_tasks(&run.run).next().is_none();
                    if view::has_ended(run) && hidden > 0 {
                        hidden -= 1;
                    } else if !idle {
                        shown.push(view::run(d.scheduler(), run, d.now()));
                    }
                }
                shown
            }
        };
        let run = query.run.as_ref().and_then(|id| view::find_run(d.scheduler(), id));
        let decisions = decisions::views(d, run);
        let (daemon, workers) = (this.health(d), view_workers(d));
        let today = usage::today(d);
        Ok(Json(StatusReport { daemon, runs, workers, decisions, today }))
    })
    .await?
}

fn find_run(dispatcher: &Dispatcher, id: &str) -> Answer<RunId> {
    view::find_run(dispatcher.scheduler(), id)
        .ok_or_else(|| missing(format!("there is no run `{id}`")))
}

fn view_run(dispatcher: &Dispatcher, id: RunId) -> RunView {
    match dispatcher.scheduler().run(&id) {
        Some(run) => view::run(dispatcher.scheduler(), run, dispatcher.now()),
        None => panic!("BUG: the run {id:?} was just there"),
    }
}

fn view_workers(dispatcher: &Dispatcher) -> Vec<WorkerView> {
    let scheduler = dispatcher.scheduler();
    let view = |worker: &crate::workers::Worker| {
        let running = worker.replicas().filter_map(|replica| {
            let (task, attempt) = scheduler.attempt_on(&replica)?;
            Some(format!("{replica}: {task}, attempt {attempt}"))
        });
        WorkerView {
            worker: worker.id.clone(),
            description: worker.config.description.clone(),
            model: worker.config.model.clone(),
            subagents: worker.subagents.keys().cloned().collect(),
            replicas: worker.config.replicas,
            running: running.collect(),
            paused: decisions::paused(scheduler, &worker.id).cloned(),
            auth: match worker.config.auth {
                protocol::Auth::Gateway => "gateway".to_owned(),
                protocol::Auth::Home => "home".to_owned(),
            },
        }
    };
    dispatcher.workers().values().map(view).collect()
}

async fn workers(State(api): State<Api>) -> Answer<Json<Vec<WorkerView>>> {
    api.look(|d| Json(view_workers(d))).await
}

async fn open_run(State(api): State<Api>, bytes: Bytes) -> Answer<Response> {
    let submitted: SubmitRun = body_of_any_size(&bytes)?;
    let opened = api.ask(move |d| admit::run(d, submitted)).await??;
    Ok((StatusCode::CREATED, Json(opened)).into_response())
}

/// A request may hold a plan of many tasks, larger than any single file.
fn body_of_any_size<T: DeserializeOwned>(bytes: &Bytes) -> Answer<T> {
    if bytes.len() <= strict::MAX_BYTES {
        return body(bytes);
    }
    serde_json::from_slice(bytes).map_err(|fault| {
        Failure::bad_input("the request's body is not right").because(fault).into()
    })
}

async fn run(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    api.look(move |d| {
        let run = find_run(d, &id)?;
        let summary = view::summary(d.scheduler(), d.installation(), d.gateways(), run, d.now());
        Ok(Json(summary.ok_or_else(|| missing(format!("there is no run `{id}`")))?).into_response())
    })
    .await?
}

async fn plan(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    api.look(move |d| {
        let run = find_run(d, &id)?;
        Ok(Json(plan_of(d, run, &id)?).into_response())
    })
    .await?
}

fn plan_of<'a>(dispatcher: &'a Dispatcher, run: RunId, id: &str) -> Answer<&'a Plan> {
    let plan = dispatcher.scheduler().run(&run).and_then(|run| run.plan.as_ref());
    plan.ok_or_else(|| error(ErrorKind::Conflict, format!("the run `{id}` has no plan yet"), ""))
}

async fn estimate_plan(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<Estimate>> {
    api.look(move |d| {
        let run = find_run(d, &id)?;
        Ok(Json(estimate::of(d.scheduler(), plan_of(d, run, &id)?)))
    })
    .await?
}

async fn used(State(api): State<Api>, Query(query): Query<RunQuery>) -> Answer<Json<UsageReport>> {
    let asked = query.run.clone();
    let question = api.look(move |d| {
        let run = asked.map(|id| find_run(d, &id)).transpose()?;
        Ok::<_, ApiError>(usage::Question::new(d, run))
    });
    // Not in the dispatcher's time: it reads all that the ledger knows.
    question.await??.answer().map(Json).ok_or_else(|| {
        let id = query.run.unwrap_or_default();
        let message = format!("what the run `{id}` used is in another ledger");
        let hint = "A rehearsal has a ledger of its own, which is open while the supervisor rehearses. \
                    `results/<run>.json` has the run's figures.";
        error(ErrorKind::Conflict, message, hint)
    })
}

async fn add_task(State(api): State<Api>, bytes: Bytes) -> Answer<Response> {
    let NewTask(json) = body(&bytes)?;
    let added = api.ask(move |d| admit::new_task(d, json)).await??;
    let status = if added.existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(added)).into_response())
}

async fn task(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    api.look(move |d| {
        let entry = id.parse().ok().and_then(|id| d.scheduler().task(&id));
        let entry = entry.ok_or_else(|| missing(format!("there is no task `{id}`")))?;
        let mut view = view::task(d.scheduler(), entry, d.now());
        view.result = entry.result.as_deref().cloned();
        Ok(Json(view).into_response())
    })
    .await?
}

async fn cancel(State(api): State<Api>, bytes: Bytes) -> Answer<Response> {
    about(api, bytes, Input::Cancel).await
}

async fn retry(State(api): State<Api>, bytes: Bytes) -> Answer<Response> {
    about(api, bytes, Input::Retry).await
}

async fn about(api: Api, bytes: Bytes, input: fn(Target) -> Input) -> Answer<Response> {
    let TargetName { id } = body(&bytes)?;
    api.ask(move |d| {
        let target = admit::target(d, &id)
            .ok_or_else(|| missing(format!("there is no run and no task `{id}`")))?;
        d.request(input(target)).map_err(|refusal| ApiError {
            kind: ErrorKind::Conflict,
            ..ApiError::from(admit::failure(&refusal))
        })?;
        Ok(Json(serde_json::json!({})).into_response())
    })
    .await?
}

async fn open_decisions(
    State(api): State<Api>,
    Query(query): Query<RunQuery>,
) -> Answer<Json<Vec<DecisionView>>> {
    api.look(move |d| {
        let run = query.run.map(|id| find_run(d, &id)).transpose()?;
        Ok(Json(decisions::views(d, run)))
    })
    .await?
}

async fn decide(State(api): State<Api>, Path(id): Path<String>, bytes: Bytes) -> Answer<Response> {
    let DecisionAnswer { choice } = body(&bytes)?;
    let id: protocol::DecisionId = id.parse().map_err(|fault| {
        let hint = "`supervisor decisions` lists those that are open.";
        ApiError {
            causes: vec![protocol::InvalidDecisionId::to_string(&fault)],
            ..error(ErrorKind::NotFound, format!("there is no decision `{id}`"), hint)
        }
    })?;
    api.ask(move |d| {
        decisions::decide(d, id, choice)?;
        Ok(Json(serde_json::json!({})).into_response())
    })
    .await?
}

async fn logs(State(api): State<Api>, Path(id): Path<String>) -> Answer<Response> {
    api.look(move |d| {
        let scheduler = d.scheduler();
        let entries: Vec<_> = match admit::target(d, &id) {
            Some(Target::Run(run)) => scheduler.run_tasks(&run).collect(),
            Some(Target::Task(task)) => scheduler.task(&task).into_iter().collect(),
            None => {
                let worker = d.workers().keys().find(|worker| worker.as_str() == id);
                let worker = worker.ok_or_else(|| {
                    missing(format!("there is no run, no task and no worker `{id}`"))
                })?;
                let all = scheduler.runs().flat_map(|run| scheduler.run_tasks(&run.run));
                all.filter(|entry| entry.task.worker == *worker).collect()
            }
        };
        let transcripts: Vec<_> =
            entries.into_iter().flat_map(|entry| transcripts(d.installation(), entry)).collect();
        Ok(Json(transcripts).into_response())
    })
    .await?
}

fn transcripts(
    installation: &Installation,
    entry: &scheduler::TaskEntry,
) -> impl Iterator<Item = Transcript> {
    let task = &entry.task;
    let last = entry.last_attempt.map_or(0, protocol::Attempt::get);
    (1..=last).filter_map(protocol::Attempt::new).map(move |attempt| {
        let live = entry.live().filter(|live| live.attempt == attempt);
        let folder = match live {
            Some(live) => installation
                .result_slot(&task.worker, &live.replica)
                .join(task.id.slot_name(attempt)),
            None => installation.attempt(task.run, &task.id, attempt),
        };
        Transcript {
            task_id: task.id.clone(),
            worker: task.worker.clone(),
            attempt,
            path: folder.join("transcript.jsonl").to_string_lossy().into_owned(),
            live: live.is_some(),
        }
    })
}

async fn shut_down(State(api): State<Api>, bytes: Bytes) -> Answer<Response> {
    let shutdown: Shutdown = body(&bytes)?;
    // The receiver is the daemon's main; it is there until the end.
    let _ = api.shutdown.send(shutdown);
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({}))).into_response())
}

async fn clear_old(State(api): State<Api>, bytes: Bytes) -> Answer<Json<GcReport>> {
    let request: GcRequest = body(&bytes)?;
    let chosen = api.ask(move |d| d.choose_old(request)).await?;
    // What is forgotten goes also when nobody waits for the answer any more.
    let removal = tokio::spawn(async move {
        let (dry_run, tasks) = (chosen.dry_run, chosen.tasks.clone());
        let removal = tokio::task::spawn_blocking(move || chosen.carry_out());
        let report = removal.await.map_err(|_| ending())?;
        if !dry_run {
            // One that is done again meanwhile stays.
            let _ = api.ask(move |d| d.request(Input::Forget(tasks))).await?;
        }
        Ok(Json(report))
    });
    removal.await.map_err(|_| ending())?
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    after: u64,
    /// Where to begin to read. It saves reading what is left out anyway.
    #[serde(default)]
    offset: u64,
}

async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
) -> Answer<Response> {
    let run = api.look(move |d| find_run(d, &id)).await??;
    let reader = JournalReader {
        installation: api.installation.clone(),
        run,
        committed: api.committed.clone(),
        offset: query.offset,
        query,
    };
    let lines = futures_util::stream::unfold(Some(reader), JournalReader::next);
    let body = Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Reads along with a journal: what is safe, and then what becomes safe.
struct JournalReader {
    installation: Installation,
    run: RunId,
    committed: Committed,
    offset: u64,
    query: EventsQuery,
}

impl JournalReader {
    async fn next(this: Option<Self>) -> Option<(Result<Bytes, std::io::Error>, Option<Self>)> {
        let mut this = this?;
        loop {
            // Seen before the length is read, so that what comes after it is not missed.
            this.committed.mark_seen();
            if this.offset < this.committed.length(this.run) {
                let (committed, installation) = (this.committed.clone(), this.installation.clone());
                let (run, from) = (this.run, this.offset);
                let read =
                    tokio::task::spawn_blocking(move || committed.read(&installation, run, from));
                let (records, length) =
                    match read.await.map_err(std::io::Error::other).and_then(|read| read) {
                        Ok(read) => read,
                        Err(error) => return Some((Err(error), None)),
                    };
                this.offset = length;
                let ended = matches!(
                    records.last().map(|record| &record.event),
                    Some(Event::RunEnded { .. })
                );
                let after = this.query.after;
                let lines = lines(records.iter().filter(|record| record.seq > after));
                // A snapshot may take the place of what was read, and have some of it again.
                this.query.after = records.last().map_or(after, |last| last.seq.max(after));
                let next = (this.query.follow && !ended).then_some(this);
                return Some((Ok(lines), next));
            }
            if !this.query.follow || !this.committed.changed().await {
                return None;
            }
        }
    }
}

fn lines<'a>(records: impl Iterator<Item = &'a Record>) -> Bytes {
    let mut lines = Vec::new();
    for record in records {
        if serde_json::to_writer(&mut lines, record).is_ok() {
            lines.push(b'\n');
        }
    }
    lines.into()
}

#[cfg(test)]
mod tests;
