//! What can be typed.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::Verbosity;
use super::shards::Shard;
use crate::backend::choose::Devices;
use crate::normalize::Norm;
use crate::plan::Selection;
use crate::sink::Fsync;

const EXAMPLES: &str = "\
Examples:
  tensortiff convert acts.safetensors -o out
      every image of the dump, each min-max normalized to 0..1
  tensortiff convert acts.safetensors -o out -t '*.attention.*' --exclude '*.bias'
      only tensors whose names match
  tensortiff convert feats.safetensors -o out --channel 3
      channel 3 of each C×H×W (or N×C×H×W) tensor
  tensortiff convert acts.safetensors -o out --norm none
      the samples as they are, widened to 32-bit float
  tensortiff convert a.safetensors b.safetensors -o out --name '{stem}_{tensor}_{index}.tif'
      all in one folder
  tensortiff convert acts.safetensors -o out -n
      what that would do: how many images, how many bytes, whether there is room for them
  tensortiff convert acts.safetensors -o out --resume
      go on after an interruption, a full disk or a kill; safe to give always

Exit codes: 0 done, 1 the run failed, 2 the call is wrong, 3 some images failed (the rest are
there), 75 a shard may go right another time, 130/143 interrupted.";

const PLAN_EXAMPLES: &str = "\
Examples:
  tensortiff plan acts.safetensors --shards 64 -o plan.jsonl
      then, on Slurm:
  sbatch --array=0-63 --wrap 'tensortiff convert plan.jsonl -o out --shard auto'
      what is missing, once more:
  sbatch --array=$(tensortiff status plan.jsonl out) --wrap '...'
      GNU parallel, over machines that share a disk:
  seq 0 63 | parallel -S host1,host2 --wd . tensortiff convert plan.jsonl -o out --shard {}
      when all are there:
  tensortiff merge plan.jsonl out";

/// Turns tensor dumps into 32-bit float grayscale TIFFs, one per image, on CPU and GPU with the
/// same bytes from every device.
#[derive(Debug, Parser)]
#[command(name = "tensortiff", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,

    /// Say only what went wrong: no progress, notes or summary.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more.
    #[arg(short, long, global = true)]
    verbose: bool,
}

impl Args {
    pub(super) fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write one TIFF for each image of the dumps.
    ///
    /// The last two axes of a tensor are the image, all axes before them count images: [H, W] is
    /// one image, [N, C, H, W] is N·C. Tensors with fewer axes or without elements are skipped
    /// with a note.
    #[command(after_help = EXAMPLES, after_long_help = EXAMPLES)]
    Convert(ConvertArgs),
    /// Divide a conversion into shards of about equal bytes, for machines that share a file system.
    ///
    /// `convert PLAN -o OUT --shard I/N` makes one, anywhere and in any order; `status` says which
    /// are missing, `merge` makes one manifest. In the end OUT is byte for byte what one run makes.
    /// Paths of dumps are as given here: shards are made from the same working folder, or with
    /// absolute paths.
    #[command(after_help = PLAN_EXAMPLES, after_long_help = PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Say which shards of a plan are missing in OUT, as `sbatch --array` takes them.
    ///
    /// Ends with 0 if none is, and with 3 otherwise.
    Status(StatusArgs),
    /// Make one manifest of all shards, and take away what they left besides.
    Merge(MergeArgs),
    /// Print what runs recorded of the images in an output folder: JSON lines, or CSV.
    Manifest(ManifestArgs),
    /// List the tensors of dumps: dtype, shape, and how many images each gives.
    Ls(LsArgs),
    /// List the GPU adapters of this machine, their limits, and whether they pass the arithmetic
    /// proof that a run demands.
    Devices(DevicesArgs),
    /// Measure this machine: each device alone, all together and `auto`, stage by stage, beside
    /// plain copies in memory and into files; tell what `auto` uses, and whether a GPU pays.
    #[command(after_help = BENCH_EXAMPLES, after_long_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
}

/// Which dumps, and which of their tensors.
#[derive(Debug, ClapArgs)]
pub(super) struct InputArgs {
    /// .safetensors, .npy, .npz and PyTorch (.pt, .pth, .bin) files; *.safetensors.index.json with the files that it names; folders
    /// of such files; patterns as 'acts/**.npy'; @LIST, a file with one path a line, or - for such
    /// a list on standard input. For `convert` a plan (*.jsonl) in their place.
    #[arg(required = true, value_name = "DUMP")]
    pub(super) dumps: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) selection: SelectionArgs,
}

/// Which tensors, and which of their planes.
#[derive(Debug, ClapArgs)]
pub(super) struct SelectionArgs {
    /// Take only tensors whose names match; may be repeated. `*` matches anything but `/`, `**`
    /// anything, `?` one character, `[a-z]` one of a set.
    #[arg(short, long = "tensor", value_name = "GLOB")]
    tensors: Vec<String>,

    /// Leave out tensors whose names match; may be repeated.
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,

