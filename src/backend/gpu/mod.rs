//! The GPU backend: one adapter, through wgpu, with the same bytes as the CPU.
//!
//! [`adapters()`] lists what the machine has. [`Gpu::open`] makes a device, compiles the kernels
//! ([`kernels`]) and lets them prove themselves on a planted set (`proof`) before any use. A drain
//! runs a ring of three slots (`ring`): readers (`reader`) pack units of the queue into a batch
//! ([`batch`]: sizes, places and dispatch counts as plain data) and fill mapped memory; one thread
//! submits and polls; writers (`writer`) hand pixels over from mapped memory.
//!
//! Memory: per slot at most 64 MiB of pixels, or one block if that is more, four times: staging,
//! raw samples, pixels, readback.
//!
//! This is the window to wgpu: no other module names it.

mod adapters;
pub mod batch;
mod device;
#[doc(hidden)]
pub mod hooks;
pub mod kernels;
pub mod layout;
mod look;
mod pipe;
mod proof;
mod reader;
mod recording;
mod ring;
mod slot;
mod speed;
#[doc(hidden)]
pub mod stage;
mod timer;
#[doc(hidden)]
pub mod tuning;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::queue::Queue;
use super::{Answer, Backend, DeviceIndex, Job, Question, Span};
use crate::error::Error;
use crate::normalize::Rule;
pub use adapters::{Adapter, AdapterInfo, Kind, adapters};
use batch::Sizes;
use device::Device;
use hooks::{Fault, Hooks};
use kernels::{Kernel, Kernels};
use look::Looking;
pub use proof::Proof;
use slot::Slot;
pub use speed::Speeds;
pub use timer::KernelStats;
use tuning::Tuning;

/// What a drain did, for reports and tests. Begins anew with every drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuStats {
    /// Submissions to the device.
    pub submissions: u64,
    /// Batches; each is one submission.
    pub batches: u64,
    /// Copies from buffer to buffer.
    pub copies: u64,
    /// Kernels started, as the device was told to.
    pub dispatches: u64,
    /// Of each kernel, in the order of [`Kernel::ALL`](kernels::Kernel::ALL).
    pub kernels: [KernelStats; kernels::KERNELS],
    /// Bytes of samples and orders that went up.
    pub bytes_up: u64,
    /// Bytes of pixels and extents that came back.
    pub bytes_down: u64,
    /// How long the copies to the device's own memory and from it took there; 0 where that was not
    /// measured.
    pub nanoseconds_up: u64,
    /// See [`nanoseconds_up`](GpuStats::nanoseconds_up).
    pub nanoseconds_down: u64,
    /// Times that the device was waited for because there was nothing else to do.
    pub waits: u64,
    /// Submissions under way by the first of these.
    pub submissions_before_first_wait: u64,
}

/// Bytes of memory that the buffers of a GPU take at most for these spans, those on the card counted as
/// well: software adapters have them in the same memory.
#[must_use]
pub fn memory(spans: &[Span], block: u64) -> u64 {
    2 * memory_of(spans, block, &Tuning::CHOSEN) + look::MEMORY
}

/// Staging and readback.
fn memory_of(spans: &[Span], block: u64, tuning: &Tuning) -> u64 {
    let sizes = Sizes::tuned(spans, block, tuning, |span| !span.wide);
    tuning.slots as u64 * sizes.raw.saturating_add(4 * sizes.samples)
}

/// One adapter, open and proved.
#[derive(Debug)]
pub struct Gpu {
    device: Device,
    kernels: Kernels,
    tuning: Tuning,
    readers: usize,
    writers: usize,
    /// Held through a drain: a device has one poller. Slots stay for the next drain.
    slots: Mutex<Vec<Slot>>,
    /// What stays for the next look at samples.
    looking: Mutex<Option<Looking>>,
    /// Samples that were looked at before their pixels were made.
    looked: AtomicU64,
    stats: Mutex<GpuStats>,
    /// The kernel that does so, since the device was proved.
    looks: Mutex<KernelStats>,
    proof: Proof,
    /// To open it again.
    info: AdapterInfo,
    hooks: Hooks,
    /// Submissions until a test's device is lost.
    submissions_left: AtomicU64,
}

impl Gpu {
    /// Opens an adapter for runs with `threads` threads that hand pixels over, and proves it.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the device cannot be made, or fails its proof: then nothing that it
    /// computes may be used.
    pub fn open(adapter: &Adapter, threads: usize) -> Result<Gpu, Error> {
        Gpu::open_with(adapter, threads, &Hooks::NONE)
    }

    /// The same, with the kernels timed by the device's clock, if it has one:
    /// [`KernelStats::nanoseconds`]. It costs a pass for each kernel.
    ///
    /// # Errors
    /// Like [`open`](Gpu::open).
    pub fn open_timed(adapter: &Adapter, threads: usize) -> Result<Gpu, Error> {
        Gpu::open_with(adapter, threads, &Hooks { timed: true, ..Hooks::NONE })
    }

    /// The same, with something going wrong.
    ///
    /// # Errors
    /// Like [`open`](Gpu::open).
    #[doc(hidden)]
    pub fn open_with(adapter: &Adapter, threads: usize, hooks: &Hooks) -> Result<Gpu, Error> {
        let device = Device::open(adapter, hooks)?;
        let kernels = Kernels::new(&device, hooks)?;
        let tuning = hooks.tuning;
        let mut gpu = Gpu {
            device,
            kernels,
            tuning,
            readers: tuning.readers.unwrap_or(threads / 2).clamp(1, tuning.slots - 1),
            writers: threads.max(1),
            slots: Mutex::default(),
            looking: Mutex::default(),
            looked: AtomicU64::new(0),
            stats: Mutex::default(),
            looks: Mutex::default(),
            proof: Proof::default(),
            info: adapter.info.clone(),
            hooks: *hooks,
            submissions_left: AtomicU64::new(u64::MAX),
        };
        gpu.proof = proof::prove(&gpu)?;
        gpu.looks = Mutex::default();
        gpu.submissions_left = AtomicU64::new(hooks.submissions);
        Ok(gpu)
    }

