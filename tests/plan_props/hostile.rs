//! The plan held against brute force: random tensors with hostile names, templates and channels.
//!
//! The oracle is written here from the rules, not from the code: it lists every image's bytes and
//! names, and folds case by the standard library alone.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tensortiff::error::Error;
use tensortiff::plan::{Naming, Plan, Selection};
use tensortiff::{Dtype, Dump, TensorInfo};

/// Parts that names are made of: what has a meaning to some file system, or to the templates.
fn part() -> impl Strategy<Value = String> {
    let special = [
        "", ".", "..", "...", "a", "A", "b", "0", "00", "01", "1", "a0", "a_", "a_0", "a_00", "_",
        "-", "a.tif", "A.TIF", "0.tif", "a.", " a", "con", "NUL.x", "com", "COM1", "lpt", "%41",
        "%", "%-", "é", "É", "ß", "ss", "ẞ", "ς", "Σ", "σ", "\n", "\0", "\\", "c:", "*?",
        "\u{202e}",
    ];
    prop_oneof![
        20 => prop::sample::select(special.to_vec()).prop_map(str::to_owned),
        2 => (prop::sample::select(vec!["x", "X", "é", ".", "a_0"]), 60..300_usize)
            .prop_map(|(text, times)| text.repeat(times)),
        2 => "[aA0_.]{1,3}",
    ]
}

pub(super) fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(part(), 1..4).prop_map(|parts| parts.join("/"))
}

fn shape() -> impl Strategy<Value = Vec<u64>> {
    let axis =
        prop_oneof![1 => Just(0_u64), 6 => Just(1), 6 => Just(2), 3 => Just(3), 2 => Just(11)];
    prop_oneof![
        1 => prop::collection::vec(axis.clone(), 0..2),
        9 => prop::collection::vec(axis, 2..5),
    ]
}

pub(super) fn template() -> impl Strategy<Value = String> {
    let usual = "{stem}/{tensor}/{index} {stem}/{tensor}_{index} {tensor}/{index} {tensor} \
        {tensor}{index} {index} {stem}{tensor}{index} {index}/{tensor} {index}_{tensor} \
        {stem}/{index}/{index} COM{index} co{tensor} ..{index}/{tensor} ...{index}/{tensor} \
        {tensor}/.{index}";
    let piece = prop::sample::select(vec![
        "{stem}", "{tensor}", "{index}", "{tensor}", "{index}", "/", "/", "_", "-", ".", "a", "A",
        "0", "{{", "..", "con", " ",
    ]);
    prop_oneof![
        2 => prop::sample::select(usual.split_whitespace().collect::<Vec<_>>())
            .prop_map(|template| format!("{template}.tif")),
        1 => prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat() + ".tif"),
    ]
}

#[derive(Debug, Clone)]
struct Case {
    dumps: Vec<Dump>,
    tensors: Vec<TensorInfo>,
    channel: Option<u64>,
    template: String,
}

fn case() -> impl Strategy<Value = Case> {
    let stem = prop_oneof![4 => Just("s".to_owned()), 2 => Just("S".to_owned()), 2 => name()];
    let dumps = prop::collection::vec(stem, 1..3);
    let dtype = prop::sample::select(Dtype::ALL.to_vec());
    let tensors =
        prop::collection::vec((name(), dtype, shape(), any::<prop::sample::Index>()), 1..5);
    let channel = prop_oneof![4 => Just(None), 1 => Just(Some(0_u64)), 1 => Just(Some(1))];
    (dumps, tensors, channel, template()).prop_map(|(stems, tensors, channel, template)| {
        let dump = |(i, stem): (usize, String)| Dump { label: format!("{i}.safetensors"), stem };
        let dumps: Vec<Dump> = stems.into_iter().enumerate().map(dump).collect();
        let mut seen = HashSet::new();
        let tensor = |(name, dtype, shape, at): (String, _, _, prop::sample::Index)| {
            TensorInfo::new(name, at.index(dumps.len()), dtype, shape)
        };
        // A dump holds a name once.
        let tensors = tensors.into_iter().map(tensor);
        let tensors = tensors.filter(|t| seen.insert((t.dump, t.name.clone()))).collect();
        Case { dumps, tensors, channel, template }
    })
}

impl Case {
    fn plan(&self) -> Result<Plan, Error> {
        let selection = Selection { channel: self.channel, ..Selection::default() };
        let naming = Naming::Template(self.template.clone());
        Plan::new(&self.dumps, &self.tensors, &[], &selection, &naming)
    }
}

