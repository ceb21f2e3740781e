//! `-o NAME.tar`: images as members of a tar, each the file that it would be by itself, whole or absent, and
//! the same bytes from every device and number of threads.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/files.rs"]
mod files;
#[cfg(feature = "cli")]
#[path = "common/tool.rs"]
mod tool;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use files::{Failing, Hole, Sparse, cpu, made, samples, source, ways};
use tensortiff::{
    Dtype, Dump, Error, FilesSink, MemorySink, MemorySource, Naming, Norm, Options, Pending,
    Record, Report, Resume, Scope, Sink, Source, Stack, StreamSink, Tar, TensorInfo, convert,
};

fn tar(size: Option<u64>) -> Option<Tar> {
    Some(Tar::new("out.tar", size).unwrap())
}

/// The members of a tar as another reader has them, in their order; each by its name and bytes, and where
/// those begin.
fn members(tar: &[u8]) -> Vec<(String, Vec<u8>, u64)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.mode().unwrap()), (0, 0o644));
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert!(header.entry_type().is_file());
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let at = entry.raw_file_position();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes, at)
    });
    let found = entries.collect();
    assert_eq!(tar[tar.len() - 1024..], [0; 1024]);
    found
}

/// Members of all tars, in the order of the tars' names.
fn all_members(files: &BTreeMap<String, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let all = files.values().flat_map(|tar| members(tar));
    all.map(|(name, bytes, _)| (name, bytes)).collect()
}

/// What files of their own are, by the names that members have.
fn alone(source: &dyn Source, options: &Options) -> BTreeMap<String, Vec<u8>> {
    let (files, _) = made(source, &Options { tar: None, ..options.clone() });
    let named = |(name, bytes): (String, Vec<u8>)| match name.as_str() {
        "m/one.tif" => ("m/one/0.tif".to_owned(), bytes),
        _ => (name, bytes),
    };
    files.into_iter().map(named).collect()
}

#[test]
fn members_are_the_files_that_images_are_by_themselves() {
    for (norm, scope, size) in [
        (Norm::MinMax, Scope::Image, None),
        (Norm::None, Scope::Image, Some(100_000)),
        (Norm::MinMax, Scope::Tensor, Some(5_000_000)),
    ] {
        let options = Options { rule: norm.into(), scope, tar: tar(size), ..cpu() };
        let plain = alone(&source(), &options);
        let (_, report_alone) = made(&source(), &Options { tar: None, ..options.clone() });
        let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
        for (way, options) in ways(&options) {
            let (files, report) = made(&source(), &options);
            assert_eq!(report.images, report_alone.images, "{way}");
            assert_eq!(report.samples, report_alone.samples, "{way}");
            let written: usize = files.values().map(Vec::len).sum();
            assert_eq!(written as u64, report.bytes_out, "{way}");
            assert!(files == *first.get_or_insert_with(|| files.clone()), "{way} makes others");
        }
        let files = first.unwrap();
        let found = all_members(&files);
        assert_eq!(found.len(), plain.len());
        // In the order of the plan, which is the source's.
        let order = ["mixed", "tiny", "one", "small", "constant", "large"];
        let place = |name: &str| {
            let tensor = name.split('/').nth(1).unwrap();
            order.iter().position(|of| *of == tensor).unwrap()
        };
        assert!(found.is_sorted_by_key(|(name, _)| (place(name), name.clone())));
        for (name, bytes) in &found {
            assert!(plain[name] == *bytes, "{name}");
        }
        match size {
            None => assert_eq!(files.keys().collect::<Vec<_>>(), ["out.tar"]),
            Some(size) => {
                let names: Vec<String> =
                    (0..files.len()).map(|number| format!("out-{number:06}.tar")).collect();
                assert_eq!(files.keys().cloned().collect::<Vec<_>>(), names);
                for (name, tar) in &files {
                    let few = tar.len() as u64 <= size || members(tar).len() == 1;
                    assert!(few, "{name} has {} bytes", tar.len());
                }
                // Each is as full as it may be.
                let all: Vec<&Vec<u8>> = files.values().collect();
                for pair in all.windows(2) {
                    let next = &members(pair[1])[0];
                    let more = 512 + next.1.len().next_multiple_of(512);
                    assert!((pair[0].len() + more) as u64 > size);
                }
            }
        }
    }
}

/// Names that fit no plain header, and names of a list, of any length.
#[test]
fn long_names_and_names_of_a_list_are_kept() {
    let long = format!("{}/{}", "folder/".repeat(30), "x".repeat(200));
    let source = || {
        let source = MemorySource::new("m").with("a", Dtype::U8, &[3, 2, 2], vec![1; 12]).unwrap();
        source.with(&long, Dtype::U8, &[2, 2, 2], vec![2; 8]).unwrap()
    };
    let options = Options { tar: tar(None), ..cpu() };
    let (files, report) = made(&source(), &options);
    let names: Vec<String> = all_members(&files).into_iter().map(|(name, _)| name).collect();
    let mut due: Vec<String> = (0..3).map(|index| format!("m/a/{index}.tif")).collect();
    due.extend((0..2).map(|index| format!("m/{}/{index}.tif", long.replace("//", "/%2F"))));
    assert_eq!(names.len(), 5);
    assert_eq!(names[..3], due[..3]);
    assert!(names[4].len() > 400 && names[4].ends_with("/1.tif"), "{names:?}");
    assert_eq!(files["out.tar"].len() as u64, report.bytes_out);

    // One of which the extended header has several blocks.
    let deep = format!("{}z", "folder/".repeat(200));
    let list = ["b.tif", &format!("c/{}", "y".repeat(240)), "d/e", &deep, "g/h/i.tif"];
    let naming = Naming::List(list.iter().map(|&name| name.to_owned()).collect());
    for size in [None, Some(8000)] {
        let (files, _) =
            made(&source(), &Options { naming: naming.clone(), tar: tar(size), ..cpu() });
        let names: Vec<String> = all_members(&files).into_iter().map(|(name, _)| name).collect();
        let due = list
            .map(|name| if name.ends_with(".tif") { name.into() } else { format!("{name}.tif") });
        assert_eq!(names, due);
        assert_eq!(files.len() > 1, size.is_some());
    }
}

