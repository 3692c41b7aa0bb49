//! What a request wants of the model's API beyond an answer from what stands in it.

use super::{Place, Unreadable};
use crate::egress::Target;

/// The most demands that a request may have: a conversation has at most 100 images by URL.
const MAX_DEMANDS: usize = 1_000;

/// How much is kept of a name that somebody made up.
const NAME_CHARS: usize = 60;

/// Something that a worker's configuration has to allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) what: What,
    /// Where it stands, if it is no field of the request itself.
    pub(crate) place: Option<Place>,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An answer of another model than the one that is asked.
    Model(String),
    /// That the API takes another model of its own choice.
    AnyModel,
    /// That the API gets something from a host; or why the URL does not say from which.
    Fetch(Result<Target, String>),
    /// A file that is kept at the API.
    File,
    /// A source of a type that is not known.
    Source(String),
    /// A block of a type that is not known.
    Block(String),
    /// A tool that the API runs, or of a type that is not known: its type.
    Tool(String),
    /// The field `mcp_servers`.
    McpServers,
    /// The field `container`.
    Container,
    /// A field that is not known.
    Field(String),
}

/// All that a request wants.
#[derive(Debug, Default)]
pub(crate) struct Demands {
    pub(crate) all: Vec<Demand>,
    /// Where the scan is.
    pub(crate) place: Option<Place>,
}

impl Demands {
    /// Notes one. Of two that are the same and stand side by side one is enough.
    pub(super) fn push(&mut self, what: What) -> Result<(), Unreadable> {
        let demand = Demand { what, place: self.place };
        if self.all.last() == Some(&demand) {
            return Ok(());
        }
        if self.all.len() == MAX_DEMANDS {
            let why = format!("it has more than {MAX_DEMANDS} URLs, files and tools of the API");
            return Err(Unreadable::new(&why));
        }
        self.all.push(demand);
        Ok(())
    }

    /// Notes that something is to be got from a URL.
    pub(super) fn fetch(&mut self, url: &str) -> Result<(), Unreadable> {
        let target = Target::of_source(url).map_err(|refusal| refusal.to_string());
        self.push(What::Fetch(target))
    }

    /// Says that the scan has come to the `at`th tool, or block of the system prompt.
    pub(super) fn at(&mut self, at: u16) {
        self.place = match self.place {
            Some(Place::Tool(_)) => Some(Place::Tool(at)),
            Some(Place::System(_)) => Some(Place::System(at)),
            other => other,
        };
    }
}

/// Returns a name as it can be shown.
pub(super) fn shown(name: &str) -> String {
    name.escape_default().take(NAME_CHARS).collect()
}
