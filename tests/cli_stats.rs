//! `tensortiff stats`, against what NumPy and exact fractions say (scripts/make-norms-golden.py).

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;

use serde_json::Value;
use tool::{ends_with, sample};

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/norms.safetensors");
const GOLDEN: &str = include_str!("golden/stats.json");

#[test]
fn every_number_is_numpys() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let percents: Vec<String> =
        golden["percentiles"].as_array().unwrap().iter().map(Value::to_string).collect();
    let percents = percents.join(",");
    for (by, want) in golden["stats"].as_object().unwrap() {
        for threads in ["1", "3"] {
            let (out, _) = ends_with(
                0,
                &["stats", DUMP, "--by", by, "--json", "--percentiles", &percents, "-j", threads],
            );
            let got: Value = serde_json::from_str(&out).unwrap();
            let (got, want) = (got.as_array().unwrap(), want.as_array().unwrap());
            assert_eq!(got.len(), want.len(), "{by}");
            for (got, want) in got.iter().zip(want) {
                for (name, want) in want.as_object().unwrap() {
                    assert_eq!(got[name], *want, "{by} {name} of {got}");
                }
            }
        }
    }
}

#[test]
fn tables_and_csv_say_the_same() {
    let (table, _) = ends_with(0, &["stats", DUMP]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 5, "{table}");
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
    let (text, _) = ends_with(0, &["stats", DUMP, "--csv"]);
    let mut csv = csv::Reader::from_reader(text.as_bytes());
    let names = csv.headers().unwrap().clone();
    let lines: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!((names.get(0), lines.len()), (Some("dump"), 4));
    for (row, line) in rows[1..].iter().zip(&lines) {
        let of = |name: &str| {
            let head = name.to_uppercase();
            let column = rows[0].iter().position(|of| *of == head).unwrap();
            let field = names.iter().position(|of| of == name).unwrap();
            (row[column], line.get(field).unwrap())
        };
        for name in ["tensor", "dtype", "images", "zeros", "nan", "constant"] {
            let (shown, exact) = of(name);
            assert_eq!(shown, exact, "{name}");
        }
        for name in ["min", "max", "mean", "std", "p1", "p99"] {
            let (shown, exact) = of(name);
            let [shown, exact]: [f64; 2] = [shown, exact].map(|x| x.parse().unwrap());
            assert!(
                (shown - exact).abs() <= 1e-5 * exact.abs().max(1.0),
                "{name}: {shown}, {exact}"
            );
        }
    }
}

/// Letter by letter, in each form and by each part of a dump.
#[test]
#[cfg(feature = "gpu")]
fn every_device_prints_the_same() {
    for (form, by) in [(&[][..], "tensor"), (&["--csv"], "image"), (&["--json"], "all")] {
        let told = |dump: &'static str, device: &str| {
            let args = ["stats", dump, "--by", by, "-v", "--device", device];
            ends_with(0, &tool::join(&args, form)).0
        };
        let (cpu, both) = (told(DUMP, "cpu"), told(DUMP, "cpu,llvmpipe"));
        assert!(cpu.len() > 100 && both == cpu, "{form:?} {by}: {both}{cpu}");
        // F64 is for the CPU alone; the sample has none.
        let (cpu, gpu) = (told(sample(), "cpu"), told(sample(), "llvmpipe"));
        assert!(gpu == cpu, "{form:?} {by}: {gpu}{cpu}");
    }
}

/// Nothing is written, and so nothing collides; what gives no image is noted as `convert` notes it.
#[test]
fn what_has_no_numbers_is_told_and_names_may_be_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["a.safetensors", "sub/a.safetensors"] {
        let both =
            [("t", "U8", &[2_u64, 2][..], 4), ("T", "U8", &[2, 2], 4), ("flat", "U8", &[3], 3)];
        tool::dump(at(name).as_ref(), &both);
    }
    let dumps = [at("a.safetensors"), at("sub/a.safetensors")];
    let (out, said) = ends_with(0, &["stats", &dumps[0], &dumps[1], "--csv"]);
    assert_eq!(out.lines().count(), 1 + 4, "{out}");
    assert_eq!(
        said.matches("tensor flat skipped: 1-D: needs at least two axes").count(),
        2,
        "{said}"
    );
    let flat = ["stats", &dumps[0], "-t", "flat"];
    let (out, said) = ends_with(0, &[&flat[..], &["--csv"]].concat());
    assert!(out.starts_with("dump,tensor,index,") && out.lines().count() == 1, "{out}");
    assert!(said.contains("a.safetensors: no images"), "{said}");
    let (_, said) = ends_with(0, &[&flat[..], &["-q"]].concat());
    assert_eq!(said, "");
}

/// JSON has no infinite numbers, and what there is none of is not what is infinite.
#[test]
fn json_has_every_number_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.safetensors");
    tool::dump(&path, &[("t", "F64", &[2, 2], 32), ("u", "F32", &[1, 1], 4)]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 36;
    for (place, x) in [1.7e308, -1.7e308, 1e308, -1e308_f64].into_iter().enumerate() {
        bytes[at + 8 * place..at + 8 * place + 8].copy_from_slice(&x.to_le_bytes());
    }
    bytes[at + 32..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (out, _) = ends_with(0, &["stats", path.to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told[0]["std"], "inf", "{out}");
    assert_eq!(told[1]["std"], Value::Null, "{out}");
    assert_eq!(told[1]["percentiles"], serde_json::json!([null, null, null]), "{out}");
}

#[test]
fn what_is_selected_is_what_is_looked_at() {
    let (out, _) = ends_with(0, &["stats", sample(), "-t", "*.3.hidden", "--by", "image", "--csv"]);
    assert_eq!(out.lines().count(), 1 + 4, "{out}");
    let (out, _) = ends_with(0, &["stats", sample(), "-t", "*.3.hidden", "--percentiles", ""]);
    assert!(!out.contains("P1") && out.contains("encoder.layer.3.hidden"), "{out}");
    let (out, _) = ends_with(0, &["stats", DUMP, "--json", "--exclude", "*"]);
    assert_eq!(out, "[]\n");
    let wrong: [(&[&str], &str); 4] = [
        (&["--percentiles", "50,1"], "ascending order"),
        (&["--percentiles", "101"], "from 0 to 100"),
        (&["--by", "layer"], "possible values: tensor, channel, image, all"),
        (&["--json", "--csv"], "cannot be used with"),
    ];
    for (options, part) in wrong {
        let (_, said) = ends_with(2, &[&["stats", DUMP], options].concat());
        assert!(said.contains(part), "{options:?}: {said}");
    }
    let (_, said) = ends_with(1, &["stats", "/nowhere.npy"]);
    assert!(said.contains("/nowhere.npy"), "{said}");
}
