//! Ways for tests to stand in for drivers and cards that fail. A run uses [`Hooks::NONE`].

use std::borrow::Cow;
use std::time::Duration;

use super::kernels::Kernel;
use super::tuning::Tuning;

/// What happens to a device at a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is lost before it is handed the batch.
    LostBefore,
    /// It is lost when it has the batch.
    LostAfter,
    /// It is lost while buffers are on their way to be mapped.
    LostMapping,
    /// It finds something invalid, which nobody awaits.
    Invalid,
}

/// The slowest software device met needs a tenth of a second for a batch, and a batch of a card that
/// others use as well should not be given up for that.
const PATIENCE: Duration = Duration::from_secs(60);

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Units by which every quotient's estimate is off.
    pub spoil: i32,
    /// What the driver makes of a kernel's text; `None` of what it leaves alone.
    pub rewrite: fn(Kernel, &str) -> Option<String>,
    /// What happens to the device while its pipelines are made.
    pub opening: fn(&wgpu::Device),
    /// Whether kernels are timed. (Nothing wrong with that.)
    pub timed: bool,
    /// What to use instead of what was chosen. (Nor with that.)
    pub tuning: Tuning,
    /// How many submissions after the proof go well.
    pub submissions: u64,
    /// What happens at the next.
    pub fault: Fault,
    /// After which a device that does not answer counts as lost.
    pub patience: Duration,
    /// After which one that is opened in the place of another counts as lost: it compiles its kernels
    /// and proves itself, perhaps beside a driver that is at work yet.
    pub opening_patience: Duration,
    /// How many devices in turn are lost so: another one is opened in the place of each.
    pub losses: u32,
}

impl Hooks {
    /// Nothing.
    pub const NONE: Hooks = Hooks {
        spoil: 0,
        rewrite: |_, _| None,
        opening: |_| {},
        timed: false,
        tuning: Tuning::CHOSEN,
        submissions: u64::MAX,
        fault: Fault::LostAfter,
        patience: PATIENCE,
        opening_patience: PATIENCE,
        losses: 1,
    };

    pub(super) fn rewritten(&self, kernel: Kernel) -> Cow<'static, str> {
        let source = kernel.source();
        let rewritten = (self.rewrite)(kernel, source).map_or(Cow::Borrowed(source), Cow::Owned);
        self.tuning.shape.applied(rewritten)
    }
}
