//! The proof that a report was written by the worker, and not by the agent that ran beside it.
//!
//! The agent runs as the worker's user: it reads the attempt's token in `/tasks` and may write into `/results`. So a
//! report lies in an envelope, `{"proof":"…","report":{…}}`, whose proof is an HMAC-SHA256 by a secret that process 1
//! of the replica has and the agent can't read. The proof covers the bytes of the report as they stand in the file,
//! and there is one way only to write an envelope: no parser sees a byte before its proof is checked.
//!
//! A sequence number would add nothing: one report counts for each task, attempt and token, and all three are in the
//! proof.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{Assignment, Attempt, ReplicaId, RunId, TaskId, Token};

/// The length of keys, secrets and proofs, in bytes.
const BYTES: usize = 32;

/// Each use of HMAC has a tag of its own, so that no output of one is an output of another.
const SECRET_TAG: &[u8] = b"supervisor replica secret 1";
const REPORT_TAG: &[u8] = b"supervisor report 1";
const PRINT_TAG: &[u8] = b"supervisor secret print 1";

const BEFORE_PROOF: &[u8] = b"{\"proof\":\"";
const BEFORE_REPORT: &[u8] = b"\",\"report\":";
const AFTER_REPORT: &[u8] = b"}";

/// How many bytes an envelope adds to its report.
pub const ENVELOPE_BYTES: usize =
    BEFORE_PROOF.len() + 2 * BYTES + BEFORE_REPORT.len() + AFTER_REPORT.len();

/// The daemon's key, of which the secrets of all replicas are made.
#[derive(Clone)]
pub struct ReportKey(Zeroizing<[u8; BYTES]>);

impl ReportKey {
    /// Returns the key of these bytes, which have to be random.
    pub fn new(bytes: [u8; BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the key that a file holds; `None` when that is not 32 bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::new(bytes.try_into().ok()?))
    }

    /// Returns the secret of a replica. It is the same in each life of the daemon, so that a replica that outlives a
    /// daemon can still report.
    pub fn secret(&self, replica: &ReplicaId) -> ReportSecret {
        ReportSecret(Zeroizing::new(mac(&self.0, &[SECRET_TAG, replica.as_str().as_bytes()])))
    }
}

impl fmt::Debug for ReportKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportKey(…)")
    }
}

/// What a replica's process 1 proves its reports with.
#[derive(Clone)]
pub struct ReportSecret(Zeroizing<[u8; BYTES]>);

impl ReportSecret {
    /// The environment variable of process 1 that holds the secret, as 64 hexadecimal digits. No other process gets it.
    pub const VARIABLE: &'static str = "SUPERVISOR_REPORT_SECRET";

    /// Returns the secret as [`VARIABLE`](Self::VARIABLE) holds it.
    pub fn to_hex(&self) -> Zeroizing<String> {
        hex(&self.0)
    }

    /// Returns the secret that [`VARIABLE`](Self::VARIABLE) holds; `None` when that is none.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * BYTES {
            return None;
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }

    /// Returns a text that tells this secret from others and can be shown.
    pub fn print(&self) -> String {
        hex(&mac(&self.0, &[PRINT_TAG]))[..16].to_owned()
    }

    /// Returns the envelope of a report, which is what a result file holds.
    pub fn seal(&self, of: ReportOf<'_>, report: &[u8]) -> Vec<u8> {
        let proof = self.proof(of, report);
        [BEFORE_PROOF, proof.as_bytes(), BEFORE_REPORT, report, AFTER_REPORT].concat()
    }

    /// Returns the report that an envelope holds; `None` when the envelope does not prove that this replica's worker
    /// wrote it about that attempt.
    pub fn open<'a>(&self, of: ReportOf<'_>, envelope: &'a [u8]) -> Option<&'a [u8]> {
        let rest = envelope.strip_prefix(BEFORE_PROOF)?;
        let (proof, rest) = rest.split_at_checked(2 * BYTES)?;
        let report = rest.strip_prefix(BEFORE_REPORT)?.strip_suffix(AFTER_REPORT)?;
        let own = self.proof(of, report);
        bool::from(own.as_bytes().ct_eq(proof)).then_some(report)
    }

    fn proof(&self, of: ReportOf<'_>, report: &[u8]) -> Zeroizing<String> {
        let (run, token) = (of.run.to_string(), of.token.to_string());
        let attempt = of.attempt.get().to_be_bytes();
        let parts = [run.as_bytes(), of.task.as_str().as_bytes(), &attempt, token.as_bytes()];
        let [run, task, attempt, token] = parts;
        hex(&mac(&self.0, &[REPORT_TAG, run, task, attempt, token, report]))
    }
}

