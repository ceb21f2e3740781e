//! SIGINT and SIGTERM: the run is asked to end, and if it has not after a while, ended. Either
//! way no image is broken: a file gets its name only when it is whole. And a folder that was only made
//! for a while goes with the process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

static RECEIVED: AtomicI32 = AtomicI32::new(0);
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The folder that goes with the process. No signal ends it while this is held.
pub(super) fn held_folder() -> MutexGuard<'static, Option<PathBuf>> {
    FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signal that asked for the end, if one has.
pub(super) fn received() -> Option<u8> {
    u8::try_from(RECEIVED.load(Ordering::SeqCst)).ok().filter(|&signal| signal > 0)
}

/// Sets `cancel` at the first SIGINT or SIGTERM. After a second one, or 1.5 s, the process ends
/// whatever it waits for.
#[cfg(unix)]
pub(super) fn cancel_on_signal(cancel: Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use std::{thread, time::Duration};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    // Writing beyond a file size limit is an error like others, not a death.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if RECEIVED.swap(signal, Ordering::SeqCst) != 0 {
                end(signal);
            }
            cancel.store(true, Ordering::Relaxed);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(1500));
                super::say(if held_folder().is_some() {
                    "tensortiff: interrupted"
                } else {
                    "tensortiff: interrupted; images written so far are whole"
                });
                end(signal);
            });
        }
    })?;
    Ok(())
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
