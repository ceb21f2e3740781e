//! The command line: what was typed becomes what the library takes, and what it answers becomes
//! text. Results go to stdout, everything said along the way to stderr.
//!
//! Exit codes: 0 done, 1 the run failed, 2 the call is wrong, 3 some images failed or are missing, 5 what
//! was looked at is not what it ought to be, 75 a shard failed for reasons of the moment, 130 and 143 ended
//! by SIGINT and SIGTERM.

mod args;
mod back;
mod bench;
mod convert;
mod devices;
mod inputs;
mod ls;
mod manifest;
mod pages;
mod preview;
mod progress;
mod restore;
mod shards;
mod signals;
mod stats;
mod verify;
mod work;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::error::{Error, counted};
use args::{Args, Command};

/// EX_TEMPFAIL of sysexits.h, which schedulers know.
const TRY_AGAIN: u8 = 75;
const DIFFERENT: u8 = 5;

/// How a command ended, other than in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Done,
    SomeImagesFailed,
    /// Some images failed, and all of them for reasons of the moment.
    TryAgain,
    /// A dry run found that the run would be refused, or what it takes to look could not be had.
    Refused,
    /// What was looked at is not what it ought to be.
    Different,
}

/// Runs the tool on this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    hush_drivers();
    signals::let_writes_fail();
    let args = Args::try_parse().unwrap_or_else(|error| args::without_far_tip(error).exit());
    let result = match &args.command {
        Command::Convert(command) => convert::run(command, args.verbosity()),
        Command::Plan(command) => shards::plan(command, args.verbosity()),
        Command::Status(command) => shards::status(command, args.verbosity()),
        Command::Merge(command) => shards::merge_shards(command, args.verbosity()),
        Command::Manifest(command) => manifest::run(command),
        Command::Verify(command) => verify::run(command, args.verbosity()),
        Command::Restore(command) => restore::run(command, args.verbosity()),
        Command::Ls(command) => ls::run(command, args.verbosity()),
        Command::Stats(command) => stats::run(command, args.verbosity()),
        Command::Devices(command) => devices::run(command),
        Command::Bench(command) => bench::run(command, args.verbosity()),
        Command::Completions(command) => pages::completions(command),
        Command::Man(command) => pages::man(command),
    };
    let is_shard = matches!(&args.command, Command::Convert(command) if command.shard.is_some());
    exit(match result {
        Ok(Ending::Done) => 0,
        Ok(Ending::SomeImagesFailed) => 3,
        Ok(Ending::TryAgain) => TRY_AGAIN,
        Ok(Ending::Refused) => 1,
        Ok(Ending::Different) => DIFFERENT,
        Err(error) => match report_error(&error) {
            1 if is_shard && error.downcast_ref().is_some_and(Error::is_transient) => TRY_AGAIN,
            code => code,
        },
    })
}

/// Keeps a layer of Mesa, there on most Linux machines, from looking for a window system: without
/// one, as on every server, it prints an "error:" to stderr whenever adapters are listed.
fn hush_drivers() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("NODEVICE_SELECT").is_none() {
        // SAFETY: `main` calls this first, when no other thread can be reading the environment.
        // There is no other way to tell the layer: it is loaded by the Vulkan loader, which takes
        // no options.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Prints an error, one line for each cause, and answers with its exit code.
fn report_error(error: &anyhow::Error) -> u8 {
    if is_closed_pipe(error) {
        return 0; // `tensortiff ls | head` is a normal end.
    }
    let ours = error.downcast_ref::<Error>();
    if let Some(signal) = signals::received() {
        say(&format!("tensortiff: {}", interrupted(error)));
        return 128 + signal;
    }
    // With what it was about, where the error itself is the system's and does not know it.
    let text = if ours.is_some() { error.to_string() } else { format!("{error:#}") };
    for line in text.lines() {
        say(&format!("tensortiff: error: {line}"));
    }
    if ours.is_some_and(Error::is_usage) { 2 } else { 1 }
}

fn interrupted(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Error>() {
        Some(Error::Stopped { done, images, .. }) => {
            format!(
                "interrupted after {done} of {}, which are whole; {}",
                counted(*images, "image"),
                signals::going_on()
            )
        }
        _ => "interrupted".to_owned(),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes what was asked for to stdout.
fn results(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).context("standard output")
}

/// A line on stderr; if nobody reads it, nothing is lost that could be told.
fn say(line: &str) {
    // What a hostile header says can be megabytes long.
    const LONGEST: usize = 2000;
    let cut = (0..=LONGEST.min(line.len())).rev().find(|&i| line.is_char_boundary(i)).unwrap_or(0);
    let more = if cut < line.len() {
        format!(" … ({} bytes in all)", line.len())
    } else {
        String::new()
    };
    let _ = writeln!(io::stderr(), "{}{more}", &line[..cut]);
}

/// Ends the process at once. A driver may still be starting on a thread of its own, and libraries
/// that are torn down under it crash.
fn exit(code: u8) -> ! {
    let _ = io::stdout().flush();
    #[cfg(unix)]
    signal_hook::low_level::exit(code.into());
    #[cfg(not(unix))]
    std::process::exit(code.into());
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verbosity {
    /// Errors only.
    Quiet,
    Normal,
    Verbose,
}
