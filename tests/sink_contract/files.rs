//! The laws of files alone: what exists, what is in the way, links.

use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tensortiff::{Error, Sink};

use super::support::{self, FILES, Files, content, tree};

fn prepared(way: usize, overwrite: bool) -> Files {
    let files = Files::new(FILES[way], overwrite);
    files.sink.prepare(&mut std::iter::empty()).unwrap();
    files
}

pub(super) fn an_existing_image_is_kept(way: usize) {
    let files = prepared(way, false);
    let sink = &files.sink;
    sink.put("f/a", b"old", b"").unwrap();
    let exists = |result, what| match result {
        Err(Error::Exists { first, count: 1 }) => {
            assert_eq!(first, files.out.join("f/a"), "{what}")
        }
        other => panic!("{what}: {other:?}"),
    };
    exists(sink.put("f/a", b"new", b"image"), "put");
    let pending = sink.begin("f/a", Some(3)).unwrap();
    pending.write_at(0, b"new").unwrap();
    exists(pending.commit(), "commit");
    assert_eq!(tree(&files.out), [("f/a".to_owned(), b"old".to_vec())].into());
}

pub(super) fn an_existing_image_is_replaced_where_that_was_asked_for(way: usize) {
    let files = prepared(way, true);
    let sink = &files.sink;
    for round in 0..3_u8 {
        sink.prepare(&mut ["f/a", "f/b"].map(str::to_owned).into_iter()).unwrap();
        sink.put("f/a", &[round; 7], &[round; 8]).unwrap();
        let pending = sink.begin("f/b", Some(3)).unwrap();
        pending.write_at(0, &[round; 3]).unwrap();
        pending.commit().unwrap();
        let expected = [("f/a".to_owned(), vec![round; 15]), ("f/b".to_owned(), vec![round; 3])];
        assert_eq!(tree(&files.out), expected.into());
    }
}

pub(super) fn one_of_many_threads_gets_a_name(way: usize) {
    let files = prepared(way, false);
    for round in 0..50 {
        let name = format!("f/{round}");
        let start = Barrier::new(8);
        let won: Vec<usize> = thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|thread| {
                    let (start, sink, name) = (&start, &files.sink, &name);
                    scope.spawn(move || {
                        start.wait();
                        match sink.put(name, b"", &content(thread, 5000)) {
                            Ok(()) => Some(thread),
                            Err(Error::Exists { .. }) => None,
                            Err(other) => panic!("{other}"),
                        }
                    })
                })
                .collect();
            tries.into_iter().filter_map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        assert!(fs::read(files.out.join(&name)).unwrap() == content(won[0], 5000));
    }
    assert_eq!(tree(&files.out).len(), 50, "nothing is left over");
}

