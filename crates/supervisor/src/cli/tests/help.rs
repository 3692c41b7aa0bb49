//! The definitions of the command line, and what it says of itself.

use clap::{Command, CommandFactory, Parser};

use crate::cli::args::Cli;
use crate::cli::{Outcome, Stop, early_color, exit_code};
use crate::failure::Failure;

#[test]
fn command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn short_help_of_every_command_fits_a_screen() {
    fn check(command: &Command, path: &str) {
        let name = format!("{path} {}", command.get_name());
        let help = command.clone().term_width(80).render_help().to_string();
        // The lists of all commands, and of all fields of a task, are what one wants to see whole.
        let is_list = path.is_empty() || matches!(command.get_name(), "help" | "task");
        let most = if is_list { 44 } else { 24 };
        assert!(help.lines().count() <= most, "{name}: {} lines\n{help}", help.lines().count());
        let widest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 80, "{name}: {widest} columns\n{help}");
        for subcommand in command.get_subcommands() {
            check(subcommand, &name);
        }
    }
    let mut root = Cli::command();
    root.build();
    check(&root, "");
}

#[test]
fn help_of_the_program_lists_its_commands() {
    insta::assert_snapshot!(Cli::command().term_width(80).render_help().to_string(), @"
    Run many Claude Code agents at once

    Usage: supervisor [OPTIONS] <COMMAND>

    Commands:
      up           Start the daemon
      down         Stop the daemon and its workers; what was interrupted is resumed
                   at the next `up`
      submit       Split a request, run its tasks, and answer it
      plan         Split a request and print the plan with its price; start nothing
      task         Run one task without a plan
      check        Check task and plan files; start nothing
      status       Show what runs, what waits and why, and what failed and why
      usage        Show what was used of the model, and what may be
      logs         Show what agents say and do
      result       Print the answer of a run, or the result of a task
      events       Print what has happened in a run
      egress       Show what left the containers of a run, and what was kept from it
      replay       Fold a run's journal again: how it stood at any point, and why
      diff         Show where two runs part
      rescue       Write a plan of what is left of a run, for `submit --plan`
      cancel       Put an end to a run or a task
      retry        Do again what did not complete
      decisions    List the questions that wait for you
      decide       Answer a question
      workers      List the workers
      auth         Sign workers in with a subscription of their own
      doctor       Look for everything that could stop a run, each with its cure
      gc           Remove what ended long ago and nothing needs any more
      schema       Print the JSON Schema of a file format
      completions  Print a shell completion script
      help         Print this message or the help of the given subcommand(s)

    Options:
          --dir <DIR>     The installation: the folder with `workspaces/`, `tasks/`
                          and `results/` [env: SUPERVISOR_DIR=]
          --color <WHEN>  When to use color [default: auto] [possible values: auto,
                          always, never]
      -v, --verbose...    Log more to stderr (can be repeated)
      -h, --help          Print help (see more with '--help')
      -V, --version       Print version
    ");
}

#[test]
fn each_end_has_its_exit_code() {
    assert_eq!(exit_code(&Ok(Outcome::Done)), 0);
    assert_eq!(exit_code(&Err(Stop::NobodyReads)), 0);
    assert_eq!(exit_code(&Ok(Outcome::Incomplete)), 1);
    assert_eq!(exit_code(&Err(Failure::bad_input("x").into())), 3);
    assert_eq!(exit_code(&Err(Failure::unavailable("x").into())), 4);
    assert_eq!(exit_code(&Ok(Outcome::Interrupted)), 130);
}

#[test]
fn impossible_values_are_usage_errors() {
    for args in [
        &["submit"][..],
        &["submit", "x", "--budget", "0"],
        &["submit", "x", "--budget-tokens", "0"],
        &["decide", "d1"],
        &["decide", "d0", "stop"],
        &["decide", "d1", "stop", "--budget", "3"],
        &["decide", "d1", "go-on", "--budget", "-3"],
        &["decide", "d1", "go-on", "--budget-tokens", "0"],
        &["submit", "x", "--priority", "urgent"],
        &["task", "Marie", "x"],
        &["task", "marie", "x", "--timeout", "0"],
        &["task", "marie", "x", "--retries", "21"],
        &["schema", "tasks"],
        &["up", "--runtime", "podman"],
    ] {
        let error = Cli::try_parse_from(["supervisor"].iter().chain(args)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
    }
}

#[test]
fn color_is_known_before_the_command_line_is_right() {
    let choice = |args: &[&str]| early_color(args.iter().map(|arg| (*arg).to_owned()));
    assert_eq!(choice(&["supervisor", "--color", "never", "statsu"]), clap::ColorChoice::Never);
    assert_eq!(choice(&["supervisor", "--color=always"]), clap::ColorChoice::Always);
    assert_eq!(choice(&["supervisor", "--color"]), clap::ColorChoice::Auto);
    assert_eq!(choice(&["supervisor", "--", "--color=always"]), clap::ColorChoice::Auto);
}
