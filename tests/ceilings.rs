//! Promises about time and memory that hold on any machine: how soon the first file is there, and
//! how much memory a run takes. (`benches/floor` measures speed.)

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]
#![cfg(all(feature = "cli", target_os = "linux"))]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Cursor, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tiff::decoder::Decoder;
use tiff::tags::Tag;

use tensortiff::{DumpFiles, Error, NullSink, Options, Pending, Record, Sink, Source as _};

/// A dump of one f32 tensor whose samples are zeros that take no room on disk.
fn sparse_dump(path: &Path, shape: [u64; 3]) {
    let bytes = 4 * shape.iter().product::<u64>();
    let header =
        format!("{{\"t\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}");
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // One sample that is not zero in each image, so that they are normalized.
    for image in 0..shape[0] {
        let start = 8 + header.len() as u64 + image * shape[1] * shape[2] * 4;
        file.seek(SeekFrom::Start(start)).unwrap();
        file.write_all(&1_f32.to_le_bytes()).unwrap();
    }
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

fn convert(dump: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tensortiff"));
    command.arg("convert").arg(dump).arg("-o").arg(out).args(more);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn ends_well(mut child: Child) {
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Time from the start of the process until its first image is there.
fn first_file(dump: &Path, out: &Path, driver: Option<&Path>) -> Duration {
    let image = out.join("d/t/000.tif");
    let mut command = convert(dump, out, &[]);
    if let Some(driver) = driver {
        command.env("VK_DRIVER_FILES", driver);
    }
    let started = Instant::now();
    let child = command.spawn().unwrap();
    while !image.exists() {
        assert!(started.elapsed() < Duration::from_secs(20), "no image within 20 s");
    }
    let elapsed = started.elapsed();
    ends_well(child);
    elapsed
}

#[test]
fn the_first_file_is_there_within_20_ms_whatever_the_driver_does() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    sparse_dump(&dump, [200, 64, 64]);
    // A driver that never answers: the loader opens the file that names it, and waits.
    let driver = dir.path().join("driver.json");
    assert!(Command::new("mkfifo").arg(&driver).status().unwrap().success());
    for driver in [None, Some(&*driver)] {
        // Others may have the processor: one try in time is enough.
        let mut least = Duration::MAX;
        for k in 0..60 {
            let out = dir.path().join(format!("{}-{k}", driver.is_some()));
            least = least.min(first_file(&dump, &out, driver));
            if least < Duration::from_millis(20) {
                break;
            }
        }
        assert!(least < Duration::from_millis(20), "{least:?} with driver {driver:?}");
    }
}

/// The most memory that was resident, in bytes, as far as looks at it every millisecond tell.
fn most_memory(mut child: Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        most = most.max(1024 * kib.unwrap_or(0));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    ends_well(child);
    assert!(most > 0, "the process was never seen");
    most
}

#[test]
fn memory_stays_below_64_mib_and_two_images_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    for (name, shape) in [("many", [50, 1024, 1024]), ("tiny", [30_000, 16, 16])] {
        sparse_dump(&dump, shape);
        let out = dir.path().join(name);
        let child = convert(&dump, &out, &["-j", "2", "--device", "cpu"]).spawn().unwrap();
        let most = most_memory(child);
        let allowed = (64 << 20) + 2 * 2 * 4 * shape[1] * shape[2];
        assert!(most <= allowed, "{name}: {most} bytes were resident, {allowed} are allowed");
        fs::remove_dir_all(out).unwrap();
    }
}

/// By what is resident, and with a limit from outside on all that is mapped: stacks and what the
/// allocator keeps for each thread count there as well.
#[test]
fn memory_stays_below_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    let shapes: [(&str, [u64; 3]); 4] = [
        ("large", [2, 3000, 3000]),
        ("medium", [40, 1000, 1000]),
        ("tiny", [60_000, 12, 12]),
        ("giant", [1, 6000, 4000]),
    ];
    for (name, shape) in shapes {
        sparse_dump(&dump, shape);
        let (size, bytes) = ("32M", 32 << 20);
        for threads in ["1", "64"] {
            let out = dir.path().join(name);
            let more = ["-j", threads, "--device", "cpu", "--max-memory", size];
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= bytes, "{name}, {threads} threads: {most} of {size} were resident");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    // As pages of one file.
    for (name, shape) in shapes {
        sparse_dump(&dump, shape);
        for threads in ["1", "64"] {
            let out = dir.path().join(name);
            let more = ["-j", threads, "--device", "cpu", "--max-memory", "32M", "--stack", "all"];
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= 32 << 20, "{name} stacked, {threads} threads: {most} of 32M");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    // As members of a tar, and of one that is streamed.
    for (name, shape) in shapes {
        sparse_dump(&dump, shape);
        for threads in ["1", "64"] {
            let out = dir.path().join(format!("{name}.tar"));
            let more = ["-j", threads, "--device", "cpu", "--max-memory", "32M"];
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= 32 << 20, "{name} in a tar, {threads} threads: {most} of 32M");
            fs::remove_file(&out).unwrap();
            fs::remove_file(out.with_extension("manifest.jsonl")).unwrap();
            let more = ["-j", threads, "--device", "cpu", "--max-memory", "64M"];
            let mut command = convert(&dump, Path::new("-"), &more);
            let most = most_memory(command.stdout(Stdio::null()).spawn().unwrap());
            assert!(most <= 64 << 20, "{name} streamed, {threads} threads: {most} of 64M");
        }
    }
    // Where ranges come before the images.
    let wide: [(&str, [u64; 3], &[&str]); 4] = [
        ("giant", [2, 4200, 4200], &["--norm", "percentile"]),
        ("giants", [2, 4200, 4200], &["--norm", "percentile", "--scope", "dump"]),
        ("scores", [40, 1000, 1000], &["--norm", "zscore", "--scope", "tensor"]),
        ("channels", [4000, 4, 4], &["--norm", "percentile", "--scope", "channel"]),
    ];
    for (name, shape, norm) in wide {
        sparse_dump(&dump, shape);
        for threads in ["1", "64"] {
            let out = dir.path().join(name);
            let more = ["-j", threads, "--device", "cpu", "--max-memory", "40M"];
            let more = [&more[..], norm].concat();
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= 40 << 20, "{name}, {threads} threads: {most} of 40M were resident");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    sparse_dump(&dump, [200_000, 1, 1]);
    let out = dir.path().join("ranges");
    let few = convert(&dump, &out, &["--scope", "channel", "--max-memory", "40M", "-q"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&few.stderr).into_owned();
    assert_eq!(few.status.code(), Some(2), "{told}");
    assert!(told.contains("too few for 200000 ranges"), "{told}");
    sparse_dump(&dump, [1, 6000, 4000]);
    let out = dir.path().join("limited");
    let status = Command::new("prlimit")
        .args(["--as=600000000", env!("CARGO_BIN_EXE_tensortiff"), "convert"])
        .arg(&dump)
        .arg("-o")
        .arg(&out)
        .args(["-q", "-j", "4", "--device", "cpu", "--max-memory", "64M"])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let few = convert(&dump, &out, &["--max-memory", "16M"]).status().unwrap();
    assert_eq!(few.code(), Some(2));
}

/// Strips that were packed before those in front of them wait in memory, and codecs have tables.
#[test]
fn memory_stays_below_what_is_allowed_where_images_are_packed() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    let auto = |codec: &'static str| ["--compress", codec, "--predictor", "auto"];
    let cases: [([u64; 3], &[&str], u64); 9] = [
        ([40, 1000, 1000], &auto("deflate:1"), 60 << 20),
        ([1, 3000, 3000], &auto("deflate:12"), 70 << 20),
        ([1, 3000, 3000], &auto("zstd:12"), 70 << 20),
        ([1, 2000, 2000], &auto("zstd:22"), 90 << 20),
        // Narrow images take as many tiles as wide ones; of a wide one, a row of tiles is long.
        ([4, 5000, 3], &["--tile", "4096"], 64 << 20),
        ([1, 1_200_000, 3], &["--tile", "256"], 128 << 20),
        ([2, 1, 1_100_000], &["--profile", "gis"], 150 << 20),
        ([1, 3000, 2000], &["--profile", "gis"], 70 << 20),
        // A row of 8 MiB is a strip.
        ([1, 4, 1 << 21], &auto("zstd:1"), 180 << 20),
    ];
    for (shape, how, size) in cases {
        sparse_dump(&dump, shape);
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            (state >> 33) as u32 >> 2
        };
        let samples: Vec<u8> =
            (0..shape.iter().product::<u64>()).flat_map(|_| noise().to_le_bytes()).collect();
        let file = File::options().write(true).open(&dump).unwrap();
        let begin = file.metadata().unwrap().len() - samples.len() as u64;
        std::os::unix::fs::FileExt::write_all_at(&file, &samples, begin).unwrap();
        for threads in ["1", "64"] {
            let out = dir.path().join("packed");
            let size = size.to_string();
            let more = ["-q", "-j", threads, "--device", "cpu", "--max-memory", &size, "--hash"];
            for again in [&[][..], &["--resume=hash"]] {
                let more = [&more[..], how, again].concat();
                let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
                let allowed: u64 = size.parse().unwrap();
                assert!(most <= allowed, "{shape:?} {how:?} {threads} {again:?}: {most} of {size}");
            }
            fs::remove_dir_all(&out).unwrap();
        }
    }
    let out = dir.path().join("few");
    let few = convert(&dump, &out, &["--compress", "zstd", "--max-memory", "40M"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&few.stderr).into_owned();
    assert_eq!(few.status.code(), Some(2), "{told}");
    assert!(told.contains("too few to pack images"), "{told}");
}

/// Holes of gigabytes in the places of a run's own files, which are no manifest and no journal.
#[test]
fn records_that_are_holes_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    sparse_dump(&dump, [50, 16, 16]);
    let out = dir.path().join("out");
    ends_well(convert(&dump, &out, &["-q", "--device", "cpu"]).spawn().unwrap());
    let begins =
        ["", "{", "{\"tensortiff\":\"0\"", "{\"tensortiff\":\"0\"}\n", "{\"tensortiff\":\"0\"}\n{"];
    for (name, begin) in begins.map(|begin| ("manifest.jsonl", begin)) {
        for more in ["--resume", "--overwrite"] {
            fs::write(out.join(name), begin).unwrap();
            File::options().write(true).open(out.join(name)).unwrap().set_len(3 << 30).unwrap();
            // A first line that is whole and no manifest's is somebody else's, and nothing was recorded.
            let is_theirs = begin.contains('\n');
            let more = if is_theirs { "--overwrite" } else { more };
            let more = ["-q", "--device", "cpu", "--max-memory", "40M", more];
            let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
            assert!(most <= 40 << 20, "{name} {begin:?} {more:?}: {most} bytes were resident");
            if is_theirs {
                assert_eq!(fs::metadata(out.join(name)).unwrap().len(), 3 << 30);
                fs::remove_file(out.join(name)).unwrap();
                let mut names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
                let own = names.find(|path| path.extension().is_some()).unwrap();
                fs::rename(own, out.join(name)).unwrap();
            }
            assert_eq!(fs::read_to_string(out.join("manifest.jsonl")).unwrap().lines().count(), 51);
        }
    }
    let plan = dir.path().join("plan.jsonl");
    fs::write(&plan, "{").unwrap();
    File::options().write(true).open(&plan).unwrap().set_len(3 << 30).unwrap();
    // Of a plan there is nothing to be made: it is refused, and not ended by a signal.
    let output = Command::new("prlimit")
        .args(["--as=200000000", env!("CARGO_BIN_EXE_tensortiff"), "convert"])
        .args([plan.as_os_str(), "-o".as_ref(), out.as_os_str()])
        .args(["-q", "--device", "cpu", "--shard", "0", "-j", "1"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("ends in the middle of a line"), "{told}");
    let head = [&b"tensortiff jrn 1"[..], &(60_u64 << 20).to_le_bytes(), &[0; 8]].concat();
    let journal = out.join(".tensortiff-0123456789abcdef.journal");
    fs::write(&journal, head).unwrap();
    File::options().write(true).open(&journal).unwrap().set_len(1 << 30).unwrap();
    fs::remove_file(out.join("manifest.jsonl")).unwrap();
    fs::remove_dir_all(out.join("d")).unwrap();
    let more = ["-q", "--device", "cpu", "--max-memory", "40M", "--resume"];
    let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
    assert!(most <= 40 << 20, "{most} bytes were resident");
}

/// Of threads there are as many as can be had within what may be mapped, whatever is wished: each takes
/// its stack, and the allocator sets address space aside for it.
#[test]
fn many_threads_work_within_a_limit_on_what_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    sparse_dump(&dump, [1000, 64, 64]);
    for limit in ["80000000", "200000000", "500000000"] {
        for (k, more) in [&[][..], &["--max-memory", "40M"]].into_iter().cycle().take(6).enumerate()
        {
            let out = dir.path().join(format!("{limit}-{k}"));
            let output = Command::new("prlimit")
                .args([&format!("--as={limit}"), env!("CARGO_BIN_EXE_tensortiff"), "convert", "-q"])
                .args(["-j", "64", "-o", out.to_str().unwrap()])
                .args(more)
                .arg(&dump)
                .output()
                .unwrap();
            assert_eq!(output.status.code(), Some(0), "{limit} {more:?}: {output:?}");
        }
    }
}

/// Of threads there are as many as can have their files open.
#[test]
fn many_threads_work_within_a_limit_on_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let dumps = dir.path().join("dumps");
    fs::create_dir(&dumps).unwrap();
    for k in 0..40 {
        sparse_dump(&dumps.join(format!("{k}.safetensors")), [40, 128, 128]);
    }
    for (threads, slow) in [("64", false), ("1000", false), ("32", true)] {
        let out = dir.path().join(format!("out{threads}"));
        let held_up = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=writev"];
        let held_up = [&held_up[..], &["-e", "inject=writev:delay_enter=3000"]].concat();
        let output = Command::new("prlimit")
            .arg("--nofile=64")
            .args(if slow { &held_up[..] } else { &[] })
            .args([env!("CARGO_BIN_EXE_tensortiff"), "convert", "-q", "-j", threads])
            .args(["--device", "cpu", "-o", out.to_str().unwrap()])
            .arg(&dumps)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{threads} {slow}: {output:?}");
    }
}

