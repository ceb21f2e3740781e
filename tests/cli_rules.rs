//! Norms, scopes and what goes with them, as people type them.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

#[path = "common/tool.rs"]
mod tool;
#[cfg(unix)]
#[path = "common/trees.rs"]
mod trees;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tensortiff::Range;
use tensortiff::record::shards::{self, Shards};
use tool::{ends_with, folder, sample};

#[test]
fn wrong_options_are_told_at_once() {
    let (_dir, out) = folder();
    let cases: [(&[&str], &str); 31] = [
        (&["--norm", "percentil"], "similar value exists: 'percentile'"),
        (&["--scope", "imgae"], "similar value exists: 'image'"),
        (&["--clip", "1,99"], "--clip goes with --norm percentile, and not with minmax"),
        (&["--norm", "percentile", "--clip", "99,1"], "the lower first"),
        (&["--norm", "fixed"], "needs --range LO,HI"),
        (&["--norm", "fixed", "--range", "1"], "as -1,1"),
        (&["--norm", "none", "--gamma", "2"], "changes none"),
        (&["--norm", "zscore", "--nonfinite", "clamp"], "with --sigma K"),
        (&["--norm", "zscore", "--sigma", "-1"], "above 0"),
        (&["--norm", "none", "--scope", "dump"], "takes no range"),
        (&["--out-range", "0"], "as 0,255"),
        (&["--norm", "zscore", "--device", "llvmpipe"], "only the CPU does --norm zscore"),
        // No other axis is taken for that of channels.
        (
            &["--reduce", "C=mean", "--channel", "1"],
            "--channel 1: --reduce C=mean makes one of all",
        ),
        (&["--reduce", "C=std", "--scope", "channel"], "--reduce C=std makes one of all"),
        (
            &["--norm", "fixed", "--range", "1700000000,1700000020"],
            "of F32 is computed, cannot tell them apart",
        ),
        (&["--norm", "fixed", "--range", "0,1e39"], "cannot tell them apart; --tensor"),
        (&["--device", "cpuu"], "the nearest is cpu"),
        (&["--compress", "defalte"], "the nearest is deflate"),
        (&["--tile", "+16"], "a multiple of 16"),
        (
            &["--scope", "group", "--group-by", "{tensr}"],
            "there are {stem}, {tensor}; the nearest is {tensor}",
        ),
        // What fits no tensor is a slip: nothing is made by the defaults instead.
        (
            &["--layout", "encodr.**=NHWC"],
            "--layout encodr.**: matches none of 14 tensors; the nearest",
        ),
        (&["-t", "encodr.*"], "nearest is encoder."),
        (&["--select", "Q=1"], "no tensor is as the options say: "),
        (&["--select", "Q=1"], "has no axis Q: the last four are N, C, H, W"),
        (&["--reduce", "Q=mean"], "has no axis Q"),
        (&["--layout", "NHWC", "--select", "X=1"], "no axis X"),
        (&["--layout", "ABCDEHW"], "no tensor is as the options say: "),
        (&["-t", "sentence_embedding", "--channel", "1"], "needs a third axis"),
        (&["--layout", "atuo"], "most likely auto is meant"),
        (&["--limit", "0"], "0 is not in 1.."),
        (&["--sample", "0"], "0 is not in 1.."),
    ];
    for (options, part) in cases {
        let args = [&["convert", sample(), "-o", &out], options].concat();
        let code = if options.contains(&"--device") { 1 } else { 2 };
        let (_, said) = ends_with(code, &args);
        assert!(said.contains(part), "{options:?}: {said}");
        assert!(!Path::new(&out).exists(), "{options:?}");
    }
}

/// The lines of a manifest, the first one apart.
fn manifest(out: &str) -> (Value, Vec<Value>) {
    let text = fs::read_to_string(Path::new(out).join("manifest.jsonl")).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.next().unwrap(), lines.collect())
}

/// JSON of one tensor's description.
fn description(file: &Path) -> Value {
    let bytes = fs::read(file).unwrap();
    let text: String = bytes.iter().map(|&b| char::from(b)).collect();
    let json = text.split("tensortiff=").nth(1).unwrap().split('\n').next().unwrap();
    serde_json::from_str(json).unwrap()
}

/// What undoes the normalization is in the file and in the manifest alike.
/// Options, the names of the two numbers, and what stands beside them.
type Case<'a> = (&'a [&'a str], [&'a str; 2], &'a [(&'a str, &'a str)]);

