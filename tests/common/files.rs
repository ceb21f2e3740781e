//! Sources, sinks and ways of a run, for the suites of files that images share.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tensortiff::{
    Device, Devices, Dtype, Dump, Error, MemorySink, MemorySource, Options, Pending, Report, Sink,
    Source, TensorInfo, convert,
};

use crate::common::{self, Random};

/// Floats of which some images are constant and some have samples that are not finite.
pub fn samples(dtype: Dtype, count: u64) -> Vec<u8> {
    let mut random = Random(count);
    let mut sample = |i: u64| match i % 10_007 {
        5 => f32::NAN,
        6 => f32::INFINITY,
        _ => (random.below(2000) as f32 - 500.0) / 7.0,
    };
    match dtype {
        Dtype::U8 => (0..count).map(|i| ((i * 31) % 251) as u8).collect(),
        _ => (0..count).map(&mut sample).flat_map(f32::to_le_bytes).collect(),
    }
}

/// Small images of two axes of indices, one image, images that are read twice, a giant of blocks.
pub fn source() -> MemorySource<'static> {
    let shapes: [(&str, Dtype, &[u64]); 5] = [
        ("tiny", Dtype::F32, &[4, 30, 3, 5]),
        ("one", Dtype::U8, &[7, 9]),
        ("small", Dtype::U8, &[3, 100, 257]),
        ("constant", Dtype::U8, &[3, 1, 1]),
        ("large", Dtype::F32, &[3, 1100, 1000]),
    ];
    // One that is kept, and shows another range than its neighbours.
    let mixed =
        MemorySource::new("m").with("mixed", Dtype::U8, &[3, 1, 2], vec![1, 2, 200, 200, 3, 9]);
    shapes.into_iter().fold(mixed.unwrap(), |source, (name, dtype, shape)| {
        source.with(name, dtype, shape, samples(dtype, shape.iter().product())).unwrap()
    })
}

pub fn cpu() -> Options {
    Options { devices: Devices::List(vec![Device::Cpu]), ..Options::default() }
}

pub fn made(source: &dyn Source, options: &Options) -> (BTreeMap<String, Vec<u8>>, Report) {
    let sink = MemorySink::default();
    let report = convert(source, &sink, options).unwrap();
    assert_eq!((report.images, report.failed), (report.planned, 0), "{:?}", report.failures);
    (sink.into_files(), report)
}

/// On the CPU with one thread and three, on the GPU, on both, and of blocks.
pub fn ways(options: &Options) -> Vec<(String, Options)> {
    let mut ways = Vec::new();
    for block_samples in [None, Some(100_000)] {
        for threads in [1, 3] {
            let way = Options {
                threads: NonZeroUsize::new(threads),
                devices: cpu().devices,
                ..options.clone()
            };
            ways.push((
                format!("{threads} threads, {block_samples:?}"),
                Options { block_samples, ..way },
            ));
        }
        for fleet in common::fleets() {
            let way = Options { devices: fleet.devices.clone(), block_samples, ..options.clone() };
            ways.push((format!("{} {block_samples:?}", fleet.label), way));
        }
    }
    ways
}

/// Cannot read some images, and says of which it was asked.
pub struct Failing<'a> {
    pub inner: MemorySource<'a>,
    pub from: u64,
}

impl Source for Failing<'_> {
    fn dumps(&self) -> &[Dump] {
        self.inner.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.inner.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if tensor == 1 && offset + buf.len() as u64 > self.from {
            let source = std::io::Error::other("planted");
            return Err(Error::Read { dump: "m".into(), tensor: "b".into(), source });
        }
        self.inner.read_at(tensor, offset, buf)
    }
}

/// A file in which zeros are holes, so that one of any length can be had.
pub struct Sparse {
    pub path: PathBuf,
    pub begun: AtomicU64,
    pub bytes: AtomicU64,
}

pub struct SparseFile<'a>(&'a Sparse, File, Mutex<Vec<(u64, u64)>>);

impl Sink for Sparse {
    fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        panic!("a page is no file");
    }

    fn begin(&self, _: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        assert_eq!(self.begun.fetch_add(1, Ordering::Relaxed), 0, "one file");
        let file =
            File::options().read(true).write(true).create_new(true).open(&self.path).unwrap();
        file.set_len(len.unwrap()).unwrap();
        Ok(Box::new(SparseFile(self, file, Mutex::default())))
    }
}

impl Pending for SparseFile<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.2.lock().unwrap().push((offset, offset + bytes.len() as u64));
        if bytes.iter().any(|&byte| byte != 0) {
            self.1.write_all_at(bytes, offset).unwrap();
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        let mut pieces = self.2.lock().unwrap().clone();
        pieces.sort_unstable();
        let end = pieces.iter().fold(0, |end, &(from, to)| {
            assert_eq!(from, end, "pieces meet");
            to
        });
        assert_eq!(end, self.1.metadata().unwrap().len());
        Ok(())
    }
}

/// A source that is a hole, but for one sample of each image.
pub struct Hole(pub Vec<TensorInfo>, pub Vec<Dump>);

impl Source for Hole {
    fn dumps(&self) -> &[Dump] {
        &self.1
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.0
    }

    fn read_at(&self, _: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let image: u64 = self.0[0].shape[1..].iter().product();
        buf.fill(0);
        let first = offset.next_multiple_of(image) - offset;
        for at in (first..buf.len() as u64).step_by(image as usize) {
            buf[at as usize] = ((offset + at) / image + 1) as u8;
        }
        Ok(())
    }
}