/// What is deflated is unpacked in bounded memory, however well it was packed: 384 MiB of zeros in 375 KB, and
/// too little memory for that is told.
#[test]
fn memory_to_unpack_is_part_of_what_is_allowed() {
    const WRITE: &str = "import sys, numpy as np\n\
        np.savez_compressed(sys.argv[1], z=np.zeros((24, 2000, 2000), '<f4'))";
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.npz");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let written = Command::new(python).args(["-c", WRITE]).arg(&dump).status().unwrap();
    assert!(written.success() && fs::metadata(&dump).unwrap().len() < 1 << 20);
    for threads in ["1", "16"] {
        let out = dir.path().join("out");
        let more = ["-j", threads, "--device", "cpu", "--max-memory", "72M"];
        let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
        assert!(most <= 72 << 20, "{threads} threads: {most} bytes were resident");
        fs::remove_dir_all(&out).unwrap();
    }
    let few = convert(&dump, &dir.path().join("out"), &["--max-memory", "40M"])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&few.stderr).into_owned();
    assert_eq!(few.status.code(), Some(2), "{told}");
    assert!(told.contains("too few to unpack or turn these dumps"), "{told}");
}

/// Images that lie among each other are made together as far as memory allows.
#[test]
fn images_that_are_turned_fit_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.npy");
    let write = "import sys, numpy as np\n\
        x = np.arange(2 * 300 * 310 * 160, dtype='<u4').reshape(2, 300, 310, 160)\n\
        np.save(sys.argv[1], (x * 2654435761 >> 16).astype('<f4'))";
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    assert!(Command::new(python).args(["-c", write]).arg(&dump).status().unwrap().success());
    let [few, many] = ["few", "many"].map(|name| dir.path().join(name));
    let turned = ["--layout", "NHWC", "--device", "cpu", "-j", "2"];
    let more = [&turned[..], &["--max-memory", "40M"]].concat();
    let most = most_memory(convert(&dump, &few, &more).spawn().unwrap());
    assert!(most <= 40 << 20, "{most} bytes were resident");
    assert!(convert(&dump, &many, &turned).status().unwrap().success());
    let images = |out: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let (mut folders, mut images) = (vec![out.to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "tif") {
                    let name = path.strip_prefix(out).unwrap().to_owned();
                    images.push((name, fs::read(path).unwrap()));
                }
            }
        }
        images.sort();
        images
    };
    assert_eq!(images(&few).len(), 2 * 160);
    assert!(images(&few) == images(&many));
}

