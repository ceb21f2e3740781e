//! What only the device itself can tell: its kernels' speed by its own clock, beside its own copies.

use std::sync::Arc;

use super::results::{AdapterResults, KernelResults};
use crate::backend::choose::{Device, Devices};
use crate::backend::gpu::kernels::Kernel;
use crate::backend::gpu::{Gpu, adapters};
use crate::convert::Options;
use crate::error::Error;
use crate::source::Source;

/// Bytes of the copies: more than a device's caches hold.
const BYTES: u64 = 64 << 20;

/// An adapter that is opened with timestamps.
pub(super) struct Timed {
    gpu: Arc<Gpu>,
    results: AdapterResults,
}

impl Timed {
    /// The adapters of these names.
    pub(super) fn open(names: &[String], threads: usize) -> Result<Vec<Timed>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let all = adapters();
        let mut timed: Vec<Timed> = Vec::new();
        for name in names {
            // The n-th of a name is the n-th card of that model.
            let before = timed.iter().filter(|timed| timed.results.name == *name).count();
            let mut named = all.iter().filter(|adapter| adapter.info.name == *name);
            let Some(adapter) = named.nth(before) else {
                continue; // not an adapter
            };
            let gpu = Gpu::open_timed(adapter, threads)?;
            let speeds = gpu.speeds(BYTES)?;
            let results = AdapterResults {
                name: name.clone(),
                memory_copy: speeds.copy,
                up: speeds.up,
                down: speeds.down,
            };
            timed.push(Timed { gpu: Arc::new(gpu), results });
        }
        Ok(timed)
    }

    pub(super) fn results(&self) -> &AdapterResults {
        &self.results
    }

    /// Its kernels in a conversion to nothing.
    pub(super) fn kernels(
        &self,
        source: &dyn Source,
        options: &Options,
    ) -> Result<Vec<KernelResults>, Error> {
        let devices = Devices::List(vec![Device::Ready(self.gpu.clone())]);
        super::measure::to_nothing(source, &Options { devices, ..options.clone() })?;
        let stats = self.gpu.stats();
        let used = Kernel::ALL.into_iter().zip(stats.kernels).filter(|(_, of)| of.dispatches > 0);
        let results = used.map(|(kernel, of)| {
            let speed = of.gigabytes_a_second();
            KernelResults {
                adapter: self.results.name.clone(),
                kernel: kernel.stem(),
                speed,
                of_memory_copy: speed.map(|speed| speed / self.results.memory_copy),
                dispatches: of.dispatches,
            }
        });
        Ok(results.collect())
    }
}
