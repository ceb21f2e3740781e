// What the host and all kernels share: structs, constants and the buffers that every kernel reads.
// tests/shaders.rs holds every offset, size and constant here against src/backend/gpu/layout.rs.

// Invocations of a workgroup: WebGPU's floor.
const WORKGROUP: u32 = 256u;
// Samples of a tile, which one workgroup does: 64 an invocation.
const TILE: u32 = 16384u;
// Most samples of an image that the fused kernel does, and invocations that share one.
const SMALL: u32 = 4096u;
const LANES: u32 = 32u;

struct Params {
    // One of the DTYPE_ constants of widen.wgsl; a batch has one element type.
    dtype: u32,
    // 0: pixels are the widened samples. 1: minmax. 2: symmetric.
    norm: u32,
    // Length of `images`.
    images: u32,
    // Where in `tiles` the lists of the normalize and the fused kernel begin; the extent kernel's
    // begins at 0.
    normalize_at: u32,
    small_at: u32,
    // Length of the fused kernel's list.
    small: u32,
    // Of the gather kernel: bits of keys that are settled, 0 or 16; length of the list of those that
    // others may begin as, which is in `tiles`; 1 where sums are wanted.
    settled: u32,
    prefixes: u32,
    sums: u32,
    // A uniform struct's size is a multiple of 16.
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

// A whole image, or a block of one.
struct Image {
    // Where its samples begin in `raw`: in bytes, a multiple of the sample's size.
    first_byte: u32,
    // Where its pixels begin in `pixels`.
    first_pixel: u32,
    samples: u32,
    // 1: the range kernel makes its range. 2: the host did, whatever the extent. 0: the host did, or
    // nobody needs one, or the fused kernel makes it.
    ranged: u32,
}

struct Tile {
    image: u32,
    first_sample: u32,
}

// All zeros is the extent of no samples, so that clearing the buffer is all the preparation.
struct Extent {
    // The greatest key of a finite sample, and the greatest complement of one. Every key of a
    // finite sample and its complement are above 0.
    max_key: u32,
    max_inverse_key: u32,
    nan: u32,
    pos_inf: u32,
    neg_inf: u32,
    // Witness that no sample was left out.
    visited: u32,
}

const KEEP: u32 = 0u;
const MINMAX: u32 = 1u;
// The same, where samples beyond lo and hi are taken for lo and hi.
const CLAMPED: u32 = 2u;
const GIVEN: u32 = 2u;

struct Range {
    mode: u32,
    // Bits of lo and of hi.
    lo: u32,
    hi: u32,
    // hi - lo as mantissa * 2^(exponent - 150), with bit 23 the mantissa's highest.
    divisor_mantissa: u32,
    divisor_exponent: i32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> images: array<Image>;
@group(0) @binding(2) var<storage, read> tiles: array<Tile>;
@group(0) @binding(3) var<storage, read> raw: array<u32>;
