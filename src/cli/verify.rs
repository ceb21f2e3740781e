//! `tensortiff verify`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use serde::Serialize;

use super::back::{BackArgs, dump};
use super::convert::bytes;
use super::progress::Progress;
use super::{Ending, Verbosity, counted, say};
use crate::back::{Difference, Looking, Output, Verified, strays, verify};
use crate::error::{Error, escaped, shown, shown_path};
use crate::source::Source;

/// Files that no manifest names and that are told one by one.
const TOLD: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub(super) back: BackArgs,

    /// Compute all images again from the dumps of the run, with the options that it recorded, and compare
    /// them byte for byte. DUMP: where they lie now, in the order of the run; without it, where they lay.
    #[arg(long, value_name = "DUMP", num_args = 0..)]
    against: Option<Vec<PathBuf>>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A difference as JSON.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<&'a str>,
    what: &'a str,
    problem: &'a str,
}

/// What stands behind the differences.
#[derive(Serialize, Default)]
struct Sums {
    images: u64,
    failed: u64,
    existed: u64,
    hashed: u64,
    bytes: u64,
    compared: u64,
    different: u64,
    unnamed: u64,
}

pub(super) fn run(args: &VerifyArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let started = std::time::Instant::now();
    let outputs = match args.against {
        Some(_) => vec![args.back.output("--against")?],
        None => args.back.outputs()?,
    };
    let progress = Arc::new(Progress::new(verbosity));
    let looking = args.back.looking(&progress)?;
    // Of one output alone: see above.
    let given = args.against.as_ref().zip(outputs.first());
    let source = given.map(|(given, output)| dump(output, given, verbosity)).transpose()?;
    let source = source.as_ref().map(|source| -> &dyn Source { source });
    let printer = Mutex::new(Printer::new(args.json));
    let outcome = verify_all(source, &outputs, &looking, &|difference| {
        let mut printer = printer.lock().unwrap_or_else(PoisonError::into_inner);
        progress.aside(|| printer.print(&difference));
        // Nobody listens any more.
        looking.cancel.fetch_or(printer.failed.is_err(), Ordering::Relaxed);
    });
    progress.finish();
    let mut printer = printer.into_inner().unwrap_or_else(PoisonError::into_inner);
    let printed = std::mem::replace(&mut printer.failed, Ok(()));
    // Who reads no further knows of some all the same.
    if printer.lines > 0
        && printed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    {
        return Ok(Ending::Different);
    }
    printed.context("standard output")?;
    let (mut sums, failures) = outcome?;
    sums.unnamed = tell_strays(&outputs, verbosity)?;
    printer.end(&sums).context("standard output")?;
    for (name, error) in &failures {
        say(&format!("tensortiff: error: {}: {error}", shown(name)));
    }
    if verbosity > Verbosity::Quiet && !args.json {
        say(&summary(&sums, started.elapsed().as_secs_f64()));
    }
    Ok(match sums {
        Sums { different: 1.., .. } => Ending::Different,
        _ if !failures.is_empty() => Ending::Refused,
        Sums { failed: 1.., .. } => Ending::SomeImagesFailed,
        _ => Ending::Done,
    })
}

type Told = (Sums, Vec<(String, Error)>);

fn verify_all(
    source: Option<&dyn Source>,
    outputs: &[Output],
    looking: &Looking,
    tell: &(dyn Fn(Difference) + Sync),
) -> Result<Told, Error> {
    let (mut sums, mut failures) = (Sums::default(), Vec::new());
    for output in outputs {
        let verified = verify(output, source, looking, tell)?;
        let Verified { images, failed, existed, hashed, bytes, .. } = verified;
        let Verified { compared, differences, failures: more, .. } = verified;
        sums.hashed += hashed;
        sums.images += images;
        sums.failed += failed;
        sums.existed += existed;
        sums.bytes = sums.bytes.saturating_add(bytes);
        sums.compared += compared;
        sums.different += differences;
        failures.extend(more.into_iter().map(|failure| (failure.name, failure.error)));
    }
    Ok((sums, failures))
}

fn tell_strays(outputs: &[Output], verbosity: Verbosity) -> Result<u64, Error> {
    let mut told = 0;
    let all = strays(outputs, &mut |path: &Path| {
        told += 1;
        if verbosity == Verbosity::Verbose || (verbosity == Verbosity::Normal && told <= TOLD) {
            say(&format!("tensortiff: note: {}: no manifest names it", shown_path(path)));
        }
    })?;
    if verbosity == Verbosity::Normal && all > TOLD {
        let more = counted(all - TOLD, "more file");
        say(&format!("tensortiff: note: {more} that no manifest names"));
    }
    Ok(all)
}

fn summary(sums: &Sums, seconds: f64) -> String {
    let mut line = format!(
        "{}, {} of pixels, {seconds:.3} s: {}",
        counted(sums.images, "image"),
        bytes(sums.bytes),
        match sums.different {
            0 => "all right".to_owned(),
            more => counted(more, "difference"),
        }
    );
    let is_one = |count: u64| count == 1;
    let made = sums.images.saturating_sub(sums.failed + sums.existed);
    let known = made.saturating_sub(sums.hashed);
    if sums.compared == 0 && known > 0 {
        let without = counted(known, "image");
        line +=
            &format!("; of the pixels of {without} only ranges and counts are known (no --hash)");
    }
    if sums.compared > 0 {
        let how = match (sums.different, is_one(sums.compared)) {
            (0, true) => "is",
            (0, false) => "are",
            (_, true) => "was compared with",
            (_, false) => "were compared with",
        };
        line += &format!("; {} {how} what the dump gives", counted(sums.compared, "file"));
    }
    let existed = match is_one(sums.existed) {
        true => "was there before the run, and nothing else is known of it",
        false => "were there before the run, and nothing else is known of them",
    };
    let counts = [(sums.existed, existed), (sums.failed, "could not be made")];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        line += &format!("; {count} {what}");
    }
    line
}

/// Differences as they come.
struct Printer {
    json: bool,
    lines: u64,
    failed: io::Result<()>,
}

impl Printer {
    fn new(json: bool) -> Printer {
        Printer { json, lines: 0, failed: Ok(()) }
    }

    fn print(&mut self, difference: &Difference) {
        if self.failed.is_ok() {
            self.failed = self.write(difference);
        }
        self.lines += 1;
    }

    fn write(&self, difference: &Difference) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let file = difference.file.to_string_lossy();
        let Difference { what, problem, page, member, .. } = difference;
        let member = member.as_deref();
        let page = *page;
        if !self.json {
            let mut place = page.map_or(String::new(), |page| format!(", page {page}"));
            if let Some(member) = member {
                place += &format!(", member {}", escaped(member));
            }
            return writeln!(out, "{}{place}: {what}: {problem}", escaped(&file));
        }
        out.write_all(if self.lines == 0 { b"{\"differences\":[\n" } else { b",\n" })?;
        serde_json::to_writer(out, &Line { file: &file, page, member, what, problem })
            .map_err(Into::into)
    }

    fn end(&self, sums: &Sums) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        out.write_all(if self.lines == 0 { b"{\"differences\":[" } else { b"\n" })?;
        let sums = serde_json::to_string(sums)?;
        writeln!(out, "],\n{}", sums.trim_start_matches('{'))
    }
}
