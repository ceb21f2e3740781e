//! Files of `torch.save`: what torch wrote is read as torch has it (`scripts/make-torch-golden.py` made the
//! files), and pickles that want something done are refused by name, and nothing of it is done.

#![allow(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test data is small, and a test that panics says where"
)]

mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::Random;
use damage::archive;
use tensortiff::{Dtype, DumpFiles, Error, MemorySink, Options, Source as _, convert};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch").join(name)
}

fn bytes(source: &DumpFiles, tensor: usize) -> Vec<u8> {
    let mut bytes = vec![0; source.tensors()[tensor].bytes().unwrap() as usize];
    source.read_at(tensor, 0, &mut bytes).unwrap();
    bytes
}

/// torch's name of a type.
fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bool => "bool",
        Dtype::U8 => "uint8",
        Dtype::I8 => "int8",
        Dtype::F8E4m3 => "float8_e4m3fn",
        Dtype::F8E5m2 => "float8_e5m2",
        Dtype::F8E8m0 => "float8_e8m0fnu",
        Dtype::F8E4m3Fnuz => "float8_e4m3fnuz",
        Dtype::F8E5m2Fnuz => "float8_e5m2fnuz",
        Dtype::F4 | Dtype::F6E2m3 | Dtype::F6E3m2 => panic!("torch has no {dtype}"),
        Dtype::U16 => "uint16",
        Dtype::I16 => "int16",
        Dtype::F16 => "float16",
        Dtype::Bf16 => "bfloat16",
        Dtype::U32 => "uint32",
        Dtype::I32 => "int32",
        Dtype::F32 => "float32",
        Dtype::U64 => "uint64",
        Dtype::I64 => "int64",
        Dtype::F64 => "float64",
    }
}

const WRITTEN: [&str; 15] = [
    "state_dict",
    "nested",
    "list",
    "bare",
    "transposed",
    "views",
    "expanded",
    "parameters",
    "shared",
    "dtypes",
    "odd",
    "ordered",
    "beside",
    "protocol5",
    "small",
];

#[test]
fn what_torch_wrote_is_read_as_torch_has_it() {
    for name in WRITTEN {
        let source = DumpFiles::open(&[golden(&format!("{name}.pt"))]).unwrap();
        let expected = DumpFiles::open(&[golden(&format!("{name}.npz"))]).unwrap();
        assert_eq!(source.dumps()[0].stem, name);
        let found: BTreeMap<String, Vec<u8>> = (0..source.tensors().len())
            .map(|at| {
                let tensor = &source.tensors()[at];
                let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
                let dtype = torch_name(tensor.dtype);
                (format!("{}|{dtype}|{}", tensor.name, shape.join("x")), bytes(&source, at))
            })
            .collect();
        let wanted: BTreeMap<String, Vec<u8>> = (0..expected.tensors().len())
            .map(|at| (expected.tensors()[at].name.clone(), bytes(&expected, at)))
            .collect();
        assert!(!wanted.is_empty());
        assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{name}");
        assert!(found == wanted, "{name}");
        // Parts of each, as backends read them.
        let mut random = Random(1);
        for at in 0..source.tensors().len() {
            let whole = bytes(&source, at);
            for _ in 0..20 {
                let from = random.below(whole.len() as u64 + 1) as usize;
                let count = random.below((whole.len() - from) as u64 + 1) as usize;
                let mut part = vec![0; count];
                source.read_at(at, from as u64, &mut part).unwrap();
                assert!(part == whole[from..from + count], "{name}, tensor {at}");
            }
        }
        let report = convert(&source, &MemorySink::default(), &Options::default()).unwrap();
        assert_eq!(report.failed, 0, "{name}");
    }
    let source = DumpFiles::open(&[golden("protocol4.pt")]).unwrap();
    assert_eq!(source.tensors()[0].shape, [5, 4]);
    let source = DumpFiles::open(&[golden("complex.pt")]).unwrap();
    assert_eq!((source.tensors().len(), source.unsupported()[0].dtype.as_str()), (1, "complex64"));
}

