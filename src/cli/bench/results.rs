//! What was measured, as `--json` has it. Speeds are GB/s, 10^9 bytes of samples a second.

use std::time::Duration;

use serde::Serialize;

use super::measure::{Whole, gigabytes_a_second};
use crate::cli::devices::Line;

/// Everything.
#[derive(Serialize)]
pub(super) struct Results {
    pub(super) threads: usize,
    pub(super) rounds: usize,
    /// Where files were written.
    pub(super) folder: String,
    /// A plain copy in memory, by one thread and by `memory_copy_threads`: as many as run, but no
    /// more than there are cores; each byte counts once.
    #[serde(flatten)]
    pub(super) memory: Memory,
    /// Seconds that it took to open and prove the adapters.
    pub(super) adapters_seconds: f64,
    /// What `--device auto` uses; nothing where no adapter was looked for.
    pub(super) auto: Option<Vec<String>>,
    /// Every adapter, as `tensortiff devices` has them; nothing where none was looked for.
    pub(super) found: Option<Vec<Line>>,
    /// Why others that were wanted are not used.
    pub(super) not_used: Vec<String>,
    /// The adapters that were measured.
    pub(super) adapters: Vec<AdapterResults>,
    pub(super) sets: Vec<SetResults>,
}

#[derive(Serialize, Clone, Copy)]
pub(super) struct Memory {
    pub(super) memory_copy_one: Rounds,
    pub(super) memory_copy_all: Rounds,
    pub(super) memory_copy_threads: usize,
}

/// One set of data.
#[derive(Serialize)]
pub(super) struct SetResults {
    pub(super) name: String,
    pub(super) images: u64,
    pub(super) bytes: u64,
    /// Reading alone; and reading the bytes as they lie in the dump, packed or not, and writing files
    /// of the same sizes.
    pub(super) read: Speed,
    pub(super) file_copy: Speed,
    pub(super) devices: Vec<DeviceResults>,
    pub(super) not_measured: Vec<NotMeasured>,
    /// Nothing where not both the CPU alone and all together were measured.
    pub(super) gpu_pays: Option<Pays>,
    pub(super) kernels: Vec<KernelResults>,
}

/// A device that cannot do this set.
#[derive(Serialize)]
pub(super) struct NotMeasured {
    pub(super) name: String,
    pub(super) why: String,
}

/// One device, or several.
#[derive(Serialize)]
pub(super) struct DeviceResults {
    pub(super) name: String,
    pub(super) to_nothing: Speed,
    pub(super) to_files: Speed,
    /// Of the run to files in the middle: GB/s in the share of its time that its threads spent on
    /// this; nothing where they spent none.
    pub(super) read: Option<f64>,
    pub(super) compute: Option<f64>,
    pub(super) write: Option<f64>,
    /// Share of the threads' time that was spent waiting.
    pub(super) wait: f64,
    /// Of the same run: who made which share of the pixels.
    pub(super) shares: Vec<Share>,
}

#[derive(Serialize)]
pub(super) struct Share {
    pub(super) device: String,
    pub(super) share: f64,
}

/// Whether all devices together, opened beforehand, are faster than the CPU alone.
#[derive(Serialize)]
pub(super) struct Pays {
    pub(super) verdict: Verdict,
    /// The quotient of the medians of both, to files.
    pub(super) times_cpu: f64,
}

/// Unclear where the rounds of both overlap, and of fewer than [`Pays::ROUNDS`]: of two and two every
/// third order of equals is one without overlap, of five and five one of 126.
#[derive(Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Yes,
    No,
    Unclear,
}

/// What an adapter can do at best, in GB/s.
#[derive(Serialize, Clone)]
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there are no adapters"))]
pub(super) struct AdapterResults {
    pub(super) name: String,
    /// Copying in its memory, bytes read and bytes written both counted.
    pub(super) memory_copy: f64,
    /// To it, and back.
    pub(super) up: f64,
    pub(super) down: f64,
}

