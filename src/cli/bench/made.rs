//! Data that are made, by a seed.

use crate::source::MemorySource;
use crate::tensor::Dtype;

/// One tensor.
pub(super) struct Made {
    dtype: Dtype,
    shape: [u64; 3],
}

impl Made {
    /// Middling, tiny, narrow and large images; 256 MiB of samples at most.
    pub(super) fn all(quick: bool) -> Vec<Made> {
        let sets = [
            (Dtype::F32, [256, 512, 512]),
            (Dtype::F32, [32_000, 28, 28]),
            (Dtype::Bf16, [1024, 256, 256]),
            (Dtype::F32, [4, 4096, 4096]),
        ];
        let fewer = |images: u64| if quick { (images / 16).max(1) } else { images };
        sets.map(|(dtype, [n, h, w])| Made { dtype, shape: [fewer(n), h, w] }).into()
    }

    pub(super) fn name(&self) -> String {
        let [_, height, width] = self.shape;
        format!("made: {} of {height}x{width}", self.dtype)
    }

    /// Finite samples, a pattern that repeats only after a prime number of them.
    pub(super) fn source(&self) -> anyhow::Result<MemorySource<'static>> {
        const PRIME: usize = 1_000_003;
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let pattern: Vec<u8> = (0..PRIME)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // 1.0 to 2.0, of either sign: the upper half of it is a bf16 of that kind too.
                let bits = (state >> 32 & 0x807F_FFFF) | 0x3F80_0000;
                let bytes = u32::try_from(bits).unwrap_or_default().to_le_bytes();
                bytes[4 - self.dtype.size().min(4)..].to_vec()
            })
            .collect();
        let size = self.shape.iter().product::<u64>() * self.dtype.size() as u64;
        let samples = pattern.into_iter().cycle().take(usize::try_from(size)?).collect::<Vec<u8>>();
        Ok(MemorySource::new("made").with("t", self.dtype, &self.shape, samples)?)
    }
}