    /// Take only index K of the third axis from the end: one channel of C×H×W.
    #[arg(long, value_name = "K")]
    channel: Option<u64>,
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            tensors: self.tensors.clone(),
            exclude: self.exclude.clone(),
            channel: self.channel,
        }
    }
}

/// Which images are made, and what they are like: all that a plan says.
#[derive(Debug, ClapArgs)]
pub(super) struct ImagesArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// What becomes of the samples. `minmax`: (x − min) / (max − min) over the finite samples of
    /// each image; images whose samples are all equal are kept as they are. `none`: no change.
    /// NaN and infinities are kept either way [default: minmax].
    #[arg(long, value_enum)]
    pub(super) norm: Option<NormArg>,

    /// What images are called, below the output folder. {stem}: the dump's file name without its
    /// extension; {tensor}: the tensor's name; {index}: the image's place on the axes before its
    /// own, zero-padded, joined by `_`. A tensor that is one image has no {index} part
    /// [default: {stem}/{tensor}/{index}.tif].
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) name: Option<String>,

    /// Take file names from this text file, one line an image, in the order of `ls`.
    #[arg(long, value_name = "LIST", conflicts_with = "name")]
    pub(super) names_from: Option<PathBuf>,

    /// Put a hash of each image's pixels into the manifest: XXH3, 64 bit.
    #[arg(long)]
    pub(super) hash: bool,
}

impl ImagesArgs {
    /// The first option that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let selection = self.input.selection.selection();
        let given = [
            ("--tensor", !selection.tensors.is_empty()),
            ("--exclude", !selection.exclude.is_empty()),
            ("--channel", selection.channel.is_some()),
            ("--norm", self.norm.is_some()),
            ("--name", self.name.is_some()),
            ("--names-from", self.names_from.is_some()),
            ("--hash", self.hash),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
}

#[derive(Debug, ClapArgs)]
pub(super) struct ConvertArgs {
    #[command(flatten)]
    pub(super) images: ImagesArgs,

    /// The folder for the images; it is made if it does not exist.
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: PathBuf,

    /// Make only one shard of a plan, given as the DUMP: number I (from 0 on), or I/N, where N must
    /// be what the plan says; `auto`: the number that the scheduler gives this process
    /// (SLURM_ARRAY_TASK_ID, SLURM_PROCID, JOB_COMPLETION_INDEX, AWS_BATCH_JOB_ARRAY_INDEX). A
    /// shard may be made again, or by two at once; what was made of it stays. Ends with 75 if
    /// every failure is of the moment, so that another try may help.
    #[arg(long, value_name = "I/N", conflicts_with_all = ["skip_existing", "manifests"])]
    pub(super) shard: Option<Shard>,

    /// Who works: `auto` (the CPU and every hardware adapter that passes its proof), `cpu`, `gpu`,
    /// an adapter's index or part of its name, or several of them with commas. The bytes are the
    /// same from every device.
    #[arg(short, long, value_name = "DEVICES", default_value = "auto", value_parser = devices)]
    pub(super) device: Devices,

    /// Number of CPU threads, 1024 at most [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,

    /// Most memory that the process may take, as 512M or 2G (powers of 1024): there are fewer
    /// threads, images are read twice that would be kept, and devices that need more are not used
    /// [default: what all cores and devices gain by].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) max_memory: Option<u64>,

    /// Of the images that a GPU makes, make one of N on the CPU as well and compare, before it gets
    /// its name: 1 every one, 0 none. A device that is wrong is not used any more, and all its
    /// images are made again.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(super) verify_sample: u64,

    /// Say at the end where the threads' time went: reading, computing, writing, waiting.
    #[arg(long)]
    pub(super) timings: bool,

    /// Replace files that exist already; without this they are an error before any work.
    #[arg(long, group = "existing")]
    pub(super) overwrite: bool,

    /// Leave files that exist already as they are, whatever they hold, and make the others.
    #[arg(long, group = "existing")]
    pub(super) skip_existing: bool,

    /// Go on with a run that was interrupted: images that it recorded, and that are there with the
    /// right size, are not made again; with `hash`, their pixels are read and compared. A changed
    /// dump or other options are refused. Without such a run it begins anew, and after one that
    /// was finished there is nothing to do.
    #[arg(
        long,
        group = "existing",
        value_enum,
        value_name = "CHECK",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "sizes"
    )]
    pub(super) resume: Option<ResumeArg>,

    /// Write the manifest, one line of JSON an image, to this file [default: manifest.jsonl in
    /// the output folder].
    #[arg(long, value_name = "PATH", group = "manifests")]
    pub(super) manifest: Option<PathBuf>,

    /// Write no manifest. A run that is finished then cannot be told from one that never was.
    #[arg(long, group = "manifests")]
    pub(super) no_manifest: bool,

    /// What a loss of power may cost. `none`: what the system has not written yet, as with `cp`.
    /// `file`: no file that has its name is half written. `end`: nothing, once the run is done.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = FsyncArg::None)]
    pub(super) fsync: FsyncArg,

    /// Say what would be done, and do nothing of it: images, bytes, files, memory, devices, the
    /// room on the disk, and what is in the way.
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,

    /// Print what --dry-run says as JSON.
    #[arg(long, requires = "dry_run")]
    pub(super) json: bool,

    /// Begin even if the disk has too little room for all images: it may compress them, or get
    /// more in time.
    #[arg(long)]
    pub(super) no_space_check: bool,

    /// Stop at the first image that cannot be made; otherwise the others are made.
    #[arg(long)]
    pub(super) fail_fast: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) images: ImagesArgs,

    /// How many shards; those of fewer images than shards have none.
    #[arg(long, value_name = "N")]
    pub(super) shards: u64,

    /// The file for the plan, named *.jsonl; it takes the place of another plan
    /// [default: standard output].
    #[arg(short, long, value_name = "PLAN")]
    pub(super) output: Option<PathBuf>,
}

