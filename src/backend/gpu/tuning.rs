//! What is to be chosen by measurement on a real card: the depth of the ring, the size of a batch,
//! the shape of the kernels. `benches/gpu.rs` tries others; a run uses [`Tuning::CHOSEN`].

use std::borrow::Cow;

use super::layout::{LANES, SMALL, TILE, WORKGROUP};

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Slots of the ring, at least 2: one filling, one computing, one being written. A fourth
    /// gained nothing on llvmpipe.
    pub slots: usize,
    /// Threads that fill slots; half as many as write, but fewer than slots, if `None`.
    pub readers: Option<usize>,
    /// Most pixels of a slot, unless a block has more: with 64 MiB the 57–94 µs of a submission are
    /// nothing.
    pub batch_pixels: u64,
    /// Shape of the kernels.
    pub shape: Shape,
}

/// How the kernels divide their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Invocations of a workgroup.
    pub workgroup: u32,
    /// Samples of a tile.
    pub tile: u32,
    /// Most samples of an image that the fused kernel does.
    pub small: u32,
    /// Invocations that share such an image; they divide a workgroup.
    pub lanes: u32,
}

impl Shape {
    /// What [`layout`](super::layout) and the shaders say.
    pub const CHOSEN: Shape =
        Shape { workgroup: WORKGROUP, tile: TILE, small: SMALL, lanes: LANES };

    /// A kernel's text for this shape.
    pub(super) fn applied(self, source: Cow<'static, str>) -> Cow<'static, str> {
        if self == Shape::CHOSEN {
            return source;
        }
        let constants = [
            ("WORKGROUP", WORKGROUP, self.workgroup),
            ("TILE", TILE, self.tile),
            ("SMALL", SMALL, self.small),
            ("LANES", LANES, self.lanes),
        ];
        let replaced = constants.iter().fold(source.into_owned(), |text, (name, chosen, value)| {
            let line = |value| format!("const {name}: u32 = {value}u;");
            text.replace(&line(chosen), &line(value))
        });
        Cow::Owned(replaced)
    }
}

impl Tuning {
    /// What a run uses.
    pub const CHOSEN: Tuning =
        Tuning { slots: 3, readers: None, batch_pixels: 16 << 20, shape: Shape::CHOSEN };
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Kernel;
    use super::*;

    #[test]
    fn another_shape_changes_four_constants_and_nothing_else() {
        let shape = Shape { workgroup: 64, tile: 4096, small: 1000, lanes: 8 };
        for kernel in Kernel::ALL {
            let source = kernel.source();
            assert_eq!(Shape::CHOSEN.applied(source.into()), source);
            let text = shape.applied(source.into());
            let changed: Vec<&str> =
                text.lines().zip(source.lines()).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
            let wanted = ["WORKGROUP: u32 = 64u", "TILE: u32 = 4096u", "SMALL: u32 = 1000u"];
            assert_eq!(changed.len(), 4, "{changed:?}");
            for (line, wanted) in changed.iter().zip(wanted.iter().chain(&["LANES: u32 = 8u"])) {
                assert_eq!(*line, format!("const {wanted};"));
            }
        }
    }
}
