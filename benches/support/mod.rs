//! The adapter that benches measure: what `TENSORTIFF_TEST_ADAPTER` names, or software Vulkan.

#![allow(dead_code, reason = "each bench takes what it needs")]

use std::sync::Arc;

use tensortiff::backend::Backend as _;
use tensortiff::backend::gpu::{Adapter, Gpu, adapters};

pub(crate) fn adapter() -> Adapter {
    let name = std::env::var("TENSORTIFF_TEST_ADAPTER").unwrap_or_else(|_| "llvmpipe".to_owned());
    let all = adapters();
    let there: Vec<String> = all.iter().map(|adapter| adapter.info.name.clone()).collect();
    all.into_iter().find(|adapter| adapter.info.matches_name(&name)).unwrap_or_else(|| {
        panic!("no adapter {name} among {there:?}; scripts/test installs software Vulkan")
    })
}

pub(crate) fn gpu() -> Arc<Gpu> {
    Arc::new(Gpu::open(&adapter(), 4).expect("the adapter opens and passes its proof"))
}

pub(crate) fn name(gpu: &Gpu) -> String {
    gpu.name().to_owned()
}
