//! Makes a dump by seed: the same bytes on every machine.
//!
//! `make DUMP SEED NAME:DTYPE:AXIS,AXIS... ...` with DTYPE F32, F16 or BF16
//!
//! Every image has a scale and an offset of its own, so that a program that takes one image's extent
//! for another's is caught; the second image of a tensor of 64 or more is constant.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use half::{bf16, f16};
use serde_json::{Map, json};

const USAGE: &str = "usage: make DUMP SEED NAME:F32|F16|BF16:AXIS,AXIS... ...";

struct Tensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some((dump, seed, tensors)) = (|| {
        let (dump, seed) = (words.next()?, words.next()?.parse().ok()?);
        let tensors: Vec<_> = words.map(|word| tensor(&word)).collect::<Option<_>>()?;
        (!tensors.is_empty()).then_some((dump, seed, tensors))
    })() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match write(&dump, seed, &tensors) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("make: {dump}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tensor(word: &str) -> Option<Tensor> {
    let mut parts = word.split(':').map(str::to_owned);
    let (name, dtype, shape) = (parts.next()?, parts.next()?, parts.next()?);
    let shape: Vec<usize> =
        shape.split(',').map(|axis| axis.parse().ok()).collect::<Option<_>>()?;
    let known = matches!(dtype.as_str(), "F32" | "F16" | "BF16");
    (known && parts.next().is_none()).then_some(Tensor { name, dtype, shape })
}

fn write(dump: &str, seed: u64, tensors: &[Tensor]) -> io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for Tensor { name, dtype, shape } in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * if dtype == "F32" { 4 } else { 2 };
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(dump)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut draws = Draws(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for Tensor { dtype, shape, .. } in tensors {
        let axes = shape.len().saturating_sub(2);
        let images = shape[..axes].iter().product();
        let samples = shape[axes..].iter().product();
        for image in 0..images {
            let scale = (6.0 * draws.next() - 3.0).exp2();
            let scale = if images >= 64 && image == 1 { 0.0 } else { scale };
            let offset = 8.0 * draws.next() - 4.0;
            for _ in 0..samples {
                let sample = scale * (draws.next() - draws.next()) + offset;
                match dtype.as_str() {
                    "F32" => file.write_all(&sample.to_le_bytes())?,
                    "F16" => file.write_all(&f16::from_f32(sample).to_le_bytes())?,
                    _ => file.write_all(&bf16::from_f32(sample).to_le_bytes())?,
                }
            }
        }
    }
    file.into_inner()?.flush()
}

/// xorshift64*, from Vigna's "An experimental exploration of Marsaglia's xorshift generators".
struct Draws(u64);

impl Draws {
    /// Uniform in 0..1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 24) as f32
    }
}
