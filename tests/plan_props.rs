//! Properties of the plan: images are disjoint and complete, names injective (also where case is
//! folded) and inside the output folder.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

#[path = "plan_props/hostile.rs"]
mod hostile;
#[path = "plan_props/options.rs"]
mod options;

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path};
use std::time::Instant;

use proptest::prelude::*;
use tensortiff::plan::Plan;
use tensortiff::{Dtype, Dump, Error, Naming, Selection, TensorInfo};

fn dump(stem: &str) -> Dump {
    Dump { label: format!("{stem}.safetensors"), stem: stem.to_owned() }
}

fn tensor(dump: usize, name: &str, shape: &[u64]) -> TensorInfo {
    TensorInfo::new(name.to_owned(), dump, Dtype::F16, shape.to_vec())
}

fn plan(tensors: &[TensorInfo], template: &str) -> Result<Plan, Error> {
    let naming = Naming::Template(template.to_owned());
    Plan::new(&[dump("s"), dump("s2")], tensors, &[], &Selection::default(), &naming)
}

/// Names that are made to run into each other.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[aA]{1,2}(/?[01_]{1,2}){0,2}(\\.tif)?",
        "(a|A|b|\\.|\\.\\.|/|0|1|_|%|é|É|\n|nul| ){0,6}",
        Just("x".repeat(300)),
    ]
}

fn tensors() -> impl Strategy<Value = Vec<TensorInfo>> {
    let one = (0..2_usize, name(), prop::collection::vec(0..4_u64, 0..5));
    prop::collection::vec(one, 0..7).prop_map(|list| {
        // A dump does not hold one name twice.
        let mut seen = HashSet::new();
        let fresh = list.into_iter().filter(|(d, name, _)| seen.insert((*d, name.clone())));
        fresh.map(|(d, name, shape)| tensor(d, &name, &shape)).collect()
    })
}

fn templates() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{stem}/{tensor}/{index}.tif",
        "{stem}/{tensor}/{index}.tif",
        "{stem}_{tensor}_{index}.tif",
        "{tensor}{index}.tif",
        "{tensor}/{index}.tif",
        "{index}/{tensor}.tif",
        "{tensor}.tif",
        "a/{index}{tensor}_{index}.tiff",
    ])
}

/// All images by folded name, as (tensor, plane).
fn by_name(plan: &Plan) -> HashMap<String, Vec<(usize, u64)>> {
    let mut names: HashMap<String, Vec<(usize, u64)>> = HashMap::new();
    for (row, shape) in plan.rows().iter().enumerate() {
        for index in 0..shape.images {
            let folded = plan.name(row, index).to_lowercase();
            names.entry(folded).or_default().push((shape.tensor, index));
        }
    }
    names
}

