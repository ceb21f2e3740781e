//! What travels to the kernels, word for word as `shaders/shared/layout.wgsl` has it;
//! `tests/shaders.rs` compares the two. Extents and ranges are
//! [`cpu::range`](crate::backend::cpu::range)'s.

use crate::normalize::Norm;
use crate::tensor::Dtype;

/// Invocations of a workgroup: WebGPU's floor.
pub const WORKGROUP: u32 = 256;
/// Samples of a tile, which one workgroup does.
pub const TILE: u32 = 16_384;
/// Most samples of an image that the fused kernel does.
pub const SMALL: u32 = 4096;
/// Invocations that share such an image.
pub const LANES: u32 = 32;
/// An image's range is the host's, whatever its extent.
pub const GIVEN: u32 = 2;
/// Words that the gather kernel finds: of an extent, the number of zeros, one that is not used, and the sums.
pub const GATHERED_WORDS: u32 = SUMS_AT + 256 * SUM_PARTS;
/// Where the number of zeros is among them.
pub const ZEROS_AT: u32 = 6;
/// Where the sums begin.
pub const SUMS_AT: u32 = 8;
/// Words of the sums of each exponent: of three bytes of mantissas, of six of their squares.
pub const SUM_PARTS: u32 = 9;
/// Most keys that others may begin as, in one pass of the gather kernel.
pub const MOST_PREFIXES: u32 = 32;
/// What the next 16 bits of a key may be.
pub const BINS: u32 = 1 << 16;
/// Most loop iterations of an invocation, over all its loops: llvmpipe stops at 65,535 without a
/// word, and who knows who else.
pub const MOST_ITERATIONS: u32 = 20_000;

/// See the shader.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// A [`dtype_code`].
    pub dtype: u32,
    /// A [`norm_code`].
    pub norm: u32,
    /// Number of images.
    pub images: u32,
    /// Where the normalize kernel's tiles begin.
    pub normalize_at: u32,
    /// Where the fused kernel's list begins.
    pub small_at: u32,
    /// Length of the fused kernel's list.
    pub small: u32,
    /// Of the gather kernel: bits of keys that are settled, 0 or 16.
    pub settled: u32,
    /// Of the gather kernel: length of the list of keys that others may begin as.
    pub prefixes: u32,
    /// Of the gather kernel: 1 where sums are wanted.
    pub sums: u32,
    /// A uniform struct's size is a multiple of 16.
    pub unused_0: u32,
    /// See [`unused_0`](Params::unused_0).
    pub unused_1: u32,
    /// See [`unused_0`](Params::unused_0).
    pub unused_2: u32,
}

/// A whole image, or a block of one.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Image {
    /// Where its samples begin: in bytes, a multiple of the sample's size.
    pub first_byte: u32,
    /// Where its pixels begin.
    pub first_pixel: u32,
    /// Number of samples.
    pub samples: u32,
    /// Whether the range kernel makes its range (1), or it is [`GIVEN`].
    pub ranged: u32,
}

/// One workgroup's part of an image; of the fused kernel, one image.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Tile {
    /// Index of the image.
    pub image: u32,
    /// Where in the image the tile begins.
    pub first_sample: u32,
}

/// The shaders' constant for an element type; `None` of a wide one.
#[must_use]
pub const fn dtype_code(dtype: Dtype) -> Option<u32> {
    Some(match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
        Dtype::F8E4m3 => 3,
        Dtype::F8E5m2 => 4,
        Dtype::Bool => 5,
        Dtype::I8 => 6,
        Dtype::U8 => 7,
        Dtype::I16 => 8,
        Dtype::U16 => 9,
        Dtype::F8E8m0 => 10,
        Dtype::F8E4m3Fnuz => 11,
        Dtype::F8E5m2Fnuz => 12,
        Dtype::F6E2m3 => 13,
        Dtype::F6E3m2 => 14,
        Dtype::F4 => 15,
        Dtype::U32 | Dtype::I32 | Dtype::U64 | Dtype::I64 | Dtype::F64 => return None,
    })
}

/// The shaders' number for a norm.
#[must_use]
pub const fn norm_code(norm: Norm) -> u32 {
    match norm {
        Norm::None => 0,
        Norm::Symmetric => 2,
        _ => 1,
    }
}
