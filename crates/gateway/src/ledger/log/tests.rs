use protocol::Time;

use super::*;
use crate::ledger::{Ledger, Scope, Standing};

impl Log {
    /// Puts another file in the place of the open one, which it returns.
    pub(in super::super) fn swap_file(&mut self, file: impl Into<Arc<File>>) -> Arc<File> {
        self.file.replace(file.into()).unwrap()
    }
}

fn open(path: &Path) -> Result<Standing, LedgerError> {
    let (ledger, _) = Ledger::open(Some(path), || Time::from_millis(86_400_000))?;
    Ok(ledger.standing(&Scope::Day))
}

const RESERVED: &str = "\"at\":\"1970-01-02T00:00:00.000Z\",\"replica\":\"marie-1\",\"worker\":\"marie\",\
     \"run\":\"adhoc\",\"task\":\"emma\",\"attempt\":1,\"priority\":\"medium\",\"model\":\"m\",\
     \"worst_nanos\":5,\"worst_tokens\":6}}";

fn line(json: &str) -> String {
    format!("{json}\t{:08x}\n", crc32c::crc32c(json.as_bytes()))
}

fn reserved(id: u64) -> String {
    line(&format!("{{\"reserved\":{{\"id\":{id},{RESERVED}"))
}

fn first() -> String {
    line("{\"ledger\":{\"version\":2}}")
}

/// Returns the lines without their checksums.
fn json(lines: &str) -> Vec<&str> {
    lines.lines().filter_map(|line| line.split('\t').next()).collect()
}

/// The form of version 1: whatever is changed, these lines must be read for ever.
#[test]
fn lines_of_version_1_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let used = "{\"requests\":1,\"cut_off\":1,\"unpriced\":0,\"tokens\":{\"input\":1,\"output\":2,\
                \"cache_read\":3,\"cache_write_5m\":4,\"cache_write_1h\":5},\"cost_nanos\":6,\
                \"uncached_nanos\":7,\"held_nanos\":8,\"held_tokens\":9,\"waits\":{\"requests\":10}}";
    let at = "\"1970-01-02T00:00:00.000Z\"";
    let text = [
        line("{\"ledger\":{\"version\":1}}"),
        line(&format!(
            "{{\"sum\":{{\"day\":{at},\"worker\":\"marie\",\"run\":\"adhoc\",\"task\":\"emma\",\
             \"attempt\":1,\"model\":\"m\",\"used\":{used}}}}}"
        )),
        (1..=4).map(reserved).collect(),
        line(&format!("{{\"settled\":{{\"id\":1,\"at\":{at},\"agent\":null,\"used\":{used}}}}}")),
        line("{\"released\":{\"id\":2}}"),
        line("{\"lost\":{\"id\":3}}"),
    ]
    .concat();
    fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    // What this build writes is read as the same, and has no word for what is zero or missing.
    let parsed = parse(&path, text.as_bytes()).unwrap();
    assert_eq!(parsed.whole, text.len());
    let mut again = Vec::new();
    parsed.lines.iter().for_each(|line| line.write(&mut again));
    let again = String::from_utf8(again).unwrap();
    assert_eq!(
        json(&again),
        json(&text.replace("\"unpriced\":0,", "").replace("\"agent\":null,", ""))
    );
    // From here it may grow, however often it is opened.
    assert_eq!(parsed.small, text.find("{\"reserved").unwrap());
    // It is written anew: a build that knows this version only would not understand what comes.
    for _ in 0..2 {
        let standing = open(&path).unwrap();
        assert_eq!((standing.requests, standing.spent.tokens, standing.held.tokens), (4, 30, 30));
        assert!(fs::read_to_string(&path).unwrap().starts_with(&first()));
    }
}

#[test]
fn sum_that_was_appended_does_not_put_off_writing_the_file_anew() {
    let sum = line(
        "{\"sum\":{\"day\":\"1970-01-02T00:00:00.000Z\",\"worker\":\"marie\",\"run\":\"adhoc\",\
         \"task\":\"emma\",\"attempt\":1,\"model\":\"m\",\"used\":{\"requests\":0,\"tokens\":{},\
         \"waits\":{\"unreachable\":9}}}}",
    );
    let small = [first(), sum.clone()].concat();
    let text = [small.as_str(), &reserved(1), &sum].concat();
    let parsed = parse(Path::new("l"), text.as_bytes()).unwrap();
    assert_eq!((parsed.small, parsed.whole), (small.len(), text.len()));
}

#[test]
fn a_file_cut_anywhere_in_its_last_line_loses_that_line_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let lines = [first(), reserved(1), reserved(2), line("{\"released\":{\"id\":1}}")];
    for count in 1..=lines.len() {
        let whole = lines[..count - 1].concat();
        let last = &lines[count - 1];
        let held = |count: usize| [0, 0, 6, 12, 6][count];
        for cut in 0..=last.len() {
            let text = format!("{whole}{}", &last[..cut]);
            fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            let standing = open(&path).unwrap();
            let read = if cut == last.len() { count } else { count - 1 };
            assert_eq!(standing.held.tokens, held(read), "line {count} cut at {cut}");
            let left = if read == 0 { first() } else { lines[..read].concat() };
            assert_eq!(fs::read_to_string(&path).unwrap(), left, "line {count} cut at {cut}");
        }
    }
    assert!(path.with_extension("torn").exists());
}

#[test]
fn damage_before_the_last_line_is_an_error_that_names_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let said = |lines: &[String]| {
        let text = lines.concat();
        fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing was changed");
        error.to_string().replace(&*path.to_string_lossy(), "L")
    };
    let damaged = |line, why| format!("line {line} of the ledger `L` is damaged: {why}");
    let flipped = reserved(1).replace("_tokens\":6", "_tokens\":0");
    assert_eq!(said(&[first(), flipped, reserved(2)]), damaged(2, "its checksum is wrong"));
    let odd = line("{\"released\":{\"id\":1,\"why\":2}}");
    assert!(said(&[first(), reserved(1), odd, reserved(2)]).contains("unknown field `why`"));
    assert_eq!(said(&[reserved(1)]), damaged(1, "it is not where it belongs"));
    assert_eq!(said(&[first(), first()]), damaged(2, "it is not where it belongs"));
    let lost = "it is about a request that is not, or no longer, out";
    assert_eq!(said(&[first(), line("{\"lost\":{\"id\":1}}")]), damaged(2, lost));
    assert_eq!(said(&[first(), reserved(1), reserved(1)]), damaged(3, lost));
    let released = line("{\"released\":{\"id\":1}}");
    assert_eq!(said(&[first(), reserved(1), released.clone(), released]), damaged(4, lost));

    let newer = line("{\"ledger\":{\"version\":3,\"other\":1}}");
    let said = said(&[newer, "more\n".to_owned()]);
    assert_eq!(said, "the ledger `L` is of version 3, and this build reads up to 2");
}