/// Whether `name`, joined to an output folder, stays there on every system, and is no device.
pub(super) fn is_safe(name: &str) -> Result<(), String> {
    if ![".tif", ".tiff"].iter().any(|end| name.to_lowercase().ends_with(end)) {
        return Err("no TIFF".to_owned());
    }
    if name.contains(['\\', ':']) || name.chars().any(char::is_control) {
        return Err("a character that leads elsewhere".to_owned());
    }
    if name.len() > 4000 {
        return Err("too long".to_owned());
    }
    for part in name.split('/') {
        // What Windows makes of a part: it drops dots and spaces at the end.
        let seen = part.trim_end_matches([' ', '.']);
        if seen.is_empty() || seen != part || part.len() > 255 {
            return Err(format!("the part {part:?}"));
        }
        let device = part.split('.').next().unwrap_or_default().trim_end().to_uppercase();
        let numbered = ["COM", "LPT"].iter().any(|d| {
            device
                .strip_prefix(d)
                .is_some_and(|n| n.len() == 1 && ('1'..='9').any(|c| n == c.to_string()))
        });
        if numbered || ["CON", "PRN", "AUX", "NUL"].contains(&device.as_str()) {
            return Err(format!("the device {part:?}"));
        }
    }
    Ok(())
}

fn folded(name: &str) -> [String; 2] {
    [name.to_lowercase(), name.to_uppercase()]
}

/// Whether two of the names are one file, or one is a folder of another, under either folding.
pub(super) fn clashes(names: &[String]) -> bool {
    (0..2).any(|fold| {
        let names: Vec<String> = names.iter().map(|name| folded(name)[fold].clone()).collect();
        let files: HashSet<&str> = names.iter().map(String::as_str).collect();
        files.len() < names.len()
            || names.iter().any(|n| n.match_indices('/').any(|(at, _)| files.contains(&n[..at])))
    })
}

fn check_bytes(case: &Case, plan: &Plan) -> Result<(), TestCaseError> {
    let mut images = 0;
    for row in plan.rows() {
        let tensor = &case.tensors[row.tensor];
        let bytes = tensor.bytes().expect("test shapes are small");
        let image = row.samples() * row.dtype.size() as u64;
        prop_assert_eq!(&[row.height, row.width][..], &tensor.shape[tensor.shape.len() - 2..]);
        let mut starts: Vec<u64> = (0..row.images).map(|i| row.byte_offset(i)).collect();
        let in_one = starts.windows(2).all(|w| w[0] + image == w[1]);
        prop_assert!(in_one || !row.contiguous());
        prop_assert!(row.contiguous() || case.channel.is_some());
        for (index, start) in starts.iter().enumerate() {
            let at = row.indices(index as u64);
            prop_assert_eq!(at.len() + 2, tensor.shape.len());
            prop_assert!(at.iter().zip(&tensor.shape).all(|(i, axis)| i < axis));
            if let Some(k) = case.channel {
                prop_assert_eq!(at.last(), Some(&k));
            }
            let plane = at.iter().zip(&tensor.shape).fold(0, |n, (i, axis)| n * axis + i);
            prop_assert_eq!((plane, plane * image), (row.plane(index as u64), *start));
        }
        starts.push(bytes);
        prop_assert!(starts.windows(2).all(|w| w[0] + image <= w[1]), "{tensor:?}: {starts:?}");
        let expected = match case.channel {
            None => bytes / image,
            Some(_) => bytes / image / tensor.shape[tensor.shape.len() - 3],
        };
        prop_assert_eq!(row.images, expected, "{:?}", tensor);
        images += row.images;
    }
    prop_assert_eq!(plan.images(), images);
    let mut all: Vec<usize> = plan.rows().iter().map(|row| row.tensor).collect();
    all.extend(plan.skipped().iter().map(|skipped| skipped.tensor));
    all.sort_unstable();
    prop_assert_eq!(all, (0..case.tensors.len()).collect::<Vec<_>>());
    Ok(())
}

fn check_names(case: &Case, plan: &Plan) -> Result<(), TestCaseError> {
    let names: Vec<String> = plan.names().collect();
    let one_by_one = (0..plan.rows().len())
        .flat_map(|row| (0..plan.rows()[row].images).map(move |i| plan.name(row, i)));
    prop_assert!(names.iter().cloned().eq(one_by_one));
    for name in &names {
        let safe = is_safe(name);
        prop_assert!(safe.is_ok(), "{name:?} from {:?}: {safe:?}", case.template);
    }
    prop_assert!(!clashes(&names), "{names:?} from {:?}", case.template);
    let again: Vec<String> = case.plan().expect("planned before").names().collect();
    prop_assert_eq!(names, again);
    Ok(())
}

