//! The reference of the command line, as Markdown, made from the definitions of the arguments.

use std::fmt::Write;

use clap::builder::PossibleValue;
use clap::{Arg, Command, CommandFactory};

use super::args::Cli;

/// Returns `docs/cli.md`.
pub fn markdown() -> String {
    let mut root = Cli::command().color(clap::ColorChoice::Never);
    root.build();
    let mut text = String::from(
        "# The command line\n\n<!-- Made from crates/supervisor/src/cli/args.rs by \
         `UPDATE=1 cargo test -p supervisor reference`. -->\n\n",
    );
    text.push_str(&about(&root));
    let options: Vec<&Arg> = root.get_arguments().filter(|arg| is_own(arg)).collect();
    text.push_str("\n## Options of every command\n\n");
    arguments(&mut text, options.into_iter());
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(&mut text, command, "supervisor");
    }
    text.push_str("\n## Exit codes\n\n");
    let codes = root.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    for line in codes.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap_or((line, ""));
        let _ = writeln!(text, "- `{code}` {}", meaning.trim());
    }
    text
}

fn describe(text: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let subcommands: Vec<&Command> =
        command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    if !subcommands.is_empty() {
        for subcommand in subcommands {
            describe(text, subcommand, &name);
        }
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let _ = write!(text, "\n## {name}\n\n{}\n    {usage}\n\n", about(command));
    arguments(text, command.get_arguments().filter(|arg| is_own(arg) && !arg.is_global_set()));
}

fn is_own(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version")
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let paragraphs = about.split("\n\n").filter(|text| !text.is_empty());
    let sentences: Vec<String> =
        paragraphs.map(|text| format!("{}.\n", text.trim_end_matches('.'))).collect();
    sentences.join("\n")
}

fn arguments<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    for arg in args {
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string);
        let help = help.unwrap_or_default().replace("\n\n", " — ").replace('\n', " ");
        let _ = write!(text, "- `{}`: {help}", signature(arg));
        let values: Vec<PossibleValue> = arg.get_possible_values();
        if takes_value(arg) && !values.is_empty() {
            let names: Vec<String> =
                values.iter().map(|value| format!("`{}`", value.get_name())).collect();
            let _ = write!(text, " ({})", names.join(", "));
        }
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|value| format!("`{}`", value.display())).collect();
        if takes_value(arg) && !defaults.is_empty() {
            let _ = write!(text, "; default {}", defaults.join(", "));
        }
        if let Some(variable) = arg.get_env() {
            let _ = write!(text, "; environment `{}`", variable.display());
        }
        text.push('\n');
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn signature(arg: &Arg) -> String {
    let names = arg.get_value_names().into_iter().flatten();
    let value = names.map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    let flags = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => return value,
    };
    if takes_value(arg) { format!("{flags} {value}") } else { flags }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use protocol::atomic_file::{Durability, replace};

    use super::*;

    /// Compares a generated file with the committed one; with `UPDATE=1` it writes it.
    fn compare(path: &str, made: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
            replace(&path, made.as_bytes(), Durability::Volatile).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        let path = path.display();
        assert!(
            found == made,
            "`{path}` is out of date: UPDATE=1 cargo test -p supervisor reference"
        );
    }

    #[test]
    fn reference_is_up_to_date() {
        compare("docs/cli.md", &markdown());
    }

    #[test]
    fn reference_has_every_schema_up_to_date() {
        for name in protocol::schema::NAMES {
            let schema = protocol::schema::json_schema(name).unwrap();
            compare(&format!("schemas/{name}.schema.json"), &schema);
        }
    }
}