#[test]
fn what_cannot_be_in_a_tar_is_refused_before_any_work() {
    let source = source();
    let refused = |options: Options, parts: &[&str]| {
        let sink = MemorySink::default();
        let error = convert(&source, &sink, &options).unwrap_err();
        assert!(error.is_usage() && sink.into_files().is_empty(), "{error}");
        let told = error.to_string();
        assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    };
    let one = || Options { tar: tar(None), ..cpu() };
    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::new(folder.path());
    record.resume = Resume::Sizes;
    refused(Options { record: Some(record), ..one() }, &["--resume", "--tar-size"]);
    refused(Options { skip_existing: true, ..one() }, &["--skip-existing"]);
    refused(Options { shard: Some(0..1), ..one() }, &["--shard"]);
    refused(Options { stack: Stack::Tensor, ..one() }, &["--stack"]);
    let error = tensortiff::divide(&source, &one(), 2).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("a plan"), "{error}");
    for (name, value) in
        [("compress", "zstd"), ("tile", "16"), ("profile", "gis"), ("profile", "archive")]
    {
        let mut text = tensortiff::EncodingText::default();
        assert!(text.set(name, value));
        let options = Options { encoding: text.read().unwrap(), ..one() };
        refused(options, &["stored as they are"]);
    }
    let named = |naming: Naming| Options { naming, ..one() };
    let template = |text: &str| named(Naming::Template(text.to_owned()));
    refused(template("{tensor}.{index}.tif"), &["mixed.0.tif", "WebDataset", "one dot"]);
    refused(template("{tensor}/.{index}.tif"), &["mixed/.0.tif", "one dot"]);
    let mut list: Vec<String> = (0..133).map(|number| format!("n{number}.tif")).collect();
    list[77] = "other.tiff".to_owned();
    refused(named(Naming::List(list.clone())), &["other.tiff", "end alike"]);
    list[77] = "x.y".to_owned();
    refused(named(Naming::List(list)), &["x.y.tif", "one dot"]);
    refused(template("__{stem}__/{tensor}/{index}.tif"), &["__m__/", "WebDataset leaves out"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// An image that cannot be made ends the run: its tar is not there, those before it are.
#[test]
fn a_tar_lacks_no_member() {
    let source = |from: u64| {
        let inner = MemorySource::new("m");
        let inner = inner.with("a", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
        let inner = inner.with("b", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
        Failing { inner, from }
    };
    let (whole, _) = made(&source(320), &Options { tar: tar(None), ..cpu() });
    let member = (whole["out.tar"].len() as u64 - 1024) / 10;
    for (images, tars) in [(None, 1), (Some(5), 2), (Some(3), 4)] {
        let size = images.map(|images: u64| images * member + 1024);
        for from in [0, 64, 319] {
            let sink = MemorySink::default();
            let threads = NonZeroUsize::new(1);
            let options = Options { tar: tar(size), threads, ..cpu() };
            let error = convert(&source(from), &sink, &options).unwrap_err();
            assert!(matches!(error, Error::Stopped { images: 10, .. }), "{from}: {error}");
            assert!(error.to_string().contains("planted"), "{error}");
            let files = sink.into_files();
            let failed = 5 + from / 64;
            let before = images.map_or(0, |images| failed / images);
            let due: Vec<String> =
                (0..before).map(|number| format!("out-{number:06}.tar")).collect();
            assert_eq!(files.keys().cloned().collect::<Vec<_>>(), due, "{images:?} {from}");
        }
        let (files, _) = made(&source(320), &Options { tar: tar(size), ..cpu() });
        assert_eq!(files.len(), tars);
    }
}

/// Where members lie beyond 4 GiB is told as it is.
#[test]
fn a_tar_may_have_more_than_4_gib() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = TensorInfo::new("t".to_owned(), 0, Dtype::U8, vec![131, 4096, 2048]);
    let source = Hole(vec![tensor], vec![Dump { label: "d".into(), stem: "d".into() }]);
    let (begun, bytes) = Default::default();
    let sink = Sparse { path: dir.path().join("big"), begun, bytes };
    let options = Options { rule: Norm::None.into(), tar: tar(None), ..cpu() };
    let report = convert(&source, &sink, &options).unwrap();
    let file = File::open(&sink.path).unwrap();
    let len = file.metadata().unwrap().len();
    assert_eq!((len, len > 1 << 32), (report.bytes_out, true));
    let mut archive = tar::Archive::new(&file);
    let mut found = 0;
    for (number, entry) in archive.entries_with_seek().unwrap().enumerate() {
        let entry = entry.unwrap();
        assert_eq!(entry.path().unwrap().to_str().unwrap(), format!("d/t/{number:03}.tif"));
        if [0, 1, 129, 130].contains(&number) {
            let mut pixels = [0; 8];
            let header = entry.size() - (4 * 4096 * 2048);
            file.read_exact_at(&mut pixels, entry.raw_file_position() + header).unwrap();
            let first = f32::from_le_bytes(pixels[..4].try_into().unwrap());
            assert_eq!((first, &pixels[4..]), (number as f32 + 1.0, &[0; 4][..]));
        }
        found += 1;
    }
    assert_eq!(found, 131);
}

/// A recorded run of numbered tars in a folder: 10 images, 3 of them in a tar.
struct Recorded {
    dir: tempfile::TempDir,
    size: u64,
}

impl Recorded {
    fn new() -> Recorded {
        let (whole, _) = made(&ten(), &Options { tar: tar(None), ..cpu() });
        let size = 3 * ((whole["out.tar"].len() as u64 - 1024) / 10) + 1024;
        Recorded { dir: tempfile::tempdir().unwrap(), size }
    }

    fn options(&self, resume: Resume) -> Options {
        let mut record = Record::new(self.dir.path());
        (record.hash, record.resume) = (true, resume);
        Options { tar: tar(Some(self.size)), record: Some(record), ..cpu() }
    }

    fn run(&self, options: &Options) -> Result<tensortiff::Report, Error> {
        convert(&ten(), &FilesSink::new(self.dir.path(), false), options)
    }

    fn tars(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let tars = files.filter(|path| path.extension().is_some_and(|of| of == "tar"));
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        tars.map(|path| (name(&path), fs::read(&path).unwrap())).collect()
    }

    fn path(&self, number: u64) -> std::path::PathBuf {
        self.dir.path().join(format!("out-{number:06}.tar"))
    }
}

fn ten() -> MemorySource<'static> {
    MemorySource::new("m").with("a", Dtype::U8, &[10, 20, 21], samples(Dtype::U8, 4200)).unwrap()
}

/// A range of the tar, as the manifest has it, is the image's file, and its pixels have the hash.
#[test]
fn the_manifest_says_where_each_image_is() {
    for block_samples in [None, Some(100_000)] {
        for size in [None, Some(5_000_000)] {
            let dir = tempfile::tempdir().unwrap();
            let mut record = Record::new(dir.path());
            record.hash = true;
            let options = Options { tar: tar(size), record: Some(record), block_samples, ..cpu() };
            let plain = alone(&source(), &Options { record: None, ..options.clone() });
            let _ = convert(&source(), &FilesSink::new(dir.path(), false), &options).unwrap();
            let manifest = fs::read_to_string(dir.path().join("manifest.jsonl")).unwrap();
            let mut seen = 0;
            for line in manifest.lines().skip(1) {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| line[key].as_str().unwrap();
                let number = |key: &str| line[key].as_u64().unwrap();
                let file = File::open(dir.path().join(text("name"))).unwrap();
                let mut bytes = vec![0; number("bytes") as usize];
                file.read_exact_at(&mut bytes, number("offset")).unwrap();
                assert!(plain[text("member")] == bytes, "{line}");
                let pixels =
                    4 * line["shape"][0].as_u64().unwrap() * line["shape"][1].as_u64().unwrap();
                let hash = tensortiff::record::hash(&bytes[bytes.len() - pixels as usize..]);
                assert_eq!(text("xxh3"), format!("{hash:016x}"), "{line}");
                seen += 1;
            }
            assert_eq!(seen, plain.len());
        }
    }
}

/// Numbered tars that are there are left alone, and the others made; also where the manifest is all that is
/// known.
#[test]
fn numbered_tars_are_gone_on_with_one_by_one() {
    let recorded = Recorded::new();
    let report = recorded.run(&recorded.options(Resume::No)).unwrap();
    assert_eq!(report.images, 10);
    let whole = recorded.tars();
    assert_eq!(whole.values().map(|tar| members(tar).len()).collect::<Vec<_>>(), [3, 3, 3, 1]);
    let report = recorded.run(&recorded.options(Resume::Sizes)).unwrap();
    assert!(report.finished && report.there == 10, "{report:?}");
    for (gone, images) in [(vec![1], 3), (vec![3], 1), (vec![0, 3], 4), (vec![0, 1, 2, 3], 10)] {
        gone.iter().for_each(|&number| fs::remove_file(recorded.path(number)).unwrap());
        let report = recorded.run(&recorded.options(Resume::Sizes)).unwrap();
        assert_eq!((report.images, report.there), (images, 10 - images));
        assert!(recorded.tars() == whole, "{gone:?}");
    }
    // One that is too short, or is another's of that length: found by its length, or by what it holds.
    let path = recorded.path(2);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(recorded.run(&recorded.options(Resume::Sizes)).unwrap().images, 3);
    assert!(recorded.tars() == whole);
    // Every kind of byte of a tar: names, headers, pixels, what is behind them, the end.
    let found = members(&bytes);
    let (_, file, at) = &found[1];
    let end = *at as usize + file.len();
    assert!(!end.is_multiple_of(512));
    for place in [0, 130, 512, 700, *at as usize - 40, end - 1, end, end + 3, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 4;
        fs::write(&path, &damaged).unwrap();
        let report = recorded.run(&recorded.options(Resume::Hashes)).unwrap();
        assert_eq!((report.images, report.there), (3, 7), "byte {place}");
        assert!(recorded.tars() == whole, "byte {place}");
    }
    assert!(recorded.run(&recorded.options(Resume::Hashes)).unwrap().finished);
    // Another size of tars, or another dump, is another run.
    let other = Options { tar: tar(Some(recorded.size * 2)), ..recorded.options(Resume::Sizes) };
    let error = recorded.run(&other).unwrap_err();
    assert!(matches!(&error, Error::Resume { .. }), "{error}");
}

/// The journal of a run that stopped: a tar counts as made when its first image does, whose entry comes last.
#[test]
fn a_tar_that_has_not_its_name_is_not_made() {
    struct Stops<'a>(Failing<'a>);
    impl Source for Stops<'_> {
        fn dumps(&self) -> &[Dump] {
            self.0.inner.dumps()
        }
        fn tensors(&self) -> &[TensorInfo] {
            self.0.inner.tensors()
        }
        fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
            if offset + buf.len() as u64 > self.0.from {
                let source = std::io::Error::other("planted");
                return Err(Error::Read { dump: "m".into(), tensor: "a".into(), source });
            }
            self.0.inner.read_at(tensor, offset, buf)
        }
    }
    let recorded = Recorded::new();
    let (whole, _) = made(&ten(), &Options { record: None, ..recorded.options(Resume::No) });
    for image in 0..10 {
        let source = Stops(Failing { inner: ten(), from: image * 420 });
        let options = Options { threads: NonZeroUsize::new(1), ..recorded.options(Resume::No) };
        let sink = FilesSink::new(recorded.dir.path(), false);
        let error = convert(&source, &sink, &options).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
        assert_eq!(recorded.tars().len() as u64, image / 3);
        // A file of that name and length, that is none of this run's.
        let next = recorded.path(image / 3);
        let len = whole[next.file_name().unwrap().to_str().unwrap()].len();
        fs::write(&next, vec![7; len]).unwrap();
        let report = recorded.run(&recorded.options(Resume::Sizes)).unwrap();
        assert_eq!((report.images, report.there), (10 - image / 3 * 3, image / 3 * 3));
        assert!(recorded.tars() == whole, "{image}");
        fs::read_dir(recorded.dir.path()).unwrap().for_each(|entry| {
            fs::remove_file(entry.unwrap().path()).unwrap();
        });
    }
}