/// Image labels, as errors write them, with the names that plans of each tensor alone give; for a
/// tensor whose own images clash, the label without indices, and no name.
fn named(case: &Case) -> HashMap<String, Option<String>> {
    let mut named = HashMap::new();
    for tensor in &case.tensors {
        let label = format!("{}: tensor {}", case.dumps[tensor.dump].label, tensor.name);
        match (Case { tensors: vec![tensor.clone()], ..case.clone() }).plan() {
            Err(_) => drop(named.insert(label, None)),
            Ok(plan) => named.extend(
                plan.rows()
                    .iter()
                    .flat_map(|row| {
                        (0..row.images).map(|i| {
                            let at = row
                                .indices(i)
                                .iter()
                                .map(u64::to_string)
                                .collect::<Vec<_>>()
                                .join(",");
                            let at = if at.is_empty() { at } else { format!("[{at}]") };
                            (format!("{label}{at}"), Some(plan.name(0, i)))
                        })
                    })
                    .collect::<Vec<_>>(),
            ),
        }
    }
    named
}

/// The two images that a collision names are two, and do clash.
fn check_collision(case: &Case, error: &Error) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.to_string(), case.plan().expect_err("failed before").to_string());
    let Error::Collision { one, other, .. } = error else { unreachable!() };
    prop_assert_ne!(one, other);
    let named = named(case);
    let whole = |label: &str| label.rsplit_once('[').map_or(String::new(), |(l, _)| l.to_owned());
    let find = |label: &str| named.get(label).or_else(|| named.get(&whole(label)));
    let (Some(one), Some(other)) = (find(one), find(other)) else {
        return Err(TestCaseError::fail(format!("{error}: no such images: {named:?}")));
    };
    let (Some(one), Some(other)) = (one, other) else { return Ok(()) };
    // The plan folds more than either of the oracle's foldings alone: ß is ss to some systems.
    let both = [one, other].map(|name| name.to_lowercase().to_uppercase().to_lowercase());
    prop_assert!(clashes(&both), "{error}: {both:?}");
    Ok(())
}

