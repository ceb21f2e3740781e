//! What can be typed.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::Verbosity;
use super::pages::{CompletionsArgs, ManArgs, SHELLS};
use super::restore::RestoreArgs;
use super::shards::Shard;
use super::stats::By;
use super::verify::VerifyArgs;
use crate::EncodingText;
use crate::backend::choose::Devices;
use crate::error::nearest::is_near;
use crate::normalize::RuleText;
use crate::plan::{Pick, Sample, Selection};
use crate::sink::Fsync;
use crate::source::{Complex, Layout, NpyV2, Raw, Reading};

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
  tensortiff convert acts.safetensors -o out --stack tensor
      one file a tensor: a stack in Fiji, an array of N×H×W in Python
  tensortiff convert frames.bin -o out --raw u16:?x512x640
      a file of samples without a header: as many images of 512×640 as it has
  tensortiff convert acts.safetensors -o out -n
      what that would do: how many images, how many bytes, whether there is room for them
  tensortiff convert acts.safetensors -o out --resume
      go on after an interruption, a full disk or a kill; safe to give always

Exit codes: 0 done, 1 the run failed, 2 the call is wrong, 3 some images failed (the rest are
there), 75 a shard may go right another time, 129/130/143 interrupted.";

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
    /// Read all images again and tell what is not as the manifest says: files, sizes, tags, pixels.
    ///
    /// With --against the images are also computed again and compared byte for byte. Files that no manifest
    /// names are told, and no difference. Ends with 5 if there is any difference, each of which is
    /// a line; and with 3 if there is none, but images that the run could not make.
    Verify(VerifyArgs),
    /// Undo the norm of a run and put the tensors together again: safetensors of 32-bit floats.
    ///
    /// What cannot be undone is refused with the reason; what was cut off or rounded is told.
    Restore(RestoreArgs),
    /// List the tensors of dumps: dtype, shape, and how many images each gives.
    Ls(LsArgs),
    /// Say what the samples are like: least and greatest, mean, standard deviation, exact percentiles,
    /// how many are 0, NaN or infinite, how many images are constant.
    Stats(StatsArgs),
    /// List the GPU adapters of this machine, their limits, and whether they pass the arithmetic
    /// proof that a run demands.
    Devices(DevicesArgs),
    /// Measure this machine: each device alone, all together and `auto`, stage by stage, beside
    /// plain copies in memory and into files; tell what `auto` uses, and whether a GPU pays.
    #[command(after_help = BENCH_EXAMPLES, after_long_help = BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Print what completes this program's commands and options in a shell.
    #[command(after_help = SHELLS, after_long_help = SHELLS)]
    Completions(CompletionsArgs),
    /// Print the manual page of this program, or of one of its commands; or write all into a folder.
    Man(ManArgs),
}

/// Which dumps, and which of their tensors.
#[derive(Debug, ClapArgs)]
pub(super) struct InputArgs {
    /// .safetensors, .npy, .npz and PyTorch (.pt, .pth, .bin) files; *.safetensors.index.json with the files
    /// that it names; folders of such files (a .bin without tensors that PyTorch wrote is left out there, with
    /// a note); patterns as 'acts/**.npy'; @LIST, a file with one path a line, or - for such a list on standard input. For `convert` a plan (*.jsonl) in their place.
    #[arg(required = true, value_name = "DUMP")]
    pub(super) dumps: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) reading: ReadingArgs,

    #[command(flatten)]
    pub(super) selection: SelectionArgs,
}

/// What dumps do not say themselves.
#[derive(Debug, ClapArgs)]
pub(super) struct ReadingArgs {
    /// All dumps are raw files, whatever they are called: each is one tensor, samples of this type and
    /// shape without a header, after OFFSET bytes that are skipped. DTYPE as safetensors, PyTorch or
    /// NumPy call it: f32, bf16, uint8, '<i4'; f32be for the other byte order. f4 and i4 are NumPy's, of 4
    /// bytes, as f2, f8, i1, i2, u1, u2, u4 and c8 are; F4 is the float of 4 bits; i8 and u8 have 8 bits, and
    /// NumPy's are '<i8' and '<u8'. c64 wants --complex. SHAPE: 10x512x512; one
    /// axis may be ?, which is then what the file's size makes of it. A file with more or fewer bytes is
    /// refused. Of a folder all files are meant.
    #[arg(long, value_name = "DTYPE:SHAPE[:OFFSET]", value_parser = raw)]
    raw: Option<Raw>,

