//! A request to the model: what happens between its last byte in and its answer's first byte out.
//!
//! It is read as a whole, because what it may cost has to be known before it leaves, and because it may have
//! to be sent again. Then it waits for its turn, and leaves when no budget could be passed by it. An
//! answer that only says "later" goes back into the queue; the client hears of it when the wait would
//! be longer than the client waits.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use tokio::time::{Instant, timeout_at};

use crate::{
    answer,
    ask::Ask,
    booking::Booking,
    client::{Answer, Client, NoAnswer, RequestBody},
    conn::{Conn, Gone},
    desk::Case,
    download::{short, without_key},
    exchange::{End, Exchange},
    http1::{Framing, RequestHead},
    ledger::{OverBudget, Refused, Reservation},
    limits,
    pace::{Held, Next, Turn, WaitReason, Waits, Want},
    prefix::Sender,
    proxy::{Own, Proxy, gone, own},
    stop::{Stop, StopKind},
    tokens::Tokens,
};

/// How many tokens an answer is likely to have, for pacing: most are short, whatever `max_tokens` says.
const OUTPUT_ESTIMATE: u64 = 2_048;

/// Names the CLI's session.
const SESSION: &str = "x-claude-code-session-id";

/// Names the sub-agent that asks.
const AGENT: &str = "x-claude-code-agent-id";

/// A request to the model that was read, and on whose account it goes.
struct Call<'a> {
    request: &'a RequestHead,
    body: Bytes,
    ask: Ask,
    case: &'a Arc<Case>,
    arrived: Instant,
    client: &'a Client,
}

impl Proxy {
    /// Asks the model, and returns its answer with what is to be settled by it; or the gateway's own answer.
    ///
    /// # Cancel safety
    ///
    /// To drop the future is to leave the queue, or to break off the upstream's request; what that request
    /// may have cost by then stays booked.
    pub(crate) async fn ask_model(
        &self,
        request: &RequestHead,
        conn: &mut Conn,
        client: &Client,
        exchange: &mut Exchange,
    ) -> Result<(Answer, Option<Booking>), Own> {
        let arrived = Instant::now();
        let _room = self.room.take(request.framing).await;
        let body = self.whole(conn).await?;
        let case = self.case(exchange)?;
        if let Some(stop) = case.stop() {
            return Err(stopped(stop));
        }
        let ask = Ask::parse(&body).map_err(|why| own(answer::unreadable(&why), End::Own))?;
        exchange.set_model(&ask.model);
        self.judge(&case, &ask.model, &ask.demands)?;
        let call = Call { request, body, ask, case: &case, arrived, client };
        match conn.unless_gone(self.converse(call)).await {
            Ok(answered) => answered,
            Err(Gone) => Err(gone(&self.upstream)),
        }
    }

    /// Holds what a request can cost. While it waits for that, others have its turn.
    async fn afford(
        &self,
        ask: &Ask,
        case: &Case,
        turn: Turn,
        give_up: Instant,
    ) -> Result<Unsent, Poor> {
        let governor = &self.governor;
        let (mut unsent, mut let_go) = (Unsent { turn: Some(turn), reservation: None }, None);
        let release = || {
            if let Some(turn) = unsent.turn.take() {
                let_go = Some((turn.give_back(), Instant::now()));
            }
        };
        let (caller, worst) = (&case.caller, governor.worst(ask));
        let ledger = &governor.ledger;
        let reserving = ledger.reserve_letting_go(caller, &ask.model, worst, give_up, release);
        unsent.reservation = Some(reserving.await.map_err(Poor::Refused)?);
        if let Some((mut want, since)) = let_go {
            want.waited.add(WaitReason::Budget, since.elapsed());
            unsent.turn = Some(governor.pace.turn(want).await.map_err(Poor::Held)?);
        }
        Ok(unsent)
    }

