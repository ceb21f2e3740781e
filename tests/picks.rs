//! Parts of all images, tensors by regular expressions, and groups of tensors that share ranges.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use tensortiff::plan::{Pick, Sample};
use tensortiff::{
    Dtype, Error, Layout, MemorySink, MemorySource, Naming, Options, Record, Report, Scope,
    Selection, View, convert, divide,
};

const SHAPES: [(&str, &[u64]); 4] =
    [("l.0.a", &[2, 3, 2, 2]), ("l.1.a", &[5, 2, 2]), ("l.1.b", &[2, 2]), ("l.10.a", &[7, 2, 2])];

/// Every sample is another number.
fn source() -> MemorySource<'static> {
    let mut source = MemorySource::new("m");
    let mut next = 0_u16;
    for (name, shape) in SHAPES {
        let samples: u64 = shape.iter().product();
        let bytes = (0..samples).flat_map(|_| {
            next += 1;
            f32::from(next).to_le_bytes()
        });
        source = source.with(name, Dtype::F32, shape, bytes.collect::<Vec<u8>>()).unwrap();
    }
    source
}

fn made(selection: Selection, scope: Scope) -> (BTreeMap<String, Vec<u8>>, Report) {
    let sink = MemorySink::default();
    let naming = Naming::Template("{tensor}/{index}.tif".to_owned());
    let options = Options { selection, scope, naming, ..Options::default() };
    let report = convert(&source(), &sink, &options).unwrap();
    (sink.into_files().into_iter().collect(), report)
}

fn pick(every: u64, sample: Option<(u64, u64)>, limit: Option<u64>) -> Selection {
    let sample = sample.map(|(count, seed)| Sample { count, seed });
    let pick = Pick { every: NonZeroU64::new(every), sample, limit };
    Selection { pick, ..Selection::default() }
}

/// Names of all images in the order of the plan.
fn all() -> Vec<String> {
    let mut names = Vec::new();
    for (tensor, shape) in SHAPES {
        let axes = &shape[..shape.len() - 2];
        let images: u64 = axes.iter().product();
        for number in 0..images {
            names.push(match axes {
                [] => format!("{tensor}.tif"),
                [_] => format!("{tensor}/{number}.tif"),
                [_, inner] => format!("{tensor}/{}_{}.tif", number / inner, number % inner),
                _ => unreachable!("no tensor here has so many axes"),
            });
        }
    }
    names
}

#[test]
fn picked_images_are_those_of_the_whole_run_by_name_and_pixels() {
    let (whole, report) = made(Selection::default(), Scope::Image);
    let all = all();
    assert_eq!(report.images, all.len() as u64);
    for every in 1..=20 {
        for limit in [None, Some(0), Some(1), Some(3), Some(6), Some(7), Some(99)] {
            let wanted = all.iter().step_by(every as usize);
            let wanted: BTreeSet<&String> =
                wanted.take(limit.map_or(usize::MAX, |limit| limit as usize)).collect();
            let (found, report) = made(pick(every, None, limit), Scope::Image);
            assert_eq!(found.keys().collect::<BTreeSet<_>>(), wanted, "{every} {limit:?}");
            assert!(found.iter().all(|(name, file)| whole[name] == *file), "{every} {limit:?}");
            assert_eq!((report.images, report.failed), (wanted.len() as u64, 0));
        }
    }
}

/// One channel is one of so many images already, and what is left of the second tensor begins in its midst.
#[test]
fn one_of_so_many_is_taken_of_one_channel() {
    let bytes = |begin: u8| (begin..begin + 48).collect::<Vec<u8>>();
    let source = MemorySource::new("m").with("a", Dtype::U8, &[3, 4, 2, 2], bytes(0)).unwrap();
    let source = source.with("b", Dtype::U8, &[3, 4, 2, 2], bytes(100)).unwrap();
    let made = |every: u64| {
        let pick = Pick { every: NonZeroU64::new(every), ..Pick::default() };
        let selection = Selection { channel: Some(1), pick, ..Selection::default() };
        let naming = Naming::Template("{tensor}/{index}.tif".to_owned());
        let sink = MemorySink::default();
        drop(convert(&source, &sink, &Options { selection, naming, ..Options::default() }));
        sink.into_files()
    };
    let whole = made(1);
    let names: Vec<&String> = whole.keys().collect();
    assert_eq!(
        names,
        ["a/0_1.tif", "a/1_1.tif", "a/2_1.tif", "b/0_1.tif", "b/1_1.tif", "b/2_1.tif"]
    );
    for every in [2, 3, 4] {
        let found = made(every);
        let wanted: Vec<&String> = names.iter().copied().step_by(every as usize).collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted, "{every}");
        assert!(wanted.iter().all(|name| found[*name] == whole[*name]), "{every}: {wanted:?}");
    }
}

