//! The adapter that benches measure: what `TENSORTIFF_TEST_ADAPTER` names, or software Vulkan.

use std::sync::Arc;

use tensortiff::backend::Backend as _;
use tensortiff::backend::gpu::{Gpu, adapters};

pub(crate) fn gpu() -> Arc<Gpu> {
    let name = std::env::var("TENSORTIFF_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned());
    let all = adapters();
    let adapter = all
        .iter()
        .find(|adapter| adapter.info.matches_name(&name))
        .expect("the adapter is there; scripts/test installs software Vulkan");
    Arc::new(Gpu::open(adapter, 4).expect("the adapter opens and passes its proof"))
}

pub(crate) fn name(gpu: &Gpu) -> String {
    gpu.name().to_owned()
}