    /// Sends a request until there is an answer that the client has a use for.
    async fn converse(&self, call: Call<'_>) -> Result<(Answer, Option<Booking>), Own> {
        let Call { request, body, ask, case, arrived, client } = call;
        let (caller, governor) = (&case.caller, &self.governor);
        let stop = |stop: Stop| stopped(case.set_stop(stop));
        let account = self.account.id();
        let give_up = arrived + limits::HOLD_TIMEOUT;
        if ask.server_tools
            && let Some(scope) = governor.ledger.bounded(caller)
        {
            return Err(stop(OverBudget::NoBound { scope }.into()));
        }
        let mut waiting = Some(case.waits());
        let prefix = ask.prefix.filter(|_| self.staggers);
        let mut place = governor.stagger.enter(&account, prefix, caller.priority).await;
        let mut waits = Waits::default();
        waits.add(WaitReason::Stagger, place.waited());
        let mut want = Want {
            account: account.clone(),
            worker: caller.worker.clone(),
            model: Arc::clone(&ask.model),
            priority: caller.priority,
            input: ask.input_estimate,
            output: ask.max_tokens.min(OUTPUT_ESTIMATE),
            since: arrived,
            give_up,
            waited: waits,
        };
        // Why the last try reached nobody.
        let mut unreached = None;
        // What comes to nothing has waited, too.
        let in_vain = |waits: &Waits| {
            let waits = waits.in_millis();
            if !waits.is_empty() {
                governor.ledger.note_waits(caller, &ask.model, waits);
            }
        };
        let held_back = |held: Held, unreached| {
            in_vain(&held.waited);
            stop(or_unreached(held, unreached))
        };
        loop {
            waiting.get_or_insert_with(|| case.waits());
            let credential = self.account.credential().await.map_err(stop)?;
            let turn = match governor.pace.turn(want).await {
                Ok(turn) => turn,
                Err(held) => return Err(held_back(held, unreached)),
            };
            let mut unsent = match self.afford(&ask, case, turn, give_up).await {
                Ok(unsent) => unsent,
                Err(Poor::Refused(Refused::OverBudget(over))) => return Err(stop(over.into())),
                Err(Poor::Refused(refused)) => {
                    return Err(own(answer::unbookable(&refused), End::Own));
                }
                Err(Poor::Held(held)) => return Err(held_back(held, unreached)),
            };
            if let Some(stop) = case.stop() {
                // Meanwhile another request of the attempt was told so.
                return Err(stopped(stop));
            }
            place.sent();
            let sender = Sender {
                run: caller.run,
                task: &caller.task,
                attempt: caller.attempt,
                session: request.fields.text(SESSION),
                agent: request.fields.text(AGENT),
            };
            let sent = governor.prefixes.sent((&account, &caller.worker), sender, &ask);
            // Read as a whole, it goes out as a whole, however it came in.
            let framing = Framing::Length(body.len() as u64);
            let head = self.outgoing(request, framing, credential.as_deref())?;
            let to_head = request.method == Method::HEAD;
            let mut out = None;
            let began = || {
                if out.is_none() {
                    (waiting, out) = (None, unsent.take());
                }
            };
            let whole = RequestBody::Whole(body.clone());
            let sending = client.request(head, whole, to_head, began);
            let answered = timeout_at(arrived + limits::RESPONSE_TIMEOUT, sending).await;
            let answer = match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(error @ NoAnswer::Connect(_))) => {
                    let Some((turn, reservation)) = unsent.take() else {
                        panic!("BUG: a request went out without a connection");
                    };
                    want = turn.unreached();
                    reservation.release();
                    let why = answer::cannot_reach(&self.upstream, &error);
                    if unreached.is_none() {
                        tracing::warn!(%caller.task, model = %ask.model, "{why}: trying again.");
                    }
                    governor.outage.began(why.clone());
                    unreached = Some(why);
                    continue;
                }
                // Whatever it took by then is not known: if it went out, turn and reservation stay booked.
                Ok(Err(error)) => return Err(self.no_answer(&error)),
                Err(_elapsed) => return Err(own(answer::silent(&self.upstream), End::Silent)),
            };
            let Some((mut turn, reservation)) = out else {
                panic!("BUG: there is an answer to what did not go out");
            };
            unreached = None;
            governor.outage.ended();
            let status = answer.head.status;
            if let Next::Again(next) = turn.heard(status, answer.head.fields.iter()) {
                want = *next;
                reservation.release();
                tracing::debug!(%caller.task, model = %ask.model, %status, "Going again.");
                short(answer, None).await;
                continue;
            }
            self.check(&answer)?;
            if status.is_success() {
                let content_type = answer.head.fields.text("content-type").unwrap_or_default();
                let agent = request.fields.text(AGENT).map(str::to_owned);
                let waits = *turn.waited();
                let booking = Booking::new(
                    Arc::clone(governor),
                    ask.model,
                    agent,
                    waits,
                    content_type,
                    place,
                    (turn, reservation, sent),
                );
                return Ok((answer, Some(booking)));
            }
            // An error costs nothing.
            in_vain(turn.waited());
            turn.settle(&Tokens::default());
            reservation.release();
            let error = without_key(answer, None, credential.as_deref()).await;
            let stop_at = [400, 401, 402, 403].contains(&status.as_u16());
            let why =
                stop_at.then(|| self.account.judge(credential.as_ref(), status, error.body()));
            return Err(match why.flatten() {
                Some(why) => stop(why),
                None => own(error, End::Complete),
            });
        }
    }
}

/// The turn and the money of a request that is not out yet. Given back when this is dropped, as when the client goes
/// away: dropped by themselves they would count as spent.
struct Unsent {
    turn: Option<Turn>,
    reservation: Option<Reservation>,
}

impl Unsent {
    /// Takes both, for a request that goes out.
    fn take(&mut self) -> Option<(Turn, Reservation)> {
        self.turn.take().zip(self.reservation.take())
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.turn.take().into_iter().for_each(Turn::release);
        self.reservation.take().into_iter().for_each(Reservation::release);
    }
}

/// Why a request that had its turn can't be paid for.
enum Poor {
    Refused(Refused),
    /// It let its turn go while it waited for money, and gets no other in time.
    Held(Held),
}

/// Returns why a request can't go in time; what kept it from the API last, where the pace knows no better.
fn or_unreached(held: Held, unreached: Option<String>) -> Stop {
    match unreached {
        Some(message) if held.until.is_none() => {
            Stop { kind: StopKind::Unreachable, message, ..held.into() }
        }
        _ => held.into(),
    }
}

fn stopped(stop: &Stop) -> Own {
    own(answer::stopped(stop), End::Own)
}
