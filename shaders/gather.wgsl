// What is found out of samples before any of their pixels is made: their extent; how many are 0; sums of
// them and of their squares, by exponent; and how many of the keys that begin as a wanted one does have
// which bits next. A workgroup looks at one tile; merging is exact in any order. Twin:
// src/backend/cpu/gather.rs.

// Flat arrays, since every word is merged by an atomic operation.
@group(0) @binding(4) var<storage, read_write> found: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> bins: array<atomic<u32>>;

// Of `found`: the words of an extent, the number of zeros, a word that is not used, the sums.
const ZEROS: u32 = 6u;
const SUMS: u32 = 8u;
// Words of each exponent: sums of the mantissas' three bytes, with the samples' signs, and of the six bytes
// of their squares. So a million samples are far from the end of a word.
const PARTS: u32 = 9u;
const WORDS: u32 = 2312u;
// Most keys that others may begin as.
const PREFIXES: u32 = 32u;
const BINS: u32 = 65536u;

var<workgroup> part: array<atomic<u32>, WORDS>;

fn add(at: u32, value: u32, negative: bool) {
    atomicAdd(&part[at], select(value, 0u - value, negative));
}

// Of a finite sample.
fn add_up(x: u32) {
    let exponent = (x >> 23u) & 0xFFu;
    let mantissa = mantissa_of(x & 0x7FFFFFFFu);
    let negative = (x & 0x80000000u) != 0u;
    let at = SUMS + PARTS * exponent;
    add(at, mantissa & 0xFFu, negative);
    add(at + 1u, (mantissa >> 8u) & 0xFFu, negative);
    add(at + 2u, mantissa >> 16u, negative);
    // The square's 48 bits, 24 and 24: of the mantissa's halves of 12 bits, h and l, they are
    // h * h * 2^24 + h * l * 2^13 + l * l.
    let h = mantissa >> 12u;
    let l = mantissa & 0xFFFu;
    let low = l * l + (((h * l) << 13u) & 0xFFFFFFu);
    let high = h * h + ((h * l) >> 11u) + (low >> 24u);
    add(at + 3u, low & 0xFFu, false);
    add(at + 4u, (low >> 8u) & 0xFFu, false);
    add(at + 5u, (low >> 16u) & 0xFFu, false);
    add(at + 6u, high & 0xFFu, false);
    add(at + 7u, (high >> 8u) & 0xFFu, false);
    add(at + 8u, high >> 16u, false);
}

// The upper 16 bits of a key are settled in the first pass, the lower ones in the second, of keys that begin
// as one of the list does.
fn count_key(key: u32) {
    let count = min(params.prefixes, PREFIXES);
    for (var p = 0u; p < count; p += 1u) {
        if params.settled == 0u {
            atomicAdd(&bins[BINS * p + (key >> 16u)], 1u);
        } else if tiles[p].image == key >> 16u {
            atomicAdd(&bins[BINS * p + (key & 0xFFFFu)], 1u);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile = Tile(0u, group.x * TILE);
    let image = images[tile.image];
    let end = min(image.samples, tile.first_sample + TILE);
    var extent = Extent();
    var zeros = 0u;
    for (var i = tile.first_sample + local; i < end; i += WORKGROUP) {
        let x = sample(params.dtype, image.first_byte, i);
        extent = look(extent, x);
        zeros += select(0u, 1u, (x & 0x7FFFFFFFu) == 0u);
        if is_finite(x) {
            if params.sums == 1u {
                add_up(x);
            }
            count_key(key_of(x));
        }
    }
    atomicMax(&part[0], extent.max_key);
    atomicMax(&part[1], extent.max_inverse_key);
    atomicAdd(&part[2], extent.nan);
    atomicAdd(&part[3], extent.pos_inf);
    atomicAdd(&part[4], extent.neg_inf);
    atomicAdd(&part[5], extent.visited);
    atomicAdd(&part[ZEROS], zeros);
    workgroupBarrier();
    for (var word = local; word < WORDS; word += WORKGROUP) {
        let value = atomicLoad(&part[word]);
        if word < 2u {
            atomicMax(&found[word], value);
        } else if value != 0u {
            atomicAdd(&found[word], value);
        }
    }
}
