//! `tensortiff convert`.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::args::{ConvertArgs, FsyncArg, ResumeArg};
use super::progress::Progress;
use super::work::Work;
use super::{Ending, Verbosity, counted, say, signals};
use crate::convert::{
    Manifest, Options, Record, Resume, VerifySample, Watch as _, convert, preview,
};
use crate::error::{Error, shown, shown_path};
use crate::normalize::{Constant, Nonfinite, Rule};
use crate::plan::{Stack, Tar};
use crate::report::{Report, Stages};
use crate::sink::{FilesSink, Sink, StreamSink};
use crate::source::Source as _;

pub(super) fn run(args: &ConvertArgs, verbosity: Verbosity) -> anyhow::Result<Ending> {
    let mut work = Work::of(&args.images, verbosity)?;
    if let Some(bytes) = args.max_memory {
        // Half of it is the workers'.
        let left = bytes.saturating_sub(Options::LEAST_MEMORY + work.source.source().memory());
        work.source = work.source.within(left / 2);
    }
    let target = Target::of(args)?;
    let options = options(args, &work, &target)?;
    let source = &work.source;
    let sink = target.sink(args)?;
    let sink = &*sink;
    if args.dry_run {
        return match preview(source, sink, &options) {
            Ok(preview) => super::preview::run(args, &preview, verbosity),
            Err(error) => super::preview::refused(args, work.named(error)),
        };
    }
    let is_one = options.tar.as_ref().is_some_and(|tar| tar.size().is_none());
    let is_streamed = options.tar.as_ref().is_some_and(Tar::is_streamed);
    if options.stack != Stack::None || is_one {
        signals::begins_again(is_streamed || is_one);
    } else if args.overwrite || args.skip_existing {
        signals::resume_in_place_of(if args.overwrite { "--overwrite" } else { "--skip-existing" });
    }
    let progress = Arc::new(Progress::new(verbosity));
    let options = Options { watch: Some(progress.clone()), ..options };
    options.warnings().iter().for_each(|warning| progress.note(warning));
    if target.is_stream() && is_nowhere() {
        progress.note("standard output is closed, or the null device: the tar goes nowhere");
    }
    signals::cancel_on_signal(Arc::clone(&options.cancel)).context("listening for signals")?;
    let result = convert(source, sink, &options).map_err(|error| work.named(error));
    progress.finish();
    let report = result?;
    for failure in &report.failures {
        let (name, text) = (shown(&failure.name), failure.error.to_string());
        // Errors of the sink name the file themselves.
        let about = if text.contains(&name) { text } else { format!("{name}: {text}") };
        say(&format!("tensortiff: error: {about}"));
    }
    let untold = report.failed - report.failures.len() as u64;
    if untold > 0 {
        say(&format!("tensortiff: error: {} failed", counted(untold, "more image")));
    }
    if verbosity > Verbosity::Quiet {
        summary(&report, &options.rule, verbosity).iter().for_each(|line| say(line));
    }
    if args.timings {
        if report.ranges != Stages::default() {
            say(&timings("ranges", &report.ranges));
        }
        report.devices.iter().for_each(|device| say(&timings(&device.name, &device.stages)));
    }
    Ok(match report.failed {
        0 => Ending::Done,
        _ if args.shard.is_some() && report.failed_for_good == 0 => Ending::TryAgain,
        _ => Ending::SomeImagesFailed,
    })
}

/// Standard output as `-o` has it.
const STREAM: &str = "-";

/// Standard output as a file: bytes that hold no lines are not looked through for their ends.
#[cfg(unix)]
fn stdout() -> io::Result<impl io::Write + Send> {
    use std::os::fd::AsFd as _;
    io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from)
}

#[cfg(not(unix))]
fn stdout() -> io::Result<impl io::Write + Send> {
    Ok(io::stdout())
}

/// Whether what is written to standard output is nowhere: the null device, which the start of a program also
/// puts in the place of one that is closed.
#[cfg(unix)]
fn is_nowhere() -> bool {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let Ok(is) = stdout.and_then(|stdout| stdout.metadata()) else { return true };
    let null = std::fs::metadata("/dev/null");
    is.file_type().is_char_device() && null.is_ok_and(|null| null.rdev() == is.rdev())
}

#[cfg(not(unix))]
fn is_nowhere() -> bool {
    false
}

/// Where images go.
struct Target {
    folder: PathBuf,
    tar: Option<Tar>,
}

