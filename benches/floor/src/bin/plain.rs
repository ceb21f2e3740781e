//! The program that somebody writes in an afternoon with `safetensors`, `tiff` and `rayon`: the dump
//! is mapped, every image is an item of a parallel iterator. f32, f16 and bf16 only.
//!
//! `plain DUMP OUT [--threads N]`

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let mut place = || words.next().expect("usage: plain DUMP OUT [--threads N]");
    let (dump, out) = (place(), place());
    if words.next().as_deref() == Some("--threads") {
        let threads = words.next().expect("--threads needs a number").parse()?;
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let file = File::open(dump)?;
    // SAFETY: the benchmark's own file, which nobody changes meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    let dump = SafeTensors::deserialize(&map)?;
    dump.tensors().into_iter().enumerate().try_for_each(|(number, (_, tensor))| {
        let [.., height, width] = tensor.shape()[..] else { return Ok(()) };
        let folder = Path::new(&out).join(number.to_string());
        fs::create_dir_all(&folder)?;
        let samples = height * width;
        let size = match tensor.dtype() {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => return Err(format!("{other:?} is not supported").into()),
        };
        tensor.data().par_chunks(samples * size).enumerate().try_for_each(|(index, raw)| {
            let image: Vec<f32> = match tensor.dtype() {
                Dtype::F32 => decode(raw, f32::from_le_bytes),
                Dtype::F16 => decode(raw, |b| f16::from_le_bytes(b).to_f32()),
                _ => decode(raw, |b| bf16::from_le_bytes(b).to_f32()),
            };
            let image = normalize(image);
            let file = BufWriter::new(File::create(folder.join(format!("{index}.tif")))?);
            let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
            TiffEncoder::new(file)?.write_image::<Gray32Float>(width, height, &image)?;
            Ok::<(), Failure>(())
        })
    })
}

fn decode<const N: usize>(raw: &[u8], sample: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    raw.as_chunks::<N>().0.iter().map(|bytes| sample(*bytes)).collect()
}

fn normalize(image: Vec<f32>) -> Vec<f32> {
    let min = image.iter().copied().fold(f32::INFINITY, f32::min);
    let max = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if min == max {
        return image;
    }
    image.into_iter().map(|x| (x - min) / (max - min)).collect()
}