/// The wide ones are float32, made by torch.
#[test]
fn every_code_of_torchs_small_floats_is_what_torch_says() {
    let source = DumpFiles::open(&[golden("small.pt")]).unwrap();
    let sink = MemorySink::default();
    let options = Options {
        rule: tensortiff::Norm::None.into(),
        devices: "cpu".parse().unwrap(),
        ..Options::default()
    };
    assert_eq!(convert(&source, &sink, &options).unwrap().images, 9);
    let files = sink.into_files();
    for kind in ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"] {
        let dtype = source.tensors().iter().find(|t| t.name == kind).unwrap().dtype;
        assert_ne!(dtype, Dtype::F32, "{kind}");
        let pixels = |what: &str| common::pixels(&files[&format!("small/{kind}{what}.tif")]);
        let (codes, turned) = (pixels(""), pixels("-turned"));
        assert_eq!(codes, pixels("-wide"), "{kind}");
        let at = |k: usize| codes[k % 8 * 32 + k / 8];
        assert!(turned.iter().enumerate().all(|(k, pixel)| *pixel == at(k)), "{kind}");
    }
}

/// torch turns the signs when it loads such: the bytes in the file are not the values.
#[test]
fn tensors_that_are_negated_when_they_are_read_are_not_converted() {
    let source = DumpFiles::open(&[golden("lazy.pt")]).unwrap();
    let unsupported: Vec<(&str, &str)> = source
        .unsupported()
        .iter()
        .map(|tensor| (tensor.tensor.as_str(), tensor.dtype.as_str()))
        .collect();
    assert_eq!(source.tensors()[0].name, "w");
    assert_eq!(
        unsupported,
        [
            ("n", "F32 with torch's neg bit (see resolve_neg)"),
            ("c", "complex64 with torch's conj or neg bit (see resolve_conj)"),
        ]
    );
}