impl Target {
    fn of(args: &ConvertArgs) -> Result<Target, Error> {
        let path = &args.output;
        if path.as_os_str() == STREAM {
            return Target::stream(args);
        }
        let bytes = path.as_os_str().as_encoded_bytes();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_folder = bytes.ends_with(b"/") || path.is_dir();
        if !is_folder && name.is_empty() && bytes.ends_with(b".tar") {
            let path = shown_path(path);
            return Err(Error::Usage(format!("-o {path}: a tar's name is text, in UTF-8")));
        }
        let lower = name.to_ascii_lowercase();
        if !is_folder
            && [".tar.gz", ".tgz", ".tar.zst", ".tar.xz"].iter().any(|end| lower.ends_with(end))
        {
            return Err(Error::Usage(format!(
                "-o {}: tars are not compressed, so that each image can be read by itself; -o NAME.tar \
                 makes one",
                shown_path(path)
            )));
        }
        if is_folder || !lower.ends_with(".tar") {
            if args.tar_size.is_some() {
                return Err(Error::Usage(format!(
                    "--tar-size is of tars, and -o {} is {}; -o NAME.tar makes them",
                    shown_path(path),
                    if is_folder { "a folder" } else { "to be a folder" }
                )));
            }
            return Ok(Target { folder: path.clone(), tar: None });
        }
        let tar = Tar::new(name, args.tar_size);
        let tar = tar.map_err(|problem| Error::Usage(format!("-o {problem}")))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Target { folder: parent.unwrap_or(Path::new(".")).to_owned(), tar: Some(tar) })
    }

    /// Standard output. A manifest that is asked for is as that of the tar beside it: NAME.manifest.jsonl or
    /// NAME.jsonl is of NAME.tar.
    fn stream(args: &ConvertArgs) -> Result<Target, Error> {
        let option = [(args.resume.is_some(), "--resume"), (args.skip_existing, "--skip-existing")];
        if let Some((_, option)) = option.into_iter().find(|(is_given, _)| *is_given) {
            return Err(Error::Usage(format!(
                "-o -: {option} is of what is there already, and of a stream nothing is"
            )));
        }
        if args.images.hash {
            let problem = "-o -: --hash reads back what came in pieces, and nothing can be read back of a stream";
            return Err(Error::Usage(problem.to_owned()));
        }
        if io::stdout().is_terminal() && !args.dry_run {
            let problem =
                "-o -: standard output is a terminal, and a tar is to be read by a pipe or a file";
            return Err(Error::Usage(problem.to_owned()));
        }
        let manifest = args.manifest.as_deref();
        let name = manifest.and_then(Path::file_name).and_then(|name| name.to_str());
        let stem = name.map(|name| name.strip_suffix(".jsonl").unwrap_or(name));
        let stem = stem.map(|stem| stem.strip_suffix(".manifest").unwrap_or(stem));
        let name = format!("{}.tar", stem.unwrap_or("stdout"));
        let tar = Tar::new(&name, args.tar_size);
        let tar = tar.map_err(|problem| Error::Usage(format!("--manifest {problem}")))?;
        let parent = manifest.and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        if let Some(manifest) = manifest.filter(|_| !folder.is_dir()) {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no such folder");
            return Err(Error::Write { path: manifest.to_owned(), source });
        }
        if manifest.is_some() && is_nowhere() {
            let problem = "-o - --manifest: standard output is closed, or the null device, and there will be no tar \
                           that a manifest could be of";
            return Err(Error::Usage(problem.to_owned()));
        }
        Ok(Target { folder, tar: Some(tar.streamed()) })
    }

    fn is_stream(&self) -> bool {
        self.tar.as_ref().is_some_and(Tar::is_streamed)
    }

    fn sink(&self, args: &ConvertArgs) -> anyhow::Result<Box<dyn Sink>> {
        if self.is_stream() {
            return Ok(Box::new(StreamSink::new("standard output", stdout()?)));
        }
        let sink = FilesSink::new(&self.folder, args.overwrite);
        Ok(Box::new(sink.with_fsync(args.fsync.into())))
    }

    /// Where the manifest goes if nothing else is asked for.
    fn manifest(&self) -> Manifest {
        match &self.tar {
            None => Manifest::Folder,
            Some(tar) => Manifest::At(self.folder.join(tar.manifest())),
        }
    }
}

fn options(args: &ConvertArgs, work: &Work, target: &Target) -> Result<Options, Error> {
    let shard = match (args.shard, &work.plan) {
        (None, _) => None,
        (Some(shard), Some(plan)) => Some(shard.of(plan)?),
        (Some(_), None) => {
            return Err(Error::Usage(
                "--shard: a shard is one of a plan; `tensortiff plan DUMP... --shards N -o \
                 plan.jsonl` makes one, to be given in the place of the dumps"
                    .to_owned(),
            ));
        }
    };
    Ok(Options {
        devices: args.device.clone(),
        threads: args.threads,
        max_memory: args.max_memory,
        timings: args.timings,
        verify_sample: VerifySample::one_of(args.verify_sample),
        skip_existing: args.skip_existing,
        shard,
        fail_fast: args.fail_fast,
        unchecked_space: args.no_space_check,
        record: (!target.is_stream() || args.manifest.is_some())
            .then(|| record(args, work, target)),
        tar: target.tar.clone(),
        leave_starting: true, // this process ends by _exit
        ..work.options.clone()
    })
}