    /// Take arrays of NumPy's dtype |V2 for bfloat16, as which they were saved.
    #[arg(long, value_enum, value_name = "DTYPE")]
    npy_v2: Option<NpyV2Arg>,

    /// What is made of complex numbers (of two 32-bit floats): their magnitude, real or imaginary part.
    #[arg(long, value_name = "abs|re|im", value_parser = complex)]
    complex: Option<Complex>,

    /// What the axes of tensors are, a letter for each: H and W, the image's rows and columns, and any
    /// others, which count images, as NHWC. Without H and W the last two letters are rows and columns, as
    /// in BTD. GLOB=LETTERS says it of tensors whose names match; may be repeated, and the first that
    /// matches counts. `auto`: the last four are N, C, H and W [default: auto].
    #[arg(long, value_name = "[GLOB=]LETTERS")]
    layout: Vec<String>,

    /// Take only some indices of axes, by their letters, as Python has them: C=3, N=0:16, T=::4; several
    /// with commas.
    #[arg(long, value_name = "AXIS=INDICES", allow_hyphen_values = true)]
    select: Vec<String>,

    /// Combine the samples along an axis into one, before anything else: mean, max, min, absmean (mean of
    /// magnitudes), l2 (root of the sum of squares) or std, as C=mean.
    #[arg(long, value_name = "AXIS=HOW")]
    reduce: Option<String>,

    /// Make images of tensors of one axis: R rows of equal length. With an axis W and no H in --layout
    /// it is that axis.
    #[arg(long, value_name = "R")]
    rows: Option<String>,

    /// Exchange the rows and columns of images.
    #[arg(long)]
    transpose: bool,

    /// Turn images round: x from left to right, y upside down; may be repeated.
    #[arg(long, value_name = "x|y")]
    flip: Vec<String>,
}

impl ReadingArgs {
    pub(super) fn reading(&self) -> Reading {
        Reading {
            raw: self.raw.clone(),
            npy_v2: self.npy_v2.map(Into::into),
            complex: self.complex,
        }
    }

    /// What becomes of axes.
    pub(super) fn layout(&self) -> Result<Layout, crate::Error> {
        let mut layout = Layout::default();
        let all = [
            ("layout", &self.layout[..]),
            ("select", &self.select),
            ("reduce", self.reduce.as_slice()),
            ("rows", self.rows.as_slice()),
            ("transpose", if self.transpose { &[const { String::new() }] } else { &[] }),
            ("flip", &self.flip),
        ];
        for (option, texts) in all {
            texts.iter().try_for_each(|text| layout.add(option, text))?;
        }
        Ok(layout)
    }
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

    /// Take only tensors in whose names this regular expression matches. Its named groups are fields
    /// of --name and --group-by: with `\.(?<layer>\d+)\.` there is {layer}.
    #[arg(short = 'T', long, value_name = "RE")]
    tensor_regex: Option<String>,

    /// Take only index K of the third axis from the end: one channel of C×H×W. With --reduce of C there is none.
    #[arg(long, value_name = "K")]
    channel: Option<u64>,

    /// Take one of K images: the first, and each that is K later, in the order of `ls`. What is left
    /// after this --sample takes from, and --limit of that.
    #[arg(long, value_name = "K")]
    every: Option<NonZeroU64>,

    /// Take K images at random.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,

    /// What decides which images --sample takes: the same number, the same images [default: 0].
    #[arg(long, value_name = "S", requires = "sample")]
    seed: Option<u64>,

    /// Take the first K images.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection {
            tensors: self.tensors.clone(),
            exclude: self.exclude.clone(),
            regex: self.tensor_regex.clone(),
            group_by: None,
            channel: self.channel,
            pick: Pick {
                every: self.every,
                sample: self.sample.map(|count| Sample { count, seed: self.seed.unwrap_or(0) }),
                limit: self.limit,
            },
        }
    }
}

/// How samples become pixels.
#[derive(Debug, ClapArgs)]
pub(super) struct NormArgs {
    /// What becomes of the samples, by the finite ones of their --scope. `minmax`: (x − min) / (max −
    /// min). `percentile`: the same between two percentiles (--clip), clamped to 0..1. `symmetric`:
    /// (x + m) / 2m, m the greatest magnitude, so that zero becomes 0.5. `zscore`: (x − mean) / std,
    /// or with --sigma K mean ± K·std to 0..1, clamped. `fixed`: --range to 0..1, clamped. `none`: no
    /// change [default: minmax].
    #[arg(long, value_parser = ["minmax", "percentile", "symmetric", "zscore", "fixed", "none"])]
    norm: Option<String>,