#[test]
fn what_is_no_dump_of_tensors_is_refused_by_name() {
    for (name, part) in [
        ("legacy.pt", "python -c 'import torch; torch.save(torch.load(\"old.pt\", "),
        ("legacy4.pt", "\"new.pt\")' makes a new one of it"),
        ("storage.pt", "s.u is a storage, and no tensor"),
        ("key.pt", "a tensor's key is neither text nor a whole number"),
        ("attribute.pt", "has a tensor as its attribute"),
        ("ordered-attribute.pt", "has a tensor as its attribute"),
        (
            "module.pt",
            "wants Python to load torch.nn.modules.container.Sequential, which is not done",
        ),
        ("numpy.pt", "numpy"),
    ] {
        let error = DumpFiles::open(&[golden(name)]).unwrap_err();
        assert!(matches!(error, Error::Unread { format: "torch", .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains(part), "{text}");
        // The files are sound.
        assert!(!text.contains("not a valid") && text.lines().count() == 1, "{text}");
    }
}

/// A file with this pickle, and a storage of 16 bytes.
fn file(pickle: &[u8]) -> Vec<u8> {
    archive(&[("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", &[7; 16])])
}

/// The pickle of one tensor of four f32, with `arguments` behind its storage.
fn tensor(key: &str, count: &str, arguments: &str) -> Vec<u8> {
    let text =
        |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text(key),
        text("cpu"),
        count.as_bytes().to_vec(),
        b"tQ".to_vec(),
        arguments.as_bytes().to_vec(),
        b"\x89}tR.".to_vec(),
    ]
    .concat()
}

/// A pickle that holds a tensor 3^`times` times under a key.
fn many(tensor: &[u8], times: u8, key: &str) -> Vec<u8> {
    let tensor = &tensor[2..tensor.len() - 1];
    let tripled = |at: u8| [b'h', at, b'h', at, b'h', at, 0x87, b'q', at + 1, b'0'];
    [
        &b"\x80\x02"[..],
        tensor,
        b"q\x000",
        &(0..times).flat_map(tripled).collect::<Vec<u8>>(),
        b"}X",
        &(key.len() as u32).to_le_bytes(),
        key.as_bytes(),
        &[b'h', times, b's', b'.'],
    ]
    .concat()
}

#[test]
fn hostile_pickles_execute_nothing_and_say_why() {
    let dir = trees::folder();
    let path = dir.path().join("h.pt");
    let witness = dir.path().join("witness");
    let touch = format!("touch {}", witness.display());
    let system = |global: &str| {
        [
            b"\x80\x02c",
            global.as_bytes(),
            b"\n(X",
            &(touch.len() as u32).to_le_bytes(),
            touch.as_bytes(),
            b"tR.",
        ]
        .concat()
    };
    // In bytes: a TUPLE2 is 0x86, which is no character of UTF-8.
    let with = |key: &str, count: &[u8], offset: &[u8], size: &[u8], stride: &[u8]| {
        let mut bytes = tensor(key, "COUNT", "ARGUMENTS");
        for (what, by) in [(&b"COUNT"[..], count), (b"ARGUMENTS", &[offset, size, stride].concat())]
        {
            let at = bytes.windows(what.len()).position(|window| window == what).unwrap();
            bytes.splice(at..at + what.len(), by.iter().copied());
        }
        bytes
    };
    let two = b"K\x02K\x02\x86";
    fs::write(&path, file(&with("0", b"K\x04", b"K\x00", two, b"K\x02K\x01\x86"))).unwrap();
    let source = DumpFiles::open(&[&path]).unwrap();
    assert_eq!((source.tensors()[0].name.as_str(), bytes(&source, 0)), ("h", vec![7; 16]));
    let tensor = with("0", b"K\x04", b"K\x00", two, b"K\x02K\x01\x86");
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("os.system", system("os\nsystem"), "load os.system, which is not done"),
        ("posix.system", system("posix\nsystem"), "load posix.system"),
        ("eval", system("builtins\neval"), "load builtins.eval"),
        ("torch.load", system("torch\nload"), "load torch.load"),
        ("a type is called", system("torch\nFloatStorage"), "not called so"),
        ("stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93.".to_vec(), "load os.system"),
        ("INST", b"\x80\x02(ios\nsystem\n.".to_vec(), "opcode 0x69"),
        ("OBJ", b"\x80\x02(cos\nsystem\no.".to_vec(), "load os.system"),
        ("EXT1", b"\x80\x02\x82\x01.".to_vec(), "opcode 0x82"),
        ("NEWOBJ_EX", b"\x80\x04)}}\x92.".to_vec(), "opcode 0x92"),
        ("PERSID", b"\x80\x02Pname\n.".to_vec(), "opcode 0x50"),
        ("build", b"\x80\x02K\x01}b.".to_vec(), "what is no dictionary"),
        ("call of a number", b"\x80\x02K\x01)R.".to_vec(), "what is no global"),
        ("protocol 0", b"cos\nsystem\n(S'x'\ntR.".to_vec(), "load os.system"),
        ("protocol 9", b"\x80\x09.".to_vec(), "protocol 9"),
        ("empty", Vec::new(), "ends too early"),
        ("no stop", b"\x80\x02}".to_vec(), "ends too early"),
        ("nothing left", b"\x80\x02.".to_vec(), "too few values"),
        ("memo", b"\x80\x02h\x07.".to_vec(), "memo 7"),
        ("marks", b"\x80\x02t.".to_vec(), "a mark is missing"),
        ("below a mark", b"\x80\x02K\x01(\x85.".to_vec(), "too few values"),
        ("odd items", b"\x80\x02}(K\x01u.".to_vec(), "without a value"),
        ("a long text", b"\x80\x02X\xff\xff\xff\xff.".to_vec(), "ends too early"),
        (
            "deep tuples",
            [b"\x80\x02)".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat(),
            "100 deep",
        ),
        (
            "deep lists",
            [b"\x80\x02".to_vec(), b"]".repeat(1_000_000), b"a".repeat(999_999), b".".to_vec()]
                .concat(),
            "100 deep",
        ),
        ("a list in itself", b"\x80\x02]q\x00h\x00a.".to_vec(), "100 deep"),
        (
            "a billion laughs",
            [
                b"\x80\x02]".to_vec(),
                (0..40_u8)
                    .flat_map(|at| [b'q', at, b']', b'h', at, b'a', b'h', at, b'a'])
                    .collect(),
                b".".to_vec(),
            ]
            .concat(),
            "too many values",
        ),
        ("many opcodes", [&b"\x80\x02"[..], &b"N0".repeat(10_000_000)].concat(), "opcodes"),
        ("many tensors", many(&tensor, 14, ""), "lists too many tensors"),
        ("long names", many(&tensor, 8, &"k".repeat(1 << 20)), "lists too many tensors"),
        (
            "many axes",
            with(
                "0",
                b"K\x04",
                b"K\x00",
                &[&b"("[..], &b"K\x01".repeat(65), b"t"].concat(),
                &[&b"("[..], &b"K\x01".repeat(65), b"t"].concat(),
            ),
            "other arguments",
        ),
        (
            "no storage",
            with("9", b"K\x04", b"K\x00", two, b"K\x02K\x01\x86"),
            "storage 9 is not in the archive",
        ),
        (
            "a storage elsewhere",
            with("../byteorder", b"K\x01", b"K\x00", two, two),
            "is not in the archive",
        ),
        (
            "a short storage",
            with("0", b"K\x05", b"K\x00", two, b"K\x02K\x01\x86"),
            "fewer than are said",
        ),
        (
            "a negative storage",
            with("0", b"J\xff\xff\xff\xff", b"K\x00", two, two),
            "fewer than are said",
        ),
        ("an offset", with("0", b"K\x04", b"K\x01", two, b"K\x02K\x01\x86"), "leaves its storage"),
        ("a stride", with("0", b"K\x04", b"K\x00", two, b"K\x03K\x01\x86"), "leaves its storage"),
        (
            "a huge stride",
            with("0", b"K\x04", b"K\x00", two, &[&huge[..], b"K\x01\x86"].concat()),
            "leaves its storage",
        ),
        (
            "a huge shape",
            with("0", b"K\x04", b"K\x00", &[huge, huge, &b"\x86"[..]].concat(), b"K\x00K\x00\x86"),
            "leaves its storage",
        ),
        (
            "a negative axis",
            with("0", b"K\x04", b"K\x00", b"J\xff\xff\xff\xffK\x02\x86", two),
            "other arguments",
        ),
        (
            "axes",
            with("0", b"K\x04", b"K\x00", two, b"K\x01\x85"),
            "more strides than axes, or fewer",
        ),
    ];
    for (name, pickle, part) in &cases {
        fs::write(&path, file(pickle)).unwrap();
        match DumpFiles::open(&[&path]) {
            Ok(source) => assert!(part.is_empty(), "{name}: {:?}", source.tensors()),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("h.pt") && text.contains(part), "{name}: {text}");
                assert_eq!(text.lines().count(), 1, "{name}: {text}");
            }
        }
        assert!(!witness.exists(), "{name}");
    }
    assert!(cases.len() > 30);
}

