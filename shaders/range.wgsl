// From extents to ranges, one invocation an image. Twin: src/backend/cpu/range.rs.

@group(0) @binding(4) var<storage, read_write> extents: array<Extent>;
@group(0) @binding(5) var<storage, read_write> ranges: array<Range>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.images && images[id.x].ranged == 1u {
        ranges[id.x] = range_of(params.norm, extents[id.x]);
    }
}
