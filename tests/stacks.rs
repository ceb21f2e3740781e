//! `--stack`: images as pages of one file, the same pixels as in files of their own, whole or absent, and the
//! same bytes from every device and number of threads.

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
use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use files::{Failing, Hole, Sparse, cpu, made, samples, source, ways};
use tensortiff::{
    BigTiff, Dtype, Dump, Error, MemorySink, MemorySource, Nonfinite, Norm, Options, Record, Scope,
    Selection, Source, Stack, TensorInfo, convert,
};
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

/// Tensors of images of one size.
fn alike() -> MemorySource<'static> {
    let shapes: [(&str, Dtype, &[u64]); 3] = [
        ("a", Dtype::U8, &[20, 30]),
        ("b.tensor.with.a.longer.name", Dtype::F32, &[7, 20, 30]),
        ("c", Dtype::U8, &[2, 2, 20, 30]),
    ];
    shapes.into_iter().fold(MemorySource::new("m"), |source, (name, dtype, shape)| {
        source.with(name, dtype, shape, samples(dtype, shape.iter().product())).unwrap()
    })
}

/// A page as a decoder sees it.
#[derive(Debug, PartialEq, Clone)]
struct Page {
    size: (u32, u32),
    pixels: Vec<u32>,
    at: Vec<u64>,
    text: String,
    display: [f32; 2],
}

fn pages<R: Read + Seek>(file: R) -> Vec<Page> {
    let mut decoder = Decoder::new(file).unwrap().with_limits(Limits::unlimited());
    let mut pages = Vec::new();
    loop {
        let DecodingResult::F32(pixels) = decoder.read_image().unwrap() else { panic!("not f32") };
        let text = decoder.get_tag_ascii_string(Tag::ImageDescription).unwrap();
        let display = [Tag::SMinSampleValue, Tag::SMaxSampleValue]
            .map(|tag| decoder.get_tag_f32(tag).unwrap());
        pages.push(Page {
            size: decoder.dimensions().unwrap(),
            pixels: pixels.into_iter().map(f32::to_bits).collect(),
            at: decoder.get_tag_u64_vec(Tag::StripOffsets).unwrap(),
            text: text.trim_end_matches('\0').to_owned(),
            display,
        });
        if !decoder.more_images() {
            return pages;
        }
        decoder.next_image().unwrap();
    }
}

/// What a stack is held to: pages of the same pixels, tags and text as files of their own, one behind the
/// other, of which the first says so to ImageJ.
fn check(stack: &[Page], alone: &[Page]) {
    assert_eq!(stack.len(), alone.len());
    let (images, first) = (stack.len(), stack[0].at[0]);
    assert!(first.is_multiple_of(64), "pixels begin at {first}");
    let bytes = 4 * stack[0].pixels.len() as u64;
    for (number, (page, alone)) in stack.iter().zip(alone).enumerate() {
        assert_eq!((page.size, page.display), (alone.size, alone.display), "page {number}");
        assert!(page.pixels == alone.pixels, "page {number}");
        assert_eq!(page.at[0], first + number as u64 * bytes, "page {number}");
        if number > 0 || images == 1 {
            assert_eq!(page.text, alone.text, "page {number}");
        }
    }
    if images == 1 {
        return;
    }
    let lines: Vec<&str> = stack[0].text.lines().collect();
    let due = [format!("images={images}"), format!("slices={images}"), "loop=false".to_owned()];
    assert_eq!(lines[0], "ImageJ=1.54f");
    assert_eq!(lines[1..4], due);
    assert_eq!(lines[6], alone[0].text.lines().nth(3).unwrap());
    // Pages that were normalized are shown by their range; others by what all have.
    let kept = |page: &&Page| {
        let (_, about) = page.text.split_once("tensortiff=").unwrap();
        let about: serde_json::Value = serde_json::from_str(about.trim()).unwrap();
        let [lo, hi] = ["lo", "hi"].map(|key| about[key].as_f64());
        let norm = about["norm"].as_str().unwrap();
        norm == "none" || lo.is_none() || (lo == hi && (norm == "minmax" || lo == Some(0.0)))
    };
    let of = |pages: &[&Page]| {
        let fold =
            |at: usize, f: fn(f32, f32) -> f32| pages.iter().map(|p| p.display[at]).reduce(f);
        [fold(0, f32::min), fold(1, f32::max)].map(Option::unwrap)
    };
    let all: Vec<&Page> = stack.iter().collect();
    let normalized: Vec<&Page> = stack.iter().filter(|page| !kept(page)).collect();
    let due = if normalized.is_empty() { of(&all) } else { [0.0, 1.0] };
    assert_eq!(lines[4..6], [format!("min={:?}", due[0]), format!("max={:?}", due[1])]);
}