/// So many every day, a million with `TENSORTIFF_LONG=1`.
fn cases(few: u32) -> u32 {
    std::env::var_os("TENSORTIFF_LONG").map_or(few, |_| 1_000_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(20_000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_are_distinct_and_stay_inside(tensors in tensors(), template in templates()) {
        let plan = match plan(&tensors, template) {
            Ok(plan) => plan,
            // That such a clash is real is the next property.
            Err(Error::Collision { .. }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let names = by_name(&plan);
        prop_assert!(names.values().all(|images| images.len() == 1), "{names:?}");
        let listed: Vec<String> = plan.names().map(|name| name.to_lowercase()).collect();
        prop_assert_eq!(listed.len() as u64, plan.images());
        for name in &listed {
            prop_assert!(names.contains_key(name));
            // No name is another's folder.
            for (at, _) in name.match_indices('/') {
                prop_assert!(!names.contains_key(&name[..at]), "{name} is below a file");
            }
        }
        for name in plan.names() {
            prop_assert!(!name.contains(['\\', '\0', '\n', ':']), "{name:?}");
            prop_assert!(name.split('/').all(|part| !part.is_empty() && part.len() <= 255));
            let inside = Path::new(&name).components().all(|c| matches!(c, Component::Normal(_)));
            prop_assert!(inside, "{name:?}");
        }
    }

    #[test]
    fn every_clash_that_is_told_is_real(tensors in tensors(), template in templates()) {
        // One at a time, a tensor is left out until the rest can be planned: then the one left out
        // last must really meet one of them.
        if let Err(Error::Collision { name, .. }) = plan(&tensors, template) {
            let alone: Vec<HashSet<String>> = tensors
                .iter()
                .map(|t| match plan(std::slice::from_ref(t), template) {
                    Ok(plan) => plan.names().map(|n| n.to_lowercase()).collect(),
                    Err(_) => HashSet::from([name.to_lowercase()]),
                })
                .collect();
            let folded = name.to_lowercase();
            let below = format!("{folded}/");
            let meets = |names: &HashSet<String>| {
                names.contains(&folded) || names.iter().any(|n| n.starts_with(&below))
            };
            let several = alone.iter().filter(|names| meets(names)).count() > 1;
            let own = tensors.iter().any(|t| plan(std::slice::from_ref(t), template).is_err());
            prop_assert!(several || own, "{name}: {alone:?}");
        }
    }

    #[test]
    fn images_are_disjoint_and_complete(
        shape in prop::collection::vec(1..5_u64, 2..6),
        channel in prop::option::of(0..5_u64),
    ) {
        let tensors = [tensor(0, "t", &shape)];
        let selection = Selection { channel, ..Selection::default() };
        let plan = Plan::new(&[dump("s")], &tensors, &[], &selection, &Naming::default());
        let axis = (shape.len() > 2).then(|| shape[shape.len() - 3]);
        match (channel, axis, plan) {
            (Some(k), Some(channels), Err(error)) => prop_assert!(error.is_usage() && k >= channels),
            (_, _, Err(error)) => return Err(TestCaseError::fail(error.to_string())),
            (Some(_), None, Ok(plan)) => prop_assert_eq!((plan.images(), plan.skipped().len()), (0, 1)),
            (channel, _, Ok(plan)) => {
                let row = &plan.rows()[0];
                let size = row.samples() * 2;
                let total = tensors[0].bytes().unwrap();
                let mut offsets: Vec<u64> = (0..row.images).map(|i| row.byte_offset(i)).collect();
                prop_assert!(offsets.windows(2).all(|w| w[0] + size <= w[1]), "disjoint, in order");
                prop_assert!(offsets.iter().all(|offset| offset + size <= total));
                for (i, offset) in offsets.iter().enumerate() {
                    let indices = row.indices(i as u64);
                    if let Some(k) = channel {
                        prop_assert_eq!(indices.last(), Some(&k));
                    }
                    let plane = indices.iter().zip(&shape).fold(0, |n, (i, axis)| n * axis + i);
                    prop_assert_eq!(plane * size, *offset);
                }
                if channel.is_none() {
                    offsets.push(total);
                    prop_assert!(offsets.windows(2).all(|w| w[0] + size == w[1]), "complete");
                    prop_assert!(row.contiguous());
                }
            }
        }
    }
}

#[test]
fn ten_million_images_cost_no_memory_and_no_time() {
    let tensors = [tensor(0, "t", &[10_000_000, 1, 1]), tensor(0, "u", &[1 << 40, 1, 1])];
    let started = Instant::now();
    let plan = plan(&tensors, "{stem}_{tensor}_{index}.tif").unwrap();
    assert_eq!(plan.name(0, 9_999_999), "s_t_9999999.tif");
    assert_eq!(plan.name(0, 7), "s_t_0000007.tif");
    assert_eq!(plan.images(), 10_000_000 + (1 << 40));
    assert!(started.elapsed().as_millis() < 100, "{:?}", started.elapsed());
}

#[test]
fn clashes_are_told_with_both_images() {
    let cases: [(&[TensorInfo], &str, &str); 6] = [
        (&[tensor(0, "a", &[2, 2]), tensor(0, "A", &[2, 2])], Naming::DEFAULT, "s/A.tif"),
        (&[tensor(0, "a", &[2, 2]), tensor(1, "a", &[2, 2])], "{tensor}.tif", "a.tif"),
        (&[tensor(0, "a", &[3, 2, 2])], "{tensor}.tif", "[0]"),
        (&[tensor(0, "a/0", &[2, 2]), tensor(0, "a", &[3, 2, 2])], Naming::DEFAULT, "s/a/0.tif"),
        (&[tensor(0, "a", &[2, 2]), tensor(0, "a.tif", &[3, 2, 2])], Naming::DEFAULT, "s/a.tif"),
        (
            &[tensor(0, "a1", &[3, 2, 2]), tensor(0, "a", &[13, 2, 2])],
            "{tensor}{index}.tif",
            "tensor a1[0]",
        ),
    ];
    for (tensors, template, part) in cases {
        let error = plan(tensors, template).unwrap_err();
        assert!(matches!(error, Error::Collision { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn lists_of_names_are_checked() {
    let list = |names: &[&str]| {
        let naming = Naming::List(names.iter().map(|&n| n.to_owned()).collect());
        let tensors = [tensor(0, "t", &[3, 2, 2])];
        Plan::new(&[dump("s")], &tensors, &[], &Selection::default(), &naming)
    };
    let plan = list(&["b", "a/x.TIF", "c.png"]).unwrap();
    assert_eq!(plan.names().collect::<Vec<_>>(), ["b.tif", "a/x.TIF", "c.png.tif"]);
    let wrong = [
        (vec!["a", "b"], "2 names for 3 images (first missing: number 3)"),
        (vec!["a", "../b", "c"], "name number 2, ../b"),
        (vec!["a", "b", "/c"], "relative"),
        (vec!["a", "", "c"], "name number 2"),
        (vec!["a", "x/", "c"], "empty part"),
        (vec!["a", "x /y", "c"], "ends in a dot or a space"),
        (vec!["a", "b", "c", "d"], "(first surplus: number 4, d)"),
        (vec!["a", "b", "B.tif"], "both be written to"),
        (vec!["a", "a.tif/b", "c"], "both be written to"),
        (vec!["a", "b\u{7}", "c"], "control"),
        (vec!["a", "nul", "c"], "Windows"),
        (vec!["a", "C:x", "c"], "relative"),
    ];
    for (names, part) in wrong {
        let error = list(&names).unwrap_err();
        assert!(error.to_string().contains(part), "{names:?}: {error}");
    }
}

#[test]
fn patterns_choose_and_slips_are_told() {
    let tensors = [
        tensor(0, "layers.0.attn", &[2, 2]),
        tensor(0, "layers.1.attn", &[2, 2]),
        tensor(0, "layers/1/mlp", &[2, 2]),
        tensor(0, "bias", &[2]),
        tensor(0, "none", &[0, 2]),
    ];
    let chosen = |take: &[&str], leave: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect();
        let selection =
            Selection { tensors: own(take), exclude: own(leave), ..Selection::default() };
        Plan::new(&[dump("s")], &tensors, &[], &selection, &Naming::default()).map(|plan| {
            let rows = plan.rows().iter().map(|r| r.tensor).collect::<Vec<_>>();
            (rows, plan.skipped().len())
        })
    };
    assert_eq!(chosen(&[], &[]).unwrap(), (vec![0, 1, 2], 2));
    assert_eq!(chosen(&["*"], &[]).unwrap(), (vec![0, 1], 2));
    assert_eq!(chosen(&["**"], &["*.attn", "nothing"]).unwrap(), (vec![2], 2));
    assert_eq!(chosen(&["layers.?.attn", "bias"], &["*.0.*"]).unwrap(), (vec![1], 1));
    let error = chosen(&["layer.0.attn"], &[]).unwrap_err().to_string();
    assert!(error.contains("layers.0.attn") && error.contains("none of 5"), "{error}");
    assert!(chosen(&["[a"], &[]).unwrap_err().is_usage());
}