#[test]
fn a_sample_is_of_its_size_and_of_its_seed() {
    let (whole, _) = made(Selection::default(), Scope::Image);
    let mut seen = BTreeSet::new();
    for seed in 0..40 {
        for count in [0, 1, 5, 18, 19, 20] {
            let (found, _) = made(pick(1, Some((count, seed)), None), Scope::Image);
            assert_eq!(found.len() as u64, count.min(19), "{count} by {seed}");
            assert!(found.iter().all(|(name, file)| whole[name] == *file));
            let (again, _) = made(pick(1, Some((count, seed)), None), Scope::Image);
            assert_eq!(found, again);
            if count == 5 {
                seen.extend(found.into_keys());
            }
        }
    }
    assert_eq!(seen.len(), 19, "every image is taken by some seed");
    // Of what is left of every so many: 19, of which 7 and 4 are.
    for (every, left) in [(3, 7), (5, 4)] {
        for (count, seed) in [(1, 1), (3, 2), (4, 3), (6, 4), (7, 5), (9, 6)] {
            let (found, _) = made(pick(every, Some((count, seed)), None), Scope::Image);
            assert_eq!(found.len() as u64, count.min(left), "{count} of every {every}. by {seed}");
            let is_one = |name: &String| whole.keys().any(|other| other == name);
            assert!(found.keys().all(is_one));
        }
    }
    // These numbers are a promise: the same seed takes the same images tomorrow.
    let (found, _) = made(pick(1, Some((4, 7)), None), Scope::Image);
    let all = all();
    let numbers: Vec<usize> =
        found.keys().map(|name| all.iter().position(|other| other == name).unwrap()).collect();
    let mut numbers = numbers;
    numbers.sort_unstable();
    assert_eq!(numbers, floyd(19, 4, 7));
}

/// The same by a set that is looked through, written from the papers.
fn floyd(all: u64, count: u64, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut chosen = Vec::new();
    for last in all - count..all {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let number = ((u128::from(z ^ (z >> 31)) * u128::from(last + 1)) >> 64) as usize;
        chosen.push(if chosen.contains(&number) { last as usize } else { number });
    }
    chosen.sort_unstable();
    chosen
}

fn range_of(file: &[u8]) -> (f64, f64) {
    let text: String = file.iter().map(|&byte| char::from(byte)).collect();
    let json = text.split("tensortiff=").nth(1).unwrap().split('\n').next().unwrap();
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    (json["lo"].as_f64().unwrap(), json["hi"].as_f64().unwrap())
}