    /// Which samples share one range: those of an image, of a channel (the same index on the axis that
    /// --layout calls C, or the one before the image's), of a tensor, of a group of tensors (--group-by),
    /// or of all dumps. Wider ones than images cost one more read [default: image].
    #[arg(long, value_parser = ["image", "channel", "tensor", "group", "dump"])]
    scope: Option<String>,

    /// With --scope group: tensors for which this template gives the same text are a group. {stem} and
    /// {tensor} as in --name, and the named groups of --tensor-regex: '{layer}'.
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) group_by: Option<String>,

    /// The percentiles that become 0 and 1, exact, as NumPy's `linear` method has them
    /// [default: 1,99].
    #[arg(long, value_name = "P,Q", allow_hyphen_values = true)]
    clip: Option<String>,

    /// What becomes 0 and 1 with --norm fixed. 32-bit floats have to tell them apart, unless all tensors are
    /// F64 or integers of 32 or 64 bits.
    #[arg(long, value_name = "LO,HI", allow_hyphen_values = true)]
    range: Option<String>,

    /// With --norm zscore: mean ± K standard deviations become 0 and 1.
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    sigma: Option<String>,

    /// What becomes of images whose samples are all equal, and of those whose range has no width for
    /// another reason: they stay as they are, or their samples become 0, or 0.5 [default: keep].
    #[arg(long, value_parser = ["keep", "zero", "half"])]
    constant: Option<String>,

    /// What becomes of NaN and infinite samples, which never take part in a range. `keep`: they stay.
    /// `zero`: they become 0. `clamp`: −Inf and NaN become 0, +Inf becomes 1. `fail`: the image is
    /// not made [default: keep].
    #[arg(long, value_parser = ["keep", "zero", "clamp", "fail"])]
    nonfinite: Option<String>,

    /// Raise the pixels in 0..1 to the power of G.
    #[arg(long, value_name = "G", allow_hyphen_values = true)]
    gamma: Option<String>,

    /// Bring the pixels from 0..1 to A..B, after everything else.
    #[arg(long, value_name = "A,B", allow_hyphen_values = true)]
    out_range: Option<String>,
}

impl NormArgs {
    /// What was given, by name.
    fn given(&self) -> [(&'static str, Option<&str>); RuleText::NAMES.len()] {
        [
            ("norm", self.norm.as_deref()),
            ("scope", self.scope.as_deref()),
            ("clip", self.clip.as_deref()),
            ("range", self.range.as_deref()),
            ("sigma", self.sigma.as_deref()),
            ("constant", self.constant.as_deref()),
            ("nonfinite", self.nonfinite.as_deref()),
            ("gamma", self.gamma.as_deref()),
            ("out-range", self.out_range.as_deref()),
        ]
    }

    pub(super) fn text(&self) -> RuleText<'_> {
        let mut text = RuleText::default();
        for (name, value) in self.given() {
            if let Some(value) = value {
                text.set(name, value);
            }
        }
        text
    }
}

/// How pixels are stored.
#[derive(Debug, ClapArgs)]
pub(super) struct EncodingArgs {
    /// Whom files are for, which is what the options below are where they are not given: `fiji`: every
    /// reader. `gis`: GDAL and QGIS (--tile 256 --compress deflate --predictor float, and GDAL's tags for
    /// scale, offset and no data). `archive`: small files (--compress zstd --predictor float)
    /// [default: fiji].
    #[arg(long, value_name = "WHO", value_parser = ["fiji", "gis", "archive"])]
    profile: Option<String>,

    /// Whether files are BigTIFFs, whose offsets are 64 bits wide. `auto`: those that may pass 4 GiB.
    /// `no`: what may pass 4 GiB is refused. OpenCV, GDAL, Pillow, tifffile, libvips and Fiji's
    /// Bio-Formats open them, ImageJ's own File > Open does not [default: auto].
    #[arg(long, value_name = "WHEN", value_parser = ["auto", "yes", "no"])]
    bigtiff: Option<String>,

