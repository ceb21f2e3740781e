//! The sink's contract, as one suite of laws that runs on every sink and on every way of making
//! files: "whole or absent", names, replacing, links.

#![allow(clippy::unwrap_used, reason = "clippy.toml allows it in functions marked as tests only")]

mod files;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use support::{Files, content, tree};
use tensortiff::{Error, MemorySink, Sink};

/// A sink with a view of what it holds.
trait Stage: Sync {
    fn sink(&self) -> &dyn Sink;
    fn files(&self) -> BTreeMap<String, Vec<u8>>;
    /// Whether `prepare` checks every name, which memory has no need to.
    fn checks_names(&self) -> bool;
}

impl Stage for MemorySink {
    fn sink(&self) -> &dyn Sink {
        self
    }
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        MemorySink::files(self)
    }
    fn checks_names(&self) -> bool {
        false
    }
}

impl Stage for Files {
    fn sink(&self) -> &dyn Sink {
        &self.sink
    }
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        tree(&self.out)
    }
    fn checks_names(&self) -> bool {
        true
    }
}

/// Laws of every sink get a fresh stage; those of files also a folder, and one for each `overwrite`.
macro_rules! laws {
    (every sink: $($law:ident)*; files: $($files_law:ident)*;) => {
        mod memory {
            $(#[test] fn $law() { super::$law(&tensortiff::MemorySink::default()); })*
        }
        laws!(@files nameless 0: [$($law)*] [$($files_law)*]);
        laws!(@files temporary_names 1: [$($law)*] [$($files_law)*]);
        laws!(@files std_alone 2: [$($law)*] [$($files_law)*]);
    };
    (@files $module:ident $way:literal: [$($law:ident)*] [$($files_law:ident)*]) => {
        mod $module {
            use super::support::{FILES, Files};
            $(#[test] fn $law() {
                super::$law(&Files::new(FILES[$way], false));
                super::$law(&Files::new(FILES[$way], true));
            })*
            $(#[test] fn $files_law() { super::files::$files_law($way); })*
        }
    };
}

laws! {
    every sink:
        a_put_image_is_header_then_pixels
        folders_of_one_name_in_different_places_are_different
        a_pending_image_is_absent_until_it_is_committed
        a_dropped_image_leaves_nothing
        pieces_come_in_any_order_from_any_thread
        a_piece_may_be_stored_twice
        an_image_with_a_hole_is_refused
        a_piece_beyond_the_end_is_refused
        names_that_lead_elsewhere_are_refused
        many_threads_put_into_one_folder_and_into_many
        nothing_but_whole_images_is_ever_seen;
    files:
        an_existing_image_is_kept
        an_existing_image_is_replaced_where_that_was_asked_for
        one_of_many_threads_gets_a_name
        all_threads_may_replace_one_image
        prepare_finds_all_existing_images_before_it_makes_anything
        prepare_does_not_ask_for_names_where_nothing_can_be_in_the_way
        prepare_makes_the_folder_and_nothing_in_it
        what_is_in_the_way_is_found_by_prepare
        links_planted_later_are_refused
        the_output_folder_may_be_a_link
        temporary_names_of_others_are_left_alone
        names_at_the_limits_of_the_file_system_work;
}

fn stage_files(stage: &dyn Stage) -> Vec<String> {
    stage.files().into_keys().collect()
}

fn a_put_image_is_header_then_pixels(stage: &dyn Stage) {
    let sink = stage.sink();
    sink.prepare(&mut ["a".to_owned()].into_iter()).unwrap();
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("a", b"head", b"pixels"),
        ("f/a", b"", b"pixels"),
        ("f/g/h/a", b"head", b""),
        ("é/ü", b"", b""),
        ("f/large", &[1; 511], &[2; 5 << 20]),
    ];
    for (name, header, pixels) in cases {
        sink.put(name, header, pixels).unwrap();
        assert!(stage.files()[name] == [header, pixels].concat(), "{name}");
    }
    assert_eq!(stage_files(stage), ["a", "f/a", "f/g/h/a", "f/large", "é/ü"]);
}

fn folders_of_one_name_in_different_places_are_different(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let names = ["f/g/a", "g/a", "g/f/a", "f/a", "f/f/a", "g/g/a", "a"];
    for round in ["", "again"] {
        for name in names {
            let name = format!("{name}{round}");
            stage.sink().put(&name, name.as_bytes(), b"").unwrap();
        }
    }
    let files = stage.files();
    assert_eq!(files.len(), 2 * names.len());
    assert!(files.iter().all(|(name, bytes)| name.as_bytes() == bytes), "{files:?}");
}

fn a_pending_image_is_absent_until_it_is_committed(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let pending = stage.sink().begin("f/a", Some(6)).unwrap();
    assert!(!stage.files().contains_key("f/a"));
    pending.write_at(0, b"abcdef").unwrap();
    assert!(!stage.files().contains_key("f/a"));
    pending.commit().unwrap();
    stage.sink().begin("empty", Some(0)).unwrap().commit().unwrap();
    let expected =
        [("empty".to_owned(), Vec::new()), ("f/a".to_owned(), b"abcdef".to_vec())].into();
    assert_eq!(stage.files(), expected);
}

fn a_dropped_image_leaves_nothing(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    drop(stage.sink().begin("a", Some(6)).unwrap());
    let pending = stage.sink().begin("f/a", Some(6)).unwrap();
    pending.write_at(0, b"abcdef").unwrap();
    drop(pending);
    assert_eq!(stage_files(stage), [""; 0]);
}

