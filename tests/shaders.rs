//! The shaders as text, without a GPU: they parse, validate with no optional capability, stay
//! within WebGPU's floor, and agree with Rust about everything that both name.
#![cfg(feature = "gpu")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

use std::collections::BTreeSet;
use std::mem::offset_of;
use std::path::Path;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Literal, Module, Statement, TypeInner};
use tensortiff::backend::cpu::range::{self, DeviceExtent, DeviceRange};
use tensortiff::backend::cpu::widen;
use tensortiff::backend::gpu::kernels::Kernel;
use tensortiff::backend::gpu::layout::{self, Image, Params, Tile};
use tensortiff::{Dtype, Norm};

fn module(kernel: Kernel) -> (Module, ModuleInfo) {
    let source = kernel.source();
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.stem(), e.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}: {}", kernel.stem(), e.emit_to_string(source)));
    (module, info)
}

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn stems(folder: &str, extension: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_kernel_validates_without_optional_capabilities() {
    for kernel in Kernel::ALL {
        module(kernel);
    }
}

#[test]
fn structs_have_the_offsets_that_rust_gives_them() {
    type Fields<'a> = Vec<(&'a str, usize)>;
    macro_rules! fields {
        ($type:ty: $($field:ident)*) => {
            (vec![$((stringify!($field), offset_of!($type, $field))),*], size_of::<$type>())
        };
    }
    let wanted: [(&str, (Fields<'_>, usize)); 5] = [
        (
            "Params",
            fields!(Params: dtype norm images normalize_at small_at small settled prefixes sums
                unused_0 unused_1 unused_2),
        ),
        ("Image", fields!(Image: first_byte first_pixel samples ranged)),
        ("Tile", fields!(Tile: image first_sample)),
        ("Extent", fields!(DeviceExtent: max_key max_inverse_key nan pos_inf neg_inf visited)),
        ("Range", fields!(DeviceRange: mode lo hi divisor_mantissa divisor_exponent)),
    ];
    for kernel in Kernel::ALL {
        let (module, _) = module(kernel);
        for (name, (fields, size)) in &wanted {
            let found = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(*name));
            let (_, found) = found.unwrap_or_else(|| panic!("{}: no {name}", kernel.stem()));
            let TypeInner::Struct { members, span } = &found.inner else {
                panic!("{name} is no struct")
            };
            let members: Fields<'_> =
                members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
            assert_eq!((&members, *span as usize), (fields, *size), "{}: {name}", kernel.stem());
        }
    }
}

#[test]
fn constants_are_those_of_rust() {
    let dtypes = Dtype::ALL.into_iter().filter_map(|dtype| {
        let name = format!("DTYPE_{}", dtype.name());
        layout::dtype_code(dtype).map(|code| (name, code))
    });
    let mut wanted: Vec<(String, u32)> = dtypes.collect();
    assert_eq!(wanted.len(), 16);
    wanted.extend(
        [
            ("WORKGROUP", layout::WORKGROUP),
            ("TILE", layout::TILE),
            ("SMALL", layout::SMALL),
            ("LANES", layout::LANES),
            ("KEEP", range::KEEP),
            ("MINMAX", range::MINMAX),
            ("CLAMPED", range::CLAMPED),
            ("GIVEN", layout::GIVEN),
            ("INF", widen::INF),
            ("NAN", tensortiff::tensor::decode::NAN),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    for kernel in Kernel::ALL {
        let (module, _) = module(kernel);
        let found: Vec<(String, u32)> = module
            .constants
            .iter()
            .filter_map(|(_, c)| {
                let Expression::Literal(Literal::U32(value)) = module.global_expressions[c.init]
                else {
                    return None;
                };
                Some((c.name.clone()?, value))
            })
            .collect();
        for want in &wanted {
            assert!(found.contains(want), "{}: {want:?} in {found:?}", kernel.stem());
        }
        if kernel == Kernel::Gather {
            for (name, value) in [
                ("ZEROS", layout::ZEROS_AT),
                ("SUMS", layout::SUMS_AT),
                ("PARTS", layout::SUM_PARTS),
                ("WORDS", layout::GATHERED_WORDS),
                ("PREFIXES", layout::MOST_PREFIXES),
                ("BINS", layout::BINS),
            ] {
                assert!(found.contains(&(name.to_owned(), value)), "{name}");
            }
        }
        if kernel == Kernel::Extent {
            let words = size_of::<DeviceExtent>() as u32 / 4;
            assert!(found.contains(&("EXTENT_WORDS".to_owned(), words)));
        }
    }
    // norm is compared with 0 for none and 2 for symmetric.
    let codes = [Norm::None, Norm::MinMax, Norm::Symmetric].map(layout::norm_code);
    assert_eq!(codes, [0, 1, 2]);
}

#[test]
fn workgroups_stay_within_the_floor() {
    for kernel in Kernel::ALL {
        let (module, _) = module(kernel);
        let [entry] = &module.entry_points[..] else { panic!("one entry point a kernel") };
        assert_eq!(entry.name, "main");
        assert_eq!(entry.workgroup_size, [layout::WORKGROUP, 1, 1], "{}", kernel.stem());
        assert!(entry.workgroup_size[0] <= 256);
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let shared =
            module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
        let bytes: u32 = shared.map(|(_, v)| layouter[v.ty].size).sum();
        assert!(bytes <= 16_384, "{}: {bytes} bytes of workgroup memory", kernel.stem());
        let bound = module.global_variables.iter().filter(|(_, v)| v.binding.is_some()).count();
        assert!(bound <= 8, "{}: {bound} buffers", kernel.stem());
    }
}

/// Loops in a block and in all that it holds.
fn loops(block: &naga::Block) -> usize {
    block
        .iter()
        .map(|statement| match statement {
            Statement::Block(inner) => loops(inner),
            Statement::If { accept, reject, .. } => loops(accept) + loops(reject),
            Statement::Switch { cases, .. } => cases.iter().map(|case| loops(&case.body)).sum(),
            Statement::Loop { body, continuing, .. } => 1 + loops(body) + loops(continuing),
            _ => 0,
        })
        .sum()
}

#[test]
fn no_invocation_loops_more_than_twenty_thousand_times() {
    // What bounds a loop, the line that says so, and the iterations that follow.
    let tiled = "    let end = min(image.samples, tile.first_sample + TILE);";
    let by_tile = "    for (var i = tile.first_sample + local; i < end; i += WORKGROUP) {";
    let few = "    let end = select(0u, min(image.samples, SMALL), is_there);";
    let by_lane = "    for (var i = lane; i < end; i += LANES) {";
    let listed = "    let count = min(params.prefixes, PREFIXES);";
    let by_prefix = "    for (var p = 0u; p < count; p += 1u) {";
    let words = "const WORDS: u32 = 2312u;";
    let by_word = "    for (var word = local; word < WORDS; word += WORKGROUP) {";
    let kinds = [
        (by_tile, tiled, layout::TILE / layout::WORKGROUP),
        (by_lane, few, layout::SMALL / layout::LANES),
        // For each of the samples.
        (by_prefix, listed, layout::MOST_PREFIXES * (layout::TILE / layout::WORKGROUP)),
        (by_word, words, layout::GATHERED_WORDS.div_ceil(layout::WORKGROUP)),
    ];
    for kernel in Kernel::ALL {
        let source = kernel.source();
        let mut iterations = 0;
        let mut known = 0;
        for (head, bound, each) in kinds {
            let count = source.lines().filter(|line| *line == head).count();
            assert!(count == 0 || source.lines().any(|line| line == bound), "{}", kernel.stem());
            known += count;
            iterations += u32::try_from(count).unwrap() * each;
        }
        let (module, _) = module(kernel);
        let functions = module.functions.iter().map(|(_, function)| function);
        let all = functions.chain(module.entry_points.iter().map(|entry| &entry.function));
        let loops: usize = all.map(|function| loops(&function.body)).sum();
        assert_eq!(loops, known, "{}: a loop of unknown length", kernel.stem());
        assert!(iterations <= layout::MOST_ITERATIONS, "{}: {iterations}", kernel.stem());
        println!("{}: at most {iterations} iterations", kernel.stem());
    }
}

#[test]
fn every_shader_has_its_twin() {
    let twins = stems("src/backend/cpu", "rs");
    let kernels = stems("shaders", "wgsl");
    let known: BTreeSet<String> = Kernel::ALL.iter().map(|k| k.stem().to_owned()).collect();
    assert_eq!(kernels, known, "kernels on disk and in Rust");
    for stem in kernels {
        assert!(twins.contains(&stem), "shaders/{stem}.wgsl has no src/backend/cpu/{stem}.rs");
    }
    for stem in stems("shaders/shared", "wgsl") {
        // The layout's twin is what travels.
        let is_there = twins.contains(&stem) || stem == "layout";
        assert!(is_there, "shaders/shared/{stem}.wgsl has no src/backend/cpu/{stem}.rs");
        let line = format!("shared/{stem}.wgsl");
        let twin = match stem.as_str() {
            "layout" => text("src/backend/gpu/layout.rs"),
            _ => text(&format!("src/backend/cpu/{stem}.rs")),
        };
        assert!(twin.contains(&line), "the twin of {line} does not name it");
    }
}

#[test]
fn shaders_name_no_float_that_is_not_an_estimate() {
    // Bits travel as u32. Where a float appears, a person has looked at its range; a new one
    // should be looked at as well.
    let source = Kernel::ALL.map(Kernel::source).join("\n");
    let code = || source.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    for word in ["bitcast", "unpack", "fma(", ": f16", "<f16>", "<f32>"] {
        let line = code().find(|line| line.contains(word));
        assert_eq!(line, None, "{word}");
    }
    let with_floats: BTreeSet<&str> = code().filter(|line| line.contains("f32(")).collect();
    let known = [
        "let divisor = f32(d.mantissa);",
        "let off = f32(rest) / divisor;",
        "var quotient = u32(f32(n.mantissa) / divisor * power) + u32(SPOIL);",
    ];
    assert_eq!(with_floats, BTreeSet::from(known));
}
