//! What the upstreams answer: a stream of the Messages API, in the shape that the API gives it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Asks our own upstream for a slow stream: how many deltas, and how many milliseconds apart.
pub(crate) const STREAM_HEADER: &str = "x-bench-stream";

macro_rules! begin {
    () => {
        "event: message_start\n\
         data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_01XFDUDYJgAACzvnptvVoYEL\",\
         \"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-sonnet-5-5\",\"content\":[],\
         \"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":25,\
         \"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":11600,\
         \"cache_creation\":{\"ephemeral_5m_input_tokens\":0,\"ephemeral_1h_input_tokens\":0},\
         \"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n\
         event: content_block_start\n\
         data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
         event: ping\n\
         data: {\"type\": \"ping\"}\n\n"
    };
}

macro_rules! delta {
    ($text:literal) => {
        concat!(
            "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,",
            "\"delta\":{\"type\":\"text_delta\",\"text\":\"",
            $text,
            "\"}}\n\n"
        )
    };
}

macro_rules! end {
    () => {
        "event: content_block_stop\n\
         data: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
         event: message_delta\n\
         data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\
         \"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":11600,\
         \"output_tokens\":15}}\n\n\
         event: message_stop\n\
         data: {\"type\":\"message_stop\"}\n\n"
    };
}

pub(crate) const BEGIN: &str = begin!();
pub(crate) const END: &str = end!();

/// The whole answer at once.
pub(crate) const ANSWER: &str =
    concat!(begin!(), delta!("Hello"), delta!(" from the other"), delta!(" end."), end!());

/// The headers of the API's answers that a gateway reads or has to carry; `$time_iso8601` is nginx's.
pub(crate) const HEADERS: [(&str, &str); 18] = [
    ("anthropic-organization-id", "6a9e52f1-8f0c-4e52-bb3e-2a0b6b1f6f6c"),
    ("anthropic-ratelimit-input-tokens-limit", "2000000000"),
    ("anthropic-ratelimit-input-tokens-remaining", "1999999000"),
    ("anthropic-ratelimit-input-tokens-reset", "$time_iso8601"),
    ("anthropic-ratelimit-output-tokens-limit", "400000000"),
    ("anthropic-ratelimit-output-tokens-remaining", "399999000"),
    ("anthropic-ratelimit-output-tokens-reset", "$time_iso8601"),
    ("anthropic-ratelimit-requests-limit", "100000000"),
    ("anthropic-ratelimit-requests-remaining", "99999999"),
    ("anthropic-ratelimit-requests-reset", "$time_iso8601"),
    ("anthropic-ratelimit-tokens-limit", "2400000000"),
    ("anthropic-ratelimit-tokens-remaining", "2399998000"),
    ("anthropic-ratelimit-tokens-reset", "$time_iso8601"),
    ("cache-control", "no-cache"),
    ("cf-cache-status", "DYNAMIC"),
    ("cf-ray", "9a1b2c3d4e5f6789-FRA"),
    ("request-id", "req_011CVJ2WmQ8wC5bY7u4rYh3P"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
];

/// Returns a request's body of about the size that the CLI sends: without tools and with a short prompt
/// 1.8 KB, with all its defaults 47 KB (2.1.327).
pub(crate) fn request_body(size: usize) -> Vec<u8> {
    let begin = "{\"model\":\"claude-sonnet-5-5\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\
                 <system-reminder>\\nThe date is 2026-11-20.\\n</system-reminder>\"},{\"type\":\"text\",\
                 \"text\":\"Review the module and say what you find.\",\"cache_control\":{\"type\":\"ephemeral\"}}]}],\
                 \"system\":[{\"type\":\"text\",\"text\":\"You are a Claude agent, built on Anthropic's Claude Agent SDK.\"},\
                 {\"type\":\"text\",\"text\":\"";
    let end = "\",\"cache_control\":{\"type\":\"ephemeral\"}}],\"tools\":[],\
               \"metadata\":{\"user_id\":\"{\\\"device_id\\\":\\\"b5c1\\\",\\\"account_uuid\\\":\\\"\\\",\
               \\\"session_id\\\":\\\"5245a466-31c5-4f0a-9c9e-0d8f9b6a7c11\\\"}\"},\"max_tokens\":128000,\
               \"thinking\":{\"type\":\"adaptive\",\"display\":\"omitted\"},\"output_config\":{\"effort\":\"high\"},\"stream\":true}";
    // As in a real prompt, there is something to unescape in every line.
    let line = "- Say what is \\\"wrong\\\", where it is, and what to do about it; leave the rest as it was.\\n";
    let lines = size.saturating_sub(begin.len() + end.len()) / line.len();
    format!("{begin}{}{end}", line.repeat(lines)).into_bytes()
}

/// Returns a delta with a text.
pub(crate) fn delta(text: &str) -> String {
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}}\n\n"
    )
}

/// What stands before the time in a delta that says when it was sent.
const SENT: &str = "sent at ";

/// Returns a text that says that it was sent now.
pub(crate) fn sent_now() -> String {
    format!("{SENT}{:020}", monotonic().as_nanos())
}

/// Returns how long ago each delta in a piece of a stream was sent. One that is cut in two is left out.
pub(crate) fn ages(piece: &[u8]) -> Vec<Duration> {
    let now = monotonic();
    let text = String::from_utf8_lossy(piece);
    text.split(SENT)
        .skip(1)
        .filter_map(|rest| rest.get(..20)?.parse().ok())
        .map(|sent| now.saturating_sub(Duration::from_nanos(sent)))
        .collect()
}

/// Returns the time of the clock that all processes of a machine share and nobody sets.
fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}