#[test]
fn pages_are_the_images_that_files_of_their_own_are() {
    for (norm, scope, bigtiff) in [
        (Norm::MinMax, Scope::Image, BigTiff::Auto),
        (Norm::None, Scope::Image, BigTiff::Yes),
        (Norm::MinMax, Scope::Tensor, BigTiff::No),
    ] {
        let mut options = Options { rule: norm.into(), scope, ..cpu() };
        options.encoding.bigtiff = bigtiff;
        let (plain, alone) = made(&source(), &options);
        let options = Options { stack: Stack::Tensor, ..options };
        let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
        for (way, options) in ways(&options) {
            let (files, report) = made(&source(), &options);
            assert_eq!((report.images, report.bytes_in), (alone.images, alone.bytes_in), "{way}");
            assert_eq!(report.samples, alone.samples, "{way}");
            let written: usize = files.values().map(Vec::len).sum();
            assert_eq!(written as u64, report.bytes_out, "{way}");
            let first = first.get_or_insert_with(|| files.clone());
            assert!(files == *first, "{way} makes others");
        }
        let files = first.unwrap();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "m/constant.tif",
                "m/large.tif",
                "m/mixed.tif",
                "m/one.tif",
                "m/small.tif",
                "m/tiny.tif"
            ]
        );
        for (name, file) in &files {
            assert_eq!(file[2], if bigtiff == BigTiff::Yes { 43 } else { 42 }, "{name}");
            let below = name.replace(".tif", "/");
            let own = plain.iter().filter(|(own, _)| *own == name || own.starts_with(&below));
            let alone: Vec<Page> =
                own.map(|(_, file)| pages(Cursor::new(file)).remove(0)).collect();
            check(&pages(Cursor::new(file)), &alone);
        }
    }
}

#[test]
fn one_stack_of_all_tensors() {
    for norm in [Norm::MinMax, Norm::None, Norm::Symmetric] {
        let options = Options { rule: norm.into(), ..cpu() };
        let (plain, _) = made(&alike(), &options);
        let options = Options { stack: Stack::All, ..options };
        let mut first = None;
        for (way, options) in ways(&options) {
            let (files, report) = made(&alike(), &options);
            assert_eq!((files.len(), report.images), (1, 12), "{way}");
            assert!(files == *first.get_or_insert_with(|| files.clone()), "{way} makes another");
        }
        let alone: Vec<Page> =
            plain.values().map(|file| pages(Cursor::new(file)).remove(0)).collect();
        check(&pages(Cursor::new(&first.unwrap()["m.tif"])), &alone);
    }
    // Images that are picked are pages, too.
    let selection =
        Selection { tensors: vec!["c".to_owned()], channel: Some(1), ..Selection::default() };
    let options = Options { selection, stack: Stack::All, ..cpu() };
    let (files, _) = made(&alike(), &options);
    let texts: Vec<String> =
        pages(Cursor::new(&files["m.tif"])).into_iter().map(|page| page.text).collect();
    assert!(
        texts[0].contains("\"index\":[0,1]") && texts[1].contains("\"index\":[1,1]"),
        "{texts:?}"
    );
}