#[test]
fn files_and_manifest_say_what_was_done() {
    let cases: [Case<'_>; 4] = [
        (&["--norm", "percentile", "--scope", "tensor"], ["lo", "hi"], &[("clip", "1.0,99.0")]),
        (&["--norm", "zscore", "--scope", "dump"], ["mean", "std"], &[]),
        (
            &["--norm", "fixed", "--range", "-1,1", "--out-range", "0,255", "--gamma", "0.5"],
            ["lo", "hi"],
            &[("range", "-1.0,1.0"), ("out-range", "0.0,255.0"), ("gamma", "0.5")],
        ),
        (&["--norm", "symmetric", "--scope", "channel"], ["lo", "hi"], &[]),
    ];
    for (options, names, besides) in cases {
        let (_dir, out) = folder();
        ends_with(0, &[&["convert", "-q", sample(), "-o", &out], options].concat());
        let (head, lines) = manifest(&out);
        let rule = &head["options"]["rule"];
        for (name, value) in besides {
            assert_eq!(rule[name], *value, "{options:?}");
        }
        for line in lines {
            let told = description(&Path::new(&out).join(line["name"].as_str().unwrap()));
            assert_eq!(told["norm"], options[1]);
            assert_eq!(told["scope"], *rule.get("scope").unwrap_or(&Value::from("image")));
            for name in names {
                assert!(line[name].is_f64(), "{options:?} {line}");
                assert_eq!(line[name], told[name], "{options:?}");
                // As it was used: rounded to the type that all was computed in.
                let number = told[name].as_f64().unwrap();
                #[allow(clippy::cast_possible_truncation, reason = "that is the question")]
                let rounded = f64::from(number as f32);
                assert!(number.to_bits() == rounded.to_bits(), "{options:?}: {number}");
            }
            for (name, value) in besides {
                assert_eq!(told[name], *value, "{options:?}");
            }
            let other = if names[0] == "lo" { "mean" } else { "lo" };
            assert!(told.get(other).is_none() && line.get(other).is_none_or(Value::is_null));
        }
    }
}

#[test]
fn what_became_of_samples_is_in_the_summary() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("d.npy");
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let head = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 10, 10), }";
    bytes.extend(format!("{head:<117}\n").bytes());
    // One that is not finite; all the same but one; all the same.
    let mut samples = vec![0.5_f32; 300];
    (0..100).for_each(|i| samples[i] = f32::from(u8::try_from(i).unwrap()));
    samples[7] = f32::NAN;
    samples[100] = 9.0;
    bytes.extend(samples.iter().flat_map(|x| x.to_le_bytes()));
    fs::write(&dump, bytes).unwrap();
    let cases = [
        ("keep", "kept, not in any range: 1 NaN in 1 image;"),
        ("zero", "made 0: 1 NaN in 1 image;"),
        ("clamp", "made 0 or 1: 1 NaN in 1 image;"),
    ];
    for (nonfinite, part) in cases {
        let out = dir.path().join(nonfinite);
        let (dump, out) = (dump.to_str().unwrap(), out.to_str().unwrap());
        let norm = ["--norm", "percentile", "--clip", "2,98", "--constant", "half"];
        let args = ["convert", "-v", dump, "-o", out, "--nonfinite", nonfinite];
        let (_, said) = ends_with(0, &[&args[..], &norm].concat());
        assert!(said.contains(part), "{said}");
        assert!(said.contains("1 image with a range without width"), "{said}");
        assert!(said.contains("1 constant image (made 0.5)"), "{said}");
    }
    let out = dir.path().join("fail");
    let (dump, out) = (dump.to_str().unwrap(), out.to_str().unwrap());
    let (_, said) = ends_with(3, &["convert", dump, "-o", out, "--nonfinite", "fail"]);
    assert!(said.contains("d/0.tif: 1 NaN and 0 infinite samples"), "{said}");
    let (_, lines) = manifest(out);
    assert_eq!(lines[0]["error"], "it has samples that are not finite");
}