impl PartialEq for ReportSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for ReportSecret {}

impl fmt::Debug for ReportSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReportSecret(…)")
    }
}

/// The attempt that a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportOf<'a> {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: &'a TaskId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The attempt's token.
    pub token: Token,
}

impl<'a> ReportOf<'a> {
    /// Returns what the report on an assignment is about.
    pub fn assignment(assignment: &'a Assignment) -> Self {
        Self {
            run: assignment.task.run,
            task: &assignment.task.id,
            attempt: assignment.attempt,
            token: assignment.token,
        }
    }
}

/// Returns the HMAC of parts, each with its length before it: what is in one part can't be taken for another.
fn mac(key: &[u8; BYTES], parts: &[&[u8]]) -> [u8; BYTES] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("BUG: HMAC takes a key of any length");
    };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8; BYTES]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * BYTES));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPORT: &[u8] = b"{\"status\":\"complete\",\"n\":[1,2]}";

    fn key() -> ReportKey {
        ReportKey::new([7; BYTES])
    }

    fn secret(replica: &str) -> ReportSecret {
        key().secret(&replica.parse().unwrap())
    }

    fn of(task: &TaskId, attempt: u32, token: u64) -> ReportOf<'_> {
        let (attempt, token) = (Attempt::new(attempt).unwrap(), Token::from_random(1, token));
        ReportOf { run: RunId::Adhoc, task, attempt, token }
    }

    #[test]
    fn envelope_is_one_json_object_and_opens_to_the_very_bytes() {
        let (secret, task) = (secret("marie-1"), "a".parse().unwrap());
        let envelope = secret.seal(of(&task, 1, 1), REPORT);
        assert_eq!(envelope.len(), REPORT.len() + ENVELOPE_BYTES);
        assert_eq!(secret.open(of(&task, 1, 1), &envelope), Some(REPORT));
        let value: serde_json::Value = serde_json::from_slice(&envelope).unwrap();
        assert_eq!(value["report"]["n"][1], 2);
        assert_eq!(value["proof"].as_str().map(str::len), Some(2 * BYTES));
    }

    #[test]
    fn secret_reaches_its_worker_as_text_and_is_shown_to_nobody() {
        let own = secret("marie-1");
        let text = own.to_hex();
        assert_eq!(ReportSecret::from_hex(&text), Some(own.clone()));
        for bad in ["", "0", &text[1..], &format!("{}g", &text[1..]), &format!("{}ä", &text[2..])]
        {
            assert_eq!(ReportSecret::from_hex(bad), None, "{bad}");
        }
        assert_ne!(own, secret("marie-2"));
        assert_ne!(own, ReportKey::new([8; BYTES]).secret(&"marie-1".parse().unwrap()));
        let shown = format!("{own:?} {:?} {}", key(), own.print());
        assert!(!shown.contains(&text[..8]) && own.print() != secret("marie-2").print(), "{shown}");
    }

    /// What a forger may have: envelopes of other attempts and replicas, the token, and this source.
    #[derive(Clone, Debug)]
    enum Forgery {
        Flip(usize, u8),
        Cut(usize),
        Insert(usize, Vec<u8>),
        OfAttempt(u32),
        OfToken(u64),
        OfTask,
        OfRun,
        OfReplica,
        OfReportKey,
        Unsigned,
        Guessed([u8; BYTES]),
        OtherOrder,
        SecondProof(bool),
        SecondReport(bool),
        UpperCase,
        Spaces,
        Moved(usize),
    }

    fn forgeries() -> impl Strategy<Value = Forgery> {
        use Forgery as F;
        let bytes = prop::collection::vec(any::<u8>(), 1..40);
        prop_oneof![
            (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| F::Flip(at, bit)),
            any::<usize>().prop_map(F::Cut),
            (any::<usize>(), bytes).prop_map(|(at, bytes)| F::Insert(at, bytes)),
            (2..u32::MAX).prop_map(F::OfAttempt),
            (2..u64::MAX).prop_map(F::OfToken),
            any::<[u8; BYTES]>().prop_map(F::Guessed),
            any::<bool>().prop_map(F::SecondProof),
            any::<bool>().prop_map(F::SecondReport),
            (1..REPORT.len()).prop_map(F::Moved),
            prop::sample::select(vec![
                F::OfTask,
                F::OfRun,
                F::OfReplica,
                F::OfReportKey,
                F::Unsigned,
                F::OtherOrder,
                F::UpperCase,
                F::Spaces,
            ]),
        ]
    }

    fn forge(forgery: &Forgery) -> Vec<u8> {
        const FORGED: &[u8] = b"{\"status\":\"complete\",\"n\":[6,6]}";
        let (own, task, other): (_, TaskId, TaskId) =
            (secret("marie-1"), "a".parse().unwrap(), "b".parse().unwrap());
        let this = of(&task, 1, 1);
        let mut honest = own.seal(this, REPORT);
        let text = String::from_utf8(honest.clone()).unwrap();
        let proof = &text[BEFORE_PROOF.len()..BEFORE_PROOF.len() + 2 * BYTES];
        let (report, forged) = (str::from_utf8(REPORT).unwrap(), str::from_utf8(FORGED).unwrap());
        match forgery {
            Forgery::Flip(at, bit) => {
                let at = at % honest.len();
                honest[at] ^= 1 << bit;
                honest
            }
            Forgery::Cut(at) => honest[..at % honest.len()].to_vec(),
            Forgery::Insert(at, bytes) => {
                let at = at % (honest.len() + 1);
                honest.splice(at..at, bytes.iter().copied());
                honest
            }
            Forgery::OfAttempt(attempt) => own.seal(of(&task, *attempt, 1), FORGED),
            Forgery::OfToken(token) => own.seal(of(&task, 1, *token), FORGED),
            Forgery::OfTask => own.seal(of(&other, 1, 1), FORGED),
            Forgery::OfRun => {
                let run = "018f0000-0000-7000-8000-000000000000".parse().unwrap();
                own.seal(ReportOf { run, ..this }, FORGED)
            }
            Forgery::OfReplica => secret("marie-2").seal(this, FORGED),
            Forgery::OfReportKey => ReportSecret(Zeroizing::new([0; BYTES])).seal(this, FORGED),
            Forgery::Unsigned => FORGED.to_vec(),
            Forgery::Guessed(bytes) => {
                format!("{{\"proof\":\"{}\",\"report\":{forged}}}", *hex(bytes)).into_bytes()
            }
            Forgery::OtherOrder => {
                format!("{{\"report\":{report},\"proof\":\"{proof}\"}}").into_bytes()
            }
            Forgery::SecondProof(first) => {
                let (one, two) = if *first { (proof, "0") } else { ("0", proof) };
                format!("{{\"proof\":\"{one}\",\"proof\":\"{two}\",\"report\":{report}}}")
                    .into_bytes()
            }
            Forgery::SecondReport(first) => {
                let (one, two) = if *first { (report, forged) } else { (forged, report) };
                format!("{{\"proof\":\"{proof}\",\"report\":{one},\"report\":{two}}}").into_bytes()
            }
            Forgery::UpperCase => text.replace(proof, &proof.to_uppercase()).into_bytes(),
            Forgery::Spaces => text.replacen(':', ": ", 1).into_bytes(),
            // The same bytes in all, with the border between token and report moved.
            Forgery::Moved(at) => {
                let moved = own.proof(this, &REPORT[*at..]);
                format!("{{\"proof\":\"{}\",\"report\":{report}}}", *moved).into_bytes()
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..Default::default() })]

        #[test]
        fn forger_with_the_token_and_the_source_gets_nothing_accepted_in_10_000_tries(
            forgery in forgeries()
        ) {
            let (own, task) = (secret("marie-1"), "a".parse().unwrap());
            let envelope = forge(&forgery);
            prop_assert_eq!(own.open(of(&task, 1, 1), &envelope), None);
        }
    }
}