/// A writer that many threads' work comes out of, one after the other.
fn streamed(source: &dyn Source, options: &Options) -> Result<(Vec<u8>, Report), Error> {
    let mut out = Vec::new();
    let tar = options.tar.clone().map(Tar::streamed);
    let sink = StreamSink::new("out", &mut out);
    let report = convert(source, &sink, &Options { tar, ..options.clone() })?;
    drop(sink);
    Ok((out, report))
}

/// The same bytes, from front to end, by all threads and devices; also of images that come in blocks, of
/// which the header comes first.
#[test]
fn a_stream_is_the_tar_that_a_file_is() {
    for (norm, scope) in
        [(Norm::MinMax, Scope::Image), (Norm::None, Scope::Image), (Norm::MinMax, Scope::Dump)]
    {
        let options = Options { rule: norm.into(), scope, tar: tar(None), ..cpu() };
        let (files, report) = made(&source(), &options);
        for (way, options) in ways(&options) {
            let (out, told) = streamed(&source(), &options).unwrap();
            assert!(out == files["out.tar"], "{norm} {way}");
            assert_eq!((told.images, told.bytes_out), (report.images, report.bytes_out), "{way}");
            assert_eq!(told.samples, report.samples, "{way}");
        }
    }
    // Images that one thread hands over in steps, as it may not keep them.
    let count = 3 * 1000 * 1000;
    let steps = MemorySource::new("m");
    let steps = steps.with("a", Dtype::U8, &[3, 1000, 1000], samples(Dtype::U8, count)).unwrap();
    let (threads, max_memory) = (NonZeroUsize::new(64), Some(64 << 20));
    let options = Options { tar: tar(None), threads, max_memory, ..cpu() };
    let (out, _) = streamed(&steps, &options).unwrap();
    assert!(out == made(&steps, &options).0["out.tar"]);
    let numbered = Options { tar: tar(Some(1 << 20)), ..cpu() };
    let error = streamed(&source(), &numbered).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("numbered"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let mut record = Record::new(dir.path());
    record.hash = true;
    let hashed = Options { record: Some(record), tar: tar(None), ..cpu() };
    let error = streamed(&source(), &hashed).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("--hash"), "{error}");
}

