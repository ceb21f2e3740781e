//! Pixels that NumPy computed (scripts/make-golden.py), against everything that makes pixels.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;

use std::path::PathBuf;

use common::{bits, check_devices, files, fleets, pixels, read_safetensors};
use tensortiff::normalize::oracle;
use tensortiff::{
    Devices, Dtype, DumpFiles, MemorySink, Norm, Options, Report, convert_batch, convert_channel,
    convert_image,
};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Runs a check with the options of each backend.
fn on_every_backend(check: impl Fn(&str, &Options) -> Vec<Report>) {
    for fleet in fleets() {
        let options = Options { devices: fleet.devices.clone(), ..Options::default() };
        for report in check(fleet.label, &options) {
            check_devices(&report, &fleet);
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bits(bytes).into_iter().map(f32::from_bits).collect()
}

#[test]
fn the_scripts_single_images_are_numpys() {
    let inputs = read_safetensors(&golden("original.safetensors"));
    let expected = read_safetensors(&golden("original_expected.safetensors"));
    on_every_backend(|label, options| {
        let on = |name: &str| {
            let (_, shape, bytes) = &inputs[name];
            let sink = MemorySink::default();
            let report = convert_image(&floats(bytes), shape, name, &sink, options).unwrap();
            assert_eq!(report.images, 1);
            let file = &sink.into_files()[&format!("{name}.tif")];
            assert_eq!(pixels(file), bits(&expected[name].2), "{name} on {label}");
            report
        };
        ["image", "one", "row", "zeros"].map(on).into()
    });
}

#[test]
fn the_scripts_batch_is_numpys() {
    let (_, shape, bytes) = &read_safetensors(&golden("original.safetensors"))["batch"];
    let expected = read_safetensors(&golden("original_expected.safetensors"));
    let names = ["a.tif", "b", "c", "d.TIFF", "e", "f"];
    let written = ["a.tif", "b.tif", "c.tif", "d.TIFF", "e.tif", "f.tif"];
    on_every_backend(|label, options| {
        let sink = MemorySink::default();
        let report = convert_batch(&floats(bytes), shape, &names, &sink, options).unwrap();
        assert_eq!((report.images, report.samples.constant_images), (6, 1));
        let files = sink.into_files();
        let expected = bits(&expected["batch"].2);
        for (name, expected) in written.iter().zip(expected.chunks(expected.len() / 6)) {
            assert_eq!(pixels(&files[*name]), expected, "{name} on {label}");
        }
        vec![report]
    });
}

#[test]
fn the_scripts_channel_is_numpys() {
    let (_, shape, bytes) = &read_safetensors(&golden("original.safetensors"))["channels"];
    let expected = read_safetensors(&golden("original_expected.safetensors"));
    on_every_backend(|label, options| {
        let sink = MemorySink::default();
        let report = convert_channel(&floats(bytes), shape, 3, "c", &sink, options).unwrap();
        assert_eq!(report.images, 1);
        let file = &sink.into_files()["c.tif"];
        assert_eq!(pixels(file), bits(&expected["channel_3"].2), "on {label}");
        vec![report]
    });
}

#[test]
fn the_scripts_checks_are_errors() {
    let sink = MemorySink::default();
    let options =
        Options { devices: Devices::List(vec![tensortiff::Device::Cpu]), ..Options::default() };
    let samples = [0.0; 8];
    let wrong = [
        (convert_image(&samples, &[2, 2, 2], "a", &sink, &options), "[2, 2, 2] has 3 axes"),
        (convert_image(&samples, &[2, 3], "a", &sink, &options), "does not take 32 bytes"),
        (convert_batch(&samples, &[2, 4], &["a", "b"], &sink, &options), "N×H×W"),
        (convert_batch(&samples, &[2, 2, 2], &["a"], &sink, &options), "not 1"),
        (convert_channel(&samples, &[2, 2, 2], 2, "a", &sink, &options), "no channel 2 among 2"),
        (convert_channel(&samples, &[4, 2], 0, "a", &sink, &options), "C×H×W"),
    ];
    for (result, part) in wrong {
        let error = result.unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(part), "{error}");
    }
    assert!(sink.into_files().is_empty());
}

#[test]
fn the_oracle_is_numpy_for_every_dtype() {
    let inputs = read_safetensors(&golden("dtypes.safetensors"));
    let expected = read_safetensors(&golden("dtypes_expected.safetensors"));
    // The others are held in tests/small_floats.rs.
    let small = read_safetensors(&golden("small.safetensors"));
    for dtype in Dtype::ALL {
        let is_there = inputs.contains_key(dtype.name());
        assert!(is_there != small.contains_key(&format!("{dtype}.codes")), "{dtype}");
    }
    for (name, (dtype, shape, bytes)) in &inputs {
        let dtype = Dtype::from_name(dtype).unwrap();
        let expected = bits(&expected[name].2);
        let images = usize::try_from(shape[0]).unwrap();
        let per_image =
            bytes.chunks(bytes.len() / images).zip(expected.chunks(expected.len() / images));
        for (k, (raw, expected)) in per_image.enumerate() {
            let (_, pixels) = oracle::normalize(Norm::MinMax, dtype, raw);
            let pixels: Vec<u32> = pixels.into_iter().map(f32::to_bits).collect();
            assert_eq!(pixels, expected, "{name}[{k}]");
        }
    }
}

#[test]
fn whole_runs_are_numpy_for_every_dtype() {
    let expected = read_safetensors(&golden("dtypes_expected.safetensors"));
    let source = DumpFiles::open(&[golden("dtypes.safetensors")]).unwrap();
    for fleet in fleets() {
        let wide = ["F64", "I32", "U32", "I64", "U64"].map(str::to_owned).to_vec();
        // A GPU alone takes what it can.
        let exclude = if fleet.label == "gpu" { wide } else { Vec::new() };
        let mut options = Options::default();
        options.selection.exclude = exclude.clone();
        let (files, report) = files(&source, &options, &fleet);
        let mut seen = 0;
        for (name, (_, shape, bytes)) in &expected {
            if exclude.contains(name) {
                continue;
            }
            let expected = bits(bytes);
            let images = usize::try_from(shape[0]).unwrap();
            for (k, expected) in expected.chunks(expected.len() / images).enumerate() {
                let digits = if images > 10 { 2 } else { 1 };
                let file = &files[&format!("dtypes/{name}/{k:0digits$}.tif")];
                assert_eq!(pixels(file), expected, "{name}[{k}] on {}", fleet.label);
                seen += 1;
            }
        }
        assert_eq!(seen, report.images);
    }
}