/// Ranges are of what was picked, and of nothing else.
#[test]
fn wide_scopes_are_of_the_images_that_were_picked() {
    let number = |name: &str| {
        all().iter().position(|other| other == name).unwrap_or_else(|| panic!("{name}")) as u64
    };
    // Image n has the samples 4n + 1 to 4n + 4.
    let expected = |names: &[&String], of: &dyn Fn(&str) -> String| {
        let mut ranges: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for name in names {
            let first = (4 * number(name) + 1) as f64;
            let range = ranges.entry(of(name)).or_insert((f64::INFINITY, 0.0));
            *range = (range.0.min(first), range.1.max(first + 3.0));
        }
        ranges
    };
    let tensor = |name: &str| name.split('/').next().unwrap().trim_end_matches(".tif").to_owned();
    let channel = |name: &str| {
        let channel = name.split(['_', '/']).next_back().unwrap().to_owned();
        if name.contains('/') { format!("{}/{channel}", tensor(name)) } else { name.to_owned() }
    };
    let layer = |name: &str| name.split('.').nth(1).unwrap().to_owned();
    type Of<'a> = &'a dyn Fn(&str) -> String;
    let kinds: [(Scope, Of<'_>); 4] = [
        (Scope::Tensor, &tensor),
        (Scope::Channel, &channel),
        (Scope::Group, &layer),
        (Scope::Dump, &|_| String::new()),
    ];
    for (scope, of) in kinds {
        for picked in [
            pick(1, None, None),
            pick(2, None, None),
            pick(3, None, Some(5)),
            pick(1, Some((9, 3)), None),
            pick(1, None, Some(5)),
        ] {
            let is_group = scope == Scope::Group;
            let selection = Selection {
                regex: is_group.then(|| r"^l\.(?<layer>\d+)\.".to_owned()),
                group_by: is_group.then(|| "{layer}".to_owned()),
                ..picked
            };
            let (found, _) = made(selection.clone(), scope);
            let ranges = expected(&found.keys().collect::<Vec<_>>(), of);
            for (name, file) in &found {
                assert_eq!(range_of(file), ranges[&of(name)], "{scope:?} {selection:?}: {name}");
            }
        }
    }
}

#[test]
fn named_groups_are_fields_of_names() {
    let selection = Selection {
        // The last group has no part in any match: what is empty is written so that it can be told.
        regex: Some(r"\.(?<layer>\d+)\.(?<what>[ab])(?<more>x)?".to_owned()),
        tensors: vec!["l.1*".to_owned()],
        ..Selection::default()
    };
    let sink = MemorySink::default();
    let naming = Naming::Template("{what}/layer {layer}{more}/{index}.tif".to_owned());
    let options = Options { selection, naming, ..Options::default() };
    assert_eq!(convert(&source(), &sink, &options).unwrap().images, 13);
    let names: Vec<String> = sink.into_files().into_keys().collect();
    assert!(names.contains(&"a/layer 1%-/4.tif".to_owned()), "{names:?}");
    assert!(names.contains(&"a/layer 10%-/6.tif".to_owned()), "{names:?}");
    assert!(names.contains(&"b/layer 1%-.tif".to_owned()), "{names:?}");
}

#[test]
fn what_cannot_be_is_told() {
    let of = |regex: Option<&str>, group_by: Option<&str>, scope, name: &str| {
        let [regex, group_by] = [regex, group_by].map(|text| text.map(str::to_owned));
        let selection = Selection { regex, group_by, ..Selection::default() };
        let naming = Naming::Template(name.to_owned());
        let options = Options { selection, scope, naming, ..Options::default() };
        let error = convert(&source(), &MemorySink::default(), &options).unwrap_err();
        assert!(error.is_usage(), "{error}");
        error.to_string()
    };
    let name = "{tensor}/{index}.tif";
    let cases = [
        (of(Some("(a"), None, Scope::Image, name), "--tensor-regex (a: unclosed group"),
        (of(Some("z"), None, Scope::Image, name), "matches in none of 4 names"),
        (of(Some("(?<index>l)"), None, Scope::Image, name), "{index} is a field of names already"),
        (of(None, None, Scope::Group, name), "--scope group needs --group-by"),
        (of(None, Some("{tensor}"), Scope::Tensor, name), "--group-by goes with --scope group"),
        (of(None, Some("{layer}"), Scope::Group, name), "there is no field {layer}"),
        (of(None, Some("{index}"), Scope::Group, name), "which have no {index}"),
        (of(None, None, Scope::Image, "{layer}.tif"), "--tensor-regex has others"),
        (
            of(Some("(?<layer>l)"), None, Scope::Image, "{lyer}{tensor}{index}.tif"),
            "there are {stem}, {tensor}, {index}, {layer}; the nearest is {layer}",
        ),
    ];
    for (told, part) in cases {
        assert!(told.contains(part) && told.lines().count() == 1, "{part}: {told}");
    }
}

/// Whatever was asked for is part of what a run goes on with, and of a plan.
#[test]
fn what_was_asked_for_is_part_of_a_run() {
    let plan = |layout: &[(&str, &str)], selection: Selection| {
        let mut asked = Layout::default();
        layout.iter().for_each(|(option, text)| asked.add(option, text).unwrap());
        let view = View::new(source(), asked);
        let record = Some(Record::new("out"));
        let options = Options { selection, record, ..Options::default() };
        divide(&view, &options, 1).unwrap().head.identity
    };
    let base = plan(&[], Selection::default());
    assert_eq!(base.difference(&plan(&[], Selection::default())), None);
    let regex = |text: &str| Selection { regex: Some(text.to_owned()), ..Selection::default() };
    let others = [
        (
            plan(&[("transpose", "")], Selection::default()),
            "--transpose was not given, and now is given",
        ),
        (plan(&[("flip", "x")], Selection::default()), "--flip was not given, and now is x"),
        (plan(&[("select", "H=1:,W=:1")], Selection::default()), "now is H=1: W=:1"),
        (
            plan(&[("layout", "NHWC")], Selection::default()),
            "--layout was not given, and now is NHWC",
        ),
        (plan(&[], pick(2, None, None)), "--every was not given, and now is 2"),
        (plan(&[], pick(1, Some((19, 3)), None)), "--every was not given, and now is 1"),
        (plan(&[], regex("l")), "--tensor-regex was not given, and now is l"),
    ];
    for (other, part) in others {
        let told = base.difference(&other).unwrap();
        assert!(told.contains(part), "{told}");
    }
    let [one, other] = [3, 4].map(|seed| plan(&[], pick(1, Some((5, seed)), None)));
    assert!(one.difference(&other).unwrap().contains("--seed was 3, and now is 4"));
}

#[test]
fn a_sample_that_no_memory_holds_is_refused() {
    let samples = vec![0; 1];
    let source = MemorySource::new("m").with("t", Dtype::U8, &[1, 1, 1], samples).unwrap();
    let few = Options { selection: pick(1, Some((u64::MAX, 0)), None), ..Options::default() };
    assert_eq!(convert(&source, &MemorySink::default(), &few).unwrap().images, 1);
    let error: Error = {
        let mut selection = Selection::default();
        selection.add("seed", "1").unwrap_err()
    };
    assert!(error.to_string().contains("--seed goes with --sample"));
}