/// Whose tars get no name, though all of them is there.
struct Nameless<'a>(FilesSink, &'a str);

struct NamelessFile<'a>(Box<dyn Pending + 'a>, bool);

impl Sink for Nameless<'_> {
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        self.0.prepare(names)
    }

    fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        panic!("a member is no file");
    }

    fn begin(&self, name: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        Ok(Box::new(NamelessFile(self.0.begin(name, len)?, name == self.1)))
    }
}

impl Pending for NamelessFile<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.0.write_at(offset, bytes)
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        if self.1 {
            let source = std::io::Error::other("planted");
            return Err(Error::Write { path: "tar".into(), source });
        }
        self.0.commit()
    }
}

/// All entries but one are in the journal of a tar that got no name, also of images in blocks: what has its
/// name and its length later is none of this run's.
#[test]
fn a_tar_that_could_not_be_named_is_not_made() {
    let recorded = Recorded::new();
    for block_samples in [None, Some(100)] {
        for number in 0..4 {
            let name = format!("out-{number:06}.tar");
            let sink = Nameless(FilesSink::new(recorded.dir.path(), false), &name);
            let threads = NonZeroUsize::new(1);
            let mut options = Options { threads, block_samples, ..recorded.options(Resume::No) };
            if let Some(record) = &mut options.record {
                record.hash = block_samples.is_none();
            }
            let error = convert(&ten(), &sink, &options).unwrap_err();
            assert!(error.to_string().contains("planted"), "{error}");
            let len = made(&ten(), &Options { record: None, ..options.clone() }).0[&name].len();
            fs::write(recorded.dir.path().join(&name), vec![7; len]).unwrap();
            if let Some(record) = &mut options.record {
                record.resume = Resume::Sizes;
            }
            let report = recorded.run(&options).unwrap();
            assert_eq!((report.images, report.there), (10 - 3 * number, 3 * number));
            for entry in fs::read_dir(recorded.dir.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
    }
}

/// Waits for something before it reads its first image, or its first block.
struct SlowFirst<'a>(&'a dyn Source, &'a (dyn Fn() + Sync));

impl Source for SlowFirst<'_> {
    fn dumps(&self) -> &[Dump] {
        self.0.dumps()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.0.tensors()
    }

    fn read_at(&self, tensor: usize, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if offset == 0 {
            (self.1)();
        }
        self.0.read_at(tensor, offset, buf)
    }
}

/// Says how far behind the first byte that is missing pieces come.
#[derive(Default)]
struct Ahead(Mutex<(BTreeMap<u64, u64>, u64, u64)>);

impl Sink for Ahead {
    fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        panic!("a member is no file");
    }

    fn begin(&self, _: &str, _: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        Ok(Box::new(self))
    }
}

impl Pending for &Ahead {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (pieces, next, most) = &mut *self.0.lock().unwrap();
        pieces.insert(offset, offset + bytes.len() as u64);
        while let Some(end) = pieces.remove(next) {
            *next = end;
        }
        let early: u64 = pieces.iter().map(|(from, to)| to - from).sum();
        *most = early.max(*most);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// However slow the first image is, little comes before it: of many small images, where headers are most of
/// what is written, of large ones, and of giants.
#[test]
fn what_comes_too_early_is_little() {
    // Two blocks of 4 MiB a thread, one that each has at hand, and what they are written with; small images
    // are counted with 2 KiB more each.
    let large = 3 * 3 * (4 << 20) + (1 << 20);
    let cases: [(&[u64], u64); 3] =
        [(&[40_000, 2, 2], 15 << 20), (&[200, 500, 500], large), (&[8, 2500, 2000], large)];
    for (shape, bound) in cases {
        let count: u64 = shape.iter().product();
        let samples: Vec<u8> = (0..count).map(|i| (i % 251) as u8).collect();
        let inner = MemorySource::new("m").with("a", Dtype::U8, shape, samples).unwrap();
        let threads = NonZeroUsize::new(3);
        let mut all = Vec::new();
        for streamed in [false, true] {
            let tar = tar(None).map(|tar| if streamed { tar.streamed() } else { tar });
            let sink = Ahead::default();
            // Until nothing more comes.
            let wait = || {
                let pieces = || sink.0.lock().unwrap().2;
                let (mut last, mut since) = (pieces(), std::time::Instant::now());
                while since.elapsed() < std::time::Duration::from_secs(1) {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    if pieces() != last {
                        (last, since) = (pieces(), std::time::Instant::now());
                    }
                }
            };
            let options = Options { rule: Norm::None.into(), tar, threads, ..cpu() };
            let report = convert(&SlowFirst(&inner, &wait), &sink, &options).unwrap();
            let (_, next, most) = sink.0.into_inner().unwrap();
            assert_eq!(next, report.bytes_out, "{shape:?}");
            all.push(most);
        }
        assert!(all[1] <= bound && all[0] > bound, "{shape:?}: {all:?}");
    }
}

/// Sets what somebody waits for, at its end.
struct Opens<'a>(&'a AtomicBool);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs to other tars share a folder, and leave each other's files alone; to the same tar, or to the folder
/// itself, nobody goes meanwhile.
#[test]
fn runs_to_other_tars_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let run = |source: &dyn Source, name: &str, resume: Resume, tars: bool| {
        let mut record = Record::new(dir.path());
        record.manifest = tensortiff::Manifest::At(dir.path().join(format!("{name}.jsonl")));
        record.resume = resume;
        let tar = tars.then(|| Tar::new(&format!("{name}.tar"), Some(1 << 20)).unwrap());
        let options = Options { tar, record: Some(record), ..cpu() };
        convert(source, &FilesSink::new(dir.path(), false), &options)
    };
    let [begun, go] = [const { AtomicBool::new(false) }; 2];
    let until = |flag: &AtomicBool| {
        while !flag.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    let wait = || {
        begun.store(true, Ordering::SeqCst);
        until(&go);
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| run(&SlowFirst(&ten(), &wait), "a", Resume::No, true));
        until(&begun);
        // Whatever fails here, nobody waits for ever.
        let opened = Opens(&go);
        // As another run has it where it replaces a file.
        let temporary = dir.path().join(".tensortiff-1-1.tmp");
        fs::write(&temporary, "x").unwrap();
        for resume in [Resume::No, Resume::Sizes] {
            let report = run(&ten(), "b", resume, true).unwrap();
            assert_eq!(report.finished, resume != Resume::No);
        }
        fs::remove_file(dir.path().join("b-000000.tar")).unwrap();
        assert_eq!(run(&ten(), "b", Resume::Sizes, true).unwrap().images, 10);
        assert!(temporary.exists());
        for (name, tars) in [("a", true), ("c", false)] {
            let error = run(&ten(), name, Resume::No, tars).unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error}");
        }
        drop(opened);
        assert_eq!(slow.join().unwrap().unwrap().images, 10);
        // Alone, a run tidies up.
        fs::remove_file(dir.path().join("a-000000.tar")).unwrap();
        assert_eq!(run(&ten(), "a", Resume::Sizes, true).unwrap().images, 10);
        assert!(!temporary.exists());
    });
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a-000000.tar", "a.jsonl", "b-000000.tar", "b.jsonl"]);
}

