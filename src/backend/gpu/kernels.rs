//! The kernels' text, and pipelines made from it.
//!
//! The element type is a parameter of a batch, not of a pipeline: four pipelines are compiled
//! instead of 64, and the very ones that a run uses have passed the proof with every type.
//! Measured on llvmpipe, which computes every case of a switch, when there were ten types: 1.4 times
//! the processor time of pipelines for each type, but a proof of all types in 56 ms instead of
//! 1.3 s. On a card the branch is the same for a whole dispatch, whose bound is memory (not measured).

use super::batch::Workgroups;
use super::device::Device;
use super::hooks::Hooks;
use crate::error::Error;

/// How many there are.
pub const KERNELS: usize = 5;

/// A kernel, and so a file of `shaders/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Extents of tiles.
    Extent,
    /// Ranges from extents.
    Range,
    /// Pixels of tiles.
    Normalize,
    /// Small images, all at once.
    Fused,
    /// What is asked of samples before their pixels are made. It is in no batch.
    Gather,
}

/// Joins files of `shaders/` into one module.
macro_rules! joined {
    ($($file:literal)*) => {
        concat!($(include_str!(concat!("../../../shaders/", $file, ".wgsl")), "\n"),*)
    };
}

impl Kernel {
    /// All of them, in the order of a batch's dispatches.
    pub const ALL: [Kernel; KERNELS] =
        [Kernel::Extent, Kernel::Range, Kernel::Normalize, Kernel::Fused, Kernel::Gather];

    /// The stem of its file.
    #[must_use]
    pub const fn stem(self) -> &'static str {
        match self {
            Kernel::Extent => "extent",
            Kernel::Range => "range",
            Kernel::Normalize => "normalize",
            Kernel::Fused => "fused",
            Kernel::Gather => "gather",
        }
    }

    /// Its module as the driver gets it: the shared files, then its own.
    #[must_use]
    pub const fn source(self) -> &'static str {
        match self {
            Kernel::Extent => {
                joined!("shared/layout" "shared/widen" "shared/softfloat" "shared/range" "extent")
            }
            Kernel::Range => {
                joined!("shared/layout" "shared/widen" "shared/softfloat" "shared/range" "range")
            }
            Kernel::Normalize => {
                joined!("shared/layout" "shared/widen" "shared/softfloat" "shared/range" "normalize")
            }
            Kernel::Fused => {
                joined!("shared/layout" "shared/widen" "shared/softfloat" "shared/range" "fused")
            }
            Kernel::Gather => {
                joined!("shared/layout" "shared/widen" "shared/softfloat" "shared/range" "gather")
            }
        }
    }

    /// Its part of a batch's dispatches.
    #[must_use]
    pub const fn workgroups(self, all: &Workgroups) -> u32 {
        match self {
            Kernel::Extent => all.extent,
            Kernel::Range => all.range,
            Kernel::Normalize => all.normalize,
            Kernel::Fused => all.fused,
            Kernel::Gather => 0,
        }
    }
}

/// The buffers that a bind group holds, in the order of their bindings.
#[derive(Debug)]
pub(super) struct Bound<'a> {
    pub(super) params: &'a wgpu::Buffer,
    pub(super) images: &'a wgpu::Buffer,
    pub(super) tiles: &'a wgpu::Buffer,
    pub(super) raw: &'a wgpu::Buffer,
    pub(super) extents: &'a wgpu::Buffer,
    pub(super) ranges: &'a wgpu::Buffer,
    pub(super) pixels: &'a wgpu::Buffer,
}

/// All pipelines, over one layout, so that a slot needs one bind group.
#[derive(Debug)]
pub(super) struct Kernels {
    layout: wgpu::BindGroupLayout,
    pipelines: [wgpu::ComputePipeline; KERNELS],
}

impl Kernels {
    pub(super) fn new(device: &Device, hooks: &Hooks) -> Result<Kernels, Error> {
        device.guarded("compiling the kernels", |device| {
            let layout = layout(device);
            (hooks.opening)(device);
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some("tensortiff kernels"),
                bind_group_layouts: &[Some(&layout)],
                ..Default::default()
            });
            let pipelines = Kernel::ALL.map(|kernel| {
                let source = hooks.rewritten(kernel);
                let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(kernel.stem()),
                    source: wgpu::ShaderSource::Wgsl(source),
                });
                device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(kernel.stem()),
                    layout: Some(&pipeline_layout),
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        constants: &[("SPOIL", f64::from(hooks.spoil))],
                        ..Default::default()
                    },
                    cache: None,
                })
            });
            Kernels { layout, pipelines }
        })
    }

    pub(super) fn pipeline(&self, kernel: Kernel) -> &wgpu::ComputePipeline {
        &self.pipelines[kernel as usize]
    }

    pub(super) fn bind(
        &self,
        device: &wgpu::Device,
        label: &str,
        bound: &Bound<'_>,
    ) -> wgpu::BindGroup {
        let buffers = [
            bound.params,
            bound.images,
            bound.tiles,
            bound.raw,
            bound.extents,
            bound.ranges,
            bound.pixels,
        ];
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let layout = &self.layout;
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout,
            entries: &entries,
        })
    }
}

fn layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    use wgpu::BufferBindingType::{Storage, Uniform};
    let read = Storage { read_only: true };
    let write = Storage { read_only: false };
    let entries: Vec<_> = (0..)
        .zip([Uniform, read, read, read, write, write, write])
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("tensortiff kernels"),
        entries: &entries,
    })
}