/// The name is there, and whole, at every moment.
pub(super) fn all_threads_may_replace_one_image(way: usize) {
    let files = prepared(way, true);
    files.sink.put("f/a", b"", &content(0, 50_000)).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|thread| {
                let sink = &files.sink;
                scope.spawn(move || {
                    for _ in 0..100 {
                        sink.put("f/a", b"", &content(thread, 50_000)).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let bytes = fs::read(files.out.join("f/a")).expect("never absent");
                assert!((0..4).any(|thread| bytes == content(thread, 50_000)));
            }
        });
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    assert_eq!(tree(&files.out).len(), 1, "nothing is left over");
}

pub(super) fn prepare_finds_all_existing_images_before_it_makes_anything(way: usize) {
    let files = Files::new(FILES[way], false);
    for name in ["f/b", "f/d", "g/e", "h/other"] {
        support::plant(&files.out.join(name));
    }
    let before = support::entries(&files.out);
    let names = ["0/a", "a", "f/a", "f/b", "f/c", "f/d", "0/f/a", "g/e", "h/a", "i/j/k"];
    match files.sink.prepare(&mut names.map(str::to_owned).into_iter()) {
        Err(Error::Exists { first, count: 3 }) => assert_eq!(first, files.out.join("f/b")),
        other => panic!("{other:?}"),
    }
    assert_eq!(support::entries(&files.out), before);
    files.sink.prepare(&mut ["f/a", "f/c", "h/a"].map(str::to_owned).into_iter()).unwrap();
    assert_eq!(support::entries(&files.out), before);
}

pub(super) fn prepare_does_not_ask_for_names_where_nothing_can_be_in_the_way(way: usize) {
    for overwrite in [false, true] {
        let files = Files::new(FILES[way], overwrite);
        let mut names = std::iter::from_fn(|| panic!("a name was asked for"));
        files.sink.prepare(&mut names).unwrap();
        files.sink.prepare(&mut names).unwrap();
    }
}

pub(super) fn prepare_makes_the_folder_and_nothing_in_it(way: usize) {
    let mut files = Files::new(FILES[way], false);
    files.use_out("not/yet/there");
    files.sink.prepare(&mut std::iter::empty()).unwrap();
    assert!(files.out.is_dir());
    assert_eq!(support::entries(&files.out), [""; 0]);
}

pub(super) fn what_is_in_the_way_is_found_by_prepare(way: usize) {
    type Plant = fn(&Path, &Path);
    let cases: [(&str, &str, &str, Plant); 6] = [
        ("a folder at a file's name", "f/a", "f/a", |out, _| {
            fs::create_dir_all(out.join("f/a")).unwrap();
        }),
        ("a file where a folder is needed", "f/g/a", "f", |out, _| support::plant(&out.join("f"))),
        ("a link to a folder", "f/g/a", "f/g", |out, outside| {
            fs::create_dir(out.join("f")).unwrap();
            support::link(outside, &out.join("f/g"));
        }),
        ("a link to a file", "f/a", "f/a", |out, outside| {
            fs::create_dir(out.join("f")).unwrap();
            support::link(&outside.join("victim"), &out.join("f/a"));
        }),
        ("a link to nowhere", "a", "a", |out, outside| {
            support::link(&outside.join("absent"), &out.join("a"));
        }),
        ("a folder that is a link to nowhere", "f/a", "f", |out, outside| {
            support::link(&outside.join("absent"), &out.join("f"));
        }),
    ];
    for (case, name, culprit, plant) in cases {
        for overwrite in [false, true] {
            let files = Files::new(FILES[way], overwrite);
            fs::create_dir_all(&files.out).unwrap();
            plant(&files.out, &files.outside);
            let before = support::entries(&files.out);
            // After a folder that is missing, and one that is there.
            fs::create_dir_all(files.out.join("there")).unwrap();
            let before = [before, vec!["there".to_owned()]].concat();
            let names = ["missing/a", "there/a", name].map(str::to_owned);
            match files.sink.prepare(&mut names.into_iter()) {
                Err(Error::InTheWay { path, .. }) => {
                    assert_eq!(path, files.out.join(culprit), "{case}");
                }
                other => panic!("{case}, overwrite {overwrite}: {other:?}"),
            }
            assert_eq!(support::entries(&files.out), before, "{case}");
            files.assert_outside_untouched(case);
        }
    }
    for make in [support::plant as fn(&Path), |path| support::link(Path::new("/absent"), path)] {
        let files = Files::new(FILES[way], true);
        make(&files.out);
        let error = files.sink.prepare(&mut std::iter::empty()).unwrap_err();
        assert!(matches!(&error, Error::InTheWay { path, .. } if *path == files.out), "{error:?}");
    }
}

pub(super) fn links_planted_later_are_refused(way: usize) {
    for overwrite in [false, true] {
        let files = prepared(way, overwrite);
        let sink = &files.sink;
        support::link(&files.outside, &files.out.join("link"));
        support::link(&files.outside.join("absent"), &files.out.join("nowhere"));
        support::link(&files.outside.join("victim"), &files.out.join("file"));
        fs::create_dir(files.out.join("f")).unwrap();
        support::link(&files.outside, &files.out.join("f/link"));
        support::plant(&files.out.join("plain"));
        fs::create_dir(files.out.join("folder")).unwrap();
        let cases = [
            ("link/a", "link"),
            ("link/victim", "link"),
            ("link/new/a", "link"),
            ("f/link/a", "f/link"),
            ("nowhere/a", "nowhere"),
            ("plain/a", "plain"),
            ("file", "file"),
            ("nowhere", "nowhere"),
            ("folder", "folder"),
        ];
        let before = support::entries(&files.out);
        for (name, culprit) in cases {
            let refused = |result: Result<(), Error>| match result {
                Err(Error::InTheWay { path, .. }) => assert_eq!(path, files.out.join(culprit)),
                // Without `overwrite` whatever has the final name just exists.
                Err(Error::Exists { first, .. }) if !overwrite && name == culprit => {
                    assert_eq!(first, files.out.join(name));
                }
                other => panic!("{name}, overwrite {overwrite}: {other:?}"),
            };
            refused(sink.put(name, b"head", b"pixels"));
            refused(sink.begin(name, Some(0)).and_then(|pending| pending.commit()));
            assert_eq!(support::entries(&files.out), before, "{name}");
            files.assert_outside_untouched(name);
        }
    }
}

pub(super) fn the_output_folder_may_be_a_link(way: usize) {
    let files = Files::new(FILES[way], false);
    let real = files.outside.join("real");
    fs::create_dir(&real).unwrap();
    support::link(&real, &files.out);
    files.sink.prepare(&mut std::iter::empty()).unwrap();
    files.sink.put("f/a", b"head", b"pixels").unwrap();
    assert_eq!(fs::read(real.join("f/a")).unwrap(), b"headpixels");
}

/// A killed process may have left temporary names, and one in a container had the same number.
pub(super) fn temporary_names_of_others_are_left_alone(way: usize) {
    for overwrite in [false, true] {
        let files = Files::new(FILES[way], overwrite);
        // Numbers go up with every file of this test binary; some hundreds of them lie ahead.
        support::plant(&files.out.join("f/marker"));
        files.sink.prepare(&mut std::iter::empty()).unwrap();
        let next = files.temporary_number();
        let left: Vec<_> = (next..next + 300)
            .map(|n| files.out.join(format!("f/.tensortiff-{}-{n}.tmp", std::process::id())))
            .collect();
        left.iter().for_each(|path| support::plant(path));
        for name in ["f/a", "f/b"] {
            files.sink.put(name, b"head", b"pixels").unwrap();
            if overwrite {
                files.sink.put(name, b"head", b"pixels").unwrap();
            }
            assert_eq!(fs::read(files.out.join(name)).unwrap(), b"headpixels");
        }
        assert!(left.iter().all(|path| fs::read(path).unwrap() == b"planted"));
        assert_eq!(tree(&files.out).len(), 300 + 3);
    }
}

pub(super) fn names_at_the_limits_of_the_file_system_work(way: usize) {
    let files = prepared(way, true);
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    for _ in 0..2 {
        files.sink.put(&longest, b"head", b"pixels").unwrap();
        files.sink.put(&format!("{longest}/a").replace('n', "m"), b"", b"").unwrap();
    }
    for name in [longer.clone(), format!("{longer}/a"), format!("f/{longer}")] {
        let error = files.sink.put(&name, b"head", b"pixels").unwrap_err();
        assert!(matches!(&error, Error::Write { .. }) && !error.stops_the_run(), "{error:?}");
    }
    assert_eq!(tree(&files.out).len(), 2, "nothing is left over");
}

/// A known hole: an open folder that somebody moves out of the output folder in mid-run keeps
/// receiving images, with Ok. Only a look at the path for every image would notice, and even that
/// leaves a moment.
#[cfg(target_os = "linux")]
#[test]
#[should_panic(expected = "outside the output folder")]
fn a_folder_that_is_moved_away_receives_no_more_images() {
    let files = prepared(0, false);
    files.sink.put("f/a", b"head", b"pixels").unwrap();
    fs::rename(files.out.join("f"), files.outside.join("f")).unwrap();
    let result = files.sink.put("f/b", b"head", b"pixels");
    assert!(!files.outside.join("f/b").exists(), "outside the output folder: {result:?}");
}
