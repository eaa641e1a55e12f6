//! Ends an application in order when a signal asks for it.

use std::io;
use std::sync::{Mutex, PoisonError};

/// What becomes of each signal in this process; where that cannot be looked up, nothing is ignored or caught.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dispositions {
    ignored: u64,
    caught: u64,
}

impl Dispositions {
    pub(crate) fn now() -> Dispositions {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = |key: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(key));
            mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
        };
        Dispositions { ignored: mask("SigIgn:"), caught: mask("SigCgt:") }
    }

    pub(crate) fn is_ignored(self, signal: i32) -> bool {
        holds(self.ignored, signal)
    }

    fn is_default(self, signal: i32) -> bool {
        !self.is_ignored(signal) && !holds(self.caught, signal)
    }
}

fn holds(mask: u64, signal: i32) -> bool {
    u32::try_from(signal - 1).ok().and_then(|bit| mask.checked_shr(bit)).is_some_and(|mask| mask & 1 == 1)
}

/// Whether somebody listens already.
static LISTENING: Mutex<bool> = Mutex::new(false);

/// Makes SIGHUP, SIGINT, SIGQUIT and SIGTERM end the program in order. At the first signal, the process-wide default
/// delivers the waiting events, for its `shutdown.timeout` at most. Then the process ends in the way that this signal
/// ends a process by default (128 plus its number, for a shell). A second signal ends the process at once.
///
/// Without this function, or a handler of your own, **such a signal ends a program without draining**: guards are not
/// dropped, and the events in memory buffers are lost. The function needs no async runtime.
///
/// It changes only signals that are at their default. A signal that is ignored stays ignored (`nohup`). A signal for
/// which the program already has a handler keeps that handler, which should call [`shutdown`](crate::shutdown). So call
/// this function after you have installed your own handlers. A handler that is installed later gets the signal, too,
/// but the process ends once it is drained.
///
/// SIGXFSZ is caught if it would end the process. Then writes beyond a limit on the size of files fail, and sinks
/// report this. The [guide](crate::guide::signals) lists all signals.
///
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let _streamll = streamll::init()?;
///     streamll::drain_on_signals()?;
///     // …
///     Ok(())
/// }
/// ```
///
/// # Errors
///
/// If the system has no handler or no thread to give. A second call does nothing.
#[cfg(unix)]
pub fn drain_on_signals() -> io::Result<()> {
    use rustix::process::Signal;
    use signal_hook::iterator::Signals;

    let mut listening = LISTENING.lock().unwrap_or_else(PoisonError::into_inner);
    if *listening {
        return Ok(());
    }
    let dispositions = Dispositions::now();
    let ends = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].map(Signal::as_raw);
    let mut signals = Signals::new(ends.into_iter().filter(|signal| dispositions.is_default(*signal)))?;
    if dispositions.is_default(Signal::XFSZ.as_raw()) {
        signal_hook::flag::register(Signal::XFSZ.as_raw(), std::sync::Arc::default())?;
    }
    let listen = move || {
        let mut heard = signals.forever();
        let Some(first) = heard.next() else { return };
        tracing::info!(signal = first, "draining: a second signal ends the process at once");
        let drain = move || {
            crate::shutdown_blocking();
            end(first);
        };
        // Beside, so that a second one is heard.
        if std::thread::Builder::new().name("streamll-drain".to_owned()).spawn(drain).is_err() {
            crate::shutdown_blocking();
            end(first);
        }
        if let Some(second) = heard.next() {
            end(second);
        }
    };
    std::thread::Builder::new().name("streamll-signals".to_owned()).spawn(listen)?;
    *listening = true;
    Ok(())
}

/// As the signal ends a process by default.
#[cfg(unix)]
fn end(signal: i32) {
    // By default the first process of a container outlives every signal.
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    std::process::exit(128 + signal);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_and_what_is_caught_is_known() {
        let now = Dispositions::now();
        // Rust ignores SIGPIPE, and catches SIGSEGV to tell of stacks that overflow.
        assert!(now.is_ignored(13) && !now.is_default(13) && !now.is_ignored(11) && !now.is_default(11));
        assert!(now.is_default(15));
        assert!(!holds(u64::MAX, 0) && holds(u64::MAX, 64) && !holds(u64::MAX, 65));
    }
}