#[test]
fn what_cannot_be_a_stack_is_refused_before_any_work() {
    let refused = |source: &dyn Source, options: Options| {
        let sink = MemorySink::default();
        let error = convert(source, &sink, &options).unwrap_err();
        assert!(error.is_usage() && sink.into_files().is_empty(), "{error}");
        error.to_string()
    };
    let all = || Options { stack: Stack::All, ..cpu() };
    let told = refused(&source(), all());
    for part in ["1×2 of tensor mixed", "3×5 of tensor tiny", "--stack tensor", "--tensor"] {
        assert!(told.contains(part), "{told}");
    }
    let naming = tensortiff::Naming::Template("x/{tensor}.tif".to_owned());
    let told = refused(&alike(), Options { naming, ..all() });
    assert!(told.contains("x/a.tif") && told.contains("--name"), "{told}");
    let list = |names: &[&str]| tensortiff::Naming::List(names.iter().map(|&n| n.into()).collect());
    let stacks = |names: &[&str]| Options { naming: list(names), stack: Stack::Tensor, ..cpu() };
    let error = convert(&alike(), &MemorySink::default(), &stacks(&["a", "b"])).unwrap_err();
    assert!(error.to_string().contains("2 names for 3 stacks"), "{error}");
    let (files, _) = made(&alike(), &stacks(&["a", "b", "c"]));
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a.tif", "b.tif", "c.tif"]);
    let (files, _) = made(&alike(), &Options { naming: list(&["z"]), ..all() });
    assert_eq!(files.keys().collect::<Vec<_>>(), ["z.tif"]);

    let folder = tempfile::tempdir().unwrap();
    let mut record = Record::new(folder.path());
    record.resume = tensortiff::Resume::Sizes;
    for (options, part) in [
        (Options { record: Some(record), ..all() }, "--resume"),
        (Options { skip_existing: true, ..all() }, "--skip-existing"),
        (Options { shard: Some(0..1), ..all() }, "--shard"),
    ] {
        let told = refused(&alike(), options);
        assert!(told.contains("--stack all") && told.contains(part), "{told}");
    }
    for (name, value) in
        [("compress", "zstd"), ("tile", "16"), ("profile", "gis"), ("profile", "archive")]
    {
        let mut text = tensortiff::EncodingText::default();
        assert!(text.set(name, value));
        let told = refused(&alike(), Options { encoding: text.read().unwrap(), ..all() });
        assert!(told.contains("as ImageJ wants them"), "{told}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A page that cannot be made ends the run: its stack is not there, the ones before it are, and nothing
/// else is.
#[test]
fn a_stack_lacks_no_page() {
    let source = |from: u64| {
        let inner = MemorySource::new("m");
        let inner = inner.with("a", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
        let inner = inner.with("b", Dtype::U8, &[5, 8, 8], samples(Dtype::U8, 320)).unwrap();
        Failing { inner, from }
    };
    for stack in [Stack::Tensor, Stack::All] {
        for from in [0, 64, 319] {
            let sink = MemorySink::default();
            let threads = NonZeroUsize::new(1);
            let options = Options { stack, threads, ..cpu() };
            let error = convert(&source(from), &sink, &options).unwrap_err();
            let whole = if stack == Stack::Tensor { 5 } else { 0 };
            assert!(
                matches!(error, Error::Stopped { done, images: 10, .. } if done == whole),
                "{stack} {from}: {error}"
            );
            assert!(error.to_string().contains("planted"), "{error}");
            let names: Vec<String> = sink.into_files().into_keys().collect();
            let due: &[&str] = if stack == Stack::Tensor { &["m/a.tif"] } else { &[] };
            assert_eq!(names, due, "{stack} {from}");
        }
        let (files, _) = made(&source(320), &Options { stack, ..cpu() });
        assert_eq!(files.len(), if stack == Stack::Tensor { 2 } else { 1 });
    }
    // One that must not be made is missing, too.
    let nan: Vec<u8> = [1.0, 2.0, 3.0, f32::NAN].map(f32::to_le_bytes).concat();
    let source = MemorySource::new("m").with("a", Dtype::F32, &[2, 1, 2], nan).unwrap();
    let mut options = Options { stack: Stack::Tensor, ..cpu() };
    options.rule.nonfinite = Nonfinite::Fail;
    let sink = MemorySink::default();
    let error = convert(&source, &sink, &options).unwrap_err();
    assert!(matches!(error, Error::Stopped { done: 0, .. }), "{error}");
    assert!(sink.into_files().is_empty());
}

/// Whether a stack is a BigTIFF follows from its length alone, and beyond 4 GiB its last pages are where
/// they ought to be.
#[test]
fn stacks_of_more_than_4_gib_are_bigtiffs() {
    let dir = tempfile::tempdir().unwrap();
    let convert_to = |name: &str, shape: &[u64], options: &Options| {
        let tensor = TensorInfo::new("t".to_owned(), 0, Dtype::U8, shape.to_vec());
        let source = Hole(vec![tensor], vec![Dump { label: "d".into(), stem: "d".into() }]);
        let (begun, bytes) = Default::default();
        let sink = Sparse { path: dir.path().join(name), begun, bytes };
        let outcome = convert(&source, &sink, options);
        outcome.map(|_| File::open(&sink.path).unwrap())
    };
    let mut options = Options { rule: Norm::None.into(), stack: Stack::All, ..cpu() };
    let version = |file: &File| {
        let mut begin = [0; 4];
        file.read_exact_at(&mut begin, 0).unwrap();
        begin[2]
    };
    // 127 pages of 32 MiB are below 4 GiB, 128 with their directories above.
    let classic = convert_to("classic", &[127, 4096, 2048], &options).unwrap();
    assert_eq!(version(&classic), 42);
    let big = convert_to("big", &[131, 4096, 2048], &options).unwrap();
    assert_eq!(version(&big), 43);
    assert!(big.metadata().unwrap().len() > 1 << 32);
    for (file, pages) in [(classic, 127), (big, 131)] {
        let mut decoder = Decoder::new(file).unwrap();
        for page in 0..pages {
            let text = decoder.get_tag_ascii_string(Tag::ImageDescription).unwrap();
            assert!(text.contains(&format!("\"index\":[{page}]")), "{text}");
            if [0, 1, pages - 2, pages - 1].contains(&page) {
                let DecodingResult::F32(pixels) = decoder.read_image().unwrap() else { panic!() };
                assert_eq!((pixels.len(), pixels[0], pixels[1]), (1 << 23, page as f32 + 1.0, 0.0));
            }
            assert_eq!(decoder.more_images(), page + 1 < pages);
            if page + 1 < pages {
                decoder.next_image().unwrap();
            }
        }
    }
    options.encoding.bigtiff = BigTiff::No;
    let error = convert_to("refused", &[128, 4096, 2048], &options).unwrap_err().to_string();
    assert!(error.contains("128 pages") && error.contains("--bigtiff no"), "{error}");
    assert!(!dir.path().join("refused").exists());
}

/// Also of pages that come in blocks, which are hashed when their stack has its name.
#[test]
fn the_manifest_has_each_page_and_its_hash() {
    for (stack, block_samples) in
        [(Stack::Tensor, None), (Stack::Tensor, Some(100_000)), (Stack::All, None)]
    {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let source = if stack == Stack::All { alike() } else { source() };
        let mut record = Record::new(&out);
        record.hash = true;
        let options = Options { stack, block_samples, record: Some(record), ..cpu() };
        let _ = convert(&source, &tensortiff::FilesSink::new(&out, false), &options).unwrap();
        let manifest = std::fs::read_to_string(out.join("manifest.jsonl")).unwrap();
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for line in manifest.lines().skip(1) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = line["name"].as_str().unwrap().to_owned();
            let file = std::fs::read(out.join(&name)).unwrap();
            assert_eq!(line["bytes"], file.len(), "{line}");
            let page = next.entry(name).or_default();
            assert_eq!(line["page"], *page, "{line}");
            let mut decoder = Decoder::new(Cursor::new(&file)).unwrap();
            decoder.seek_to_image(*page as usize).unwrap();
            let at = decoder.get_tag_u64_vec(Tag::StripOffsets).unwrap()[0] as usize;
            let [height, width] = [0, 1].map(|axis| line["shape"][axis].as_u64().unwrap() as usize);
            let hash = tensortiff::record::hash(&file[at..at + 4 * height * width]);
            assert_eq!(line["xxh3"], format!("{hash:016x}"), "{line}");
            *page += 1;
        }
        assert_eq!(next.values().sum::<u64>(), if stack == Stack::All { 12 } else { 133 });
    }
}

#[test]
#[cfg(feature = "cli")]
fn what_is_no_stack_to_imagej_is_told() {
    let (_dir, out) = tool::folder();
    let convert = ["convert", tool::sample(), "-o", &out, "--device", "cpu", "--stack", "tensor"];
    for (more, says) in [(&["--bigtiff", "yes"][..], true), (&["--overwrite"], false)] {
        let told = [
            tool::ends_with(0, &tool::join(&convert, &tool::join(more, &["-n"]))).1,
            tool::ends_with(0, &tool::join(&convert, more)).1,
        ];
        for told in told {
            let is_told = told.contains("14 of 14 stacks are BigTIFFs, which ImageJ's own File");
            assert_eq!(is_told, says, "{told}");
        }
    }
    let (csv, _) = tool::ends_with(0, &["manifest", "--csv", &out]);
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((rows[0][0], rows[0][18]), ("name", "page"), "{csv}");
    assert_eq!([1, 2].map(|row: usize| rows[row][18]), ["0", "1"], "{csv}");
}

/// Killed or interrupted at any moment, nothing of a stack is there but what is whole, and the next run makes
/// it.
#[test]
#[cfg(feature = "cli")]
fn a_run_that_is_killed_leaves_no_part_of_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (dump, out, whole) = (at("d.safetensors"), at("out"), at("whole"));
    let bytes = 40 * 512 * 512;
    let shape: &[u64] = &[40, 512, 512];
    let tensors: Vec<_> =
        ["a", "b", "c"].into_iter().map(|name| (name, "U8", shape, bytes)).collect();
    tool::dump(std::path::Path::new(&dump), &tensors);
    let convert = |out: &str, more: &[&str]| {
        let args =
            ["convert", &dump, "-o", out, "--device", "cpu", "--stack", "tensor", "--norm", "none"];
        let args: Vec<String> = args.iter().chain(more).map(|&arg| arg.to_owned()).collect();
        args
    };
    let text_of = |args: &[String]| args.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let started = std::time::Instant::now();
    assert!(tool::tool().args(convert(&whole, &["-q"])).status().unwrap().success());
    let mut took = started.elapsed();
    let stacks = |out: &str| {
        let mut files = tool::files(std::path::Path::new(out));
        files.retain(|file| file.extension().is_some_and(|extension| extension == "tif"));
        files
    };
    let (mut killed, mut at_work) = (0, 0);
    // What else runs makes runs longer and shorter: one that was over, or had not begun, does not count.
    let (mut part, mut tries) = (0, 0);
    while part < 8 && tries < 40 {
        (part, tries) = (part + 1, tries + 1);
        drop(std::fs::remove_dir_all(&out));
        let interrupted = part % 2 == 0;
        let mut child = tool::tool()
            .args(convert(&out, &["-q"]))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(took * part / 9);
        if interrupted {
            let pid = child.id().to_string();
            std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        } else {
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let told = tool::text(&output.stderr);
        let is_over = output.status.success();
        if is_over || !std::path::Path::new(&out).is_dir() {
            took = if is_over { took * 3 / 4 } else { took * 5 / 4 };
            part -= 1;
            continue;
        }
        killed += 1;
        if interrupted && output.status.code() == Some(130) {
            let made = stacks(&out).len() * 40;
            let says = format!(
                "interrupted after {made} of 120 images, which are whole; the same command \
                                with --overwrite begins again"
            );
            assert!(told.contains(&says), "{told}");
        }
        let made = if std::path::Path::new(&out).is_dir() {
            tool::files(std::path::Path::new(&out))
        } else {
            vec![]
        };
        // A journal is there, and not all of three stacks.
        let begun = std::path::Path::new(&out).is_dir() && !output.status.success();
        at_work += u32::from(
            begun
                && made.len() < 3
                && tool::everything(std::path::Path::new(&out)).len() > made.len(),
        );
        for file in made {
            let due = file.strip_prefix(&out).unwrap();
            let due = std::path::Path::new(&whole).join(due);
            assert!(
                std::fs::read(&file).unwrap() == std::fs::read(due).unwrap(),
                "{}",
                file.display()
            );
        }
        // As where files have temporary names until they are whole.
        std::fs::create_dir_all(std::path::Path::new(&out).join("d")).unwrap();
        std::fs::write(std::path::Path::new(&out).join("d/.tensortiff-1-1.tmp"), "x").unwrap();
        let again = convert(&out, &["-q", "--overwrite"]);
        assert!(tool::tool().args(&again).status().unwrap().success(), "{}", text_of(&again));
        for due in tool::everything(std::path::Path::new(&whole)) {
            let name = due.strip_prefix(&whole).unwrap();
            let is = std::fs::read(std::path::Path::new(&out).join(name)).unwrap();
            assert!(is == std::fs::read(&due).unwrap(), "{}", name.display());
        }
        assert_eq!(tool::everything(std::path::Path::new(&out)).len(), 4);
    }
    assert!(killed >= 4 && at_work >= 3, "{killed} of 8 were killed, {at_work} of them at work");
}