/// A plan, and where its images are.
#[derive(Debug, ClapArgs)]
pub(super) struct MergeArgs {
    /// The plan.
    #[arg(value_name = "PLAN")]
    pub(super) plan: PathBuf,

    /// The folder of the images.
    #[arg(value_name = "OUT")]
    pub(super) output: PathBuf,

    /// The file of the manifest [default: manifest.jsonl in the folder].
    #[arg(long, value_name = "PATH")]
    pub(super) manifest: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) of: MergeArgs,

    /// Print JSON, with the images of every shard.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ManifestArgs {
    /// An output folder, or a manifest.
    #[arg(value_name = "OUT")]
    pub(super) path: PathBuf,

    /// Print comma-separated values with a line of names, for spreadsheets and pandas.
    #[arg(long)]
    pub(super) csv: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct LsArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// List tensors of one type and shape whose names differ in numbers alone as one:
    /// `layers.#.attn`.
    #[arg(long)]
    pub(super) fold: bool,

    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  tensortiff bench
      on made data, with files in the system's folder for temporary ones
  tensortiff bench acts.safetensors -o /data/scratch
      on your own data, on the disk that will take the images
  tensortiff bench --device cpu,llvmpipe
      the CPU, an adapter that is named, and both together

GB/s are 10^9 bytes of samples read a second: the median of the rounds, and their range.
  reading      the samples, into memory, and nothing else
  file copy    reading them and writing files of the same sizes, and nothing else
  to nothing   the whole conversion but for the files
  to files     the whole conversion; under it, from the run in the middle, the speed in the share
               of the time that threads spent reading, computing and writing, and the share spent
               waiting. Of a GPU, `compute` is only what threads do; its kernels have their own
               lines
`together` is all devices, opened beforehand. `auto` is what `convert` does by default: the CPU
begins, and adapters join a run that is not over by then. Shares are of a plain copy in memory, by
one thread and by all, and of the file copy. (Reading may be above a copy in memory: what it reads
into stays in cache.)

Every round converts everything twice for each device: of a large dump take some tensors with -t.
One run's images must fit the folder at a time.";

#[derive(Debug, ClapArgs)]
pub(super) struct BenchArgs {
    /// Dumps to measure on; made data if there is none.
    #[arg(value_name = "DUMP")]
    pub(super) dumps: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) selection: SelectionArgs,

    /// Who is measured: `auto` (the CPU and every hardware adapter), or devices as `convert` takes
    /// them, each alone and all together.
    #[arg(short, long, value_name = "DEVICES", default_value = "auto", value_parser = devices)]
    pub(super) device: Devices,

    /// Number of CPU threads, 1024 at most [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,

    /// A folder on the disk that is to be measured. A new folder is made in it, and taken away
    /// again [default: the system's folder for temporary files].
    #[arg(short, long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,

    /// How often everything is measured.
    #[arg(long, value_name = "N", default_value = "3")]
    pub(super) rounds: NonZeroUsize,

    /// Measure on a sixteenth of the made data.
    #[arg(long, conflicts_with = "dumps")]
    pub(super) quick: bool,

    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DevicesArgs {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum NormArg {
    Minmax,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ResumeArg {
    Sizes,
    Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FsyncArg {
    None,
    File,
    End,
}

impl From<FsyncArg> for Fsync {
    fn from(arg: FsyncArg) -> Fsync {
        match arg {
            FsyncArg::None => Fsync::None,
            FsyncArg::File => Fsync::File,
            FsyncArg::End => Fsync::End,
        }
    }
}

impl From<NormArg> for Norm {
    fn from(arg: NormArg) -> Norm {
        match arg {
            NormArg::Minmax => Norm::MinMax,
            NormArg::None => Norm::None,
        }
    }
}

/// Bytes, or with one of the letters K, M, G, T.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is no size; a number of bytes, or one with K, M, G or T, is");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1_u64 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(wrong)
}

fn devices(text: &str) -> Result<Devices, String> {
    text.parse().map_err(|error: crate::Error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases =
            [("64", 64), ("64k", 65_536), ("3M", 3 << 20), ("2GiB", 2 << 30), ("1T", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "M", "-1", "1.5G", "1X", "99999999T", "1 G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }
}