/// Ten million images, a place that takes its time for each, or one image beyond 4 GiB: a child process, so that what is
/// resident is its own.
const WHAT: &str = "TENSORTIFF_CEILINGS_CHILD";

/// Takes images slowly, and keeps none.
struct Slow(AtomicU64);

impl Sink for Slow {
    fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, _: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_micros(500));
        Ok(())
    }

    fn begin(&self, name: &str, _: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        panic!("{name} comes whole")
    }
}

/// Keeps the head of one image, and how much of it came in pieces.
#[derive(Default)]
struct Head {
    len: AtomicU64,
    came: AtomicU64,
    head: Mutex<Vec<u8>>,
}

impl Sink for Head {
    fn prepare(&self, _: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        Ok(())
    }

    fn put(&self, name: &str, _: &[u8], _: &[u8]) -> Result<(), Error> {
        panic!("{name} comes in pieces")
    }

    fn begin(&self, _: &str, len: Option<u64>) -> Result<Box<dyn Pending + '_>, Error> {
        self.len.store(len.unwrap(), Ordering::Relaxed);
        Ok(Box::new(self))
    }
}

impl Pending for &Head {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let end = self.came.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        assert!(offset + bytes.len() as u64 <= self.len.load(Ordering::Relaxed), "{end}");
        if offset == 0 {
            *self.head.lock().unwrap() = bytes.to_vec();
        }
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// The header of an image of 4.8 GB says where its pixels are, by an outside reader.
fn check_giant(sink: Head) {
    let (len, came) = (sink.len.into_inner(), sink.came.into_inner());
    assert_eq!(len, came);
    let mut decoder = Decoder::new(Cursor::new(sink.head.into_inner().unwrap())).unwrap();
    let [offsets, counts] =
        [Tag::StripOffsets, Tag::StripByteCounts].map(|tag| decoder.get_tag_u64_vec(tag).unwrap());
    let end = offsets.iter().zip(&counts).try_fold(offsets[0], |end, (at, strip)| {
        assert!(*strip <= 16 << 20);
        (*at == end).then_some(at + strip)
    });
    assert_eq!((offsets[0] + 4 * 40_000 * 30_000, end), (len, Some(len)));
}

#[test]
#[ignore = "the other tests run it in a child process"]
fn the_child() {
    let what = std::env::var(WHAT).unwrap();
    let (what, dump) = what.split_once(' ').unwrap();
    let source = DumpFiles::open(&[dump]).unwrap();
    let head = Head::default();
    let options = Options {
        devices: "cpu".parse().unwrap(),
        threads: NonZeroUsize::new(2),
        max_memory: Some(32 << 20),
        ..Options::default()
    };
    let images = source.tensors()[0].shape[0];
    let report = match what {
        "many" => tensortiff::convert(&source, &NullSink, &options),
        "recorded" => {
            let folder = Path::new(dump).with_file_name("out");
            fs::create_dir(&folder).unwrap();
            let record = Some(Record { hash: true, ..Record::new(&folder) });
            let report = tensortiff::convert(&source, &NullSink, &Options { record, ..options });
            // A line each, and the head.
            let manifest = fs::File::open(folder.join("manifest.jsonl")).unwrap();
            let lines = BufReader::new(manifest).split(b'\n').map(Result::unwrap);
            assert_eq!(lines.filter(|line| line.ends_with(b"}")).count() as u64, images + 1);
            fs::remove_dir_all(folder).unwrap();
            report
        }
        "giant" => tensortiff::convert(&source, &head, &options),
        _ => tensortiff::convert(&source, &Slow(AtomicU64::new(0)), &options),
    };
    assert_eq!(report.unwrap().images, images);
    if what == "giant" {
        check_giant(head);
    }
}

/// A dump of one tensor of bytes, which are zeros that take no room on disk.
fn sparse_bytes(path: &Path, shape: [u64; 3]) {
    let bytes = shape.iter().product::<u64>();
    let header =
        format!("{{\"t\":{{\"dtype\":\"U8\",\"shape\":{shape:?},\"data_offsets\":[0,{bytes}]}}}}");
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
        .unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 + header.len() as u64 + bytes).unwrap();
}

