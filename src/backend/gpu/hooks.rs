//! Ways for tests to stand in for drivers and cards that fail. A run uses [`Hooks::NONE`].

use std::borrow::Cow;

use super::kernels::Kernel;
use super::tuning::Tuning;

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Units by which every quotient's estimate is off.
    pub spoil: i32,
    /// What the driver makes of a kernel's text; `None` of what it leaves alone.
    pub rewrite: fn(Kernel, &str) -> Option<String>,
    /// Whether kernels are timed. (Nothing wrong with that.)
    pub timed: bool,
    /// What to use instead of what was chosen. (Nor with that.)
    pub tuning: Tuning,
    /// How many submissions after the proof the device lives through.
    pub submissions: u64,
    /// How many devices in turn are lost so: another one is opened in the place of each.
    pub losses: u32,
}

impl Hooks {
    /// Nothing.
    pub const NONE: Hooks = Hooks {
        spoil: 0,
        rewrite: |_, _| None,
        timed: false,
        tuning: Tuning::CHOSEN,
        submissions: u64::MAX,
        losses: 1,
    };

    pub(super) fn rewritten(&self, kernel: Kernel) -> Cow<'static, str> {
        let source = kernel.source();
        let rewritten = (self.rewrite)(kernel, source).map_or(Cow::Borrowed(source), Cow::Owned);
        self.tuning.shape.applied(rewritten)
    }
}
