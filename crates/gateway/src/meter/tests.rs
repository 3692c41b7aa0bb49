use proptest::prelude::*;

use super::*;

const STREAM: &str = "text/event-stream; charset=utf-8";

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\
     \"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[],\
     \"stop_reason\":null,\"usage\":{\"input_tokens\":11,\"cache_creation_input_tokens\":300,\
     \"cache_read_input_tokens\":4000,\"cache_creation\":{\"ephemeral_5m_input_tokens\":200,\
     \"ephemeral_1h_input_tokens\":100},\"output_tokens\":1,\"service_tier\":\"standard\"}}}\n\n";
const DELTA: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\
     \"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":57}}\n\n";
const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn text(text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!(
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":\
         {{\"type\":\"text_delta\",\"text\":{text}}}}}\n\n"
    )
}

fn read(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Reading {
    let mut meter = Meter::new(STREAM);
    pieces.into_iter().for_each(|piece| meter.feed(piece.as_ref()));
    meter.reading()
}

fn start(usage: &str) -> String {
    format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"usage\":{usage}}}}}\n\n"
    )
}

fn delta(usage: &str) -> String {
    format!(
        "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{}},\"usage\":{usage}}}\n\n"
    )
}

fn tokens(input: u64, output: u64, cache_read: u64, writes: [u64; 2]) -> Tokens {
    let [cache_write_5m, cache_write_1h] = writes;
    Tokens { input, output, cache_read, cache_write_5m, cache_write_1h }
}

fn whole() -> Reading {
    Reading {
        tokens: tokens(11, 57, 4000, [200, 100]),
        model: Some("claude-opus-5-5".into()),
        complete: true,
        ..Reading::default()
    }
}

