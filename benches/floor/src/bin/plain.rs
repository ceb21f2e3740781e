//! The program that somebody writes in an afternoon with `safetensors`, `tiff` and `rayon`: the dump
//! is mapped, tensors and their images are items of parallel iterators. f32, f16 and bf16 only.
//!
//! `plain DUMP OUT [--threads N]`

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tiff::encoder::{TiffEncoder, colortype::Gray32Float};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (dump, out, threads) = match words[..] {
        [dump, out] => (dump, out, 0), // rayon's own choice: all cores
        [dump, out, "--threads", threads] => (dump, out, threads.parse()?),
        _ => return Err("usage: plain DUMP OUT [--threads N]".into()),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let file = File::open(dump)?;
    // SAFETY: the benchmark's own file, which nobody changes meanwhile.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    let tensors = SafeTensors::deserialize(&map)?.tensors();
    tensors.par_iter().try_for_each(|(name, tensor)| convert(tensor, &Path::new(out).join(name)))
}

/// Writes the images of a tensor into a folder of its own.
fn convert(tensor: &TensorView<'_>, folder: &Path) -> Result<(), Failure> {
    let [.., height, width] = tensor.shape()[..] else { return Ok(()) };
    fs::create_dir_all(folder)?;
    let size = match tensor.dtype() {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::BF16 => 2,
        other => return Err(format!("{other:?} is not supported").into()),
    };
    tensor.data().par_chunks(height * width * size).enumerate().try_for_each(|(index, raw)| {
        let image = normalize(match tensor.dtype() {
            Dtype::F32 => decode(raw, f32::from_le_bytes),
            Dtype::F16 => decode(raw, |b| f16::from_le_bytes(b).to_f32()),
            _ => decode(raw, |b| bf16::from_le_bytes(b).to_f32()),
        });
        let file = BufWriter::new(File::create(folder.join(format!("{index}.tif")))?);
        let (width, height) = (u32::try_from(width)?, u32::try_from(height)?);
        TiffEncoder::new(file)?.write_image::<Gray32Float>(width, height, &image)?;
        Ok(())
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