/// A range that only f64 holds is one for what is computed in it, there and back.
#[test]
fn a_range_of_64_bits_is_for_types_of_64() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (dump, out) = (at("d.npy"), at("out"));
    let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    let head = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }";
    bytes.extend(format!("{head:<117}\n").bytes());
    let samples = [-5.0, 0.0, 5.0, 10.0, 20.0, 1e9].map(|x| 1_700_000_000.0 + x);
    bytes.extend(samples.iter().flat_map(|x: &f64| x.to_le_bytes()));
    fs::write(&dump, bytes).unwrap();
    let range = ["--norm", "fixed", "--range", "1700000000,1700000020"];
    ends_with(0, &[&["convert", &dump, "-o", &out], &range[..]].concat());
    let file = fs::read(Path::new(&out).join("d/d.tif")).unwrap();
    let pixels: Vec<f32> = file[file.len() - 24..]
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
        .collect();
    assert_eq!(pixels, [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]);
    let (_, lines) = manifest(&out);
    assert_eq!([&lines[0]["lo"], &lines[0]["hi"]], [1_700_000_000.0, 1_700_000_020.0]);
    ends_with(0, &["verify", &out, "--against"]);
    let (_, said) = ends_with(0, &["restore", &out, "--against", "-o", &at("r.safetensors")]);
    assert!(said.contains("4 samples are at its ends"), "{said}");
    let (_, said) =
        ends_with(1, &[&["convert", &dump, "-o", &at("g"), "-d", "gpu"], &range[..]].concat());
    assert!(said.contains("computed in f64") || said.contains("no "), "{said}");
}

#[test]
fn another_rule_is_not_gone_on_with() {
    let (_dir, out) = folder();
    let clip = |clip| {
        ["convert", sample(), "-o", &out, "--norm", "percentile", "--clip", clip, "--resume"]
    };
    ends_with(0, &clip("1,99"));
    let (_, said) = ends_with(0, &clip("1,99"));
    assert!(said.contains("nothing to do"), "{said}");
    let (_, said) = ends_with(1, &clip("2,98"));
    assert!(said.contains("--clip was 1.0,99.0, and now is 2.0,98.0"), "{said}");
    let (_, said) = ends_with(1, &[&clip("1,99")[..], &["--scope", "tensor"]].concat());
    assert!(said.contains("--scope was the default, and now is tensor"), "{said}");
}

/// The ranges are in the plan, and no shard looks for its own.
#[cfg(unix)]
#[test]
fn shards_share_the_ranges_of_their_plan() {
    let dir = trees::folder();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (plan, out, whole) = (path("plan.jsonl"), path("out"), path("whole"));
    for (norm, scope) in [("percentile", "tensor"), ("zscore", "dump"), ("minmax", "channel")] {
        let norm = ["--norm", norm, "--scope", scope];
        ends_with(0, &[&["convert", "-q", sample(), "-o", &whole], &norm[..]].concat());
        let make = ["plan", sample(), "--shards", "4", "-o", &plan];
        ends_with(0, &[&make[..], &norm].concat());
        for shard in ["2", "0", "3", "1"] {
            ends_with(0, &["convert", "-q", &plan, "-o", &out, "--shard", shard]);
        }
        ends_with(0, &["merge", &plan, &out]);
        trees::same(&trees::tree(&out), &trees::tree(&whole), scope);
        fs::remove_dir_all(&out).unwrap();
        fs::remove_dir_all(&whole).unwrap();
    }
    let text = fs::read_to_string(&plan).unwrap();
    let at = text.find("\"range\":\"linear ").unwrap();
    let end = at + text[at..].find('\n').unwrap();
    let with = |range: &str| format!("{}\"range\":\"{range}\"}}{}", &text[..at], &text[end..]);
    // Nor one that is another than was found.
    fs::write(&plan, with("linear -1000.0 1000.0")).unwrap();
    let (_, said) = ends_with(1, &["convert", "-q", &plan, "-o", &out, "--shard", "0"]);
    assert!(said.contains("its ranges are not those"), "{said}");
    fs::write(&plan, &text).unwrap();
    let mut other = Shards::read(plan.as_ref()).unwrap();
    other.ranges[0] = Range::Linear { lo: -1000.0, hi: 1000.0, clamp: false };
    other.head.ranges = shards::sum(&other.ranges);
    other.write(&mut fs::File::create(&plan).unwrap()).unwrap();
    ends_with(0, &["convert", "-q", &plan, "-o", &out, "--shard", "0"]);
    let first = Path::new(&out).join("minilm/encoder.layer.0.attention.probs/0_00.tif");
    assert_eq!(description(&first)["hi"], 1000.0);
    fs::write(&plan, with("linear 2 1")).unwrap();
    let (_, said) = ends_with(1, &["convert", "-q", &plan, "-o", &out, "--shard", "1"]);
    assert!(said.contains("linear 2 1 is no range"), "{said}");
    fs::write(&plan, &text[..text[..at].rfind('\n').unwrap() + 1]).unwrap();
    let (_, said) = ends_with(1, &["convert", "-q", &plan, "-o", &out, "--shard", "1"]);
    assert!(said.contains("it ends after 0 of"), "{said}");
}
