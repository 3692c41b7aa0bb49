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
        // Two lines are the prompt before and after.
        let most = if path.is_empty() { 36 } else { 28 };
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
    insta::assert_snapshot!(Cli::command().term_width(80).render_help().to_string(), @"");
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
