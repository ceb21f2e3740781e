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

use files::{Failing, Hole, Sparse, cpu, made, samples, source, ways};
use tensortiff::{
    Dtype, Dump, Error, FilesSink, MemorySink, MemorySource, Naming, Norm, Options, Record, Resume,
    Scope, Source, Stack, Tar, TensorInfo, convert,
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

    let list = ["b.tif", &format!("c/{}", "y".repeat(240)), "d/e", "f", "g/h/i.tif"];
    let naming = Naming::List(list.iter().map(|&name| name.to_owned()).collect());
    for size in [None, Some(6000)] {
        let (files, _) =
            made(&source(), &Options { naming: naming.clone(), tar: tar(size), ..cpu() });
        let names: Vec<String> = all_members(&files).into_iter().map(|(name, _)| name).collect();
        let due = list.map(|name| if name.ends_with(".tif") { name.into() } else { format!("{name}.tif") });
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
            let options =
                Options { tar: tar(size), record: Some(record), block_samples, ..cpu() };
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
                let pixels = 4 * line["shape"][0].as_u64().unwrap() * line["shape"][1].as_u64().unwrap();
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
        let options =
            Options { threads: NonZeroUsize::new(1), ..recorded.options(Resume::No) };
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
