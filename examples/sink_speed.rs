//! The files sink against a plain create and write, interleaved, each in a fresh folder:
//!
//! `cargo run --release --no-default-features --example sink_speed -- FOLDER IMAGES ROUNDS WHEN WAYS..`
//!
//! WHEN folders are removed: `at-once` on tmpfs, which runs out of inodes (3 million here) before it
//! runs out of room; `at-end` on ext4, where files are made 30 times slower where others have just
//! been removed. WAYS: all, or some of `plain`, `nameless`, `temporary`, `std`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use tensortiff::{Error, FilesSink, Sink};

const THREADS: usize = 4;
const HEADER: [u8; 512] = [1; 512];

/// What everybody writes first.
struct Plain(PathBuf);

impl Sink for Plain {
    fn prepare(&self, names: &mut dyn Iterator<Item = String>) -> Result<(), Error> {
        let mut last = None;
        for name in names {
            let folder = self.0.join(name).parent().expect("it has a folder").to_owned();
            if last.as_ref() != Some(&folder) {
                fs::create_dir_all(&folder).expect("the folder is made");
                last = Some(folder);
            }
        }
        Ok(())
    }
    fn put(&self, name: &str, header: &[u8], pixels: &[u8]) -> Result<(), Error> {
        let file = fs::File::create(self.0.join(name)).expect("the file is made");
        let parts = [std::io::IoSlice::new(header), std::io::IoSlice::new(pixels)];
        let written = std::io::Write::write_vectored(&mut &file, &parts).expect("it is written");
        assert_eq!(written, header.len() + pixels.len());
        Ok(())
    }
    fn begin(&self, _: &str, _: Option<u64>) -> Result<Box<dyn tensortiff::Pending + '_>, Error> {
        unreachable!("only whole images are measured")
    }
}

type Way = (&'static str, fn(&Path) -> Box<dyn Sink>);

const WAYS: [Way; 4] = [
    ("plain", |out| Box::new(Plain(out.to_owned()))),
    ("nameless", |out| Box::new(FilesSink::new(out, false))),
    ("temporary", |out| Box::new(FilesSink::new(out, false).with_temporary_names())),
    ("std", |out| Box::new(FilesSink::new(out, false).with_std_alone())),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, images, rounds, when, wanted @ ..] = &args[..] else {
        return Err("usage: sink_speed FOLDER IMAGES ROUNDS at-once|at-end [WAYS..]".into());
    };
    let (images, rounds, at_once) = (images.parse()?, rounds.parse::<usize>()?, when == "at-once");
    let base = Path::new(folder).join(format!("sink-speed-{}", std::process::id()));
    let ways: Vec<Way> = WAYS
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
        .collect();
    // Images, bytes of pixels, images in a folder.
    for (images, len, in_folder) in
        [(images, 3_136, images), (images, 3_136, 1_000), (1_024, 1 << 20, 1_024)]
    {
        println!("{images} images of {} bytes, {in_folder} in a folder", HEADER.len() + len);
        let pixels = vec![2; len];
        let mut seconds = vec![Vec::new(); ways.len()];
        for round in 0..rounds {
            // The order turns, so that nobody always goes after the same one.
            for way in (0..ways.len()).map(|i| (i + round) % ways.len()) {
                let out = base.join(format!("{images}-{in_folder}-{round}-{}", ways[way].0));
                seconds[way].push(run(&*ways[way].1(&out), images, in_folder, &pixels)?);
                if at_once {
                    fs::remove_dir_all(&out)?;
                }
            }
        }
        for (times, (name, _)) in seconds.iter_mut().zip(&ways) {
            times.sort_by(f64::total_cmp);
            println!("  {name:<10} median {:.3} s  {times:.3?}", times[times.len() / 2]);
        }
    }
    fs::remove_dir_all(&base)?;
    Ok(())
}

/// Seconds for all images, without those for folders.
fn run(sink: &dyn Sink, images: usize, in_folder: usize, pixels: &[u8]) -> Result<f64, Error> {
    let name = |i: usize| format!("{}/{i:06}.tif", i / in_folder);
    sink.prepare(&mut (0..images).map(name))?;
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= images {
                            return Ok(());
                        }
                        sink.put(&name(i), &HEADER, pixels)?;
                    }
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    Ok(started.elapsed().as_secs_f64())
}