#[test]
fn usage_is_read_from_the_first_and_the_last_event() {
    let ping = "event: ping\ndata: {\"type\":\"ping\"}\n\n: a comment\n\n";
    let all = [START, ping, &text("hello\n\ndata: {\"type\":\"error\"}"), DELTA, STOP].concat();
    assert_eq!(read([&all]), whole());
    assert_eq!(read([all.replace('\n', "\r\n")]), whole());
    assert_eq!(read(all.bytes().map(|byte| [byte])), whole());
    assert_eq!(read(all.replace('\n', "\r\n").bytes().map(|byte| [byte])), whole());
    // An event without a name, after one whose name says that it has no usage.
    for dull in [ping, &text("hello")] {
        let after = [dull, START.split_once('\n').unwrap().1, DELTA].concat();
        assert_eq!(read([&after]), whole());
        assert_eq!(read([after.replace('\n', "\r\n")]), whole());
    }
    // Somebody on the way drops the names, the spaces, or the last blank line.
    let unnamed: String = all
        .lines()
        .filter(|line| !line.starts_with("event"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(read([unnamed]), whole());
    assert_eq!(read([all.replace(": ", ":")]), whole());
    assert_eq!(read([all.trim_end(), "\n"]), whole());
}

#[test]
fn a_stream_that_breaks_off_leaves_what_was_seen() {
    let all = [START, &text("hello"), DELTA, STOP].concat();
    for end in 0..all.len() {
        let reading = read([&all.as_bytes()[..end]]);
        let (started, stopped) = (end + 1 >= START.len(), end + 1 >= all.len() - STOP.len());
        assert_eq!(reading.complete, stopped, "cut at {end}");
        let input = if started { 11 } else { 0 };
        let output = if stopped { 57 } else { u64::from(started) };
        assert_eq!((reading.tokens.input, reading.tokens.output), (input, output), "cut at {end}");
    }
}

#[test]
fn a_stream_that_ends_in_an_error_keeps_its_type() {
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
                 \"message\":\"busy\"}}\n\n";
    let reading = read([START, &text("a"), error]);
    assert_eq!(reading.error.as_deref(), Some("overloaded_error"));
    assert_eq!((reading.complete, reading.tokens.input), (false, 11));
}

/// Measured: what the CLI makes of figures that come twice.
#[test]
fn later_figures_replace_earlier_ones_but_for_zeros() {
    let of = |first: &str, last: &str| read([start(first), delta(last)]).tokens;
    let first = "{\"input_tokens\":100,\"output_tokens\":1}";
    assert_eq!(of(first, "{\"output_tokens\":9}"), tokens(100, 9, 0, [0, 0]));
    assert_eq!(of(first, "{\"input_tokens\":0,\"output_tokens\":9}"), tokens(100, 9, 0, [0, 0]));
    assert_eq!(of(first, "{\"input_tokens\":50}"), tokens(50, 1, 0, [0, 0]));
    assert_eq!(
        of(first, "{\"input_tokens\":200,\"output_tokens\":null}"),
        tokens(200, 1, 0, [0, 0])
    );
    let hour = "{\"input_tokens\":0,\"cache_creation_input_tokens\":10,\"cache_creation\":\
                {\"ephemeral_1h_input_tokens\":4}}";
    assert_eq!(of(hour, "{}"), tokens(0, 0, 0, [6, 4]));
    let more = "{\"cache_creation_input_tokens\":20}";
    assert_eq!(of(hour, more), tokens(0, 0, 0, [16, 4]));
    assert_eq!(of("{}", more), tokens(0, 0, 0, [20, 0]));
    let too_much = "{\"cache_creation_input_tokens\":10,\"cache_creation\":\
                    {\"ephemeral_5m_input_tokens\":9,\"ephemeral_1h_input_tokens\":9}}";
    assert_eq!(of(too_much, "{}"), tokens(0, 0, 0, [1, 9]));
    assert_eq!(of(&too_much.replace("\":9", "\":99"), "{}"), tokens(0, 0, 0, [0, 10]));
    let parts_only = "{\"cache_creation\":{\"ephemeral_5m_input_tokens\":3,\
                      \"ephemeral_1h_input_tokens\":4}}";
    assert_eq!(of(parts_only, "{}"), tokens(0, 0, 0, [3, 4]));
}

#[test]
fn what_the_api_did_beside_the_answer_counts_too() {
    let aside = r#"{"type":"compaction","input_tokens":180000,"output_tokens":3500,
        "cache_read_input_tokens":20,"cache_creation_input_tokens":10,"cache_creation":null}"#
        .replace('\n', "");
    let message = r#"{"type":"message","input_tokens":23000,"output_tokens":1000}"#;
    let all = format!(r#"{{"output_tokens":1000,"iterations":[{aside},{message}]}}"#);
    let begin = start(r#"{"input_tokens":23000,"output_tokens":1,"iterations":null}"#);
    let read = |end: &str| read([begin.as_str(), &delta(end)]).tokens;
    assert_eq!(read(&all), tokens(203_000, 4500, 20, [10, 0]));
    let only = format!(r#"{{"output_tokens":1000,"iterations":[{message}]}}"#);
    assert_eq!(read(&only), tokens(23_000, 1000, 0, [0, 0]));
    assert_eq!(read(r#"{"output_tokens":1000,"iterations":[]}"#), tokens(23_000, 1000, 0, [0, 0]));
}

#[test]
fn what_else_the_cost_depends_on_is_noted() {
    let terms = read([
        start("{\"speed\":\"fast\",\"inference_geo\":\"us\"}"),
        delta("{\"server_tool_use\":{\"web_search_requests\":3,\"web_fetch_requests\":1}}"),
    ])
    .terms;
    assert_eq!(terms, Terms { fast: true, us_only: true, web_searches: 3 });
    let standard = read([start("{\"speed\":\"standard\",\"inference_geo\":\"global\"}")]).terms;
    assert_eq!(standard, Terms::default());
}

#[test]
fn without_its_input_a_stream_is_not_complete() {
    assert!(!read([DELTA, STOP]).complete);
    assert!(read([start("{\"input_tokens\":1}"), STOP.to_owned()]).complete);
    assert!(!read([start("{\"input_tokens\":\"many\"}"), STOP.to_owned()]).complete);
}

#[test]
fn an_answer_that_is_no_stream_is_read_at_its_end() {
    let json = "{\"type\":\"message\",\"model\":\"m\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\
                \"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6}}";
    let mut meter = Meter::new("Application/JSON; charset=utf-8");
    for byte in json.bytes() {
        assert_eq!(meter.reading(), Reading::default());
        meter.feed(&[byte]);
    }
    let reading = meter.reading();
    assert_eq!((reading.tokens, reading.complete), (tokens(5, 6, 0, [0, 0]), true));
    assert_eq!(reading.model.as_deref(), Some("m"));

    let mut meter = Meter::new("application/json");
    meter.feed(
        b"{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"slow\"}}",
    );
    let reading = meter.reading();
    assert_eq!((reading.error.as_deref(), reading.complete), (Some("rate_limit_error"), false));

    for other in ["text/html", "", "application/octet-stream"] {
        let mut meter = Meter::new(other);
        meter.feed(json.as_bytes());
        assert_eq!(meter.reading(), Reading::default(), "{other}");
    }
}

#[test]
fn an_answer_that_is_too_large_is_let_go() {
    let mut meter = Meter::new("application/json");
    for _ in 0..=MAX_WHOLE / 4096 {
        meter.feed(&[b' '; 4096]);
    }
    assert!(matches!(meter.0, Form::Other));
    meter.feed(b"{}");
    assert_eq!(meter.reading(), Reading::default());
}

#[test]
fn a_line_without_an_end_takes_no_memory_and_hides_nothing_after_it() {
    for begin in ["data: ", "event: message_start\ndata: {", "event: ping\ndata: ", "", "\r", ":"] {
        let mut meter = Meter::new(STREAM);
        meter.feed(begin.as_bytes());
        for _ in 0..1_000 {
            meter.feed(&[b'x'; 10_000]);
            let Form::Stream { lines, .. } = &meter.0 else { panic!("it is a stream") };
            assert!(lines.held() <= 128 << 10, "{} bytes are held", lines.held());
        }
        meter.feed(format!("\n\n{START}{DELTA}").as_bytes());
        assert_eq!(meter.reading(), whole(), "{begin:?}");
    }
    // In one piece, which is there anyway.
    let long = format!("data: {}\n", "[".repeat(10 << 20));
    assert_eq!(read([long.as_str(), "\n", START, DELTA]), whole());
}

#[test]
fn deep_json_is_survived() {
    for deep in ["[".repeat(60_000), "{\"a\":".repeat(10_000)] {
        assert_eq!(read([format!("data: {deep}\n\n").as_str(), START, DELTA]), whole());
        let data = format!("data: {{\"type\":\"message_stop\",\"x\":{deep}\n\n");
        assert!(!read([START, &data]).complete);
        let mut meter = Meter::new("application/json");
        meter.feed(deep.as_bytes());
        assert_eq!(meter.reading(), Reading::default());
    }
}

fn events() -> impl Strategy<Value = Vec<String>> {
    let count = 0..1_000_000_u64;
    let event = prop_oneof![
        8 => ".{0,40}".prop_map(|said| text(&said)),
        1 => (count.clone(), count.clone()).prop_map(|(input, read)| start(&format!(
            "{{\"input_tokens\":{input},\"cache_read_input_tokens\":{read},\"x\":[{{}}]}}"
        ))),
        2 => count.prop_map(|output| delta(&format!("{{\"output_tokens\":{output}}}"))),
        1 => Just("event: ping\ndata: {\"type\": \"ping\"}\n\n".to_owned()),
        1 => Just(": comment\n\n\n".to_owned()),
        1 => Just("retry: 5\nid: x\n\n".to_owned()),
        1 => Just(STOP.to_owned()),
    ];
    prop::collection::vec(event, 0..12)
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        events in events(),
        crlf: bool,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let all = events.concat();
        let all = if crlf { all.replace('\n', "\r\n") } else { all };
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
        cuts.extend([0, all.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &all.as_bytes()[pair[0]..pair[1]]);
        prop_assert_eq!(read(pieces), read([&all]));
        prop_assert_eq!(read(all.bytes().map(|byte| [byte])), read([&all]));
    }

    #[test]
    fn nothing_that_an_upstream_sends_is_too_much(
        bytes in prop::collection::vec(
            prop_oneof![
                any::<u8>().prop_map(|byte| vec![byte]),
                Just(b"data:".to_vec()),
                Just(b"\n".to_vec()),
                Just(b"event: ".to_vec()),
                Just(b"{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":".to_vec()),
                Just(b"18446744073709551615".to_vec()),
                Just(b"}}}".to_vec()),
            ],
            0..60,
        ),
        json: bool,
    ) {
        let mut meter = Meter::new(if json { "application/json" } else { STREAM });
        for piece in &bytes {
            meter.feed(piece);
            meter.reading();
        }
    }
}
