//! An account at the model's API: its key, and whether that is accepted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use tokio::sync::RwLock;

use crate::{
    credential::Credential,
    pace::AccountId,
    stop::{Stop, StopKind},
};

/// An account, shared by all replicas that have their key from one place.
///
/// When the model's API does not accept the key, or the account has no credit, no further request is sent:
/// each would be told the same, until somebody has done something about it and [`Self::renew`] is called.
#[derive(Debug)]
pub struct Account {
    state: Mutex<State>,
    /// Held for writing while the key is fetched anew: requests wait for the new one.
    renewing: RwLock<()>,
}

#[derive(Debug)]
struct State {
    /// By this the account is known to the limits and to the prompt cache. Others with the same key have the same.
    id: AccountId,
    credential: Option<Arc<Credential>>,
    refused: Option<Stop>,
}

impl Account {
    /// Returns an account of that name. Without a credential the client's own headers
    /// pass, and what the API says of them is between the two.
    pub fn new(id: AccountId, credential: Option<Arc<Credential>>) -> Self {
        let state = Mutex::new(State { id, credential, refused: None });
        Self { state, renewing: RwLock::default() }
    }

    /// Takes the key that `fetching` ends with, and the name of its account, and forgets that one was not accepted.
    /// Without one, the old key gets another chance. Requests wait meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropped before its end, it has changed nothing.
    pub async fn renew(
        &self,
        fetching: impl Future<Output = Option<(AccountId, Arc<Credential>)>>,
    ) {
        let _renewing = self.renewing.write().await;
        let fetched = fetching.await;
        let mut state = self.state();
        state.refused = None;
        if let Some((id, credential)) = fetched {
            (state.id, state.credential) = (id, Some(credential));
        }
    }

    pub(crate) fn id(&self) -> AccountId {
        self.state().id.clone()
    }

    /// Returns the key to send with, if there is one.
    ///
    /// # Errors
    ///
    /// Why nothing is to be sent.
    pub(crate) async fn credential(&self) -> Result<Option<Arc<Credential>>, Stop> {
        let _renewed = self.renewing.read().await;
        let state = self.state();
        match &state.refused {
            Some(stop) => Err(stop.clone()),
            None => Ok(state.credential.clone()),
        }
    }

    /// Takes in an answer that is an error. Returns what it means where it means that the key `used` is
    /// good for nothing.
    pub(crate) fn judge(
        &self,
        used: Option<&Arc<Credential>>,
        status: StatusCode,
        body: &Bytes,
    ) -> Option<Stop> {
        let used = used?;
        let stop = refusal(status, body)?;
        let mut state = self.state();
        // An answer to a key that was replaced meanwhile says nothing about the new one.
        if state.credential.as_ref().is_some_and(|now| Arc::ptr_eq(now, used)) {
            state.refused = Some(stop.clone());
        }
        Some(stop)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    error: ApiError,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

/// The most of the API's own words that go into a message.
const QUOTED: usize = 300;

/// Returns what an error of the API means where it is about the key or the account. "Credit balance is too
/// low" is a 400.
fn refusal(status: StatusCode, body: &[u8]) -> Option<Stop> {
    let ErrorBody { error: ApiError { kind, message } } =
        serde_json::from_slice(body).unwrap_or_default();
    let poor = status == StatusCode::PAYMENT_REQUIRED
        || kind == "billing_error"
        || (status == StatusCode::BAD_REQUEST
            && message.to_ascii_lowercase().contains("credit balance"));
    let unknown = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let said: String = message.chars().filter(|c| !c.is_control()).take(QUOTED).collect();
    let said =
        if said.is_empty() { format!("it says {status}") } else { format!("{said} ({status})") };
    let (kind, message, hint) = if poor {
        (
            StopKind::Billing,
            format!("the model's API wants to be paid: {said}"),
            "Add credit to the account, or use another key.",
        )
    } else if unknown {
        (
            StopKind::Auth,
            format!("the model's API does not accept the key: {said}"),
            "Put a key there that is good for this model; `supervisor doctor` shows where it comes from.",
        )
    } else {
        return None;
    };
    Some(Stop { kind, message, hint: Some(hint.to_owned()), until: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Arc<Credential>> {
        Some(Arc::new(Credential::api_key(text.to_owned()).unwrap()))
    }

    fn body(kind: &str, message: &str) -> Bytes {
        let error =
            serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
        Bytes::from(error.to_string())
    }

    #[tokio::test]
    async fn key_that_is_refused_is_not_sent_again_until_it_is_renewed() {
        let account = Account::new(AccountId::new("a"), key("one"));
        let used = account.credential().await.unwrap();
        let answer = body("authentication_error", "invalid x-api-key");

        let stop = account.judge(used.as_ref(), StatusCode::UNAUTHORIZED, &answer).unwrap();

        assert_eq!(stop.kind, StopKind::Auth);
        assert_eq!(
            stop.message,
            "the model's API does not accept the key: invalid x-api-key (401 Unauthorized)"
        );
        assert_eq!(account.credential().await.unwrap_err(), stop);
        account.renew(async { key("two").map(|key| (AccountId::new("b"), key)) }).await;
        assert_eq!(account.id(), AccountId::new("b"));
        assert!(account.credential().await.unwrap().is_some());
        // The late answer to the old key.
        assert!(account.judge(used.as_ref(), StatusCode::UNAUTHORIZED, &answer).is_some());
        assert!(account.credential().await.is_ok());
    }

    #[test]
    fn only_what_is_about_the_account_stops_it() {
        let about = |status, kind, message| {
            refusal(StatusCode::from_u16(status).unwrap(), &body(kind, message))
                .map(|stop| stop.kind)
        };
        let poor = "Your credit balance is too low to access the API.";
        assert_eq!(about(400, "invalid_request_error", poor), Some(StopKind::Billing));
        assert_eq!(about(402, "billing_error", "pay"), Some(StopKind::Billing));
        assert_eq!(about(403, "permission_error", "no"), Some(StopKind::Auth));
        for (status, kind) in
            [(400, "invalid_request_error"), (404, "not_found_error"), (500, "api_error")]
        {
            assert_eq!(about(status, kind, "credit where it is due"), None, "{status}");
        }
        assert_eq!(
            refusal(StatusCode::UNAUTHORIZED, b"<html>").map(|s| s.kind),
            Some(StopKind::Auth)
        );
    }

    #[tokio::test]
    async fn clients_own_credential_is_between_the_client_and_the_api() {
        let account = Account::new(AccountId::new("a"), None);
        let answer = body("authentication_error", "OAuth token has expired");
        assert_eq!(account.judge(None, StatusCode::UNAUTHORIZED, &answer), None);
        assert!(account.credential().await.is_ok());
    }
}
