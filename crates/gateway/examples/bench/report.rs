//! The report, as Markdown that can be read as it is.

use std::time::Duration;

use crate::{
    facts,
    load::quantile,
    run::{
        CONNECTIONS, DIRECT_UNIX, Findings, GATEWAY, LITELLM, Latency, NGINX, Plan, QUIET,
        Requests, median, top,
    },
    streams::EVERY,
};

/// Something the gateway must reach.
pub(crate) struct Target {
    what: String,
    wanted: &'static str,
    found: String,
    /// What nginx shows there, where it is measured alike.
    floor: String,
    pub(crate) is_met: bool,
}

/// Returns the targets, with what was found. Those whose contender is missing are left out.
pub(crate) fn targets(plan: &Plan, findings: &Findings) -> Vec<Target> {
    let mut targets = Vec::new();
    let small = &findings.small;
    if let Some((p50, p99)) = added(&small.latencies, GATEWAY) {
        let (floor50, floor99) = added(&small.latencies, NGINX).unwrap_or_default();
        let ms = |of: &[f64]| format!("{:.3} ms", median(of));
        let at = format!("at half of the top rate ({:.0}/s)", small.rate);
        targets.push(Target {
            what: format!("added latency to the first byte {at}, p50"),
            wanted: "≤ 0.2 ms",
            found: ms(&p50),
            floor: ms(&floor50),
            is_met: median(&p50) <= 0.2,
        });
        targets.push(Target {
            what: "the same, p99".to_owned(),
            wanted: "≤ 1 ms",
            found: ms(&p99),
            floor: ms(&floor99),
            is_met: median(&p99) <= 1.0,
        });
    }
    let rate = |name| top(&small.top, name).map(|top| top.rates.as_slice());
    if let (Some(ours), Some(floor)) = (rate(GATEWAY), rate(NGINX)) {
        let share = 100.0 * median(&ratios(ours, floor));
        targets.push(Target {
            what: "top rate, against nginx as reverse proxy".to_owned(),
            wanted: "≥ 60 %",
            found: format!("{share:.0} %"),
            floor: String::new(),
            is_met: share >= 60.0,
        });
    }
    if let (Some(ours), Some(peer)) = (rate(GATEWAY), rate(LITELLM)) {
        let times = median(&ratios(ours, peer));
        targets.push(Target {
            what: "top rate, against LiteLLM".to_owned(),
            wanted: "≥ 20 times",
            found: format!("{times:.0} times"),
            floor: String::new(),
            is_met: times >= 20.0,
        });
    }
    let most = megabytes(findings.streams.most);
    targets.push(Target {
        what: format!("memory with {} streams open", plan.streams),
        wanted: "< 100 MB",
        found: format!("{:.1} MB", most),
        floor: String::new(),
        is_met: most < 100.0,
    });
    targets.push(Target {
        what: "bodies identical, both ways".to_owned(),
        wanted: "all",
        found: format!(
            "all of {} ({} MiB), and every answer above",
            2 * findings.exchanges,
            findings.compared >> 20
        ),
        floor: String::new(),
        // Another one would have ended the run.
        is_met: true,
    });
    targets
}