    /// How the proof went.
    #[must_use]
    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Most samples that a block may have, so that this device holds it.
    #[must_use]
    pub fn most_samples(&self) -> u64 {
        Sizes::most_samples(self.device.inner.limits().max_storage_buffer_binding_size)
    }

    /// What the last drain did; and of the kernel that looks at samples before any drain, all that it did.
    #[must_use]
    pub fn stats(&self) -> GpuStats {
        let mut stats = *lock(&self.stats);
        stats.kernels[Kernel::Gather as usize] = *lock(&self.looks);
        stats
    }

    /// Samples at which it looked before their pixels were made, for ranges that images share and for
    /// statistics, since it was opened; each as often as it took.
    #[must_use]
    pub fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    /// The slots of an earlier drain, if they hold what this one needs, or new ones.
    fn slots_of(&self, kept: &mut Vec<Slot>, sizes: Sizes) -> Result<Vec<Slot>, Error> {
        let kept = std::mem::take(kept);
        if kept.len() == self.tuning.slots && kept.iter().all(|slot| slot.sizes.hold(&sizes)) {
            return Ok(kept);
        }
        // The old ones first, so that both are never there together.
        drop(kept);
        (0..self.tuning.slots).map(|n| Slot::new(&self.device, &self.kernels, n, sizes)).collect()
    }

    /// What a test wants to happen at this submission.
    fn fault(&self) -> Option<Fault> {
        let left = self.submissions_left.load(Ordering::Relaxed);
        if left == u64::MAX {
            return None;
        }
        self.submissions_left.store(left.saturating_sub(1), Ordering::Relaxed);
        (left == 0).then_some(self.hooks.fault)
    }

    fn suffer(&self, fault: Option<Fault>, now: Fault) {
        match fault.filter(|fault| *fault == now) {
            None => {}
            Some(Fault::Invalid) => drop(device::invalid_buffer(&self.device.inner)),
            Some(_) => self.device.inner.destroy(),
        }
    }
}

impl Backend for Gpu {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn takes(&self, span: &Span, rule: &Rule) -> bool {
        layout::dtype_code(span.dtype).is_some() && !span.wide && rule.is_linear(span.known)
    }

    fn pullers(&self) -> usize {
        self.readers
    }

    /// With a new instance of everything: what is left of a lost device is not to be trusted. A driver
    /// that does not come back from that is left to a thread of its own.
    fn again(&self) -> Option<Result<Box<dyn Backend>, Error>> {
        let (info, threads, patience) =
            (self.info.clone(), self.writers, self.hooks.opening_patience);
        let losses = self.hooks.losses.saturating_sub(1);
        let submissions = if losses > 0 { self.hooks.submissions } else { u64::MAX };
        let hooks = Hooks { losses, submissions, ..self.hooks };
        let (sender, opened) = mpsc::channel();
        let open = move || {
            let all = adapters();
            let same = |adapter: &&Adapter| {
                (adapter.info.index, &adapter.info.name) == (info.index, &info.name)
            };
            let adapter = all.iter().find(same);
            // Nobody may wait any more.
            let _ = sender.send(adapter.map(|adapter| Gpu::open_with(adapter, threads, &hooks)));
        };
        if let Err(error) = thread::Builder::new().name("again".to_owned()).spawn(open) {
            return Some(Err(self.device.error(format!("cannot be opened: {error}"))));
        }
        match opened.recv_timeout(patience) {
            Ok(opened) => opened.map(|opened| opened.map(|gpu| Box::new(gpu) as Box<dyn Backend>)),
            Err(RecvTimeoutError::Timeout) => {
                Some(Err(self.device.error(format!("was not opened within {patience:?}"))))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(self.device.error("its driver panicked while it was opened")))
            }
        }
    }

    fn memory(&self, spans: &[Span], block: u64) -> u64 {
        memory_of(spans, block, &self.tuning)
    }

    fn answers(&self, question: &Question<'_>) -> bool {
        look::is_answered(question)
    }

    fn look(&self, question: &Question<'_>, raw: &[u8]) -> Result<Answer, Error> {
        self.answer(question, raw)
    }

    fn distrust(&self, problem: &str) {
        self.device.trouble.report(format!("computes wrongly: {problem}"));
    }

    fn drain(&self, queue: &Queue, job: &dyn Job, by: DeviceIndex) -> Result<(), Error> {
        let mut kept = lock(&self.slots);
        *lock(&self.stats) = GpuStats::default();
        self.device.check()?;
        let takes = |span: &Span| self.takes(span, queue.rule());
        if !queue.spans().iter().any(takes) {
            return Ok(());
        }
        let sizes = Sizes::tuned(queue.spans(), queue.block(), &self.tuning, takes);
        let slots = self.slots_of(&mut kept, sizes)?;
        *kept = self.turn(slots, sizes.samples, queue, job, by)?;
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.device.check().is_err() {
            // wgpu 30 waits for a queue that it drops, and panics if that never becomes empty. A
            // device that is lost is left to the end of the process.
            std::mem::forget((self.device.inner.clone(), self.device.queue.clone()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
