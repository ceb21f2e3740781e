//! Turns tensor dumps into 32-bit float grayscale TIFFs, one per image, on CPU and GPU with the
//! same bytes from every device.
//!
//! ```
//! use tensortiff::{FilesSink, Options, DumpFiles, convert};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("out");
//! let source = DumpFiles::open(&["data/minilm.safetensors"])?;
//! let report = convert(&source, &FilesSink::new(out, false), &Options::default())?;
//! assert_eq!(report.images, 317);
//! # Ok::<(), tensortiff::Error>(())
//! ```
//!
//! # Words
//! *Dump*: what the user points at. *Tensor*: name, dtype, shape, bytes. *Image*: one H×W plane of
//! a tensor. *Extent*: what a pass over samples finds out. *Range*: lo and hi that map to the
//! output. *Scope*: the samples that share a range. *Rule*: how samples become pixels once it is
//! known. *Backend*: a device that works: the CPU, or one GPU adapter. *Unit*: a run of images of
//! one tensor, or one *block* of an image that is too large for a buffer (a *giant*). *Batch*: the
//! units that a GPU does at once. *Sink*: where images go. *Shard*: consecutive images of a plan that
//! one process makes, while others make the rest. *Stack*: a file whose pages are images. *Member*: an image's file in a tar.
//!
//! # The house
//! One way leads through it: dump → source → plan → queue → backends → sink → record, report.
//!
//! - [`source`] lists tensors from headers alone and reads their bytes where it is asked to. Each
//!   format of files is a module of its own there, which ends in a header and where the data lie. A
//!   [`View`] shows tensors as a [`Layout`] has them: other axes, some indices, reductions.
//! - [`plan`] works out which images there are, where their bytes lie, and what they are called.
//!   It is pure, and holds no image.
//! - [`backend`] has the [`queue`](backend::queue) of units that all backends pull from, the
//!   [`cpu`](backend::cpu) and the `gpu` backend. The GPU's kernels are in `shaders/`; each has a
//!   twin of the same name in `backend/cpu`.
//! - [`encode`] lays out the TIFF header around the pixels, of a stack those of all pages, what is around a member
//!   of a tar, and packs pixels where that is asked for.
//! - [`sink`] takes images, whole or not at all.
//! - [`record`] is what a run leaves beside its images: a journal while it works, a manifest when it
//!   is done, and a lock meanwhile.
//! - `convert` is the run, top to bottom: the only room that knows all stages. `convert/run.rs` is
//!   what backends see as their [`Job`](backend::Job), `convert/packing.rs` puts strips in order that are packed in any (the queue cuts giants by whole ones),
//!   `convert/recorder.rs` finds out what need not
//!   be done and keeps the record, `convert/known.rs` what earlier runs left, `convert/doubt.rs`
//!   takes back what a wrong device made, `convert/stacks.rs` has the files of many images while those are made, `convert/tars.rs` knows what belongs to a member of a tar, `convert/ranges.rs` finds ranges that must be known before
//!   pixels are made (`backend/cpu/survey.rs` looks for them, with GPUs where the CPU is not named), `convert/stats.rs` tells what they look at, `convert/space.rs` finds out what a run takes,
//!   `convert/preview.rs` tells; `convert/shards.rs` divides a run and puts it together; `convert/listed.rs` says what a
//!   manifest is to hold of each image, for who looks at it again, and `convert/clock.rs` where a thread's time goes.
//! - [`back`] is the way back: `back/verify.rs` holds images against their manifest (`back/check.rs`) and against what
//!   the run makes again (`back/compared.rs`, a sink), `back/restore.rs` makes samples of them and puts tensors together
//!   (`back/axes.rs`), `back/strays.rs` finds what no manifest names. It calls `convert`, which does not know it.
//! - `report.rs` is the account of a run; `in_memory.rs` has one-call helpers.
//! - `cli` (feature `cli`) is the command line, `cli/bench` what `tensortiff bench` measures;
//!   `main.rs` calls it. `benches/floor` is a crate of its own: what tensortiff is measured against.
//!
//! Stages import the data rooms [`tensor`], [`normalize`] and [`error`], and never each other.
//! Every outside crate has one window: wgpu is named only in `backend/gpu`, tiff only in `encode`,
//! safetensors only in `source`, and so on. `tests/house.rs` checks both.
//!
//! # The contract on numbers
//! See [`normalize`]. For every input and option the bytes are the same on every backend; mixed
//! runs, and doing again elsewhere what a device failed to do, rest on it.
//!
//! # Memory
//! A CPU worker holds one small image (at most 1 Mi samples) and a step of 64 Ki samples, in 4 bytes
//! each, or in 8 where their type has so many; a GPU three slots, each of at most 64 MiB of pixels
//! four times over. Nothing grows with the number of images, but for one bit an image in a run that
//! is continued or skips what exists, and 64 bytes a range that is known before the images; what grows with the number of tensors is their headers.

#[cfg(target_endian = "big")]
compile_error!("tensortiff writes little-endian files straight from memory");

pub mod back;
pub mod backend;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod convert;
pub mod encode;
pub mod error;
mod in_memory;
pub mod normalize;
pub mod plan;
pub mod record;
mod report;
pub mod sink;
pub mod source;
pub mod tensor;

pub use backend::choose::{Device, Devices};
pub use convert::{
    Manifest, Need, Options, Planned, Preview, Record, Recorded, Resume, ScopeStats, ShardState,
    VerifySample, Watch, convert, divide, merge, preview, shard_states, stats,
};
pub use encode::{BigTiff, Compress, Encoding, EncodingText, Predictor, Profile};
pub use error::Error;
pub use in_memory::{convert_batch, convert_channel, convert_image};
pub use normalize::{Constant, Extent, Nonfinite, Norm, Range, Rule, Scope};
pub use plan::{Naming, Selection, Stack, Tar};
pub use report::{DeviceReport, Failure, Report, SampleReport, Stages};
pub use sink::{FilesSink, Fsync, MemorySink, NullSink, Pending, Sink, Space, Stored, StreamSink};
pub use source::{Complex, DumpFiles, Layout, MemorySource, NpyV2, Raw, Reading, Source, View};
pub use tensor::{Dtype, Dump, Leading, TensorInfo};
