//! `tensortiff plan`, `status` and `merge`, and which shard `convert --shard` means.

use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use serde::Serialize;

use super::args::{MergeArgs, PlanArgs, StatusArgs};
use super::convert::bytes;
use super::work::{Work, is_plan};
use super::{Ending, Verbosity, counted, results, say};
use crate::convert::{Manifest, Options, Record, Resume, ShardState, divide, merge, shard_states};
use crate::error::{Error, counted_are, shown, shown_path};
use crate::record::shards::{Shards, Unit};
use crate::sink::FilesSink;
use crate::source::Source as _;
use crate::tensor::Dump;

/// Where schedulers say which of several processes one is, numbered from 0.
const VARIABLES: [&str; 4] =
    ["SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"];

/// What was typed after `--shard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shard {
    /// What the scheduler says.
    Auto,
    /// This one; of so many, which the plan must have.
    Number(u64, Option<u64>),
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let wrong = |_| format!("{text} is no shard; auto, I or I/N is, with I from 0 on");
        if text == "auto" {
            return Ok(Shard::Auto);
        }
        match text.split_once('/') {
            None => Ok(Shard::Number(text.parse().map_err(wrong)?, None)),
            Some((number, of)) => {
                let of = of.parse().map_err(wrong)?;
                Ok(Shard::Number(number.parse().map_err(wrong)?, Some(of)))
            }
        }
    }
}

impl Shard {
    /// The images that it means.
    pub(super) fn of(self, plan: &Shards) -> Result<Range<u64>, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let (number, from) = match self {
            Shard::Number(number, _) => (number, String::new()),
            Shard::Auto => told(&variable)?,
        };
        let shards = plan.head.shards;
        if let Shard::Number(_, Some(of)) = self
            && of != shards
        {
            return Err(Error::Usage(format!(
                "--shard {number}/{of}: the plan has {shards} shards, and what it says counts"
            )));
        }
        let unit = usize::try_from(number).ok().and_then(|number| plan.units.get(number));
        unit.map(Unit::range).ok_or_else(|| {
            Error::Usage(format!(
                "--shard {number}{from}: the plan has {shards} shards, 0 to {}",
                shards - 1
            ))
        })
    }
}

/// The number that a scheduler gave, and who that was.
fn told(variable: &dyn Fn(&str) -> Option<String>) -> Result<(u64, String), Error> {
    let found = VARIABLES.into_iter().find_map(|name| Some((name, variable(name)?)));
    let Some((name, text)) = found else {
        return Err(Error::Usage(format!("--shard auto: none of {} is set", VARIABLES.join(", "))));
    };
    match text.parse() {
        Ok(number) => Ok((number, format!(" (of {name})"))),
        Err(_) => Err(Error::Usage(format!(
            "--shard auto: {name} is {}, and a number from 0 on is needed",
            crate::error::shown(&text)
        ))),
    }
}

pub(super) fn plan(args: &PlanArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let work = Work::of(&args.images, verbosity)?;
    if work.plan.is_some() {
        let problem = "a plan cannot be planned again; give its dumps and options".to_owned();
        return Err(Error::Usage(problem).into());
    }
    if let Some(path) = args.output.as_ref().filter(|path| !is_plan(path)) {
        return Err(Error::Usage(format!(
            "{}: by the end of its name `convert` tells a plan from a dump, and it must be .jsonl",
            shown_path(path)
        ))
        .into());
    }
    // The same text may be many names of files.
    let untold = |dump: &&Dump| !Path::new(&dump.label).exists();
    if let Some(dump) = work.source.dumps().iter().find(untold) {
        return Err(Error::Usage(format!(
            "{}: its name is no UTF-8, and a plan cannot name it; give it another",
            shown(&dump.label)
        ))
        .into());
    }
    let record = Record { hash: work.hash, ..Record::new("") };
    let options = Options { record: Some(record), ..work.options.clone() };
    let shards = divide(&work.source, &options, args.shards).map_err(|error| work.named(error))?;
    match &args.output {
        None => results(|out| shards.write(out))?,
        Some(path) => store(&shards, path)?,
    }
    if verbosity > Verbosity::Quiet {
        summary(&shards);
    }
    Ok(Ending::Done)
}

fn summary(shards: &Shards) {
    let of = |what: fn(&Unit) -> u64| {
        let all = shards.units.iter().map(what);
        let (least, most) = (all.clone().min().unwrap_or(0), all.max().unwrap_or(0));
        (least, most)
    };
    let images = match of(|unit| unit.images) {
        (least, most) if least == most => counted(least, "image"),
        (least, most) => format!("{least} to {}", counted(most, "image")),
    };
    let (read, written) = (of(|unit| unit.read).1, of(|unit| unit.written).1);
    let all = shards.head.identity.images;
    say(&format!(
        "{} in {} of {images}, each of at most {} read and {} written",
        counted(all, "image"),
        counted(shards.head.shards, "shard"),
        bytes(read),
        bytes(written)
    ));
}

