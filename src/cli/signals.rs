//! SIGINT and SIGTERM: the run is asked to end, and if it has not after a while, ended. Either
//! way no image is broken: a file gets its name only when it is whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

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
                signal_hook::low_level::exit(128 + signal);
            }
            cancel.store(true, Ordering::Relaxed);
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(1500));
                super::say("tensortiff: interrupted; images written so far are whole");
                signal_hook::low_level::exit(128 + signal);
            });
        }
    })?;
    Ok(())
}

/// Elsewhere the system ends the process.
#[cfg(not(unix))]
pub(super) fn cancel_on_signal(_cancel: Arc<AtomicBool>) -> std::io::Result<()> {
    Ok(())
}