/// One kernel, on one set of data.
#[derive(Serialize)]
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there are no adapters"))]
pub(super) struct KernelResults {
    pub(super) adapter: String,
    pub(super) kernel: &'static str,
    /// GB/s of bytes read and written; nothing where the adapter has no clock.
    pub(super) speed: Option<f64>,
    /// As a share of copying in its memory.
    pub(super) of_memory_copy: Option<f64>,
    /// Times that it was started.
    pub(super) dispatches: u64,
}

/// GB/s of the rounds. Of an even number of them the slower of the two in the middle is the median.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Rounds {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
    #[serde(skip)]
    count: usize,
}

impl Rounds {
    pub(super) fn of(speeds: impl IntoIterator<Item = f64>) -> Rounds {
        let mut speeds: Vec<f64> = speeds.into_iter().collect();
        speeds.sort_by(f64::total_cmp);
        let at = |k: usize| speeds.get(k).copied().unwrap_or(f64::NAN);
        let last = speeds.len().saturating_sub(1);
        Rounds { median: at(last / 2), least: at(0), greatest: at(last), count: speeds.len() }
    }
}

/// A speed on a set of data.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Speed {
    #[serde(flatten)]
    pub(super) rounds: Rounds,
    /// Of the median.
    pub(super) seconds: f64,
    /// As shares of the machine's own medians.
    pub(super) of_memory_copy_one: f64,
    pub(super) of_memory_copy_all: f64,
    pub(super) of_file_copy: f64,
}

/// What the speeds on a set are compared with.
pub(super) struct Yardstick {
    bytes: u64,
    memory: Memory,
    file_copy: f64,
}

impl Yardstick {
    pub(super) fn new(bytes: u64, memory: Memory, file_copies: &[Duration]) -> Self {
        let speeds = file_copies.iter().map(|time| gigabytes_a_second(bytes, *time));
        Yardstick { bytes, memory, file_copy: Rounds::of(speeds).median }
    }

    pub(super) fn speed<'a>(&self, times: impl IntoIterator<Item = &'a Duration>) -> Speed {
        let speeds = times.into_iter().map(|time| gigabytes_a_second(self.bytes, *time));
        let rounds = Rounds::of(speeds);
        Speed {
            rounds,
            seconds: self.bytes as f64 / 1e9 / rounds.median,
            of_memory_copy_one: rounds.median / self.memory.memory_copy_one.median,
            of_memory_copy_all: rounds.median / self.memory.memory_copy_all.median,
            of_file_copy: rounds.median / self.file_copy,
        }
    }

    /// Of the rounds to nothing and to files.
    pub(super) fn device(&self, name: &str, nothing: &[Whole], files: &[Whole]) -> DeviceResults {
        let mut sorted: Vec<&Whole> = files.iter().collect();
        // The slower of two in the middle, as in `Rounds`.
        sorted.sort_by_key(|run| std::cmp::Reverse(run.time));
        let middle = sorted[(sorted.len() - 1) / 2];
        let stages = middle.stages;
        let of_threads =
            |time: Duration| time.as_secs_f64() / stages.total().as_secs_f64().max(1e-9);
        let while_in = |time: Duration| {
            let spent = middle.time.mul_f64(of_threads(time));
            (time > Duration::ZERO).then(|| gigabytes_a_second(self.bytes, spent))
        };
        let worked: u64 = middle.shares.iter().map(|(_, bytes)| bytes).sum();
        let share = |(device, bytes): &(String, u64)| Share {
            device: device.clone(),
            share: *bytes as f64 / worked.max(1) as f64,
        };
        DeviceResults {
            name: name.to_owned(),
            to_nothing: self.speed(nothing.iter().map(|run| &run.time)),
            to_files: self.speed(files.iter().map(|run| &run.time)),
            read: while_in(stages.read),
            compute: while_in(stages.compute),
            write: while_in(stages.write),
            wait: of_threads(stages.wait),
            shares: middle.shares.iter().map(share).collect(),
        }
    }
}