/// A tensor that is nowhere in the list would be lost in silence.
#[test]
fn tensors_in_odd_places_are_refused_with_the_place() {
    let dir = trees::folder();
    let path = dir.path().join("o.pt");
    let two = b"K\x02K\x02\x86";
    let arguments = [&b"K\x00"[..], two, b"K\x02K\x01\x86"].concat();
    let mut whole = tensor("0", "COUNT", "ARGUMENTS");
    for (what, by) in [(&b"COUNT"[..], b"K\x04".to_vec()), (b"ARGUMENTS", arguments)] {
        let at = whole.windows(what.len()).position(|window| window == what).unwrap();
        whole.splice(at..at + what.len(), by);
    }
    let one = &whole[2..whole.len() - 1];
    // The hooks of a tensor are the dictionary behind its strides.
    let hooked = [&one[..one.len() - 3], b"}X\x01\0\0\0h", one, b"stR"].concat();
    for (before, with, behind, part) in [
        ("}", one, "K\u{1}s", "is the key of a dictionary"),
        ("}(", one, "K\u{2}tK\u{1}s", "is the key of a dictionary"),
        ("}]", one, "aK\u{1}s", "is the key of a dictionary"),
        ("ctorch\ndevice\n(", one, "tR", "an argument of torch.device"),
        ("cbuiltins\nbytearray\n(", one, "tR", "an argument of builtins.bytearray"),
        ("ccollections\nCounter\n((", one, "ttR", "an argument of collections.Counter"),
        ("cbuiltins\ncomplex\n(](", one, "eK\u{1}tR", "an argument of builtins.complex"),
        ("]", &hooked, "a", "as its hook"),
    ] {
        let pickle = [b"\x80\x02", before.as_bytes(), with, behind.as_bytes(), b"."].concat();
        fs::write(&path, file(&pickle)).unwrap();
        match DumpFiles::open(&[&path]) {
            Ok(source) => panic!("{part}: {:?}", source.tensors()),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("o.pt: this torch file is not read: "), "{text}");
                assert!(text.contains(part) && text.lines().count() == 1, "{text}");
            }
        }
    }
}

