//! The transcript of a Claude session: all that one attempt of a task hands on to the next.
//!
//! The agent could write into the file for as long as it ran. So a transcript is found without following
//! a link, and what is taken of it is lines of JSON that belong to this session, and no more than fits.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::SessionId;
use crate::disk::{File, Folder};

/// The largest transcript that is handed on, in bytes: some thousand turns. A session with a longer one is
/// begun anew.
pub const MAX_BYTES: u64 = 64 << 20;

/// The longest line, in bytes: one answer of a tool, with a few images.
const MAX_LINE: u64 = 16 << 20;

/// How many folders of projects are looked into. The CLI makes one for each folder that it is started in.
const MAX_PROJECTS: usize = 64;

/// Returns the transcript of a session in a configuration folder of the CLI, where it is
/// `projects/<folder>/<id>.jsonl`; the longest, if there are several. An empty file, as a full disk leaves
/// it, is none.
pub fn find(config: &Folder, id: SessionId) -> Option<File> {
    let projects = config.folder(Path::new("projects")).ok()?;
    let name = file_name(id);
    let found =
        projects.names(MAX_PROJECTS).ok()?.into_iter().filter_map(|project| {
            projects.open_file(&Path::new(&project).join(&name), MAX_BYTES).ok()
        });
    let (file, len) = found.max_by_key(|(_, len)| *len)?;
    (len > 0).then_some(file)
}

/// Returns where the CLI looks for the transcript of a session that is begun in the folder `cwd`, in its
/// configuration folder. (It finds it from any other folder, too: measured, 2.1.327.)
pub fn place(cwd: &Path, id: SessionId) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let project: String = cwd.to_string_lossy().chars().map(plain).collect();
    Path::new("projects").join(project).join(file_name(id))
}

/// Returns the name of a session's transcript.
pub fn file_name(id: SessionId) -> String {
    format!("{id}.jsonl")
}

/// Copies a transcript, and returns whether it is one: each line is a JSON object that names no other
/// session. What a kill left of the last line is left out.
///
/// # Errors
///
/// Any I/O error. What was written by then is of no use.
pub fn copy(from: impl Read, mut to: impl Write, id: SessionId) -> io::Result<bool> {
    let id = id.to_string();
    let mut lines = BufReader::new(from.take(MAX_BYTES + 1));
    let (mut line, mut total) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line)? as u64;
        total += read;
        if read > MAX_LINE || total > MAX_BYTES {
            return Ok(false);
        }
        if !line.ends_with(b"\n") {
            return Ok(total > read);
        }
        let Ok(object) = serde_json::from_slice::<Map<String, Value>>(&line) else {
            return Ok(false);
        };
        let names_another = |key: &str| object.get(key).is_some_and(|named| *named != *id);
        if names_another("sessionId") || names_another("session_id") {
            return Ok(false);
        }
        to.write_all(&line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SessionId {
        SessionId::from_random(1, 2)
    }

    fn copied(text: &[u8]) -> Option<String> {
        let mut to = Vec::new();
        let is_one = copy(text, &mut to, id()).unwrap();
        is_one.then(|| String::from_utf8(to).unwrap())
    }

    #[test]
    fn lines_of_the_session_are_copied_and_a_torn_end_is_left_out() {
        let own = format!("{{\"type\":\"user\",\"sessionId\":\"{}\"}}\n{{\"type\":\"x\"}}\n", id());
        assert_eq!(copied(own.as_bytes()).as_deref(), Some(&*own));
        let torn = format!("{own}{{\"type\":\"assis");
        assert_eq!(copied(torn.as_bytes()).as_deref(), Some(&*own));
    }

    #[test]
    fn what_is_no_transcript_of_the_session_is_not_taken() {
        let other = format!("{{\"sessionId\":\"{}\"}}\n", SessionId::from_random(3, 4));
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(MAX_LINE as usize));
        let deep = format!("{{\"a\":{}{}}}\n", "[".repeat(200), "]".repeat(200));
        let texts =
            ["", "{\"torn\":1}", "[]\n", "no\n", "{}\nno\n", "{}\n\n", &other, &long, &deep];
        for text in texts {
            assert_eq!(copied(text.as_bytes()), None, "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn transcript_is_found_by_no_link_and_the_longest_counts() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let put = |folder: &Path, len: u64| {
            std::fs::create_dir_all(folder).unwrap();
            let file = std::fs::File::create(folder.join(file_name(id()))).unwrap();
            file.set_len(len).unwrap();
        };
        let found = || {
            let file = find(&Folder::open(dir.path()).unwrap(), id())?;
            Some(file.metadata().unwrap().len())
        };
        let projects = dir.path().join("projects");
        put(&outside.path().join("-w"), 9);
        symlink(outside.path(), &projects).unwrap();
        assert_eq!(found(), None, "the folder of projects is a link");
        std::fs::remove_file(&projects).unwrap();
        std::fs::create_dir(&projects).unwrap();
        symlink(outside.path().join("-w"), projects.join("-w")).unwrap();
        assert_eq!(found(), None, "a project's folder is a link");
        put(&projects.join("-a"), 0);
        assert_eq!(found(), None, "an empty file is no session");
        symlink(outside.path().join("-w").join(file_name(id())), projects.join("-a/x")).unwrap();
        put(&projects.join("-b"), 3);
        put(&projects.join("-c"), 5);
        put(&projects.join("-d"), MAX_BYTES + 1);
        assert_eq!(found(), Some(5));
    }

    #[test]
    fn place_is_where_the_cli_looks() {
        let place = place(Path::new("/tmp/my.work_space"), id());
        assert_eq!(place, Path::new("projects/-tmp-my-work-space").join(file_name(id())));
    }
}
