//! Which program the tests start.

use std::process::Command;

/// The agent: the one that was built beside the tests, or what `TIDEWATCH_AGENT` says: a program with its
/// arguments, separated by spaces, as `qemu-aarch64-static path/to/tidewatch-agent`.
pub(crate) fn agent() -> Command {
    let Ok(words) = std::env::var("TIDEWATCH_AGENT") else {
        return Command::new(env!("CARGO_BIN_EXE_tidewatch-agent"));
    };
    let mut words = words.split_whitespace();
    let program = words.next().expect("TIDEWATCH_AGENT names no program");
    let mut command = Command::new(program);
    command.args(words);
    command
}