/// As Python reads it.
#[test]
fn the_last_value_of_a_key_counts() {
    let dir = trees::folder();
    let path = dir.path().join("k.pt");
    let of = |rows: &[u8]| {
        let mut whole = tensor("0", "COUNT", "ARGUMENTS");
        let arguments = [&b"K\x00"[..], rows, b"K\x01K\x01\x86"].concat();
        for (what, by) in [(&b"COUNT"[..], b"K\x04".to_vec()), (b"ARGUMENTS", arguments)] {
            let at = whole.windows(what.len()).position(|window| window == what).unwrap();
            whole.splice(at..at + what.len(), by);
        }
        whole[2..whole.len() - 1].to_vec()
    };
    let [first, second] = [of(b"K\x01K\x01\x86"), of(b"K\x01K\x02\x86")];
    let key = |name: &str| [b"X\x01\0\0\0", name.as_bytes()].concat();
    let pickle = [
        &b"\x80\x02}"[..],
        &[key("a"), first.clone(), b"s".to_vec()].concat(),
        &[b"(".to_vec(), key("b"), second.clone(), key("a"), second.clone(), b"u".to_vec()]
            .concat(),
        &[b"(K\x07".to_vec(), second, b"K\x07".to_vec(), first, b"u.".to_vec()].concat(),
    ]
    .concat();
    fs::write(&path, file(&pickle)).unwrap();
    let source = DumpFiles::open(&[&path]).unwrap();
    let mut found: Vec<(&str, &[u64])> =
        source.tensors().iter().map(|tensor| (tensor.name.as_str(), &*tensor.shape)).collect();
    found.sort_unstable();
    assert_eq!(found, [("7", &[1, 1][..]), ("a", &[1, 2]), ("b", &[1, 2])]);
}

/// Expanded tensors may be of any size together.
#[test]
#[cfg(feature = "cli")]
fn the_bytes_of_all_are_told_if_they_are_more_than_can_be_counted() {
    let dir = trees::folder();
    let path = dir.path().join("e.pt");
    // Twice 2^63 bytes.
    let arguments =
        [&b"K\x00J\x00\x00\x00\x40\x8a\x05\x00\x00\x00\x80\x00\x86"[..], b"K\x00K\x00\x86"];
    let mut one = tensor("0", "COUNT", "ARGUMENTS");
    for (what, by) in [(&b"COUNT"[..], b"K\x04".to_vec()), (b"ARGUMENTS", arguments.concat())] {
        let at = one.windows(what.len()).position(|window| window == what).unwrap();
        one.splice(at..at + what.len(), by);
    }
    let one = &one[2..one.len() - 1];
    let pickle = [&b"\x80\x02]"[..], one, b"q\x00ah\x00a."].concat();
    fs::write(&path, file(&pickle)).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tensortiff"))
        .arg("ls")
        .arg(&path)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("2 tensors, 1"), "{told}");
}

/// Whatever is done to a file, there is an answer.
#[test]
fn damaged_files_are_read_or_refused() {
    let inputs = damage::inputs(20_000);
    let dir = trees::folder();
    let path = dir.path().join("d.pt");
    let mut random = Random(5);
    let wholes: Vec<Vec<u8>> = ["nested", "views", "ordered", "dtypes"]
        .iter()
        .map(|name| fs::read(golden(&format!("{name}.pt"))).unwrap())
        .collect();
    let ranges: Vec<_> = wholes.iter().map(|whole| damage::pickle_in(whole)).collect();
    let (mut opened, mut refused) = (0_u64, 0);
    for _ in 0..inputs {
        let which = random.below(wholes.len() as u64) as usize;
        let bytes = damage::torch(&mut random, &wholes[which], &ranges[which]);
        fs::write(&path, &bytes).unwrap();
        match DumpFiles::open(&[&path]) {
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(text.lines().count() == 1 && text.len() < 2500, "{text}");
            }
            Ok(source) => {
                opened += 1;
                for (at, tensor) in source.tensors().iter().enumerate() {
                    // Expanded ones may be of any size: their first bytes.
                    let size = tensor.bytes().unwrap().min(4096) as usize;
                    source.read_at(at, 0, &mut vec![0; size]).unwrap();
                }
            }
        }
    }
    assert!(opened * 20 > inputs && refused * 4 > inputs, "{opened} opened, {refused} refused");
}
