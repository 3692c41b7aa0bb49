//! A hostile agent: it tries the walls of its container from the inside, and says of each whether it held.
//!
//! It is an agent of the `command` driver. What it is to try stands in its task, as `attack: NAME ARGUMENT…;`, or in its
//! arguments where a real agent runs it as a tool. Each wall is a row of `docs/walls.md`; of each row that it can judge
//! by itself it prints one line of JSON. What only shows from the outside, the test judges.

#![expect(unsafe_code, reason = "an attack is made of system calls that no safe crate offers")]
#![expect(clippy::disallowed_methods, reason = "an attacker does not write files with care")]
#![expect(
    clippy::unwrap_used,
    reason = "an attack that can't be tried must not look as if it had failed"
)]

mod bounds;
mod files;
mod kernel;
mod left;
mod planted;
mod process_one;
mod report;
mod row;
mod sys;
mod way_out;

use std::io::Read;

use row::Rows;

/// What an attack is told.
struct Order {
    words: Vec<String>,
}

impl Order {
    /// Reads the order from the arguments, else from the task on standard input.
    fn read() -> Self {
        let words: Vec<String> = std::env::args().skip(1).collect();
        if !words.is_empty() {
            return Self { words };
        }
        let mut prompt = String::new();
        std::io::stdin().read_to_string(&mut prompt).unwrap();
        let (_, order) = prompt.split_once("attack: ").expect("the task names no attack");
        let (order, _) = order.split_once(';').expect("the attack ends with a semicolon");
        Self { words: order.split_whitespace().map(str::to_owned).collect() }
    }

    fn name(&self) -> &str {
        &self.words[0]
    }

    /// Returns the argument with that number, from 1.
    fn arg(&self, number: usize) -> &str {
        &self.words[number]
    }

    /// Returns the argument with that number as a number.
    fn number(&self, number: usize) -> u64 {
        self.arg(number).parse().unwrap()
    }
}

fn main() {
    let (order, mut rows) = (Order::read(), Rows);
    match order.name() {
        "bounds" => bounds::run(&order, &mut rows),
        "files" => files::run(&order),
        "innocent" => left::innocent(&mut rows),
        "kernel" => kernel::run(&mut rows),
        "left" => left::leave(&order),
        "look" => planted::look(),
        "own-task" => files::own_task(),
        "plant" => planted::plant(),
        "process-one" => process_one::run(&mut rows),
        "report" => report::run(&order),
        "way-out" => way_out::run(&mut rows),
        other => panic!("there is no attack `{other}`"),
    }
}