    /// Packs pixels: `none`, `deflate` or `zstd`, with a level after a colon: 1 to 12 for deflate (6 where
    /// none is given), 1 to 22 for zstd (3). All threads have a part in each large image. Every reader
    /// opens deflate; ImageJ and pip's OpenCV and libvips do not read zstd [default: none].
    #[arg(long, value_name = "HOW[:LEVEL]", allow_hyphen_values = true)]
    compress: Option<String>,

    /// What is done to pixels before they are packed: nothing (`none`), the predictor for floats (`float`,
    /// tag 317 = 3), or what makes an image's first strip or tile smaller (`auto`). ImageJ shows noise, without
    /// a word, where it was used [default: none].
    #[arg(long, value_name = "HOW", value_parser = ["none", "float", "auto"])]
    predictor: Option<String>,

    /// Stores pixels in square tiles of so many pixels on a side, a multiple of 16 up to 4096, and not in
    /// strips (`none`): who looks at a part of a large image reads that part. Tiles are no larger than it
    /// takes to hold an image, and filled up with zeros: small ones suit small images. ImageJ does not
    /// open them [default: none].
    #[arg(long, value_name = "SIDE")]
    tile: Option<String>,
}

impl EncodingArgs {
    /// What was given, by name.
    fn given(&self) -> [(&'static str, Option<&str>); EncodingText::NAMES.len()] {
        [
            ("profile", self.profile.as_deref()),
            ("bigtiff", self.bigtiff.as_deref()),
            ("compress", self.compress.as_deref()),
            ("predictor", self.predictor.as_deref()),
            ("tile", self.tile.as_deref()),
        ]
    }

    pub(super) fn text(&self) -> EncodingText<'_> {
        let mut text = EncodingText::default();
        for (name, value) in self.given() {
            if let Some(value) = value {
                text.set(name, value);
            }
        }
        text
    }
}

/// Which images are made, and what they are like: all that a plan says.
#[derive(Debug, ClapArgs)]
pub(super) struct ImagesArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    #[command(flatten)]
    pub(super) norm: NormArgs,

    #[command(flatten)]
    pub(super) encoding: EncodingArgs,

    /// Which images are pages of one file: those of a tensor, or all of the run, which are of one size then.
    /// ImageJ and Fiji open it as a stack, tifffile as one array. A stack is whole or absent: the first
    /// image that cannot be made ends the run, and --resume does not go on with it [default: none].
    #[arg(long, value_name = "OF", value_parser = ["none", "tensor", "all"])]
    pub(super) stack: Option<String>,

    /// What images are called, below the output folder. {stem}: the dump's file name without its
    /// extension; {tensor}: the tensor's name; {index}: the image's place on the axes before its
    /// own, zero-padded, joined by `_`. A tensor that is one image has no {index} part, nor has a stack
    /// [default: {stem}/{tensor}/{index}.tif; of --stack all {stem}.tif].
    #[arg(long, value_name = "TEMPLATE")]
    pub(super) name: Option<String>,

    /// Take file names from this text file, one line an image, or a stack, in the order of `ls`.
    #[arg(long, value_name = "LIST", conflicts_with = "name")]
    pub(super) names_from: Option<PathBuf>,

    /// Put a hash of each image's pixels into the manifest: XXH3, 64 bit.
    #[arg(long)]
    pub(super) hash: bool,
}

impl ImagesArgs {
    /// The first option that was given.
    pub(super) fn given(&self) -> Option<String> {
        let given = self.norm.given().into_iter().chain(self.encoding.given());
        if let Some((name, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
            return Some(format!("--{name}"));
        }
        let selection = self.input.selection.selection();
        let reading = self.input.reading.reading();
        let layout = self.input.reading.layout().map(|layout| layout.texts()).unwrap_or_default();
        let more = selection.texts().into_keys().chain(layout.into_keys()).next();
        if let Some(option) = more {
            return Some(format!("--{option}"));
        }
        let given = [
            ("--group-by", self.norm.group_by.is_some()),
            ("--raw", reading.raw.is_some()),
            ("--npy-v2", reading.npy_v2.is_some()),
            ("--complex", reading.complex.is_some()),
            ("--tensor", !selection.tensors.is_empty()),
            ("--exclude", !selection.exclude.is_empty()),
            ("--channel", selection.channel.is_some()),
            ("--stack", self.stack.is_some()),
            ("--name", self.name.is_some()),
            ("--names-from", self.names_from.is_some()),
            ("--hash", self.hash),
        ];
        given.into_iter().find_map(|(option, given)| given.then(|| option.to_owned()))
    }
}

#[derive(Debug, ClapArgs)]
pub(super) struct ConvertArgs {
    #[command(flatten)]
    pub(super) images: ImagesArgs,

