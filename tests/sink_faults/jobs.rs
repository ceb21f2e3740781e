//! What the child does; a panic in it fails the test that started it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use tensortiff::{Error, FilesSink, Sink};

use super::IMAGES;
use super::support::{content, entries, tree};

/// Prints what became of each image.
pub(super) fn images(sink: &FilesSink) {
    if let Err(error) = sink.prepare(&mut IMAGES.iter().map(|(name, _)| (*name).to_owned())) {
        println!("\nprepare failed: {error:?}");
        return;
    }
    for (i, (name, len)) in IMAGES.iter().enumerate() {
        let bytes = content(i, *len);
        let result = if *name == "f/pieces" {
            sink.begin(name, Some(*len as u64)).and_then(|pending| {
                pending.write_at(4000, &bytes[4000..])?;
                pending.write_at(0, &bytes[..4000])?;
                pending.commit()
            })
        } else {
            sink.put(name, &bytes[..len / 2], &bytes[len / 2..])
        };
        match result {
            Ok(()) => println!("\nstored {name}"),
            Err(error) => println!("\nfailed {name}: {error:?}"),
        }
    }
}

/// Fills a small file system from 8 threads, whole images and images in pieces.
pub(super) fn fill(sink: &FilesSink, out: &Path) {
    const LEN: usize = 10_000;
    sink.prepare(&mut std::iter::empty()).unwrap();
    let full = |i: usize, result: Result<(), Error>| match result {
        Ok(()) => false,
        Err(error) => {
            assert!(error.stops_the_run(), "{error:?}");
            match error {
                Error::Write { path, source } => {
                    assert_eq!(path, out.join(format!("f/{i}")));
                    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
                    true
                }
                other => panic!("{other:?}"),
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for i in (0..10_000).skip(thread).step_by(8) {
                    let (bytes, name) = (content(i, LEN), format!("f/{i}"));
                    let result = if i % 2 == 0 {
                        sink.put(&name, &bytes[..512], &bytes[512..])
                    } else {
                        sink.begin(&name, Some(LEN as u64)).and_then(|pending| {
                            pending.write_at(5000, &bytes[5000..])?;
                            pending.write_at(0, &bytes[..5000])?;
                            pending.commit()
                        })
                    };
                    if full(i, result) {
                        return;
                    }
                }
                panic!("it never was full");
            });
        }
    });
    let files = tree(out);
    assert!(files.len() > 4, "{} images", files.len());
    for (name, bytes) in &files {
        let i = name.strip_prefix("f/").and_then(|i| i.parse().ok()).expect("no leftovers");
        assert!(*bytes == content(i, LEN), "{name} is not whole");
    }
}

/// Files end at 100 KiB here.
pub(super) fn too_large(sink: &FilesSink, out: &Path) {
    sink.prepare(&mut std::iter::empty()).unwrap();
    let bytes = content(0, 200 << 10);
    sink.put("f/small", &bytes[..1000], &bytes[1000..50_000]).unwrap();
    let pending = |len: usize| {
        let pending = sink.begin("f/large", Some(len as u64))?;
        pending.write_at(0, &bytes[..len])?;
        pending.commit()
    };
    for result in [sink.put("f/large", &bytes[..1000], &bytes[1000..]), pending(bytes.len())] {
        match result {
            Err(Error::Write { path, source }) => {
                assert_eq!(path, out.join("f/large"));
                assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(entries(out), ["f", "f/small"]);
    }
}

pub(super) fn read_only(sink: &FilesSink, out: &Path) {
    match sink.prepare(&mut std::iter::empty()) {
        Err(Error::Write { path, source }) => {
            assert_eq!(path, out);
            let kinds =
                [std::io::ErrorKind::PermissionDenied, std::io::ErrorKind::ReadOnlyFilesystem];
            assert!(kinds.contains(&source.kind()), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// More folders than are kept open, from 8 threads.
pub(super) fn few_descriptors(sink: &FilesSink, out: &Path) {
    sink.prepare(&mut std::iter::empty()).unwrap();
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for i in (0..4000).skip(thread).step_by(8) {
                    let name = format!("f/{}/g/{i}", i * 7 % 200);
                    sink.put(&name, b"head", b"pixels").unwrap();
                }
            });
        }
    });
    assert_eq!(tree(out).len(), 4000);
}

pub(super) fn modes(sink: &FilesSink, out: &Path) {
    sink.prepare(&mut std::iter::empty()).unwrap();
    for _ in 0..2 {
        match sink.put("f/a", b"head", b"pixels") {
            Ok(()) | Err(Error::Exists { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    sink.begin("f/b", Some(0)).unwrap().commit().unwrap();
    for name in ["", "f", "f/a", "f/b"] {
        println!(
            "\nmode {:o} of {name}",
            fs::metadata(out.join(name)).unwrap().permissions().mode()
        );
    }
}

pub(super) fn endless(sink: &FilesSink) {
    sink.prepare(&mut std::iter::empty()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for i in (thread..).step_by(4) {
                    let bytes = content(i % 1000, 100_000);
                    sink.put(&format!("f/{}/{i}", i % 1000), &bytes[..512], &bytes[512..]).unwrap();
                }
            });
        }
    });
}