pub(super) fn runner(few: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: super::cases(few),
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn every_plan_is_safe_distinct_and_complete() {
    let [planned, clashing, refused] = [const { Cell::new(0) }; 3];
    let count = |counter: &Cell<u32>| counter.set(counter.get() + 1);
    let done = runner(30_000).run(&case(), |case| match case.plan() {
        Ok(plan) => {
            count(&planned);
            check_bytes(&case, &plan)?;
            check_names(&case, &plan)
        }
        Err(error @ Error::Collision { .. }) => {
            count(&clashing);
            check_collision(&case, &error)
        }
        Err(Error::Usage(_)) => {
            count(&refused);
            Ok(())
        }
        Err(other) => Err(TestCaseError::fail(other.to_string())),
    });
    done.unwrap();
    // A generator of refusals only would prove nothing.
    let counts = [planned, clashing, refused].map(Cell::into_inner);
    assert!(counts[0] > 8_000 && counts[1] > 2_000, "planned, clashing, refused: {counts:?}");
}

/// The default template must not be refused for any tensor whose name a file system can hold.
#[test]
fn the_default_template_takes_every_tensor() {
    let done = runner(5_000).run(&(name(), shape()), |(name, shape)| {
        let dumps = [Dump { label: "s.safetensors".to_owned(), stem: "s".to_owned() }];
        let tensors = [TensorInfo::new(name, 0, Dtype::F32, shape)];
        let plan = Plan::new(&dumps, &tensors, &[], &Selection::default(), &Naming::default());
        prop_assert!(plan.is_ok(), "{:?}: {plan:?}", tensors[0].name);
        Ok(())
    });
    done.unwrap();
}

fn one(name: &str, shape: &[u64]) -> TensorInfo {
    TensorInfo::new(name.to_owned(), 0, Dtype::U8, shape.to_vec())
}

fn plan_of(tensors: &[TensorInfo], template: &str) -> Result<Plan, Error> {
    let dumps = [Dump { label: "d.safetensors".to_owned(), stem: "d".to_owned() }];
    Plan::new(&dumps, tensors, &[], &Selection::default(), &Naming::Template(template.to_owned()))
}

/// A look at each takes ten seconds and more; that nothing is held for each shows with 2^40 images.
#[test]
fn ten_million_images_are_planned_without_a_look_at_each() {
    const MANY: u64 = 10_000_000;
    let many = || one("a", &[MANY, 1, 1]);
    let cases = [
        (vec![many()], "{stem}/{tensor}/{index}.tif"),
        (vec![many()], "{index}/{tensor}/{index}.tif"),
        (vec![many(), one("b", &[MANY, 1, 1])], "x/{index}/{tensor}.tif"),
        (vec![many(), one("a/b", &[2, 2]), one("b", &[2, 2])], Naming::DEFAULT),
        (vec![one("l.0", &[MANY, 1, 1]), one("l.1", &[MANY, 1, 1])], "{tensor}_{index}.tif"),
        (vec![many(), one("b", &[MANY, 1, 1])], "x/{tensor}{index}.tif"),
    ];
    for (tensors, template) in cases {
        let started = Instant::now();
        let plan = plan_of(&tensors, template).unwrap();
        assert!(plan.images() >= MANY && plan.name(0, 1_234_567).contains("1234567"));
        assert!(started.elapsed() < Duration::from_secs(1), "{template}: {:?}", started.elapsed());
    }
}

/// A hundred thousand tensors of both kinds: nothing looks at all pairs.
#[test]
fn many_tensors_are_planned_in_time_proportional_to_their_number() {
    let two = (0..50_000).map(|i| one(&format!("w{i}"), &[2, 2]));
    let three = (0..50_000).map(|i| one(&format!("v{i}"), &[3, 2, 2]));
    let tensors: Vec<TensorInfo> = two.chain(three).collect();
    for template in [Naming::DEFAULT, "{tensor}_{index}.tif", "{stem}/{tensor}{index}.tif"] {
        let started = Instant::now();
        assert_eq!(plan_of(&tensors, template).unwrap().images(), 200_000, "{template}");
        assert!(started.elapsed() < Duration::from_secs(5), "{template}: {:?}", started.elapsed());
    }
}

/// Clashes that random tensors seldom hit, each with a twin that is as close and has none.
#[test]
fn rare_clashes_are_found() {
    let below = "{stem}/{index}/{tensor}.tif";
    type Tensor = (&'static str, &'static str, &'static [u64]);
    let cases: [(&str, [Tensor; 2], [Tensor; 2]); 5] = [
        // a/0/1/x.tif: index 0 of 1/x in a, index 1 of x in a/0.
        (
            below,
            [("a", "1/x", &[2, 1, 1]), ("a/0", "x", &[2, 1, 1])],
            [("a", "2/x", &[2, 1, 1]), ("a/0", "x", &[2, 1, 1])],
        ),
        // 00a/b.tif: index 0 before 0a/b, index 00 before a/b.
        (
            "{index}{tensor}.tif",
            [("s", "0a/b", &[1, 1, 1]), ("s", "a/b", &[11, 1, 1])],
            [("s", "0a/b", &[1, 1, 1]), ("s", "a/c", &[11, 1, 1])],
        ),
        // A file that is a folder, below an index of its own.
        (
            below,
            [("s", "a", &[2, 1, 1]), ("s", "A.tif/b", &[3, 1, 1])],
            [("s", "a", &[2, 1, 1]), ("s", "A.tiff/b", &[3, 1, 1])],
        ),
        // A file with an index that is a folder; index 2 there is not.
        (
            Naming::DEFAULT,
            [("s", "a", &[2, 1, 1]), ("s", "a/1.tif/b", &[1, 1])],
            [("s", "a", &[2, 1, 1]), ("s", "a/2.tif/b", &[1, 1])],
        ),
        // Where nothing can be proved from the pattern: the index twice.
        (
            "{index}/{tensor}/{index}.tif",
            [("s", "a", &[2, 1, 1]), ("s", "A/1.tif", &[2, 1, 1])],
            [("s", "a", &[2, 1, 1]), ("s", "A/2.tif", &[2, 1, 1])],
        ),
    ];
    for (template, clash, none) in cases {
        for (tensors, expected) in [(clash, true), (none, false)] {
            let dumps = tensors.map(|(stem, _, _)| Dump { label: stem.into(), stem: stem.into() });
            let tensor = |(dump, (_, name, shape)): (usize, &Tensor)| TensorInfo {
                dump,
                ..one(name, shape)
            };
            let case = Case {
                tensors: tensors.iter().enumerate().map(tensor).collect(),
                dumps: dumps.to_vec(),
                channel: None,
                template: template.to_owned(),
            };
            let alone = |t: &TensorInfo| {
                let single = Case { tensors: vec![t.clone()], ..case.clone() };
                single.plan().unwrap().names().collect::<Vec<_>>()
            };
            let all: Vec<String> = case.tensors.iter().flat_map(alone).collect();
            assert_eq!(clashes(&all), expected, "the oracle: {all:?}");
            match case.plan() {
                Err(error @ Error::Collision { .. }) if expected => {
                    check_collision(&case, &error).unwrap();
                }
                plan => assert!(plan.is_ok() && !expected, "{template}, {all:?}: {plan:?}"),
            }
        }
    }
}