#[test]
fn memory_grows_neither_with_images_nor_with_a_slow_disk_nor_with_their_size() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.safetensors");
    // A journal and a manifest of ten million are 4 GB of disk, and a minute.
    let is_long = std::env::var_os("TENSORTIFF_LONG").is_some();
    let recorded = if is_long { 10_000_000 } else { 300_000 };
    for (what, shape) in [
        ("many", [10_000_000, 1, 1]),
        ("recorded", [recorded, 1, 1]),
        ("slow", [3000, 128, 128]),
        ("giant", [1, 40_000, 30_000]),
    ] {
        sparse_bytes(&dump, shape);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_child", "--exact", "--ignored", "--quiet"])
            .env(WHAT, format!("{what} {}", dump.display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let most = most_memory(child);
        assert!(most <= 32 << 20, "{what}: {most} bytes were resident");
    }
}

/// One image of 20 GiB, into a file: with `TENSORTIFF_LONG=1` all of it, killed and gone on with, read
/// back by tifffile; else only refused where no BigTIFF is allowed, before any work.
#[test]
fn an_image_of_20_gib_is_one_file() {
    const READ: &str = "import sys, numpy as np, tifffile\n\
        with tifffile.TiffFile(sys.argv[1]) as f:\n\
        \x20   assert f.is_bigtiff and len(f.pages) == 1, f\n\
        pixels = tifffile.memmap(sys.argv[1], mode='r')\n\
        assert pixels.shape == (81920, 65536) and pixels.dtype == np.float32, pixels.shape\n\
        found = {}\n\
        for y in range(0, 81920, 1024):\n\
        \x20   rows = pixels[y:y + 1024]\n\
        \x20   at = np.argwhere(rows)\n\
        \x20   found.update({(y + int(i), int(j)): float(rows[i, j]) for i, j in at})\n\
        assert found == {(0, 0): 0.5, (81919, 65535): 1.0, (40000, 7): 1.0}, found";
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dump = dir.path().join("d.safetensors");
    let shape = [1, 81_920, 65_536];
    sparse_bytes(&dump, shape);
    let start = fs::metadata(&dump).unwrap().len() - shape.iter().product::<u64>();
    let mut file = fs::OpenOptions::new().write(true).open(&dump).unwrap();
    for (y, x, value) in [(0, 0, 100_u8), (81_919, 65_535, 200), (40_000, 7, 200)] {
        file.seek(SeekFrom::Start(start + y * 65_536 + x)).unwrap();
        file.write_all(&[value]).unwrap();
    }
    drop(file);
    let out = dir.path().join("out");
    let refused = convert(&dump, &out, &["--bigtiff", "no"]).stderr(Stdio::piped()).output();
    let refused = refused.unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("--bigtiff no") && told.contains("tensor t"), "{told}");
    assert!(!out.exists());
    if std::env::var_os("TENSORTIFF_LONG").is_none() {
        return;
    }
    let more = ["--device", "cpu", "--max-memory", "64M", "--resume"];
    let mut killed = convert(&dump, &out, &more).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(8));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let image = out.join("d/t/0.tif");
    assert!(!image.exists(), "it was done, or there though it was not");
    let most = most_memory(convert(&dump, &out, &more).spawn().unwrap());
    assert!(most <= 64 << 20, "{most} bytes were resident");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
    let read = Command::new(python).args(["-c", READ]).arg(&image).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}