impl Pays {
    /// Fewer rounds do not tell.
    pub(super) const ROUNDS: usize = 5;

    /// Of the CPU's rounds and those of all devices together.
    pub(super) fn of(cpu: Rounds, together: Rounds) -> Pays {
        let verdict = if cpu.count < Pays::ROUNDS {
            Verdict::Unclear
        } else if together.least > cpu.greatest {
            Verdict::Yes
        } else if cpu.least > together.greatest {
            Verdict::No
        } else {
            Verdict::Unclear
        };
        Pays { verdict, times_cpu: together.median / cpu.median }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Stages;

    fn rounds<const N: usize>(speeds: [f64; N]) -> Rounds {
        Rounds::of(speeds)
    }

    #[test]
    fn rounds_are_told_by_their_middle_and_their_ends() {
        let told = |r: Rounds| (r.least, r.median, r.greatest);
        assert_eq!(told(rounds([3.0, 1.0, 2.0])), (1.0, 2.0, 3.0));
        assert_eq!(told(rounds([4.0, 1.0, 3.0, 2.0])), (1.0, 2.0, 4.0));
        assert_eq!(told(rounds([5.0])), (5.0, 5.0, 5.0));
    }

    #[test]
    fn a_gpu_pays_where_every_round_says_so() {
        let of = |cpu, both| Pays::of(rounds(cpu), rounds(both)).verdict;
        let slow = [1.0, 2.0, 3.0, 1.5, 2.5];
        assert_eq!(of(slow, [3.1, 4.0, 5.0, 4.0, 4.0]), Verdict::Yes);
        assert_eq!(of([3.1, 4.0, 5.0, 4.0, 4.0], slow), Verdict::No);
        assert_eq!(of(slow, [2.9, 4.0, 5.0, 4.0, 4.0]), Verdict::Unclear);
        assert_eq!(of(slow, slow), Verdict::Unclear);
        let few = |cpu, both| Pays::of(rounds([cpu; 4]), rounds([both; 4])).verdict;
        assert_eq!((few(1.0, 9.0), few(9.0, 1.0)), (Verdict::Unclear, Verdict::Unclear));
    }

    /// 8 GB: 2 s of 4 threads, of which one reads, one computes and two wait.
    #[test]
    fn stages_are_the_speed_in_their_share_of_the_time() {
        let second = Duration::from_secs(1);
        let memory = Memory {
            memory_copy_one: rounds([8.0]),
            memory_copy_all: rounds([16.0]),
            memory_copy_threads: 4,
        };
        let yardstick = Yardstick::new(8_000_000_000, memory, &[second]);
        let stages = Stages {
            read: 2 * second,
            compute: 2 * second,
            write: Duration::ZERO,
            wait: 4 * second,
        };
        let run = |seconds: u32, bytes: u64| Whole {
            time: seconds * second,
            stages,
            shares: vec![("a".to_owned(), bytes), ("b".to_owned(), 3)],
            leaves_starting: false,
        };
        let device = yardstick.device("x", &[run(1, 1)], &[run(4, 5), run(2, 1), run(1, 7)]);
        assert_eq!((device.to_nothing.rounds.median, device.to_files.rounds.median), (8.0, 4.0));
        assert_eq!(device.to_files.seconds, 2.0);
        let speed = device.to_files;
        let shares = (speed.of_memory_copy_one, speed.of_memory_copy_all, speed.of_file_copy);
        assert_eq!(shares, (0.5, 0.25, 0.5));
        assert_eq!((device.read, device.compute, device.write), (Some(16.0), Some(16.0), None));
        assert_eq!(device.wait, 0.5);
        let shares: Vec<f64> = device.shares.iter().map(|one| one.share).collect();
        assert_eq!(shares, [0.25, 0.75]);
    }
}
