//! Of requests that share a prefix, one goes first.
//!
//! The API can read a prefix from its cache only after the first answer to a request that wrote it has
//! begun. A hundred requests that start together write it a hundred times, at 1.25 times the
//! price of input; when one goes first, the others read it at a tenth.

mod table;

use std::{
    fmt,
    hash::Hash,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::Priority;
use tokio::{sync::Notify, time::Instant};

use self::table::{Entered, Table};
use crate::ask::{Prefix, hash_of};

/// How long a request waits for another at most: more than a prompt of 200,000 tokens takes to its
/// first byte, and little beside what a model needs for an answer.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Which prefixes are warm, which are being warmed, and who waits for that.
///
/// The rules, for the requests with one prefix on one account:
///
/// 1. While the prefix is warm, all go at once. It is warm from the first byte of an answer until its
///    time to live after the start of the last request whose answer began.
/// 2. While it is not, a request waits as long as another that has gone has not begun to be answered,
///    unless its priority is higher than that of all of those; then it goes as well.
/// 3. No request waits longer than [`LONGEST_WAIT`].
/// 4. When the one that went first goes away without an answer, the next goes: the highest priority
///    first, among equals the one that has waited longest.
///
/// Clones are the same stagger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stagger {
    table: Arc<Mutex<Table>>,
}

/// The place of one request. To drop it before the first byte is to go away: the next one leads.
pub(crate) struct Place {
    /// None for a request that has no prefix worth waiting for, and after the first byte.
    standing: Option<Standing>,
    waited: Duration,
}

struct Standing {
    table: Arc<Mutex<Table>>,
    key: u64,
    prefix: Prefix,
    number: u64,
    started: Instant,
}

impl Stagger {
    /// Returns a stagger to which all prefixes are cold.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Waits until a request may go. Caches belong to an account, so `account` is a part of the key.
    ///
    /// A request that need not wait takes one short lock, and no timer.
    ///
    /// # Cancel safety
    ///
    /// A request that is dropped while it waits leaves no trace; if it was just told to lead, the
    /// next one does.
    pub(crate) async fn enter(
        &self,
        account: impl Hash,
        prefix: Option<Prefix>,
        priority: Priority,
    ) -> Place {
        let Some(prefix) = prefix else {
            return Place { standing: None, waited: Duration::ZERO };
        };
        let key = hash_of((account, prefix.key));
        let started = Instant::now();
        let entered = lock(&self.table).enter(key, priority, started);
        let (number, turn) = match entered {
            Entered::Goes(number) => (number, None),
            Entered::Waits(number, turn) => (number, Some(turn)),
        };
        let table = Arc::clone(&self.table);
        // From here on, to drop the place is to leave the table.
        let standing = Standing { table, key, prefix, number, started };
        let mut place = Place { standing: Some(standing), waited: Duration::ZERO };
        if let Some(turn) = turn {
            place.wait(&turn).await;
        }
        place
    }
}

impl Place {
    async fn wait(&mut self, turn: &Notify) {
        let Some(standing) = &mut self.standing else { return };
        let turn = pin!(turn.notified());
        if tokio::time::timeout(LONGEST_WAIT, turn).await.is_err() {
            lock(&standing.table).give_up(standing.key, standing.number);
        }
        let now = Instant::now();
        self.waited = now - standing.started;
        standing.started = now;
    }

    /// Returns how long the request waited for another one.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Notes that the request is sent only now: the time to live runs from here. Without it, it runs
    /// from the end of the wait.
    pub(crate) fn sent(&mut self) {
        if let Some(standing) = &mut self.standing {
            standing.started = Instant::now();
        }
    }

    /// Notes that the answer begins: the prefix is warm, and who waits for it goes.
    ///
    /// Only for an answer that is one: an error caches nothing, so drop the place then.
    pub(crate) fn first_byte(&mut self) {
        if let Some(standing) = self.standing.take() {
            let until = standing.started + standing.prefix.ttl.duration();
            lock(&standing.table).warmed(standing.key, standing.number, until, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(standing) = self.standing.take() {
            lock(&standing.table).left(standing.key, standing.number);
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warms = self.standing.as_ref().map(|standing| standing.prefix);
        f.debug_struct("Place").field("warms", &warms).field("waited", &self.waited).finish()
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // No code under the lock leaves the table half-changed, so a panic did not either.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
