//! The only way out of a worker's container: to the model's API, and to the hosts on the worker's list.
//!
//! One [`Gateway`] per daemon knows the [`Upstream`], what was spent ([`Ledger`]), what may be, and how
//! fast the API may be asked ([`pace`]). Each replica gets its own unix socket, a [`Listener`], so
//! which replica is calling is known by which socket it calls on: there is no token to steal. The daemon
//! says on which attempt the replica works; each request to the model is booked on that. With a
//! [`Credential`] the gateway adds the API key, which then never enters the container; without one the
//! client's own headers pass.
//!
//! A request's way through is `proxy`: `admission` decides by its first line whose business it is. One to
//! the model (`message`) is read as a whole, is refused where its contents are more than its worker's
//! configuration allows (`policy`), waits for its turn, leaves when no budget could be passed
//! by it, and is settled when its answer ends (`booking`); what passes unbooked is not stored, and not
//! buffered beyond [`limits::BUFFER`] per direction. Answers stream back as they come, metered on the way,
//! so a slow reader slows the writer down. `exchange` says in one debug line how it went, and
//! `audit` notes it for a file of the run. What is for
//! another host goes through `egress`.
//!
//! The HTTP/1.1 is our own (`http1`): a client's connection (`conn`) and the upstream's (`client`) are driven by one task,
//! each message is read and written anew, and what could be read in two ways is refused. hyper serves the egress
//! proxy.
//!
//! # Examples
//!
//! ```no_run
//! use std::{path::Path, sync::Arc, time::SystemTime};
//!
//! use gateway::{
//!     Account, Credential, EgressPolicy, Gateway, Ledger, Prices, Replica, RequestPolicy, Upstream,
//!     pace::{AccountId, PaceConfig},
//! };
//! use protocol::Time;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let now = || Time::ZERO + SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
//! let (ledger, _notices) = Ledger::open(Some(Path::new(".supervisor/ledger.jsonl")), now)?;
//! let upstream = Upstream::parse("https://api.anthropic.com")?;
//! let gateway = Gateway::new(upstream, Prices::built_in(), ledger, PaceConfig::default())?;
//! let key = Arc::new(Credential::api_key(std::env::var("ANTHROPIC_API_KEY")?)?);
//! let replica = Replica {
//!     id: "marie-1".parse()?,
//!     worker: "marie".parse()?,
//!     account: Arc::new(Account::new(AccountId::new("the studio's"), Some(key))),
//!     egress: EgressPolicy { rules: vec!["*.example.org".parse()?] },
//!     requests: RequestPolicy {
//!         models: vec!["claude-sonnet-*".parse()?],
//!         ..RequestPolicy::default()
//!     },
//! };
//! let socket = Path::new("/run/user/1000/supervisor/gateway/marie-1/gateway.sock");
//! let listener = gateway.listen(replica, socket).await?;
//! // … `listener.assign(…)` says on which attempt the replica works …
//! listener.close().await;
//! # Ok(())
//! # }
//! ```

mod account;
mod admission;
mod answer;
mod ask;
mod audit;
mod body;
mod booking;
mod caller;
mod client;
mod conn;
mod credential;
mod desk;
mod download;
mod egress;
mod exchange;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod governor;
mod headers;
mod http1;
mod lanes;
mod ledger;
pub mod limits;
mod listener;
mod message;
mod meter;
mod money;
mod number;
mod outage;
pub mod pace;
mod policy;
mod pool;
mod prefix;
mod prices;
mod proxy;
mod quota;
mod room;
mod scan;
mod secret;
mod socket;
mod stagger;
mod stop;
mod tokens;
mod upstream;

pub use crate::{
    account::Account,
    answer::{GATEWAY_HEADER, REFUSED, STOPPED, UNREACHABLE, WAITED_HEADER},
    audit::{Audit, AuditRecords},
    caller::Caller,
    client::TlsRootsError,
    credential::{Credential, InvalidCredential},
    desk::RefusedRequests,
    egress::{EgressPolicy, Lookup, NotAllowed, Outside, REASON_HEADER, Resolver},
    ledger::{
        Amount, Budget, Day, Entry, Filter, Ledger, LedgerError, Notice, OverBudget, Refused,
        Reservation, Scope, Spent, Standing, Sums, Totals, Worst,
    },
    listener::{Gateway, Listener, PortListener, Replica},
    meter::{Meter, Reading},
    money::Usd,
    policy::RequestPolicy,
    prefix::CacheBreak,
    prices::{
        LongPrompt, LongPromptSetting, Most, Origin, PerMillion, PerSearch, Price, PriceSetting,
        Prices, Rates, RatesSetting, Terms,
    },
    secret::{InvalidSecret, SECRET_HEADER, Secret},
    socket::{DIR_MODE, ListenError, SOCKET_MODE},
    stop::{Stop, StopKind},
    tokens::Tokens,
    upstream::{InvalidUpstream, Upstream},
};
