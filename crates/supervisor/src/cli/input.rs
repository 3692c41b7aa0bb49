//! Reading what a person hands in.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use protocol::Plan;
use protocol::strict::{self, MAX_BYTES, ParseFault};

use crate::failure::Failure;

/// Returns the text of a file, or of standard input for `-`: UTF-8, not empty, at most 1 MiB.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let bytes = bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let fault = ParseFault::NotUtf8 { at: error.utf8_error().valid_up_to() };
        refuse(path, &fault, &fault.hint())
    })?;
    if text.trim().is_empty() {
        let hint = "Write down in it what you want done, in plain words.";
        return Err(Failure::bad_input(format!("{} is empty", name(path))).hint(hint));
    }
    Ok(text)
}

/// Returns the plan in a file, or in standard input for `-`.
pub(crate) fn plan(path: &Path) -> Result<Plan, Failure> {
    strict::from_slice(&bytes(path)?).map_err(|fault| {
        let hint = match &fault {
            ParseFault::Shape { hint: None, .. } => {
                "Compare it with the format: `supervisor schema plan` prints it.".to_owned()
            }
            _ => fault.hint(),
        };
        Failure::bad_input(format!("{} is not a plan", name(path))).because(fault).hint(hint)
    })
}

/// Returns the bytes of a file, or of standard input for `-`: at most 1 MiB.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One more than is allowed, to see that there is more; a device need not have an end.
    let limit = MAX_BYTES as u64 + 1;
    let read = match path.to_str() {
        Some("-") => io::stdin().take(limit).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)),
    };
    read.map_err(|error| {
        let failure = Failure::bad_input(format!("{} can't be read", name(path)));
        match error.kind() {
            io::ErrorKind::NotFound => {
                failure.because(error).hint("Check the path, or give `-` to read standard input.")
            }
            _ => failure.because(error),
        }
    })?;
    if bytes.len() > MAX_BYTES {
        let fault = format!("it has more than {MAX_BYTES} bytes");
        let hint = "Put large material into a file of a workspace and name it in the request.";
        return Err(Failure::bad_input(format!("{} is too large", name(path)))
            .because(fault)
            .hint(hint));
    }
    Ok(bytes)
}

fn refuse(path: &Path, fault: &ParseFault, hint: &str) -> Failure {
    Failure::bad_input(format!("{} can't be read", name(path))).because(fault.clone()).hint(hint)
}

fn name(path: &Path) -> String {
    match path.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => format!("`{}`", path.display()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files of a test")]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::report;

    fn refusal(contents: &[u8], read: impl Fn(&Path) -> Failure) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, contents).unwrap();
        let text = report::failure(&read(&path)).replace(&format!("{}/", dir.path().display()), "");
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn request_that_is_no_text_is_refused_with_its_cure() {
        let read = |path: &Path| text(path).unwrap_err();
        insta::assert_snapshot!(refusal(b" \n", read), @"
        Error: `file` is empty

        Hint: Write down in it what you want done, in plain words.
        ");
        insta::assert_snapshot!(refusal(b"caf\xe9", read), @"
        Error: `file` can't be read
        Caused by: byte 3 is not UTF-8 text

        Hint: Save the file as UTF-8.
        ");
        insta::assert_snapshot!(refusal(&vec![b'x'; MAX_BYTES + 1], read), @"
        Error: `file` is too large
        Caused by: it has more than 1048576 bytes

        Hint: Put large material into a file of a workspace and name it in the request.
        ");
        assert_eq!(
            text(Path::new("/no/such")).unwrap_err().to_string(),
            "`/no/such` can't be read"
        );
        assert_eq!(text(Path::new("/")).unwrap_err().to_string(), "`/` can't be read");
    }

    #[test]
    fn plan_that_does_not_parse_is_refused_with_its_place() {
        let wrong =
            b"{\"tasks\": [\n  {\"id\": \"a\", \"worker\": \"marie\", \"describtion\": \"x\"}\n]}";
        insta::assert_snapshot!(refusal(wrong, |path| plan(path).unwrap_err()), @"
        Error: `file` is not a plan
        Caused by: line 2, column 46, field `tasks[0].describtion`: unknown field `describtion`

        Hint: Did you mean `description`?
        ");
    }
}
