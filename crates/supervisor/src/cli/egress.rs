//! `supervisor egress`: what left the containers of a run, and what was kept from it.

use std::io::{BufRead as _, BufReader, ErrorKind};

use jiff::tz::TimeZone;
use protocol::disk::File;
use protocol::{EgressKind, EgressRecord, EgressTry, EgressVerdict, Event, RunId, TaskId};

use super::args::EgressArgs;
use super::context::Context;
use super::history::History;
use super::table::{Cell, Table};
use super::text::{BAD, NOTE, clock, number, one_line, paint};
use super::{Outcome, Stop};
use crate::failure::Failure;
use crate::install::Installation;

/// Carries out the command.
pub(crate) fn run(context: &mut Context, args: &EgressArgs) -> Result<Outcome, Stop> {
    let installation = context.installation()?;
    let (run, task) = find(&installation, &args.id)?;
    let records = read(&installation, run, task.as_ref())?;
    if args.json {
        for record in &records {
            context.screen.out_json(record)?;
        }
    } else {
        context.screen.out(&render(&records, &context.zone))?;
    }
    Ok(Outcome::Done)
}

/// Returns the run that is meant, or the run of the task.
fn find(installation: &Installation, id: &str) -> Result<(RunId, Option<TaskId>), Failure> {
    let history = History::read(installation)?;
    let is_it = |record: &protocol::Record| match &record.event {
        Event::TaskAdded { task, .. } => task.id.as_str() == id,
        _ => false,
    };
    match history.find(id) {
        Ok(story) => Ok((story.run, None)),
        Err(no_run) => match history.all().into_iter().find(|(_, record)| is_it(record)) {
            Some((run, _)) => Ok((run, id.parse().ok())),
            None => Err(no_run),
        },
    }
}

/// Reads a run's file, or those lines of it that are about a task. The last line may not be whole yet.
fn read(
    installation: &Installation,
    run: RunId,
    task: Option<&TaskId>,
) -> Result<Vec<EgressRecord>, Failure> {
    let path = installation.egress_log(run);
    let failed = |error| {
        Failure::unavailable(format!("`{}` can't be read", installation.relative(&path)))
            .because(error)
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut records = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let Ok(record) = serde_json::from_slice(&line.map_err(failed)?) else { continue };
        match &record {
            EgressRecord::Try(tried) if task.is_some_and(|task| *task != tried.task) => {}
            _ => records.push(record),
        }
    }
    Ok(records)
}

/// Returns the records as a table.
pub(crate) fn render(records: &[EgressRecord], zone: &TimeZone) -> String {
    let mut table =
        Table::new(&["TIME", "TASK", "WAY", "TO", "WHAT", ">SENT", ">RECEIVED", "VERDICT"]);
    let mut remarks = String::new();
    let mut remark = |text: String| remarks.push_str(&format!("{} {text}\n", paint(NOTE, "Note:")));
    for record in records {
        match record {
            EgressRecord::Try(tried) => row(&mut table, tried, zone),
            EgressRecord::Dropped { time, dropped } => remark(format!(
                "{} are missing before {}: more was tried than could be written",
                super::text::count(usize::try_from(*dropped).unwrap_or(usize::MAX), "line"),
                clock(*time, zone),
            )),
            EgressRecord::Full { time, full } => remark(format!(
                "nothing is written since {}: the file has all that it may have, {} bytes",
                clock(*time, zone),
                number(*full),
            )),
        }
    }
    match (table.is_empty(), remarks.is_empty()) {
        (true, true) => "Nothing left, and nothing tried to.\n".to_owned(),
        (true, false) => remarks,
        (false, true) => table.render(),
        (false, false) => format!("{}\n{remarks}", table.render()),
    }
}