/// Writes a plan in the place of another one, whole or not at all.
fn store(shards: &Shards, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    if fs::symlink_metadata(path).is_ok() && Shards::read(path).is_err() {
        let problem = "something else than a plan is there, and is not replaced";
        return Err(Error::InTheWay { path: path.to_owned(), problem });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let write = || {
        let mut file = io::BufWriter::new(fs::File::create_new(&temporary)?);
        shards.write(&mut file)?;
        file.flush()?;
        fs::rename(&temporary, path)
    };
    let written = write();
    if written.is_err() {
        // The first error counts.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

/// A run by a plan in a folder.
fn run_of<'w>(work: &'w Work, args: &MergeArgs) -> (FilesSink, Options, &'w Shards) {
    let record = Record {
        manifest: args.manifest.clone().map_or(Manifest::Folder, Manifest::At),
        resume: Resume::Sizes,
        hash: work.hash,
        planned: work.planned.clone(),
        ..Record::new(&args.output)
    };
    let options = Options { record: Some(record), ..work.options.clone() };
    let plan = work.plan.as_ref().expect("it was read from a plan");
    (FilesSink::new(&args.output, false), options, plan)
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Status<'a> {
    shards: u64,
    complete: u64,
    images: u64,
    there: u64,
    /// As `sbatch --array` takes it.
    missing: &'a str,
    states: Vec<State>,
}

#[derive(Serialize)]
struct State {
    shard: u64,
    images: u64,
    there: u64,
}

pub(super) fn status(args: &StatusArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let work = Work::planned(&args.of.plan)?;
    let (sink, options, plan) = run_of(&work, &args.of);
    let ranges: Vec<Range<u64>> = plan.units.iter().map(Unit::range).collect();
    let states = shard_states(&work.source, &sink, &options, &ranges)?;
    let missing: Vec<&ShardState> = states.iter().filter(|state| !state.is_complete()).collect();
    let expression = array(missing.iter().map(|state| state.shard));
    let there = states.iter().map(|state| state.there).sum();
    let status = Status {
        shards: plan.head.shards,
        complete: plan.head.shards - missing.len() as u64,
        images: plan.head.identity.images,
        there,
        missing: &expression,
        states: states
            .iter()
            .map(|&ShardState { shard, images, there }| State { shard, images, there })
            .collect(),
    };
    results(|out| match (args.json, missing.is_empty()) {
        (true, _) => {
            serde_json::to_writer_pretty(&mut *out, &status)?;
            writeln!(out)
        }
        (false, false) => writeln!(out, "{expression}"),
        (false, true) => Ok(()),
    })?;
    if verbosity > Verbosity::Quiet && !args.json {
        let Status { shards, complete, images: images_of_all, there, .. } = status;
        let (of, images) = (counted_are(shards, "shard"), counted(images_of_all, "image"));
        say(&format!("{complete} of {of} complete, {there} of {images}"));
        if verbosity == Verbosity::Verbose {
            for state in &missing {
                let ShardState { shard, images, there } = state;
                say(&format!("shard {shard}: {there} of {}", counted(*images, "image")));
            }
        }
    }
    Ok(if missing.is_empty() { Ending::Done } else { Ending::SomeImagesFailed })
}

/// Numbers as Slurm writes arrays: `0-2,7`.
fn array(numbers: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

pub(super) fn merge_shards(args: &MergeArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let work = Work::planned(&args.plan)?;
    let (sink, options, _) = run_of(&work, args);
    let report = merge(&work.source, &sink, &options)?;
    if verbosity > Verbosity::Quiet {
        let images = counted(report.there, "image");
        let folder = shown_path(&args.output);
        let failed = match report.failed {
            0 => String::new(),
            failed => format!("; {failed} failed"),
        };
        say(&if report.finished {
            format!("nothing to do: {folder} has its manifest of {images}{failed}")
        } else {
            format!("{folder}: one manifest of {images}{failed}")
        });
    }
    Ok(if report.failed > 0 { Ending::SomeImagesFailed } else { Ending::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_shards_are_written_as_slurm_reads_arrays() {
        let cases: [(&[u64], &str); 5] = [
            (&[], ""),
            (&[0], "0"),
            (&[0, 1, 2, 7], "0-2,7"),
            (&[3, 5, 6, 9], "3,5-6,9"),
            (&[0, 2, 4], "0,2,4"),
        ];
        for (numbers, text) in cases {
            assert_eq!(array(numbers.iter().copied()), text);
        }
    }

    #[test]
    fn the_first_scheduler_that_says_so_counts() {
        let of = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let found = set.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, text)| (*text).to_owned())
            };
            told(&variable).map(|(number, _)| number).map_err(|error| error.to_string())
        };
        for (at, name) in VARIABLES.into_iter().enumerate() {
            assert_eq!(of(&[(name, "7")]), Ok(7), "{name}");
            for later in &VARIABLES[at + 1..] {
                assert_eq!(of(&[(later, "3"), (name, "0")]), Ok(0), "{name} before {later}");
            }
            for wrong in ["", "-1", "x", "1.5", "99999999999999999999"] {
                assert!(of(&[(name, wrong)]).unwrap_err().contains(name), "{wrong}");
            }
        }
        let none = of(&[]).unwrap_err();
        assert!(VARIABLES.iter().all(|name| none.contains(name)), "{none}");
    }

    #[test]
    fn shards_are_typed_as_number_or_fraction() {
        assert_eq!("auto".parse(), Ok(Shard::Auto));
        assert_eq!("3".parse(), Ok(Shard::Number(3, None)));
        assert_eq!("3/16".parse(), Ok(Shard::Number(3, Some(16))));
        for wrong in ["", "/", "3/", "/3", "-1", "a", "1/2/3", "Auto"] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
