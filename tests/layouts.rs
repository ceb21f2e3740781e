//! Layouts against the oracle of doing it one sample at a time: axes, indices, reductions, by any number
//! of threads and from any byte on; and which tensors do not fit them.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::thread;

use tensortiff::tensor::decode;
use tensortiff::{
    Dtype, Error, Layout, MemorySink, MemorySource, Naming, Norm, Options, Selection, Source, View,
    convert,
};

fn layout(options: &[(&str, &str)]) -> Layout {
    let mut layout = Layout::default();
    for (option, text) in options {
        layout.add(option, text).unwrap_or_else(|error| panic!("{option} {text}: {error}"));
    }
    layout
}

/// A tensor whose samples are their numbers, as far as its type can tell them apart.
fn samples(dtype: Dtype, shape: &[u64]) -> Vec<u8> {
    let elements: u64 = shape.iter().product();
    (0..elements)
        .flat_map(|at| {
            let at = at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            match dtype {
                Dtype::U8 => vec![(at >> 56) as u8],
                Dtype::I16 => ((at >> 48) as u16).to_le_bytes().to_vec(),
                Dtype::F32 => (((at >> 40) as f32) / 1000.0 - 8000.0).to_le_bytes().to_vec(),
                Dtype::F64 => ((at >> 11) as f64 / 3.0 - 1e15).to_le_bytes().to_vec(),
                other => panic!("{other}"),
            }
        })
        .collect()
}

fn view(dtype: Dtype, shape: &[u64], options: &[(&str, &str)]) -> View<MemorySource<'static>> {
    let source = MemorySource::new("m").with("t", dtype, shape, samples(dtype, shape)).unwrap();
    View::new(source, layout(options))
}

fn all(view: &dyn Source) -> Vec<u8> {
    let mut bytes = vec![0; view.tensors()[0].bytes().unwrap() as usize];
    view.read_at(0, 0, &mut bytes).unwrap();
    bytes
}

/// Elements of a tensor, one by one, where `place` says which is at these indices.
fn one_by_one(
    dtype: Dtype,
    shape: &[u64],
    shown: &[u64],
    place: impl Fn(&[u64]) -> Vec<u64>,
) -> Vec<u8> {
    let (bytes, size) = (samples(dtype, shape), dtype.size());
    let mut out = Vec::new();
    for number in 0..shown.iter().product() {
        let mut left: u64 = number;
        let mut at: Vec<u64> = shown
            .iter()
            .rev()
            .map(|axis| {
                let at = left % axis;
                left /= axis;
                at
            })
            .collect();
        at.reverse();
        let there = place(&at);
        let element = there.iter().zip(shape).fold(0, |element, (at, axis)| {
            assert!(at < axis, "{there:?} of {shape:?}");
            element * axis + at
        }) as usize;
        out.extend(&bytes[element * size..(element + 1) * size]);
    }
    out
}

