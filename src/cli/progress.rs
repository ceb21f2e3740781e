//! How a run goes: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Verbosity, say};
use crate::convert::Watch;

/// A bar is drawn this often; its numbers are worked out no more often.
const BAR: Duration = Duration::from_millis(100);
/// Lines come this often, so that the log of a long run stays short.
const LINE: Duration = Duration::from_secs(10);

/// Shows progress on stderr.
pub(super) struct Progress {
    verbosity: Verbosity,
    every: Duration,
    bar: ProgressBar,
    state: Mutex<State>,
}

struct State {
    started: Instant,
    shown: Instant,
    /// Planned and done.
    images: (u64, u64),
    bytes: (u64, u64),
}

impl Progress {
    pub(super) fn new(verbosity: Verbosity) -> Progress {
        let terminal = stderr().is_terminal() && verbosity > Verbosity::Quiet;
        let target =
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3} %  {msg}") {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        let now = Instant::now();
        let state = State { started: now, shown: now, images: (0, 0), bytes: (0, 0) };
        Progress {
            verbosity,
            every: if terminal { BAR } else { LINE },
            bar,
            state: Mutex::new(state),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Progress {
    fn planned(&self, images: u64, bytes: u64) {
        self.bar.set_length(bytes.max(1));
        let now = Instant::now();
        *self.lock() = State { started: now, shown: now, images: (images, 0), bytes: (bytes, 0) };
    }

    fn advanced(&self, images: u64, bytes: u64) {
        let mut state = self.lock();
        state.images.1 += images;
        state.bytes.1 += bytes;
        if state.shown.elapsed() < self.every || self.verbosity == Verbosity::Quiet {
            return;
        }
        state.shown = Instant::now();
        let (text, done) = (state.text(), state.bytes.1);
        let percent = (100 * u128::from(done) / u128::from(state.bytes.0.max(1))).min(100);
        drop(state);
        if self.bar.is_hidden() {
            say(&format!("tensortiff: {percent} %, {text}"));
        } else {
            self.bar.set_position(done);
            self.bar.set_message(text);
        }
    }

    fn note(&self, text: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.bar.suspend(|| say(&format!("tensortiff: note: {text}")));
        }
    }

    fn detail(&self, text: &str) {
        if self.verbosity == Verbosity::Verbose {
            self.note(text);
        }
    }
}

impl State {
    /// `1200 of 4096 images, 310 images/s, 1.21 GB/s, 9 s left`
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds left are shown whole; a float too large for u64 saturates"
    )]
    fn text(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-6);
        let rate = self.bytes.1 as f64 / seconds;
        let left = (self.bytes.0 - self.bytes.1.min(self.bytes.0)) as f64 / rate.max(1.0);
        format!(
            "{} of {} images, {:.0} images/s, {:.2} GB/s, {} left",
            self.images.1,
            self.images.0,
            self.images.1 as f64 / seconds,
            rate / 1e9,
            duration(left.ceil() as u64),
        )
    }
}

/// `9 s`, `3 min 20 s`, `2 h 05 min`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!([9, 200, 7500].map(duration), ["9 s", "3 min 20 s", "2 h 05 min"]);
    }
}