/// Returns the whole report.
pub(crate) fn markdown(plan: &Plan, findings: &Findings) -> String {
    let mut out: Vec<String> = vec![
        "# Performance of the gateway".into(),
        String::new(),
        "What it costs to send every request through the gateway, beside a direct connection, nginx as a plain reverse \
         proxy (the practical floor) and LiteLLM's proxy. All in one run on one machine, load and upstream included, so \
         what counts is how the contenders compare, not the absolute numbers. Made by `make bench-gateway`; how is \
         said at the end."
            .into(),
        String::new(),
        "| target | wanted | found | | nginx |".into(),
        "| --- | ---: | ---: | --- | ---: |".into(),
    ];
    out.extend(targets(plan, findings).iter().map(|target| {
        let verdict = if target.is_met { "met" } else { "**missed**" };
        format!(
            "| {} | {} | {} | {verdict} | {} |",
            target.what, target.wanted, target.found, target.floor
        )
    }));
    for requests in [&findings.small, &findings.large] {
        let kb = requests.bytes as f64 / 1e3;
        out.extend([String::new(), format!("## Requests of {kb} kB"), String::new()]);
        top_table(&mut out, requests);
        out.push(String::new());
        latency_table(&mut out, requests, "half of the gateway's top rate");
    }
    out.extend([
        String::new(),
        "## At the rate at which others publish theirs".into(),
        String::new(),
    ]);
    latency_table(&mut out, &findings.published, "of 1.8 kB");
    if let Some(litellm) = &findings.litellm {
        out.extend([String::new(), "## At LiteLLM's pace".into(), String::new()]);
        latency_table(&mut out, litellm, "half of LiteLLM's top rate");
    }
    let (streams, lost) = (&findings.streams, &findings.lost);
    out.extend([
        String::new(),
        format!("## {} streams at once", plan.streams),
        String::new(),
        "| | delay of an event, p50 | p99 |".into(),
        "| --- | ---: | ---: |".into(),
        delays("direct, TCP", &streams.direct),
        delays(GATEWAY, &streams.gateway),
        String::new(),
        format!(
            "Each stream is a request of 47 kB and an answer of {} text deltas, {} ms apart; all are sent at the same \
             moment. The gateway's memory is {:.1} MB before and at most {:.1} MB while they are open.",
            plan.events,
            EVERY.as_millis(),
            megabytes(streams.before),
            megabytes(streams.most)
        ),
        String::new(),
        "## How it is measured".into(),
        String::new(),
    ]);
    out.extend(facts::lines(plan.with_litellm));
    out.extend([
        format!(
            "- {} rounds; in each, every contender has a turn of {} s after {:.1} s of warm-up. Given are the median of the \
             rounds and, in parentheses, the least and the greatest. What is compared is compared within a round.",
            plan.rounds,
            plan.turn.as_secs_f64(),
            plan.turn.as_secs_f64() / 6.0
        ),
        format!(
            "- A turn that lost processor time to others is repeated, up to five times: to other machines (steal in /proc/stat), \
             or, where latencies are measured, to processes of this machine that have no part in the run, if they took more \
             than {} % of all. Of some that all lost time, the one that lost the least counts, whatever it found. Here that \
             was {} more for {} turns; {} of those that count lost more nevertheless, {:.1} ms at most.",
            QUIET * 100.0,
            lost.repeated,
            lost.turns,
            lost.kept,
            lost.most.as_secs_f64() * 1e3
        ),
        format!(
            "- Top rate: {CONNECTIONS} connections, each with one request after the other. \"Processor\" is what the \
             proxy's own processes use per request; load and upstream take the rest of the cores."
        ),
        "- Latency: requests are due at a constant rate on the same number of connections, whatever becomes of them. Measured from \
         when a request is due to the first byte of its answer's body, so that a request that has to wait for a \
         connection is not left out. The load has the first core to itself as far as the contender goes, which has the others \
         (LiteLLM all); else the system may put both on one core, or not, and that alone decides about a p99. The upstream runs \
         where there is room. \"Added\" is against the direct connection by unix socket."
            .into(),
        "- The upstream is nginx on loopback TCP, which answers every POST at once with the same stream of eight events, in chunks, \
         with the API's headers. Headers of requests are the CLI's. Client to nginx and gateway: unix sockets (the gateway has \
         16, one for each replica, nginx one); to LiteLLM: TCP. Nobody uses TLS."
            .into(),
        "- Every answer is compared with the upstream's, byte by byte. Bodies of 2 kB to 31 MiB, by length and in chunks, in pieces of 1 B \
         to 256 KiB, are compared by SHA-256 at both ends."
            .into(),
    ]);
    out.push(String::new());
    out.join("\n")
}

fn top_table(out: &mut Vec<String>, requests: &Requests) {
    out.push("| | top rate, requests/s | of nginx's | processor per request |".into());
    out.push("| --- | ---: | ---: | ---: |".into());
    let floor = top(&requests.top, NGINX).map(|top| top.rates.as_slice());
    for contender in &requests.top {
        let share = floor.map_or(String::new(), |floor| {
            let shares: Vec<f64> =
                ratios(&contender.rates, floor).iter().map(|share| 100.0 * share).collect();
            format!("{} %", spread(&shares, 0))
        });
        let cpu: Vec<f64> = contender.cpu.iter().map(|seconds| 1e6 * seconds).collect();
        let cpu = if cpu.is_empty() { String::new() } else { format!("{} µs", spread(&cpu, 0)) };
        let rate = spread(&contender.rates, 0);
        out.push(format!("| {} | {rate} | {share} | {cpu} |", contender.name));
    }
}

fn latency_table(out: &mut Vec<String>, requests: &Requests, what: &str) {
    out.push(format!("First byte at {:.0} requests/s, {what}, in ms:", requests.rate));
    out.push(String::new());
    out.push("| | p50 | p99 | added p50 | added p99 |".into());
    out.push("| --- | ---: | ---: | ---: | ---: |".into());
    for contender in &requests.latencies {
        let (p50, p99) = match added(&requests.latencies, contender.name) {
            Some((p50, p99)) if contender.name != DIRECT_UNIX => (spread(&p50, 3), spread(&p99, 3)),
            _ => (String::new(), String::new()),
        };
        out.push(format!(
            "| {} | {} | {} | {p50} | {p99} |",
            contender.name,
            spread(&contender.p50, 3),
            spread(&contender.p99, 3)
        ));
    }
}

/// Returns what a contender adds to the direct connection, p50 and p99, by round.
fn added(latencies: &[Latency], name: &str) -> Option<(Vec<f64>, Vec<f64>)> {
    let find = |name: &str| latencies.iter().find(|latency| latency.name == name);
    let (of, direct) = (find(name)?, find(DIRECT_UNIX)?);
    let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
    Some((less(&of.p50, &direct.p50), less(&of.p99, &direct.p99)))
}

fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

fn spread(of: &[f64], digits: usize) -> String {
    let low = of.iter().copied().fold(f64::INFINITY, f64::min);
    let high = of.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.digits$} ({low:.digits$}–{high:.digits$})", median(of))
}

fn delays(name: &str, delays: &[Duration]) -> String {
    let at = |share| quantile(delays, share).as_secs_f64() * 1e3;
    format!("| {name} | {:.2} ms | {:.2} ms |", at(0.5), at(0.99))
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