fn row(table: &mut Table, tried: &EgressTry, zone: &TimeZone) {
    let way = match tried.kind {
        EgressKind::Model => "model",
        EgressKind::Connect => "connect",
        EgressKind::Http => "http",
    };
    let to = match (&tried.host, tried.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.clone(),
        (None, _) => "-".to_owned(),
    };
    let what = tried.model.as_ref().or(tried.path.as_ref()).or(tried.method.as_ref());
    let verdict = match (tried.verdict, &tried.reason) {
        (EgressVerdict::Allowed, _) => "allowed".into(),
        (EgressVerdict::Refused, None) => Cell::styled(BAD, "refused"),
        (EgressVerdict::Refused, Some(why)) => {
            Cell::styled(BAD, format!("refused: {}", one_line(why, 300)))
        }
    };
    table.row([
        clock(tried.time, zone).into(),
        format!("{} attempt {}", tried.task, tried.attempt).into(),
        way.into(),
        one_line(&to, 80).into(),
        one_line(what.map_or("-", String::as_str), 60).into(),
        number(tried.bytes_up).into(),
        number(tried.bytes_down).into(),
        verdict,
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<EgressRecord> {
        let lines = [
            r#"{"time":"2026-11-20T12:01:07.000Z","task":"k3f9.a","attempt":1,"replica":"marie-1","worker":"marie","kind":"model","host":"api.example","method":"POST","path":"/v1/messages","model":"claude-x","bytes_up":47000,"bytes_down":812,"verdict":"allowed"}"#,
            r#"{"time":"2026-11-20T12:01:08.000Z","task":"k3f9.b","attempt":2,"replica":"marie-1","worker":"marie","kind":"connect","host":"evil.example","port":443,"bytes_up":0,"bytes_down":0,"verdict":"refused","reason":"`evil.example:443` is not among\nthe hosts"}"#,
            r#"{"time":"2026-11-20T12:01:09.000Z","dropped":3}"#,
            r#"{"time":"2026-11-20T12:01:10.000Z","full":67108864}"#,
        ];
        lines.map(|line| serde_json::from_str(line).unwrap()).to_vec()
    }

    #[test]
    fn each_try_is_a_line_and_what_is_missing_is_said() {
        let shown = render(&records(), &TimeZone::UTC);
        insta::assert_snapshot!(anstream::adapter::strip_str(&shown).to_string(), @"
        TIME      TASK              WAY      TO                WHAT        SENT  RECEIVED  VERDICT
        12:01:07  k3f9.a attempt 1  model    api.example       claude-x  47,000       812  allowed
        12:01:08  k3f9.b attempt 2  connect  evil.example:443  -              0         0  refused: `evil.example:443` is not among the hosts

        Note: 3 lines are missing before 12:01:09: more was tried than could be written
        Note: nothing is written since 12:01:10: the file has all that it may have, 67,108,864 bytes
        ");
        assert_eq!(render(&[], &TimeZone::UTC), "Nothing left, and nothing tried to.\n");
    }

    #[test]
    fn line_is_read_back_as_it_was_written() {
        for record in records() {
            let line = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<EgressRecord>(&line).unwrap(), record);
        }
    }

    #[test]
    fn lines_of_a_task_are_those_that_are_about_it_and_half_a_line_is_left_out() {
        use protocol::disk as fs;
        let root = tempfile::tempdir().unwrap();
        let installation = Installation::at(root.path()).unwrap();
        assert_eq!(read(&installation, RunId::Adhoc, None).unwrap(), []);
        let path = installation.egress_log(RunId::Adhoc);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut text: String =
            records().iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect();
        text.push_str("{\"time\":\"2026");
        protocol::atomic_file::replace(
            &path,
            text.as_bytes(),
            protocol::atomic_file::Durability::Volatile,
        )
        .unwrap();
        assert_eq!(read(&installation, RunId::Adhoc, None).unwrap(), records());
        let of_b = read(&installation, RunId::Adhoc, Some(&"k3f9.b".parse().unwrap())).unwrap();
        assert_eq!(of_b, records()[1..]);
    }
}
