// Pixels of images of any size, from ranges that are known: one tile a workgroup.

@group(0) @binding(5) var<storage, read_write> ranges: array<Range>;
@group(0) @binding(6) var<storage, read_write> pixels: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let tile = tiles[params.normalize_at + group.x];
    let image = images[tile.image];
    let range = ranges[tile.image];
    let end = min(image.samples, tile.first_sample + TILE);
    for (var i = tile.first_sample + local; i < end; i += WORKGROUP) {
        pixels[image.first_pixel + i] = pixel(range, sample(params.dtype, image.first_byte, i));
    }
}
