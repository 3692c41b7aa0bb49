//! A request's way through: read, understand, decide, deliver.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_ENCODING;
use hyper::{HeaderMap, Method, Request, Response};
use tokio::time::Instant;
use tracing::debug;

use crate::cache::Prefix;
use crate::conversation::Conversation;
use crate::decision::Decision;
use crate::delivery;
use crate::error::ApiError;
use crate::line::ResetSwitch;
use crate::playback::{self, Body, Dropped};
use crate::request::MessagesRequest;
use crate::response::{self, EVENT_STREAM, JSON, response};
use crate::scenario::DropAt;
use crate::seen::SeenRequest;
use crate::server::Shared;
use crate::usage::Usage;

/// The largest request body, in bytes: the API's own limit.
const MAX_BODY: usize = 32 * 1024 * 1024;

/// One client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reset: Arc<ResetSwitch>,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, reset: Arc<ResetSwitch>) -> Self {
        Self { shared, reset }
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// [`Dropped`] when the connection is to break before the head of an answer.
    pub(crate) async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Dropped> {
        let seen = SeenRequest {
            number: self.shared.state().next_number(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            ..SeenRequest::default()
        };
        let method = request.method().clone();
        match (method, seen.path.as_str()) {
            (Method::POST, "/v1/messages") => self.messages(request, seen).await,
            (Method::POST, "/v1/messages/count_tokens") => {
                Ok(self.count_tokens(request, seen).await)
            }
            (Method::GET | Method::HEAD, "/api/hello") => {
                let hello = playback::full(r#"{"message":"hello"}"#);
                let hello = response(200, JSON, seen.number, hello);
                self.saw(SeenRequest { answer: "hello".to_owned(), ..seen });
                Ok(hello)
            }
            (method, path) => {
                let error = ApiError::new(404, format!("a rehearsal has no {method} {path}"));
                Ok(self.refuse(&error, seen))
            }
        }
    }

    async fn messages(
        self,
        request: Request<Incoming>,
        mut seen: SeenRequest,
    ) -> Result<Response<Body>, Dropped> {
        let subagent = subagent(request.headers());
        let body = match read(request).await {
            Ok(body) if body.max_tokens.is_none() => {
                return Ok(self.refuse(&ApiError::new(400, "max_tokens: field required"), seen));
            }
            Ok(body) => body,
            Err(error) => return Ok(self.refuse(&error, seen)),
        };
        let number = seen.number;
        let conversation = Conversation::new(&body, subagent);
        let decision = Decision::make(&self.shared, &conversation, &mut seen);
        self.saw(seen);
        match decision {
            Ok(decision) => self.deliver(decision, number).await,
            Err(refused) => Ok(response::over_limit(refused, number)),
        }
    }

    async fn deliver(self, decision: Decision, number: u64) -> Result<Response<Body>, Dropped> {
        let Decision { step, reply, envelope, writes, stream, limits } = decision;
        tokio::time::sleep(step.delay).await;
        if step.hang {
            return std::future::pending().await;
        }
        if step.drop == Some(DropAt::BeforeHeaders) {
            if step.rst {
                self.reset.set();
            }
            return Err(Dropped);
        }
        let mut answer = response::scripted_error(&step, stream, number).unwrap_or_else(|| {
            let (beats, content_type) = if stream {
                (delivery::stream(&envelope, &reply, &step), EVENT_STREAM)
            } else {
                (delivery::whole(&envelope, &reply, &step), JSON)
            };
            let shared = Arc::clone(&self.shared);
            let begin = move || shared.state().cache.commit(Instant::now(), writes);
            response(200, content_type, number, playback::play(beats, self.reset, begin))
        });
        answer.headers_mut().extend(limits);
        response::add_headers(answer.headers_mut(), &step);
        Ok(answer)
    }

    async fn count_tokens(&self, request: Request<Incoming>, seen: SeenRequest) -> Response<Body> {
        let body = match read(request).await {
            Ok(body) => body,
            Err(error) => return self.refuse(&error, seen),
        };
        let count = Prefix::of(&body).tokens();
        let answer = playback::full(format!("{{\"input_tokens\":{count}}}"));
        let answer = response(200, JSON, seen.number, answer);
        self.saw(SeenRequest {
            model: Some(body.model),
            usage: Some(Usage { input_tokens: count, ..Usage::default() }),
            answer: "count_tokens".to_owned(),
            ..seen
        });
        answer
    }

    fn refuse(&self, error: &ApiError, seen: SeenRequest) -> Response<Body> {
        let answer = response::error(error.status(), error, seen.number);
        self.saw(SeenRequest { answer: format!("http {}", error.status()), ..seen });
        answer
    }

    fn saw(&self, seen: SeenRequest) {
        debug!(
            number = seen.number,
            path = seen.path,
            task = seen.task,
            attempt = seen.attempt,
            turn = seen.turn,
            rule = seen.rule,
            answer = seen.answer,
            "Request answered."
        );
        self.shared.saw(seen);
    }
}

async fn read(request: Request<Incoming>) -> Result<MessagesRequest, ApiError> {
    let encoding = request.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(ApiError::new(400, "a rehearsal reads no compressed request"));
    }
    MessagesRequest::parse(&collect(request.into_body()).await?)
}

async fn collect(body: Incoming) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(413, format!("the request is larger than {MAX_BODY} bytes"));
    // What says beforehand that it is too large needs no reading.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(ApiError::new(400, format!("the request body broke off: {error}"))),
    }
}

fn subagent(headers: &HeaderMap) -> Option<String> {
    headers.get("x-claude-code-agent-id")?.to_str().ok().map(str::to_owned)
}
