//! What NumPy makes of tensors by options about their axes (scripts/make-layouts-golden.py), against every
//! device that can make it, and the tool.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[cfg(feature = "cli")]
#[path = "common/tool.rs"]
mod tool;

use std::path::PathBuf;

use common::{bits, files, fleets, pixels, read_safetensors};
use tensortiff::{
    Complex, DumpFiles, Layout, Naming, Options, Reading, Selection, Source as _, View,
};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Options of a case, by name.
fn options(case: &str) -> Vec<(&str, &str)> {
    case.split(' ').map(|option| option.split_once('=').unwrap()).collect()
}

#[test]
fn every_layout_of_every_type_is_numpys_on_every_device() {
    let expected = read_safetensors(&golden("layouts_expected.safetensors"));
    let (mut cases, mut on_gpus) = (0, 0);
    for (case, (_, shape, bytes)) in &expected {
        let (asked, tensor) = case.split_once('|').unwrap();
        let (mut layout, mut complex) = (Layout::default(), None);
        for (option, text) in options(asked) {
            match option {
                "complex" => complex = Some(text.parse::<Complex>().unwrap()),
                _ => layout.add(option, text).unwrap(),
            }
        }
        let reading = Reading { complex, ..Reading::default() };
        let dump = DumpFiles::open_as(&[golden("layouts.safetensors")], &reading).unwrap();
        let view = View::new(dump, layout);
        let info = view.tensors().iter().find(|info| info.name == tensor).unwrap();
        assert_eq!(&info.shape, shape, "{case}");
        let is_wide = info.dtype.is_wide();
        let selection = Selection { tensors: vec![tensor.to_owned()], ..Selection::default() };
        let naming = Naming::Template("{index}.tif".to_owned());
        let options = Options { selection, naming, ..Options::default() };
        for fleet in fleets() {
            // f64 is for the CPU, and some have too few images for two devices to meet at.
            if (is_wide && fleet.label != "cpu") || fleet.label == "both" {
                continue;
            }
            let (made, _) = files(&view, &options, &fleet);
            let found: Vec<u32> = made.values().flat_map(|file| pixels(file)).collect();
            assert_eq!(found, bits(bytes), "{case} on {}", fleet.label);
            on_gpus += u32::from(fleet.label == "gpu");
        }
        cases += 1;
    }
    assert_eq!(cases, 174);
    assert!(cfg!(not(feature = "gpu")) || on_gpus > 90, "{on_gpus} on a GPU");
}

/// The same options as they are typed; in shards as well.
#[test]
#[cfg(feature = "cli")]
fn the_tool_takes_what_the_library_takes() {
    use std::fs;
    use std::path::Path;
    use tool::{ends_with, folder};
    let dump = golden("layouts.safetensors");
    let dump = dump.to_str().unwrap();
    let expected = read_safetensors(&golden("layouts_expected.safetensors"));
    for case in [
        "layout=NHWC select=C=-1 flip=y|float32",
        "complex=abs layout=NHWC|complex64",
        "layout=BDWC select=W=1:9 rows=2|uint8",
        "layout=BTXD select=T=1: reduce=X=l2|float64",
        "flip=xy transpose=|bool",
    ] {
        let (asked, tensor) = case.split_once('|').unwrap();
        let (dir, out) = folder();
        let mut typed = vec!["-t".to_owned(), tensor.to_owned()];
        for (option, text) in options(asked) {
            typed.push(format!("--{option}"));
            typed.extend((!text.is_empty()).then(|| text.to_owned()));
        }
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        let name = ["--name", "{index}.tif"];
        ends_with(0, &[&["convert", dump, "-o", &out, "-q"], &name[..], &typed].concat());
        let made = |out: &str| -> Vec<u32> {
            let mut names: Vec<PathBuf> = fs::read_dir(out)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "tif"))
                .collect();
            names.sort();
            names.iter().flat_map(|name| pixels(&fs::read(name).unwrap())).collect()
        };
        assert!(made(&out) == bits(&expected[case].2), "{case}");
        // Again with the same options nothing is left to do, and with others it is another run.
        let again = [&["convert", dump, "-o", &out, "--resume"], &name[..], &typed].concat();
        let (_, said) = ends_with(0, &again);
        assert!(said.contains("nothing"), "{said}");
        let (_, said) = ends_with(1, &[&again[..], &["--norm", "none", "--flip", "x"]].concat());
        assert!(said.contains("--norm was minmax") || said.contains("--flip was"), "{said}");
        let plan = dir.path().join("plan.jsonl");
        let plan = plan.to_str().unwrap();
        let shards = ["--shards", "3", "-o", plan];
        ends_with(0, &[&["plan", dump], &shards[..], &name, &typed].concat());
        let other = Path::new(&out).with_extension("shards");
        let other = other.to_str().unwrap();
        for shard in ["2", "0", "1"] {
            ends_with(0, &["convert", plan, "-o", other, "--shard", shard, "-q"]);
        }
        ends_with(0, &["merge", plan, other]);
        assert!(made(other) == bits(&expected[case].2), "{case}");
        let (_, said) = ends_with(2, &["convert", plan, "-o", other, "--flip", "x"]);
        assert!(said.contains("--flip") && said.contains("says that"), "{said}");
    }
}

#[test]
#[cfg(feature = "cli")]
fn complex_numbers_want_to_be_told_what_is_made_of_them() {
    use tool::{ends_with, folder};
    let dump = golden("layouts.safetensors");
    let (_dir, out) = folder();
    let (_, said) = ends_with(1, &["convert", dump.to_str().unwrap(), "-o", &out]);
    assert!(said.contains("--complex abs, re or im makes numbers of it"), "{said}");
    let wrong = ["convert", dump.to_str().unwrap(), "-o", &out, "--complex", "phase"];
    let (_, said) = ends_with(2, &wrong);
    assert!(said.contains("it can be abs, re or im"), "{said}");
}