fn pieces_come_in_any_order_from_any_thread(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let whole = content(7, 8 * 1000 + 77);
    let pending = stage.sink().begin("f/a", Some(whole.len() as u64)).unwrap();
    thread::scope(|scope| {
        for thread in 0..8 {
            let (pending, whole) = (&pending, &whole);
            scope.spawn(move || {
                // Pieces of 100 bytes, each thread every eighth, from the last to the first.
                for (i, piece) in whole.chunks(100).enumerate().collect::<Vec<_>>().iter().rev() {
                    if i % 8 == thread {
                        pending.write_at(*i as u64 * 100, piece).unwrap();
                    }
                }
            });
        }
    });
    pending.commit().unwrap();
    assert!(stage.files()["f/a"] == whole);
}

fn a_piece_may_be_stored_twice(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let pending = stage.sink().begin("a", Some(6)).unwrap();
    for (offset, piece) in [(3, b"def"), (0, b"abc"), (3, b"def")] {
        pending.write_at(offset, piece).unwrap();
    }
    pending.commit().unwrap();
    assert_eq!(stage.files()["a"], b"abcdef");
}

fn an_image_with_a_hole_is_refused(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let cases: [&[(u64, &[u8])]; 4] =
        [&[], &[(0, b"abc")], &[(3, b"def"), (1, b"b")], &[(0, b"abc"), (0, b"abc")]];
    for pieces in cases {
        let pending = stage.sink().begin("f/a", Some(6)).unwrap();
        for (offset, piece) in pieces {
            pending.write_at(*offset, piece).unwrap();
        }
        let error = pending.commit().unwrap_err();
        assert!(error.to_string().contains("f/a: only"), "{pieces:?}: {error}");
        assert_eq!(stage_files(stage), [""; 0], "{pieces:?}");
    }
}

fn a_piece_beyond_the_end_is_refused(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let pending = stage.sink().begin("a", Some(6)).unwrap();
    for (offset, piece) in [(0, &b"abcdefg"[..]), (6, b"g"), (u64::MAX, b"g")] {
        let error = pending.write_at(offset, piece).unwrap_err();
        assert!(error.to_string().contains("do not fit"), "{offset}: {error}");
    }
    pending.write_at(0, b"abcdef").unwrap();
    pending.commit().unwrap();
    assert_eq!(stage.files()["a"], b"abcdef");
}

fn names_that_lead_elsewhere_are_refused(stage: &dyn Stage) {
    let sink = stage.sink();
    sink.prepare(&mut std::iter::empty()).unwrap();
    sink.put("there", b"", b"").unwrap();
    let names = [
        "",
        ".",
        "..",
        "/a",
        "//a",
        "a/",
        "a//b",
        "./a",
        "a/.",
        "a/./b",
        "../a",
        "a/..",
        "a/../b",
        "a/../../b",
        "\0",
        "a\0b",
        "a/b\0",
    ];
    for name in names {
        let refused = |result| matches!(result, Err(Error::InTheWay { .. }));
        assert!(refused(sink.put(name, b"head", b"pixels")), "put {name:?}");
        assert!(refused(sink.begin(name, Some(1)).map(drop)), "begin {name:?}");
        if stage.checks_names() {
            assert!(
                refused(sink.prepare(&mut std::iter::once(name.to_owned()))),
                "prepare {name:?}"
            );
        }
    }
    sink.put("...", b"", b"").unwrap();
    sink.put("..a/a..", b"", b"").unwrap();
    assert_eq!(stage_files(stage), ["...", "..a/a..", "there"]);
}

fn many_threads_put_into_one_folder_and_into_many(stage: &dyn Stage) {
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let name = |i: usize| match i % 3 {
        0 => format!("{i}"),
        1 => format!("same/{i}"),
        // 67 folders are more than are kept open.
        _ => format!("many/{}/{i}", i % 67),
    };
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for i in (0..1000).filter(|i| i % 8 == thread) {
                    let bytes = content(i, 100 + i);
                    stage.sink().put(&name(i), &bytes[..50], &bytes[50..]).unwrap();
                }
            });
        }
    });
    let files = stage.files();
    assert_eq!(files.len(), 1000);
    assert!((0..1000).all(|i| files[&name(i)] == content(i, 100 + i)));
}

fn nothing_but_whole_images_is_ever_seen(stage: &dyn Stage) {
    const IMAGES: usize = 400;
    const LEN: usize = 200_000;
    stage.sink().prepare(&mut std::iter::empty()).unwrap();
    let done = AtomicBool::new(false);
    let name = |i: usize| format!("{}/{i}", i % 2);
    let check = || {
        let files = stage.files();
        for (name, bytes) in &files {
            let leaf = name.rsplit('/').next().unwrap();
            // What has no final name is looked at by others.
            if !leaf.starts_with('.') {
                let i: usize = leaf.parse().unwrap();
                assert!(*bytes == content(i, LEN), "{name}: {} bytes", bytes.len());
            }
        }
        files
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    for i in (0..IMAGES).filter(|i| i % 8 == thread) {
                        let bytes = content(i, LEN);
                        if i % 5 > 0 {
                            stage.sink().put(&name(i), &bytes[..512], &bytes[512..]).unwrap();
                        } else {
                            let pending = stage.sink().begin(&name(i), Some(LEN as u64)).unwrap();
                            pending.write_at(512, &bytes[512..]).unwrap();
                            thread::yield_now();
                            pending.write_at(0, &bytes[..512]).unwrap();
                            pending.commit().unwrap();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                check();
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    let files = check();
    assert_eq!(files.len(), IMAGES, "nothing is left over");
}
