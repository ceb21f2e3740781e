//! What the suites share: backends to hold against each other, files taken apart, random bits.
//! `meeting` has the run in which both devices have a part of every case.

#![allow(dead_code, reason = "each suite uses its own part")]
#![allow(unreachable_pub, reason = "a module of test binaries")]

#[cfg(feature = "gpu")]
pub mod meeting;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

#[cfg(not(feature = "gpu"))]
use tensortiff::backend::cpu::Cpu;
use tensortiff::{Device, DeviceReport, Devices, MemorySink, Options, Report, Source, convert};

/// The devices of a run, and what the report must say of them.
pub struct Fleet {
    pub label: &'static str,
    pub devices: Devices,
    /// The one device that must have done all images that it can.
    pub only: Option<String>,
}

pub fn cpu() -> Fleet {
    Fleet { label: "cpu", devices: Devices::List(vec![Device::Cpu]), only: Some("cpu".to_owned()) }
}

/// CPU alone, GPU alone, both on one queue.
#[cfg(feature = "gpu")]
pub fn fleets() -> Vec<Fleet> {
    let gpu = gpu();
    let ready = || Device::Ready(Arc::clone(&gpu));
    vec![
        cpu(),
        Fleet {
            label: "gpu",
            devices: Devices::List(vec![ready()]),
            only: Some(gpu.name().to_owned()),
        },
        Fleet { label: "both", devices: Devices::List(vec![Device::Cpu, ready()]), only: None },
    ]
}

/// Software Vulkan, opened once for all tests of a suite.
#[cfg(feature = "gpu")]
pub fn gpu() -> Arc<dyn tensortiff::backend::Backend + Send + Sync> {
    use std::sync::OnceLock;
    use tensortiff::backend::gpu::{Gpu, adapters};
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    let open = || {
        let all = adapters();
        let adapter = all.iter().find(|adapter| adapter.info.matches_name(&wanted())).expect(
            "the adapter for tests is not there; scripts/test installs software Vulkan \
             (mesa-vulkan-drivers, libvulkan1)",
        );
        Arc::new(Gpu::open(adapter, 4).expect("the adapter opens and passes its proof"))
    };
    GPU.get_or_init(open).clone()
}

/// The adapter that the suites test: software Vulkan, or what `TENSORTIFF_TEST_ADAPTER` names.
#[cfg(feature = "gpu")]
pub fn wanted() -> String {
    std::env::var("TENSORTIFF_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned())
}

#[cfg(not(feature = "gpu"))]
pub fn fleets() -> Vec<Fleet> {
    vec![
        cpu(),
        Fleet {
            label: "two",
            devices: Devices::List(vec![Device::Cpu, Device::Ready(Arc::new(Cpu::new(None)))]),
            only: None,
        },
    ]
}

/// The same files from every device, as the report must confirm.
pub fn files(
    source: &dyn Source,
    options: &Options,
    fleet: &Fleet,
) -> (BTreeMap<String, Vec<u8>>, Report) {
    let sink = MemorySink::default();
    let options = Options { devices: fleet.devices.clone(), ..options.clone() };
    #[cfg(feature = "gpu")]
    let convert = if fleet.label == "both" { meeting::convert } else { convert };
    let report =
        convert(source, &sink, &options).unwrap_or_else(|e| panic!("{}: {e}", fleet.label));
    assert_eq!((report.images, report.failed), (report.planned, 0), "{}", fleet.label);
    check_devices(&report, fleet);
    let files = sink.into_files();
    assert_eq!(files.len() as u64, report.images, "{}", fleet.label);
    (files, report)
}

/// Whether the report says that the right devices did the images.
pub fn check_devices(report: &Report, fleet: &Fleet) {
    let done: u64 = report.devices.iter().map(|device| device.images).sum();
    assert_eq!(done, report.images, "{}: {:?}", fleet.label, report.devices);
    if let Some(only) = &fleet.only {
        let others = |device: &&DeviceReport| device.name != *only;
        assert_eq!(report.devices.iter().find(others), None, "{}: {:?}", fleet.label, report.notes);
    }
}

/// The pixels of a written file, as bits, read by the `tiff` crate.
pub fn pixels(file: &[u8]) -> Vec<u32> {
    use tiff::decoder::{Decoder, DecodingResult, Limits};
    let decoder = Decoder::new(std::io::Cursor::new(file)).expect("a TIFF");
    match decoder.with_limits(Limits::unlimited()).read_image().expect("pixels") {
        DecodingResult::F32(pixels) => pixels.into_iter().map(f32::to_bits).collect(),
        _ => panic!("not 32-bit float"),
    }
}

/// The tensors of a small .safetensors file: dtype name, shape, bytes.
pub fn read_safetensors(path: &Path) -> BTreeMap<String, (String, Vec<u64>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let entry = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        let shape = view.shape().iter().map(|&axis| axis as u64).collect();
        (name, (format!("{:?}", view.dtype()), shape, view.data().to_vec()))
    };
    file.tensors().into_iter().map(entry).collect()
}

/// Little-endian f32 bits.
pub fn bits(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

/// splitmix64: the same numbers everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
