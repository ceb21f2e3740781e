// Extents of images of any size: a workgroup looks at one tile and merges what it found into its
// image's extent. Merging is exact in any order.

// As Extent has them: a flat array, since every word is merged by an atomic operation.
@group(0) @binding(4) var<storage, read_write> extents: array<atomic<u32>>;

const EXTENT_WORDS: u32 = 6u;

var<workgroup> found: array<atomic<u32>, EXTENT_WORDS>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile = tiles[group.x];
    let image = images[tile.image];
    let end = min(image.samples, tile.first_sample + TILE);
    var extent = Extent();
    for (var i = tile.first_sample + local; i < end; i += WORKGROUP) {
        extent = look(extent, sample(params.dtype, image.first_byte, i));
    }
    atomicMax(&found[0], extent.max_key);
    atomicMax(&found[1], extent.max_inverse_key);
    atomicAdd(&found[2], extent.nan);
    atomicAdd(&found[3], extent.pos_inf);
    atomicAdd(&found[4], extent.neg_inf);
    atomicAdd(&found[5], extent.visited);
    workgroupBarrier();
    if local < EXTENT_WORDS {
        let word = atomicLoad(&found[local]);
        let at = EXTENT_WORDS * tile.image + local;
        if local < 2u {
            atomicMax(&extents[at], word);
        } else {
            atomicAdd(&extents[at], word);
        }
    }
}