type Place = fn(&[u64]) -> Vec<u64>;
type Case = (&'static [(&'static str, &'static str)], &'static [u64], &'static [u64], Place);

/// Options, the tensor's shape, the shape that is shown, and where what is shown lies.
const CASES: [Case; 21] = [
    (&[("layout", "NHWC")], &[3, 5, 7, 4], &[3, 4, 5, 7], |i| vec![i[0], i[2], i[3], i[1]]),
    (&[("layout", "HWC")], &[5, 7, 11], &[11, 5, 7], |i| vec![i[1], i[2], i[0]]),
    (&[("layout", "WHC")], &[6, 9, 2], &[2, 9, 6], |i| vec![i[2], i[1], i[0]]),
    (&[("layout", "HCW")], &[6, 9, 5], &[9, 6, 5], |i| vec![i[1], i[0], i[2]]),
    (&[("layout", "HNWC")], &[3, 2, 4, 5], &[2, 5, 3, 4], |i| vec![i[2], i[0], i[3], i[1]]),
    (&[("layout", "CWNH")], &[2, 3, 4, 5], &[2, 4, 5, 3], |i| vec![i[0], i[3], i[1], i[2]]),
    (&[("layout", "BTD")], &[2, 3, 4], &[2, 3, 4], |i| i.to_vec()),
    (&[("transpose", "")], &[3, 17, 9], &[3, 9, 17], |i| vec![i[0], i[2], i[1]]),
    (&[("flip", "x")], &[2, 3, 4], &[2, 3, 4], |i| vec![i[0], i[1], 3 - i[2]]),
    (&[("flip", "y")], &[2, 3, 4], &[2, 3, 4], |i| vec![i[0], 2 - i[1], i[2]]),
    (&[("layout", "NHWC"), ("transpose", ""), ("flip", "xy")], &[2, 3, 8, 9], &[2, 9, 8, 3], |i| {
        vec![i[0], 2 - i[3], 7 - i[2], i[1]]
    }),
    (&[("select", "N=1:,C=::2,H=-3:,W=1:5:2")], &[3, 5, 6, 7], &[2, 3, 3, 2], |i| {
        vec![1 + i[0], 2 * i[1], 3 + i[2], 1 + 2 * i[3]]
    }),
    (&[("select", "C=-1")], &[2, 5, 3, 3], &[2, 1, 3, 3], |i| vec![i[0], 4, i[2], i[3]]),
    (&[("layout", "NHWC"), ("select", "C=3,N=::2")], &[5, 4, 3, 20], &[3, 1, 4, 3], |i| {
        vec![2 * i[0], i[2], i[3], 3]
    }),
    (&[("rows", "3")], &[12], &[3, 4], |i| vec![4 * i[0] + i[1]]),
    (
        &[("layout", "BWD"), ("rows", "2"), ("select", "W=1:"), ("flip", "y")],
        &[2, 7, 3],
        &[2, 3, 2, 3],
        |i| vec![i[0], 1 + 3 * (1 - i[2]) + i[3], i[1]],
    ),
    (&[("layout", "t=auto"), ("layout", "CHW")], &[2, 2, 3], &[2, 2, 3], |i| i.to_vec()),
    // Two, three and four channels are put apart in a way of their own.
    (&[("layout", "HWC")], &[5, 9, 2], &[2, 5, 9], |i| vec![i[1], i[2], i[0]]),
    (&[("layout", "HWC")], &[5, 9, 3], &[3, 5, 9], |i| vec![i[1], i[2], i[0]]),
    (&[("layout", "HWC"), ("select", "H=1:4,W=2:8")], &[5, 9, 4], &[4, 3, 6], |i| {
        vec![1 + i[1], 2 + i[2], i[0]]
    }),
    (&[("transpose", ""), ("flip", "y")], &[2, 70, 3], &[2, 3, 70], |i| vec![i[0], i[2], 2 - i[1]]),
];

#[test]
fn any_layout_shows_what_one_by_one_shows() {
    for (options, shape, shown, place) in CASES {
        for dtype in [Dtype::U8, Dtype::I16, Dtype::F32, Dtype::F64] {
            let view = view(dtype, shape, options);
            assert_eq!(view.tensors()[0].shape, shown, "{options:?}");
            let expected = one_by_one(dtype, shape, shown, place);
            assert!(all(&view) == expected, "{dtype} {options:?}");
            // Any bytes, whole samples or not.
            for from in (0..expected.len()).step_by(7) {
                for len in [0, 1, 8, 51, expected.len()] {
                    let to = (from + len).min(expected.len());
                    let mut buf = vec![0; to - from];
                    view.read_at(0, from as u64, &mut buf).unwrap();
                    assert_eq!(buf, expected[from..to], "{dtype} {options:?}: {from} to {to}");
                }
            }
            let past = view.read_at(0, expected.len() as u64, &mut [0]).unwrap_err();
            assert!(matches!(past, Error::Read { .. }), "{past}");
        }
    }
}

/// Planes and groups of many spans and slabs, read by several threads in steps of all kinds.
#[test]
fn large_tensors_are_shown_by_many_threads() {
    let cases: [Case; 5] = [
        (&[("layout", "NHWC")], &[3, 300, 401, 9], &[3, 9, 300, 401], |i| {
            vec![i[0], i[2], i[3], i[1]]
        }),
        (&[("layout", "HWC")], &[257, 129, 64], &[64, 257, 129], |i| vec![i[1], i[2], i[0]]),
        (&[("layout", "WHC")], &[1025, 600, 3], &[3, 600, 1025], |i| vec![i[2], i[1], i[0]]),
        (&[("transpose", "")], &[2, 1200, 1100], &[2, 1100, 1200], |i| vec![i[0], i[2], i[1]]),
        (&[("select", "H=100:900:3,W=5:-5")], &[2, 1000, 900], &[2, 267, 890], |i| {
            vec![i[0], 100 + 3 * i[1], 5 + i[2]]
        }),
    ];
    for (options, shape, shown, place) in cases {
        let view = view(Dtype::F32, shape, options);
        let expected = one_by_one(Dtype::F32, shape, shown, place);
        thread::scope(|scope| {
            for thread in 0..4_usize {
                let (view, expected) = (&view, &expected);
                scope.spawn(move || {
                    let step = [4 * 65_536, 4 * 1001, 4 * 300_000, 4 * 7777][thread];
                    for from in (0..expected.len()).step_by(step) {
                        let to = (from + step).min(expected.len());
                        let mut buf = vec![0; to - from];
                        view.read_at(0, from as u64, &mut buf).unwrap();
                        assert!(buf == expected[from..to], "{options:?}: {from} to {to}");
                    }
                });
            }
        });
    }
}

/// With less memory fewer images are made together, and in the end each by itself.
#[test]
fn views_take_no_more_memory_than_they_may() {
    let (options, shape) = ([("layout", "NHWC")], [3, 64, 65, 70]);
    let whole = view(Dtype::F32, &shape, &options);
    let (expected, most) = (all(&whole), whole.memory());
    let plane = 4 * 64 * 65;
    assert!(most >= 2 * 70 * plane, "{most}");
    for bytes in [u64::MAX, most, most / 2, 21 * plane, 2 * plane, plane, 5, 0] {
        let view = view(Dtype::F32, &shape, &options).within(bytes);
        assert!(view.memory() <= bytes.min(most), "{bytes}: {}", view.memory());
        assert!(all(&view) == expected, "{bytes}");
        let mut some = vec![0; 5000];
        view.read_at(0, 123_456, &mut some).unwrap();
        assert!(some == expected[123_456..128_456], "{bytes}");
    }
}

/// In order, in f64, rounded once.
#[test]
fn reductions_are_rounded_once() {
    type How = fn(&[f64]) -> f64;
    let all_of: [(&str, How); 6] = [
        ("mean", |x| x.iter().fold(0.0, |sum, x| sum + x) / x.len() as f64),
        ("max", |x| x.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        ("min", |x| x.iter().copied().fold(f64::INFINITY, f64::min)),
        ("absmean", |x| x.iter().fold(0.0, |sum, x| sum + x.abs()) / x.len() as f64),
        ("l2", |x| x.iter().fold(0.0, |sum, x| sum + x * x).sqrt()),
        ("std", |x| {
            let mean = x.iter().fold(0.0, |sum, x| sum + x) / x.len() as f64;
            (x.iter().fold(0.0, |sum, x| sum + (x - mean) * (x - mean)) / x.len() as f64).sqrt()
        }),
    ];
    // Letters, shape, the axis by number, the shape that is left.
    let layouts: [(&str, &[u64], usize, &[u64]); 4] = [
        ("NCHW", &[2, 5, 3, 4], 1, &[2, 3, 4]),
        ("NHWC", &[2, 3, 4, 700], 3, &[2, 3, 4]),
        ("BTD", &[3, 4, 5], 2, &[3, 4]),
        ("RHW", &[90_001, 2, 3], 0, &[2, 3]),
    ];
    for (letters, shape, axis, left) in layouts {
        for dtype in [Dtype::U8, Dtype::I16, Dtype::F32, Dtype::F64] {
            let raw = samples(dtype, shape);
            let mut wide = vec![0.0; raw.len() / dtype.size()];
            if dtype.is_wide() {
                decode::to_f64(dtype, &raw, &mut wide);
            } else {
                let mut narrow = vec![0.0; wide.len()];
                decode::to_f32(dtype, &raw, &mut narrow);
                wide.iter_mut().zip(narrow).for_each(|(wide, x)| *wide = f64::from(x));
            }
            for (name, how) in all_of {
                let reduce = format!("{}={name}", letters.chars().nth(axis).unwrap());
                let view = view(dtype, shape, &[("layout", letters), ("reduce", &reduce)]);
                let info = &view.tensors()[0];
                let working = if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
                assert_eq!((&info.shape[..], info.dtype), (left, working));
                let inner: u64 = shape[axis + 1..].iter().product();
                let mut expected = Vec::new();
                for number in 0..left.iter().product::<u64>() {
                    let first = number / inner * inner * shape[axis] + number % inner;
                    let along: Vec<f64> =
                        (0..shape[axis]).map(|k| wide[(first + k * inner) as usize]).collect();
                    let result = how(&along);
                    match working {
                        Dtype::F64 => expected.extend(result.to_le_bytes()),
                        _ => expected.extend((result as f32).to_le_bytes()),
                    }
                }
                assert!(all(&view) == expected, "{letters} {name} of {dtype}");
            }
        }
    }
}

/// What is left of H when W was reduced is an axis of samples, as a tensor of one axis has it.
#[test]
fn an_image_without_columns_has_rows_that_were_asked_for() {
    let options = [("layout", "CHW"), ("reduce", "W=max"), ("rows", "2")];
    let whole = view(Dtype::F32, &[3, 4, 1], &options);
    assert_eq!(whole.tensors()[0].shape, [3, 2, 2]);
    assert!(all(&whole) == samples(Dtype::F32, &[3, 4, 1]));
    let turned = view(Dtype::F32, &[4, 3, 1], &[("layout", "HCW"), options[1], options[2]]);
    assert_eq!(turned.tensors()[0].shape, [3, 2, 2]);
    let place = |i: &[u64]| vec![2 * i[1] + i[2], i[0]];
    assert!(all(&turned) == one_by_one(Dtype::F32, &[4, 3], &[3, 2, 2], place));
}

#[test]
fn nan_goes_through_reductions_as_one_nan() {
    let (inf, nan) = (f32::INFINITY, f32::from_bits(0xFFC0_1234));
    let rows = [[1.0, nan, 3.0], [nan, 7.0, 9.0], [inf, -inf, 1.0], [inf, 1.0, 2.0]];
    for (how, last) in [("mean", inf), ("max", inf), ("min", 1.0), ("l2", inf), ("absmean", inf)] {
        let bytes: Vec<u8> = rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
        let source = MemorySource::new("m").with("t", Dtype::F32, &[1, 4, 3], bytes).unwrap();
        let reduce = format!("D={how}");
        let view = View::new(source, layout(&[("layout", "HWD"), ("reduce", &reduce)]));
        let bytes = all(&view);
        let bits: Vec<u32> =
            bytes.chunks(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect();
        assert_eq!(bits[..2], [0x7FC0_0000; 2], "{how}");
        assert_eq!(bits[3], last.to_bits(), "{how}");
    }
}

#[test]
fn a_layout_is_written_as_it_is_read() {
    let options = [
        ("layout", "conv*=NHWC"),
        ("layout", "a=b=auto"),
        ("layout", "btd"),
        ("select", "C=-3,N=:16"),
        ("select", "T=1::4"),
        ("reduce", "d=L2"),
        ("rows", "14"),
        ("transpose", ""),
        ("flip", "y"),
    ];
    let first = layout(&options);
    let mut again = Layout::default();
    for (name, texts) in first.texts() {
        texts.iter().for_each(|text| again.add(&name, text).unwrap());
    }
    assert_eq!(first, again);
    assert_eq!(first.texts()["select"], ["C=-3", "N=:16", "T=1::4"]);
    assert!(Layout::default().is_default() && Layout::default().texts().is_empty());
}

#[test]
fn what_is_no_layout_is_told_with_what_is_due() {
    let cases = [
        ("layout", "", "a letter for each axis"),
        ("layout", "N1HW", "a letter for each axis"),
        ("layout", "NCHWC", "the letter C is there twice"),
        ("layout", "NH", "no W"),
        ("layout", "[a=HW", ""),
        ("select", "C", "an axis and its indices are due"),
        ("select", "CH=3", "an axis and its indices are due"),
        ("select", "C=a", "an axis and its indices are due"),
        ("select", "C=1:2:3:4", "an axis and its indices are due"),
        ("select", "C=::0", "steps are 1 or more"),
        ("select", "C=::-1", "--flip turns images round"),
        ("select", "C=1,C=2", "selected from twice"),
        ("reduce", "C", "an axis is due, and one of mean, max"),
        ("reduce", "C=maen", "the nearest is mean"),
        ("rows", "0", "1 or more"),
        ("rows", "many", "1 or more"),
        ("reduce", "C=avg", "the nearest is mean"),
        ("reduce", "C=quantile", "absmean, l2, std"),
        ("flip", "z", "there are x, from left to right, y, upside down, and xy"),
        ("turn", "", "no such option"),
    ];
    for (option, text, part) in cases {
        let error = Layout::default().add(option, text).unwrap_err();
        let told = error.to_string();
        assert!(error.is_usage() && told.contains(part), "{option} {text}: {told}");
        assert!(told.starts_with(&format!("--{option}")), "{told}");
    }
    let mut twice = layout(&[("reduce", "C=max")]);
    assert!(twice.add("reduce", "N=max").is_err());
}

/// What is skipped, and why; what is a slip ends the run before any work.
#[test]
fn tensors_that_do_not_fit_are_told() {
    // Options, a tensor that does not fit, the reason, and one that does, if any can.
    type Skipped<'a> = (&'a [(&'a str, &'a str)], &'a [u64], &'a str, &'a [u64]);
    let skipped: [Skipped<'_>; 6] = [
        (&[("layout", "NHWC")], &[4, 4], "2-D: --layout has 4 letters", &[1, 2, 2, 1]),
        (
            &[("reduce", "C=mean")],
            &[4, 4],
            "has no axis C: the last four are N, C, H, W",
            &[2, 2, 2],
        ),
        (&[("layout", "BTD"), ("select", "C=1")], &[2, 3, 4], "its --layout has no axis C", &[]),
        (&[("rows", "5")], &[12], "12 samples do not make 5 equal rows", &[5]),
        (&[("layout", "NW")], &[2, 3], "--rows makes images of that", &[]),
        (&[("flip", "x")], &[4], "or --rows to make them", &[2, 2]),
    ];
    let run = |options: &[(&str, &str)], shape: &[u64]| {
        let view = view(Dtype::F32, shape, options);
        convert(&view, &MemorySink::default(), &Options::default())
    };
    for (options, shape, part, other) in skipped {
        // Alone it shows that the options are a slip; but who asks for nothing special gets nothing.
        match run(options, shape) {
            Ok(report) => {
                let notes = report.notes.join("\n");
                assert!(report.images == 0 && notes.contains(part), "{options:?}: {notes}");
                assert_eq!(options[0].0, "flip");
            }
            Err(error) => {
                let told = error.to_string();
                assert!(error.is_usage() && told.contains(part), "{options:?}: {told}");
            }
        }
        if other.is_empty() {
            continue;
        }
        let source = MemorySource::new("m")
            .with("t", Dtype::F32, shape, samples(Dtype::F32, shape))
            .and_then(|source| source.with("u", Dtype::F32, other, samples(Dtype::F32, other)));
        let view = View::new(source.unwrap(), layout(options));
        let report = convert(&view, &MemorySink::default(), &Options::default()).unwrap();
        let notes = report.notes.join("\n");
        assert!(report.images > 0 && notes.contains(part), "{options:?}: {notes}");
    }
    for (indices, part) in [
        ("C=5", "=5: tensor t has 5 there, 0 to 4 (shape [2, 5, 3, 3])"),
        ("C=-6", "has 5"),
        ("N=2:", "=2:: nothing is selected; tensor t has 2 there"),
        ("C=0:0", "=0:0: nothing is selected; tensor t has 5"),
    ] {
        let error = run(&[("select", indices)], &[2, 5, 3, 3]).unwrap_err();
        let told = error.to_string();
        assert!(error.is_usage() && told.contains(part) && told.contains("tensor t"), "{told}");
    }
    // Of a tensor that is not taken nothing is said.
    let view = view(Dtype::F32, &[2, 5, 3, 3], &[("select", "C=5")]);
    let selection = Selection { exclude: vec!["t".to_owned()], ..Selection::default() };
    let options = Options { selection, ..Options::default() };
    assert_eq!(convert(&view, &MemorySink::default(), &options).unwrap().images, 0);
}

/// Files are called by where their samples are in the tensor, whatever was selected.
#[test]
fn names_have_the_indices_of_the_tensor() {
    let names = |options: &[(&str, &str)], shape: &[u64]| {
        let view = view(Dtype::U8, shape, options);
        let sink = MemorySink::default();
        let naming = Naming::Template("{index}.tif".to_owned());
        let report = convert(&view, &sink, &Options { naming, ..Options::default() }).unwrap();
        assert_eq!(report.failed, 0);
        sink.into_files().into_keys().collect::<Vec<_>>()
    };
    let found = names(&[("layout", "NHWC"), ("select", "C=3::8,N=-1")], &[11, 2, 2, 12]);
    assert_eq!(found, ["10_03.tif", "10_11.tif"]);
    let found = names(&[("layout", "HWN"), ("reduce", "H=max"), ("rows", "2")], &[3, 4, 2]);
    assert_eq!(found, ["0.tif", "1.tif"]);
    assert_eq!(names(&[("select", "H=1:")], &[3, 2]), ["0.tif"]);
}

/// An index as Python counts it, kept in an axis of `len`.
fn python(index: i64, len: u64) -> u64 {
    let len = i64::try_from(len).unwrap();
    let index = if index < 0 { index + len } else { index };
    u64::try_from(index.clamp(0, len)).unwrap()
}

/// Letters, indices and turns at random, beside lists of what is taken of each axis.
#[test]
fn random_layouts_show_what_lists_of_indices_show() {
    let mut random = common::Random(20_261_125);
    let mut grouped = 0;
    for round in 0..3000 {
        let rank = 2 + random.below(4) as usize;
        let mut letters: Vec<char> = "HWNCT".chars().take(rank).collect();
        for at in (1..rank).rev() {
            letters.swap(at, random.below(at as u64 + 1) as usize);
        }
        let most = if round % 10 == 0 { 24 } else { 6 };
        let shape: Vec<u64> = (0..rank).map(|_| 1 + random.below(most)).collect();
        let mut options = vec![("layout".to_owned(), letters.iter().collect::<String>())];
        // What is taken of each axis, in the order of the tensor.
        let mut taken: Vec<Vec<u64>> = Vec::new();
        for (&letter, &len) in letters.iter().zip(&shape) {
            let all: Vec<u64> = (0..len).collect();
            let number =
                |random: &mut common::Random| random.below(2 * len + 1) as i64 - len as i64;
            let (text, some) = match random.below(4) {
                0 => {
                    let index = random.below(len);
                    let text =
                        if round % 2 == 0 { index as i64 } else { index as i64 - len as i64 };
                    (text.to_string(), vec![index])
                }
                1 => {
                    let (start, stop) = (number(&mut random), number(&mut random));
                    let step = 1 + random.below(3) as usize;
                    let range = python(start, len)..python(stop, len);
                    (format!("{start}:{stop}:{step}"), range.step_by(step).collect())
                }
                _ => {
                    taken.push(all);
                    continue;
                }
            };
            if some.is_empty() {
                taken.push(all);
                continue;
            }
            options.push(("select".to_owned(), format!("{letter}={text}")));
            taken.push(some);
        }
        let turns = random.below(8);
        for (bit, option, text) in [(1, "transpose", ""), (2, "flip", "x"), (4, "flip", "y")] {
            if turns & bit > 0 {
                options.push((option.to_owned(), text.to_owned()));
            }
        }
        // Axes in the order of what is shown, by their numbers in the tensor.
        let at = |letter| letters.iter().position(|other| *other == letter).unwrap();
        let mut order: Vec<usize> =
            (0..rank).filter(|axis| !['H', 'W'].contains(&letters[*axis])).collect();
        order.extend(if turns & 1 > 0 { [at('W'), at('H')] } else { [at('H'), at('W')] });
        for (bit, place) in [(2, rank - 1), (4, rank - 2)] {
            if turns & bit > 0 {
                taken[order[place]].reverse();
            }
        }
        let shown: Vec<u64> = order.iter().map(|axis| taken[*axis].len() as u64).collect();
        let dtype = [Dtype::U8, Dtype::I16, Dtype::F32, Dtype::F64][round % 4];
        let expected = one_by_one(dtype, &shape, &shown, |indices| {
            let mut there = vec![0; rank];
            for (axis, index) in order.iter().zip(indices) {
                there[*axis] = taken[*axis][*index as usize];
            }
            there
        });
        let options: Vec<(&str, &str)> =
            options.iter().map(|(option, text)| (&option[..], &text[..])).collect();
        let view = view(dtype, &shape, &options);
        assert_eq!(view.tensors()[0].shape, shown, "{options:?} of {shape:?}");
        assert!(all(&view) == expected, "{options:?} of {shape:?}");
        let from = random.below(expected.len() as u64) as usize;
        let mut some = vec![0; random.below((expected.len() - from) as u64 + 1) as usize];
        view.read_at(0, from as u64, &mut some).unwrap();
        assert!(some == expected[from..from + some.len()], "{options:?} of {shape:?} from {from}");
        grouped += u32::from(view.memory() > 0);
        if round % 8 == 2 {
            // Names are as many as images, and in their order.
            let naming = Naming::Template("{index}.tif".to_owned());
            let options = Options { rule: Norm::None.into(), naming, ..Options::default() };
            let (files, _) = common::files(&view, &options, &common::cpu());
            let found: Vec<u32> = files.values().flat_map(|file| common::pixels(file)).collect();
            let mut widened = vec![0.0; found.len()];
            decode::to_f32(dtype, &expected, &mut widened);
            let widened: Vec<u32> = widened.into_iter().map(f32::to_bits).collect();
            assert_eq!(found, widened, "{options:?}");
        }
    }
    assert!((300..2900).contains(&grouped), "{grouped} needed memory");
}
