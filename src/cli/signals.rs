//! SIGINT, SIGTERM and SIGHUP: the run is asked to end, and if it has not after a while, ended. Either
//! way no image is broken: a file gets its name only when it is whole. And a folder that was only made
//! for a while goes with the process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

static RECEIVED: AtomicI32 = AtomicI32::new(0);
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What goes on with what was begun, unless it is the same command with `--resume`.
static GO_ON: OnceLock<&str> = OnceLock::new();

/// Whether a run has begun that leaves something to go on with.
static BEGUN: AtomicBool = AtomicBool::new(false);

/// What stands for that where it is a stream.
const STREAM: &str = "-";

/// Says which option `--resume` is to take the place of: both together are refused.
pub(super) fn resume_in_place_of(option: &'static str) {
    // It is said once.
    let _ = GO_ON.set(option);
}

/// Says that nothing goes on with what was begun; of a stream nothing is there to be replaced.
pub(super) fn begins_again(is_stream: bool) {
    let _ = GO_ON.set(if is_stream { STREAM } else { "" });
}

/// Says that a run has begun, and left something to go on with.
pub(super) fn begun() {
    BEGUN.store(true, Ordering::SeqCst);
}

/// What goes on with a run that was interrupted, in words.
pub(super) fn going_on() -> String {
    if !BEGUN.load(Ordering::SeqCst) {
        return "the same command begins again".to_owned();
    }
    match GO_ON.get() {
        Some(&"") => return "the same command with --overwrite begins again".to_owned(),
        Some(&STREAM) => return "the same command begins again".to_owned(),
        _ => {}
    }
    let place = GO_ON.get().map_or(String::new(), |option| format!(" in the place of {option}"));
    format!("the same command with --resume{place} goes on")
}

/// The folder that goes with the process. No signal ends it while this is held.
pub(super) fn held_folder() -> MutexGuard<'static, Option<PathBuf>> {
    FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signal that asked for the end, if one has.
pub(super) fn received() -> Option<u8> {
    u8::try_from(RECEIVED.load(Ordering::SeqCst)).ok().filter(|&signal| signal > 0)
}

/// Makes writing beyond a file size limit an error like others, and not a death.
#[cfg(unix)]
pub(super) fn let_writes_fail() {
    use signal_hook::{consts::SIGXFSZ, flag};
    // It fails for signals alone that cannot be caught, which this one can.
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

/// Elsewhere it is no death.
#[cfg(not(unix))]
pub(super) fn let_writes_fail() {}

/// Sets `cancel` at the first SIGINT, SIGTERM or SIGHUP (unless it was started by `nohup`). After a second
/// one that is no SIGHUP, or 1.5 s, the process ends
/// whatever it waits for.
#[cfg(unix)]
pub(super) fn cancel_on_signal(cancel: Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use std::{sync::mpsc, thread, time::Duration};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    if !is_hangup_ignored() {
        signals.add_signal(SIGHUP)?;
    }
    // Both threads are there before they are needed: none can begin while a driver is loaded.
    let (ask, asked) = mpsc::channel();
    let (say, to_say) = mpsc::channel();
    let (said, is_said) = mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // A terminal that goes may say so twice, and where SIGTERM came before.
            if signal == SIGHUP && RECEIVED.load(Ordering::SeqCst) != 0 {
                continue;
            }
            if RECEIVED.swap(signal, Ordering::SeqCst) != 0 {
                end(signal);
            }
            cancel.store(true, Ordering::Relaxed);
            let _ = ask.send(signal);
        }
    })?;
    let small = |name: &str| thread::Builder::new().name(name.to_owned()).stack_size(256 << 10);
    let last_words = small("last words").spawn(move || {
        for line in to_say {
            let line: String = line;
            super::say(&line);
            // Nobody may wait any more.
            let _ = said.send(());
        }
    });
    let deadline = small("deadline").spawn(move || {
        let Ok(signal) = asked.recv() else { return };
        thread::sleep(Duration::from_millis(1500));
        let more = if held_folder().is_some() {
            String::new()
        } else {
            format!("; images written so far are whole; {}", going_on())
        };
        // No longer than it takes where somebody listens: stderr may be a pipe that is full.
        if say.send(format!("tensortiff: interrupted{more}")).is_ok() {
            let _ = is_said.recv_timeout(Duration::from_millis(100));
        }
        end(signal);
    });
    // Without them, what works ends it, or the second signal.
    drop((last_words, deadline));
    Ok(())
}

/// Whether the process was started so that a terminal may go, as `nohup` does; as if it was, where nobody
/// tells.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return true };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal 1 is bit 0.
    ignored.is_none_or(|mask| mask & 1 == 1)
}

/// Ends the process, and the folder with it.
#[cfg(unix)]
fn end(signal: i32) -> ! {
    use std::{fs, io, thread, time::Duration};

    // Held to the end: no new one is made.
    let folder = held_folder();
    if let Some(folder) = &*folder {
        // Threads that write may make another file in a folder just emptied; they were told to stop.
        for _ in 0..500 {
            match fs::remove_dir_all(folder) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if !folder.exists() {
                        break;
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    signal_hook::low_level::exit(128 + signal)
}

/// Elsewhere the system ends the process.
#[cfg(not(unix))]
pub(super) fn cancel_on_signal(_cancel: Arc<AtomicBool>) -> std::io::Result<()> {
    Ok(())
}