    /// The folder for the images; it is made if it does not exist. A name that ends in .tar, where no such
    /// folder is, is a tar of them, uncompressed TIFFs of which each can be read by itself, as the manifest
    /// beside it (NAME.manifest.jsonl) says where each begins and ends. Names have one dot behind the last `/` there,
    /// so that an image is a sample of WebDataset. A tar is whole or absent. - is a tar to standard output, to be
    /// read by a pipe; it has no manifest but for --manifest.
    #[arg(short, long, value_name = "DIR|TAR")]
    pub(super) output: PathBuf,

    /// Make numbered tars, NAME-000000.tar and so on, none of which is larger than this, as 512M or 1GB
    /// (powers of 1024), unless one image is. --resume goes on with those that are not there yet.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) tar_size: Option<u64>,

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
    /// right size, are not made again; with `hash`, their pixels and headers are read and compared. A changed
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

#[derive(Debug, ClapArgs)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    pub(super) input: InputArgs,

    /// One line for each tensor, for each channel (an index on the axis before the image's), for each
    /// image, or for all together.
    #[arg(long, value_enum, default_value_t = By::Tensor)]
    pub(super) by: By,

    /// Which percentiles, ascending; none if empty. They are exact, as NumPy's `linear` method has
    /// them.
    #[arg(long, value_name = "P,...", default_value = "1,50,99", allow_hyphen_values = true)]
    pub(super) percentiles: String,

    /// Who looks: `auto` (the CPU), or devices as `convert` takes them: `gpu`, `cpu,gpu`, an adapter's
    /// index or name. The numbers are the same from every device.
    #[arg(short, long, value_name = "DEVICES", default_value = "auto", value_parser = devices)]
    pub(super) device: Devices,

    /// Number of CPU threads, 1024 at most [default: all cores].
    #[arg(short = 'j', long, value_name = "N")]
    pub(super) threads: Option<NonZeroUsize>,

    /// Print JSON.
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,

    /// Print comma-separated values with a line of names.
    #[arg(long)]
    pub(super) csv: bool,
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
  file copy    reading the bytes of the dump as they are, packed or not, and writing files of the
               sizes of the images, and nothing else
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
    pub(super) reading: ReadingArgs,

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
    #[arg(long, value_name = "N", default_value = "5")]
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
pub(super) enum NpyV2Arg {
    Bf16,
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

impl From<NpyV2Arg> for NpyV2 {
    fn from(arg: NpyV2Arg) -> NpyV2 {
        match arg {
            NpyV2Arg::Bf16 => NpyV2::Bf16,
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

fn complex(text: &str) -> Result<Complex, String> {
    text.parse().map_err(|error: crate::Error| error.to_string())
}

fn raw(text: &str) -> Result<Raw, String> {
    text.parse().map_err(|error: crate::Error| error.to_string())
}

fn devices(text: &str) -> Result<Devices, String> {
    text.parse().map_err(|error: crate::Error| error.to_string())
}

/// An error of clap's without a tip that is far from what was typed: other commands have other options.
pub(super) fn without_far_tip(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-').to_owned()),
        _ => None,
    };
    if let (Some(typed), Some(tip)) =
        (text(ContextKind::InvalidArg), text(ContextKind::SuggestedArg))
        && !is_near(&typed, &tip)
    {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::Usage); // It has the tip in it.
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn only_what_is_near_is_tipped() {
        let told = |args: &[&str]| {
            let args = ["tensortiff"].iter().chain(args);
            without_far_tip(Args::try_parse_from(args).unwrap_err()).to_string()
        };
        for (args, tip) in [
            (&["stats", "a.npy", "--scope", "tensor"][..], None),
            (&["ls", "a.npy", "--name", "x.tif"], None),
            (&["convert", "a.npy", "-o", "o", "--compres", "zstd"], Some("'--compress'")),
            (&["ls", "a.npy", "--tensors", "x"], Some("'--tensor'")),
        ] {
            let told = told(args);
            match tip {
                None => assert!(
                    !told.contains("similar argument") && told.lines().count() < 5,
                    "{told}"
                ),
                Some(tip) => assert!(told.contains("similar") && told.contains(tip), "{told}"),
            }
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("64", 64),
            ("64k", 65_536),
            ("3M", 3 << 20),
            ("1GB", 1 << 30),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
        ];
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