/// A stream that cannot be gone on with ends the run at once, and nobody waits for anybody.
#[test]
fn a_stream_that_fails_ends_the_run() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            match self.0.checked_sub(bytes.len()) {
                None => Err(std::io::ErrorKind::BrokenPipe.into()),
                Some(left) => {
                    self.0 = left;
                    Ok(bytes.len())
                }
            }
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let len = made(&source(), &Options { tar: tar(None), ..cpu() }).0["out.tar"].len();
    for room in [0, 1 << 20, len / 2, len - 1] {
        let sink = StreamSink::new("out", Full(room));
        let tar = tar(None).map(Tar::streamed);
        let error = convert(&source(), &sink, &Options { tar, ..cpu() }).unwrap_err();
        assert!(matches!(error, Error::Stopped { done: 0, .. }), "{error}");
        assert!(error.to_string().contains("out: "), "{error}");
    }
    // One image that cannot be read.
    let inner = MemorySource::new("m");
    let inner = inner.with("a", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
    let inner = inner.with("b", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
    let error = streamed(&Failing { inner, from: 100 }, &Options { tar: tar(None), ..cpu() });
    assert!(error.unwrap_err().to_string().contains("planted"));
}

#[cfg(feature = "cli")]
mod cli {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::tool::{ends_with, join, run, sample, text, tool};

    fn at(dir: &tempfile::TempDir, name: &str) -> String {
        dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A dump of one image, with a NaN.
    fn write_nan(path: &str) {
        let nan: Vec<u8> = [1.0, f32::NAN].map(f32::to_le_bytes).concat();
        let json = r#"{"a":{"dtype":"F32","shape":[1,1,2],"data_offsets":[0,8]}}"#;
        let head = (json.len() as u64).to_le_bytes();
        fs::write(path, [&head[..], json.as_bytes(), &nan].concat()).unwrap();
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A tar, its manifest beside it, and nothing else; found again by either name.
    #[test]
    fn a_tar_and_its_manifest_are_all_that_a_run_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let (out, again) = (at(&dir, "out.tar"), at(&dir, "again.safetensors"));
        let convert = ["convert", sample(), "-d", "cpu", "-o", &out];
        ends_with(0, &convert);
        assert_eq!(names(&dir), ["out.manifest.jsonl", "out.tar"]);
        for path in [&out, &at(&dir, "out.manifest.jsonl")] {
            let (_, told) = ends_with(0, &["verify", path, "--against"]);
            assert!(told.contains("317 images") && told.contains("all right"), "{told}");
            assert!(!told.contains("no manifest names it"), "{told}");
            ends_with(0, &["restore", path, "-o", &again, "--overwrite", "--against"]);
        }
        let (csv, _) = ends_with(0, &["manifest", "--csv", &out]);
        let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows[0][19..], ["member", "offset"]);
        assert_eq!(rows[1][19..], ["minilm/encoder.layer.0.attention.probs/0_00.tif", "512"]);
        assert_eq!((rows[1][0], rows.len()), ("out.tar", 318));
        let (_, told) = ends_with(1, &convert);
        assert!(told.contains("out.tar: exists already"), "{told}");
        // Another dump in its place: its manifest goes with it, and what a killed run left.
        fs::write(at(&dir, ".tensortiff-1-1.tmp"), "x").unwrap();
        ends_with(0, &join(&convert, &["--overwrite", "--norm", "none"]));
        assert_eq!(names(&dir), ["again.safetensors", "out.manifest.jsonl", "out.tar"]);
        let (_, told) = ends_with(0, &["verify", &out, "--against"]);
        assert!(told.contains("all right"), "{told}");
        // Of a stream no hash can be taken.
        let (_, told) = ends_with(2, &["convert", sample(), "-o", "-", "--hash"]);
        assert!(told.contains("--hash reads back"), "{told}");
        // A folder of that name is a folder.
        let folder = at(&dir, "folder.tar");
        fs::create_dir(&folder).unwrap();
        ends_with(0, &["convert", sample(), "-d", "cpu", "-o", &folder]);
        assert!(Path::new(&folder).join("manifest.jsonl").exists());
    }

    /// Whatever was asked for: all members are what they ought to be, and give their samples back.
    #[test]
    fn tars_are_looked_at_and_undone_as_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let (list, restored) = (at(&dir, "names.txt"), at(&dir, "r.safetensors"));
        let names = (0..317).map(|number| format!("{}/{number}\n", "n".repeat(number % 200 + 1)));
        fs::write(&list, names.collect::<String>()).unwrap();
        let cases: [(&[&str], f64); 7] = [
            (&["--norm", "none", "--bigtiff", "yes"], 0.0),
            (&["--norm", "none", "--tar-size", "10K", "--hash"], 0.0),
            (&["--norm", "zscore", "--scope", "tensor", "--tar-size", "300K"], 3e-6),
            (&["--norm", "fixed", "--range", "-100,100"], 3e-5),
            (&["--limit", "7", "--hash"], 3e-6),
            (&["--names-from", &list, "--norm", "none", "--tar-size", "100K"], 0.0),
            (&["--name", "{tensor}-{stem}/{index}.tiff"], 3e-6),
        ];
        for (number, (options, most)) in cases.into_iter().enumerate() {
            let out = at(&dir, &format!("{number}.tar"));
            ends_with(0, &join(&["convert", "-q", sample(), "-d", "cpu", "-o", &out], options));
            for more in [&[][..], &["--against"]] {
                let (told, said) = ends_with(0, &join(&["verify", &out], more));
                assert!(told.is_empty() && said.contains("all right"), "{options:?}: {told}{said}");
            }
            let args =
                ["restore", "-q", "--json", &out, "-o", &restored, "--overwrite", "--against"];
            let (told, _) = ends_with(0, &args);
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            let largest = told["against"]["largest_error"].as_f64().unwrap();
            assert!(largest <= most && told["against"]["unlike"] == 0, "{options:?}: {told}");
            assert_eq!(told["against"]["differing"] == 0, most == 0.0, "{options:?}: {told}");
        }
        // What a member is not any more is told by its name.
        let path = at(&dir, "0.tar");
        let mut bytes = fs::read(&path).unwrap();
        let (name, _, begin) = members(&bytes).swap_remove(3);
        bytes[begin as usize] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (_, told) = ends_with(1, &["restore", "-q", &path, "-o", &restored, "--overwrite"]);
        assert!(told.contains(&format!("0.tar: not a valid TIFF file: member {name}: ")), "{told}");
    }

    #[test]
    fn what_is_no_tar_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_str().unwrap();
        for (out, more, part) in [
            (at(&dir, "out.tar.gz"), &[][..], "not compressed"),
            (at(&dir, "out.tgz"), &[], "not compressed"),
            (at(&dir, ".tar"), &[], "ends in .tar"),
            (at(&dir, &format!("{}.tar", "x".repeat(250))), &[], "it is too long"),
            (at(&dir, "out"), &["--tar-size", "1M"], "is to be a folder"),
            (folder.to_owned(), &["--tar-size", "1M"], "is a folder"),
            (at(&dir, "out.tar"), &["--resume"], "--tar-size"),
            (at(&dir, "out.tar"), &["--skip-existing"], "--skip-existing"),
            (at(&dir, "out.tar"), &["--stack", "tensor"], "--stack"),
            (at(&dir, "out.tar"), &["--compress", "zstd"], "stored as they are"),
            (at(&dir, "out.tar"), &["--tar-size", "0"], "0 bytes"),
            ("-".to_owned(), &["--resume"], "of a stream nothing is"),
            ("-".to_owned(), &["--skip-existing"], "of a stream nothing is"),
            ("-".to_owned(), &["--tar-size", "1M"], "numbered"),
            ("-".to_owned(), &["--compress", "deflate"], "stored as they are"),
        ] {
            let args = join(&["convert", sample(), "-d", "cpu", "-o", &out], more);
            let (stdout, told) = ends_with(2, &args);
            assert!(told.contains(part) && stdout.is_empty(), "{out} {more:?}: {told}");
        }
        assert_eq!(names(&dir), Vec::<String>::new());
        let (_, told) = ends_with(1, &["verify", &at(&dir, "out.tar")]);
        assert!(told.contains("out.manifest.jsonl"), "{told}");
    }

    /// Every part of a tar, and what is missing; each member by its name.
    #[test]
    fn verify_names_what_is_not_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let out = at(&dir, "out.tar");
        let convert = ["convert", sample(), "-d", "cpu", "-o", &out, "--tar-size", "1M", "--hash"];
        let (dry, _) = ends_with(0, &join(&convert, &["-n"]));
        assert!(dry.contains("images   317, in 3 tars\n"), "{dry}");
        ends_with(0, &convert);
        assert_eq!(names(&dir).len(), 4);
        let path = at(&dir, "out-000001.tar");
        let bytes = fs::read(&path).unwrap();
        let found = members(&bytes);
        let (name, file, at_byte) = &found[7];
        let (begin, end) = (*at_byte as usize, *at_byte as usize + file.len());
        let member = format!("out-000001.tar, member {name}: ");
        let pixels = end - 8;
        let verify = |more: &[&str]| {
            let output = run(&join(&["verify", &out], more));
            (output.status.code(), text(&output.stdout) + &text(&output.stderr))
        };
        for (byte, told, against) in [
            (begin - 512, "member: its header in the tar", "member: its header in the tar"),
            (begin - 300, "member: its header in the tar", "member: its header in the tar"),
            (begin, "file: ", "header: from byte 0 on"),
            (pixels, "pixels: their XXH3", "samples: 1 of 1024 pixels"),
        ] {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let (code, found) = verify(&[]);
            assert_eq!(code, Some(5), "{byte}: {found}");
            assert!(found.contains(&format!("{member}{told}")), "{byte}: {found}");
            assert!(found.contains("1 difference"), "{byte}: {found}");
            let (code, found) = verify(&["--against"]);
            assert_eq!(code, Some(5), "{byte}: {found}");
            assert!(found.contains(&format!("{member}{against}")), "{byte}: {found}");
        }
        // Of two members each is told.
        let mut damaged = bytes.clone();
        let ends = [&found[7], &found[9]].map(|(_, file, at)| *at as usize + file.len());
        ends.iter().for_each(|end| damaged[end - 5] ^= 1);
        fs::write(&path, &damaged).unwrap();
        let (_, told) = verify(&["--against"]);
        for (name, ..) in [&found[7], &found[9]] {
            assert!(told.contains(&format!("member {name}: samples: 1 of 1024")), "{told}");
        }
        for (what, damaged, told) in [
            (
                "end",
                [&bytes[..bytes.len() - 1], b"x"].concat(),
                "out-000001.tar: file: it does not end",
            ),
            ("longer", [&bytes[..], b"x"].concat(), "out-000001.tar: size: "),
            ("shorter", bytes[..begin].to_vec(), "out-000001.tar: size: "),
        ] {
            fs::write(&path, &damaged).unwrap();
            let (code, found) = verify(&[]);
            assert_eq!((code, found.contains(told)), (Some(5), true), "{what}: {found}");
            let ends = found.contains("member: the tar ends before it does");
            assert_eq!(ends, what == "shorter", "{what}: {found}");
            let (code, found) = verify(&["--against"]);
            assert_eq!((code, found.contains(told)), (Some(5), true), "{what}: {found}");
        }
        fs::remove_file(&path).unwrap();
        let (code, found) = verify(&[]);
        assert_eq!(code, Some(5), "{found}");
        assert_eq!(found.matches("it is missing").count(), 1, "{found}");
        fs::write(&path, &bytes).unwrap();
        // Left by a run of more tars; other files of the folder are nobody's business.
        fs::write(at(&dir, "out-000009.tar"), "x").unwrap();
        fs::write(at(&dir, "other.txt"), "x").unwrap();
        let (code, found) = verify(&["--against"]);
        assert_eq!(code, Some(0), "{found}");
        assert!(found.contains("out-000009.tar: no manifest names it"), "{found}");
        assert!(!found.contains("other.txt"), "{found}");
    }

    /// What fits no plain header is in an extended one, which is looked at byte by byte; and lines are one for each
    /// member, in their order.
    #[test]
    fn verify_looks_at_extended_headers_and_at_the_order_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (dump, out, manifest) =
            (at(&dir, "d.safetensors"), at(&dir, "out.tar"), at(&dir, "out.manifest.jsonl"));
        let name = "n".repeat(190);
        crate::tool::dump(Path::new(&dump), &[(&name, "U8", &[3, 4, 5], 60)]);
        ends_with(
            0,
            &[
                "convert",
                "-q",
                &dump,
                "-d",
                "cpu",
                "-o",
                &out,
                "--name",
                "{tensor}/{tensor}/{index}.tif",
            ],
        );
        let bytes = fs::read(&out).unwrap();
        let found = members(&bytes);
        let (_, file, at_byte) = &found[1];
        let begin = (found[0].2 as usize + found[0].1.len()).next_multiple_of(512);
        assert!(*at_byte as usize - begin >= 1536 && !file.is_empty());
        let text_at = begin + 512;
        let extended = begin..*at_byte as usize - 512;
        for byte in extended.step_by(37).chain([text_at, text_at + 12]) {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 1;
            fs::write(&out, &damaged).unwrap();
            let (told, _) = ends_with(5, &["verify", "-q", &out]);
            assert!(told.contains("1.tif: member: its extended header"), "byte {byte}: {told}");
        }
        fs::write(&out, &bytes).unwrap();
        let whole = fs::read_to_string(&manifest).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for order in [[0, 2, 1, 3], [0, 1, 1, 3], [0, 1, 3, 3], [0, 3, 3, 3]] {
            let text: String =
                order.iter().map(|&line: &usize| format!("{}\n", lines[line])).collect();
            fs::write(&manifest, text).unwrap();
            for args in
                [&["verify", &out, "--against"][..], &["restore", &out, "-o", "x", "--against"]]
            {
                let (_, told) = ends_with(1, args);
                assert!(told.contains("in their order"), "{order:?}: {told}");
            }
        }
    }

    /// A manifest is of the tar by whose name it is found; one that does not describe what is there is gone.
    #[test]
    fn a_manifest_is_of_its_tar() {
        let dir = tempfile::tempdir().unwrap();
        let out = at(&dir, "out.tar");
        let convert = ["convert", "-q", sample(), "-d", "cpu", "-o", &out];
        ends_with(0, &convert);
        for name in ["copy.tar", "out-2.tar"] {
            let manifest = at(&dir, &name.replace(".tar", ".manifest.jsonl"));
            fs::copy(at(&dir, "out.manifest.jsonl"), &manifest).unwrap();
            fs::copy(&out, at(&dir, name)).unwrap();
            let (_, told) = ends_with(1, &["verify", &at(&dir, name)]);
            assert!(told.contains(&format!("it is not of {name}")), "{told}");
            fs::remove_file(manifest).unwrap();
            fs::remove_file(at(&dir, name)).unwrap();
        }
        // One that fails leaves the old one as it is; one that is made takes its manifest along.
        let dump = at(&dir, "nan.safetensors");
        write_nan(&dump);
        let other = ["convert", "-q", &dump, "-d", "cpu", "-o", &out, "--overwrite"];
        ends_with(1, &join(&other, &["--nonfinite", "fail"]));
        assert_eq!(names(&dir), ["nan.safetensors", "out.manifest.jsonl", "out.tar"]);
        ends_with(0, &["verify", "-q", &out, "--against"]);
        ends_with(0, &join(&other, &["--no-manifest"]));
        assert_eq!(names(&dir), ["nan.safetensors", "out.tar"]);
        // Of numbered ones it goes before the first is replaced, and the journal stays to go on with.
        let numbered = at(&dir, "n.tar");
        let sized = ["-q", "-d", "cpu", "-o", &numbered, "--tar-size", "300K"];
        ends_with(0, &join(&["convert", sample()], &sized));
        let fails =
            [&["convert", sample(), &dump][..], &sized, &["--overwrite", "--nonfinite", "fail"]];
        ends_with(1, &fails.concat());
        assert!(!Path::new(&at(&dir, "n.manifest.jsonl")).exists());
        assert!(names(&dir)[0].ends_with(".journal"), "{:?}", names(&dir));
        ends_with(0, &join(&["convert", sample(), "--overwrite"], &sized));
        // Fewer tars than there are: who reads all would read old ones.
        let fewer =
            ["convert", sample(), "-d", "cpu", "-o", &numbered, "--tar-size", "1M", "--overwrite"];
        for more in [&[][..], &["-n"]] {
            let (_, told) = ends_with(1, &join(&fewer, more));
            assert!(told.contains("n-000003.tar: this run makes fewer tars"), "{told}");
        }
        ends_with(0, &["verify", "-q", &numbered, "--against"]);
        // Also where nothing is left to be made.
        let old = at(&dir, "n-000099.tar");
        fs::copy(at(&dir, "n-000000.tar"), &old).unwrap();
        let (_, told) = ends_with(1, &join(&["convert", sample(), "--resume"], &sized));
        assert!(told.contains("n-000099.tar: this run makes fewer tars"), "{told}");
        fs::remove_file(&old).unwrap();
        ends_with(0, &join(&["convert", sample(), "--resume"], &sized));
    }

    /// A tar that cannot be gone on with leaves no journal, and that of numbered ones is in nobody's way.
    #[test]
    fn what_a_tar_leaves_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let (out, folder) = (at(&dir, "out.tar"), dir.path().to_str().unwrap());
        let manifest = at(&dir, "s.manifest.jsonl");
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let stream = ["convert", sample(), "-q", "-d", "cpu", "-o", "-", "--manifest", &manifest];
        assert!(!tool().args(stream).stdout(full()).status().unwrap().success());
        assert_eq!(names(&dir), Vec::<String>::new());
        let sized = ["-q", "-d", "cpu", "--tar-size", "300K"];
        ends_with(0, &join(&["convert", sample(), "-o", &out], &sized));
        let dump = at(&dir, "nan.safetensors");
        write_nan(&dump);
        fs::remove_file(at(&dir, "out.manifest.jsonl")).unwrap();
        let both = ["convert", sample(), &dump];
        let fails =
            [&both[..], &["-o", &out, "--overwrite", "--nonfinite", "fail"], &sized].concat();
        ends_with(1, &fails);
        assert!(names(&dir)[0].ends_with(".journal"), "{:?}", names(&dir));
        let other = at(&dir, "other.tar");
        ends_with(0, &[&both[..], &["-o", &other, "--resume"], &sized].concat());
        ends_with(0, &[&both[..], &["-q", "-d", "cpu", "-o", folder, "--resume"]].concat());
        ends_with(1, &[&both[..], &["-o", &out, "--resume"], &sized].concat());
        ends_with(0, &[&both[..], &["-o", &out, "--overwrite"], &sized].concat());
        ends_with(0, &["verify", "-q", &out, "--against"]);
    }

    /// Standard output that is closed is the null device to a program.
    #[test]
    fn a_tar_that_goes_nowhere_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = at(&dir, "m.jsonl");
        let shell = |more: &str| {
            let tool = env!("CARGO_BIN_EXE_tensortiff");
            let script = format!("{tool} convert {} -d cpu -o - {more}", sample());
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            (output.status.code(), text(&output.stderr))
        };
        for closed in [">&-", ">/dev/null"] {
            let (code, told) = shell(closed);
            assert!(code == Some(0) && told.contains("the tar goes nowhere"), "{closed}: {told}");
            let (code, told) = shell(&format!("--manifest {manifest} {closed}"));
            assert!(code == Some(2) && told.contains("there will be no tar"), "{closed}: {told}");
        }
        let (code, told) = shell("| cat >/dev/null");
        assert!(code == Some(0) && !told.contains("nowhere"), "{told}");
        let (code, told) = shell(&format!("--manifest {manifest}/no/m.jsonl | cat"));
        assert!(code == Some(0) && told.contains("there is no such folder"), "{told}");
        // Without images it is a tar still.
        let output = run(&["convert", sample(), "-q", "-d", "cpu", "-o", "-", "--exclude", "*"]);
        assert!(output.status.success() && output.stdout == [0; 1024], "{output:?}");
        assert_eq!(names(&dir), Vec::<String>::new());
    }

    /// What comes out of a pipe is the tar; a manifest that is asked for is that of the tar beside it.
    #[test]
    fn standard_output_is_a_tar() {
        let dir = tempfile::tempdir().unwrap();
        let (out, manifest) = (at(&dir, "out.tar"), at(&dir, "piped.manifest.jsonl"));
        ends_with(0, &["convert", sample(), "-d", "cpu", "-o", &out]);
        let whole = fs::read(&out).unwrap();
        let stream = ["convert", sample(), "-d", "cpu", "-o", "-"];
        let output = run(&stream);
        assert!(output.status.success() && output.stdout == whole);
        assert!(text(&output.stderr).contains("317 images"));
        let output = run(&join(&stream, &["--manifest", &manifest]));
        fs::write(at(&dir, "piped.tar"), &output.stdout).unwrap();
        assert!(output.stdout == whole);
        let (_, told) = ends_with(0, &["verify", &at(&dir, "piped.tar"), "--against"]);
        assert!(told.contains("all right"), "{told}");
        let dry = run(&join(&stream, &["-n"]));
        let told = text(&dry.stdout);
        assert!(told.contains("images   317\n") && told.contains("to standard output"), "{told}");
        assert!(!told.contains("disk") && !told.contains("inodes"), "{told}");
    }

    /// Who reads no further, or a device without room: an error, and no manifest.
    #[test]
    fn a_pipe_that_is_closed_ends_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = at(&dir, "m.jsonl");
        let stream = ["convert", sample(), "-d", "cpu", "-o", "-", "-q", "--manifest", &manifest];
        let mut child =
            tool().args(stream).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("standard output: Broken pipe"), "{told}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = tool().args(stream).stdout(full).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("standard output: No space left"), "{told}");
        assert!(!Path::new(&manifest).exists());
    }

    /// Killed or interrupted at any moment, a numbered tar is there whole or not, and the next run makes those
    /// that are not.
    #[test]
    fn a_run_that_is_killed_is_gone_on_with_tar_by_tar() {
        let dir = tempfile::tempdir().unwrap();
        let (dump, out, whole) = (at(&dir, "d.safetensors"), at(&dir, "out"), at(&dir, "whole"));
        let shape: &[u64] = &[40, 512, 512];
        let bytes = 40 * 512 * 512;
        let tensors: Vec<_> =
            ["a", "b", "c"].into_iter().map(|name| (name, "U8", shape, bytes)).collect();
        crate::tool::dump(Path::new(&dump), &tensors);
        let convert = |folder: &str, more: &[&str]| {
            fs::create_dir_all(folder).unwrap();
            let tar = format!("{folder}/t.tar");
            let args = ["convert", &dump, "-o", &tar, "-d", "cpu", "--norm", "none", "-q"];
            let args = args.iter().chain(&["--tar-size", "8M"]).chain(more);
            let mut command = tool();
            command.args(args.copied());
            command
        };
        let started = std::time::Instant::now();
        assert!(convert(&whole, &[]).status().unwrap().success());
        let took = started.elapsed();
        let read = |folder: &str| -> BTreeMap<String, Vec<u8>> {
            let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
            let named = entries.map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            });
            named.filter(|(name, _)| !name.starts_with('.')).collect()
        };
        let due = read(&whole);
        assert_eq!(due.len(), 19); // 7 images a tar, and the manifest
        let (mut killed, mut part) = (0, 0);
        for step in 1..=10 {
            drop(fs::remove_dir_all(&out));
            let mut child = convert(&out, &[]).stderr(Stdio::piped()).spawn().unwrap();
            std::thread::sleep(took * step / 11);
            if step % 2 == 0 {
                Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
            } else {
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let told = text(&output.stderr);
            killed += u32::from(!output.status.success());
            if output.status.code() == Some(130) {
                assert!(told.contains("the same command with --resume goes on"), "{told}");
            }
            let there = read(&out);
            part += u32::from(!there.is_empty() && there.len() < 18);
            assert!(there.iter().all(|(name, bytes)| due[name] == *bytes));
            let again = convert(&out, &["--resume"]).output().unwrap();
            assert!(again.status.success(), "{}", text(&again.stderr));
            assert!(read(&out) == due, "step {step}");
        }
        assert!(
            killed >= 4 && part >= 2,
            "{killed} of 10 were killed, {part} with some tars there"
        );
    }
}
