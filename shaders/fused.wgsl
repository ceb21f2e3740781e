// Small images from raw samples to pixels in one dispatch: LANES invocations an image, several
// images a workgroup. The second look at an image's samples finds them in cache (keeping them in
// workgroup memory did not pay). Twin: src/backend/cpu/fused.rs.

@group(0) @binding(4) var<storage, read_write> extents: array<Extent>;
@group(0) @binding(5) var<storage, read_write> ranges: array<Range>;
@group(0) @binding(6) var<storage, read_write> pixels: array<u32>;

struct Found {
    max_key: atomic<u32>,
    max_inverse_key: atomic<u32>,
    nan: atomic<u32>,
    pos_inf: atomic<u32>,
    neg_inf: atomic<u32>,
    visited: atomic<u32>,
}

var<workgroup> found: array<Found, WORKGROUP / LANES>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = local / LANES;
    let lane = local % LANES;
    let entry = group.x * (WORKGROUP / LANES) + row;
    // The last workgroup may have rows without an image. They meet the barrier with the others.
    let is_there = entry < params.small;
    let index = tiles[params.small_at + select(0u, entry, is_there)].image;
    let image = images[index];
    let end = select(0u, min(image.samples, SMALL), is_there);
    var part = Extent();
    for (var i = lane; i < end; i += LANES) {
        part = look(part, sample(params.dtype, image.first_byte, i));
    }
    atomicMax(&found[row].max_key, part.max_key);
    atomicMax(&found[row].max_inverse_key, part.max_inverse_key);
    atomicAdd(&found[row].nan, part.nan);
    atomicAdd(&found[row].pos_inf, part.pos_inf);
    atomicAdd(&found[row].neg_inf, part.neg_inf);
    atomicAdd(&found[row].visited, part.visited);
    workgroupBarrier();
    let extent = Extent(
        atomicLoad(&found[row].max_key),
        atomicLoad(&found[row].max_inverse_key),
        atomicLoad(&found[row].nan),
        atomicLoad(&found[row].pos_inf),
        atomicLoad(&found[row].neg_inf),
        atomicLoad(&found[row].visited),
    );
    var range = range_of(params.norm, extent);
    if image.ranged == GIVEN {
        range = ranges[index];
    }
    for (var i = lane; i < end; i += LANES) {
        pixels[image.first_pixel + i] = pixel(range, sample(params.dtype, image.first_byte, i));
    }
    if is_there && lane == 0u {
        extents[index] = extent;
    }
}
