//! How a run goes: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Verbosity, counted, say, signals};
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
    /// When it was last shown; the numbers are of that time.
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
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg}") {
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

    /// Writes something else where the bar is not in its way.
    pub(super) fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Progress {
    fn planned(&self, images: u64, bytes: u64) {
        signals::begun();
        self.bar.set_length(bytes.max(1));
        let now = Instant::now();
        *self.lock() = State { started: now, shown: now, images: (images, 0), bytes: (bytes, 0) };
    }

    fn advanced(&self, images: u64, bytes: u64) {
        let mut state = self.lock();
        state.images.1 += images;
        state.bytes.1 += bytes;
        if self.verbosity == Verbosity::Quiet || !state.is_due(Instant::now(), self.every) {
            return;
        }
        let (text, line, done) = (state.text(), state.line(), state.bytes.1);
        drop(state);
        if self.bar.is_hidden() {
            say(&line);
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
    /// Whether it is time to show how far the run is.
    fn is_due(&mut self, now: Instant, every: Duration) -> bool {
        let due = now.saturating_duration_since(self.shown) >= every;
        if due {
            self.shown = now;
        }
        due
    }

    /// What is shown where there is no bar.
    fn line(&self) -> String {
        let (planned, done) = (u128::from(self.bytes.0), u128::from(self.bytes.1));
        let percent = (100 * done / planned.max(1)).min(100);
        format!("tensortiff: {percent} %, {}", self.text())
    }

    /// `1200 of 4096 images, 310 images/s, 1.21 GB/s, 9 s left`
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "seconds left are shown whole; a float too large for u64 saturates"
    )]
    fn text(&self) -> String {
        let seconds = self.shown.saturating_duration_since(self.started).as_secs_f64().max(1e-6);
        let rate = self.bytes.1 as f64 / seconds;
        let left = (self.bytes.0 - self.bytes.1.min(self.bytes.0)) as f64 / rate.max(1.0);
        format!(
            "{} of {}, {:.0} images/s, {:.2} GB/s, {} left",
            self.images.1,
            counted(self.images.0, "image"),
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

    /// A run of 4096 images and 8 GB that has done so much when it is looked at.
    fn at(seconds: u64, images: u64, bytes: u64) -> State {
        let started = Instant::now();
        let mut state = State {
            started,
            shown: started,
            images: (4096, images),
            bytes: (8_000_000_000, bytes),
        };
        assert!(state.is_due(started + Duration::from_secs(seconds), LINE));
        state
    }

    #[test]
    fn a_line_tells_share_rates_and_time_left() {
        let cases = [
            (
                at(10, 1024, 2_000_000_000),
                "25 %, 1024 of 4096 images, 102 images/s, 0.20 GB/s, 30 s left",
            ),
            (
                at(20, 4095, 7_999_999_999),
                "99 %, 4095 of 4096 images, 205 images/s, 0.40 GB/s, 1 s left",
            ),
            (
                at(10, 4096, 8_000_000_000),
                "100 %, 4096 of 4096 images, 410 images/s, 0.80 GB/s, 0 s left",
            ),
            (
                at(1000, 1, 100_000_000),
                "1 %, 1 of 4096 images, 0 images/s, 0.00 GB/s, 21 h 56 min left",
            ),
            // Nothing done: no rate to go by, and no division by it.
            (at(10, 0, 0), "0 %, 0 of 4096 images, 0 images/s, 0.00 GB/s, 2222222 h 13 min left"),
            // A library's source may be larger than it said.
            (
                at(10, 5000, 9_000_000_000),
                "100 %, 5000 of 4096 images, 500 images/s, 0.90 GB/s, 0 s left",
            ),
        ];
        for (state, expected) in cases {
            assert_eq!(state.line(), format!("tensortiff: {expected}"));
        }
    }

    #[test]
    fn lines_come_every_ten_seconds_and_no_more_often() {
        let started = Instant::now();
        let mut state = State { started, shown: started, images: (1, 0), bytes: (1, 0) };
        let due: Vec<u64> = (0..=60_000)
            .step_by(500)
            .filter(|&ms| state.is_due(started + Duration::from_millis(ms), LINE))
            .collect();
        assert_eq!(due, [10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
    }
}
