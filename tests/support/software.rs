//! The software adapter that GPU tests run on.

use tensortiff::backend::gpu::{Adapter, adapters};

/// llvmpipe. A test that needs it fails without it; it is never skipped.
#[allow(unreachable_pub, reason = "a module of several test crates")]
pub fn llvmpipe() -> Adapter {
    let all = adapters();
    let names: Vec<String> = all.iter().map(|adapter| adapter.info.name.clone()).collect();
    all.into_iter().find(|adapter| adapter.info.matches_name("llvmpipe")).unwrap_or_else(|| {
        panic!(
            "no llvmpipe among the adapters {names:?}: install software Vulkan \
             (Debian: apt-get install --no-install-recommends mesa-vulkan-drivers)"
        )
    })
}