fn record(args: &ConvertArgs, work: &Work, target: &Target) -> Record {
    Record {
        manifest: match (&args.manifest, args.no_manifest) {
            (Some(path), _) => Manifest::At(path.clone()),
            (None, true) => Manifest::None,
            (None, false) => target.manifest(),
        },
        resume: match args.resume {
            // A shard is gone on with, unless it is to be made anew.
            None if args.shard.is_some() && !args.overwrite => Resume::Sizes,
            None => Resume::No,
            Some(ResumeArg::Sizes) => Resume::Sizes,
            Some(ResumeArg::Hash) => Resume::Hashes,
        },
        // To compare hashes the images to come need them as well; what a plan says counts.
        hash: work.hash || (work.plan.is_none() && args.resume == Some(ResumeArg::Hash)),
        sync: args.fsync != FsyncArg::None,
        planned: work.planned.clone(),
        ..Record::new(&target.folder)
    }
}

/// The summary line, and one more where samples were not finite.
fn summary(report: &Report, rule: &Rule, verbosity: Verbosity) -> Vec<String> {
    let seconds = report.elapsed.as_secs_f64();
    if report.finished {
        return vec![match report.there {
            1 => "nothing to do: the one image is there already".to_owned(),
            all => format!("nothing to do: all {all} images are there already"),
        }];
    }
    let total: u64 = report.devices.iter().map(|device| device.bytes_in).sum();
    let share = |bytes: u64| 100.0 * bytes as f64 / total.max(1) as f64;
    let devices: Vec<String> = report
        .devices
        .iter()
        .filter(|device| device.bytes_in > 0 || verbosity == Verbosity::Verbose)
        .map(|device| format!("{} {:.0} %", shown(&device.name), share(device.bytes_in)))
        .collect();
    let mut line = format!(
        "{}, {} read, {} written, {seconds:.3} s, {:.2} GB/s read",
        counted(report.images, "image"),
        bytes(report.bytes_in),
        bytes(report.bytes_out),
        report.bytes_in as f64 / 1e9 / seconds.max(1e-9),
    );
    if report.there > 0 {
        let were = if report.there == 1 { "was" } else { "were" };
        line = format!("{line}; {} {were} there already", report.there);
    }
    if !devices.is_empty() {
        line += &format!("; {}", devices.join(", "));
    }
    if report.gpu_not_needed && report.images > 0 {
        line += " (done before any GPU could help)";
    }
    if report.failed > 0 {
        line += &format!("; {} failed", report.failed);
    }
    let samples = &report.samples;
    let counts = [(samples.nan, "NaN"), (samples.pos_inf, "+Inf"), (samples.neg_inf, "-Inf")];
    let counts: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !counts.is_empty() {
        let done = match rule.nonfinite {
            Nonfinite::Keep | Nonfinite::Fail => "kept, not in any range",
            Nonfinite::Zero => "made 0",
            Nonfinite::Clamp => "made 0 or 1",
        };
        let images = counted(samples.nonfinite_images, "image");
        line += &format!("; {done}: {} in {images}", counts.join(", "));
    }
    let constant = match rule.constant {
        Constant::Keep => "kept as they are",
        Constant::Zero => "made 0",
        Constant::Half => "made 0.5",
    };
    if samples.degenerate_images > 0 {
        line += &format!(
            "; {} with a range without width, though their samples differ ({constant})",
            counted(samples.degenerate_images, "image")
        );
    }
    if samples.overflow > 0 {
        line += &format!("; {} beyond f32 became ±Inf", counted(samples.overflow, "finite sample"));
    }
    let mut lines = vec![line];
    if verbosity == Verbosity::Verbose {
        lines.extend(report.devices.iter().map(|device| {
            let name = shown(&device.name);
            let compared = match device.checked {
                0 => String::new(),
                checked => format!(", {checked} compared with the CPU's"),
            };
            let images = counted(device.images, "image");
            format!("{name}: {images}{compared}, {} read", bytes(device.bytes_in))
        }));
        lines.push(format!(
            "{} ({constant}), {} without a finite sample",
            counted(samples.constant_images, "constant image"),
            samples.no_finite_images
        ));
    }
    lines
}

/// `timings: cpu: read 30.1 %, compute 12.0 %, write 55.2 %, wait 2.7 % of 0.640 s of threads`
fn timings(who: &str, stages: &Stages) -> String {
    let total = stages.total().as_secs_f64();
    let share = |(what, time): (&str, Duration)| {
        format!("{what} {:.1} %", 100.0 * time.as_secs_f64() / total.max(1e-9))
    };
    let stages = [
        ("read", stages.read),
        ("compute", stages.compute),
        ("write", stages.write),
        ("wait", stages.wait),
    ];
    let shares = stages.map(share).join(", ");
    format!("timings: {}: {shares} of {total:.3} s of its threads", shown(who))
}

/// A byte count for people, in powers of 1000.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.3} {}", units[unit]) }
}
