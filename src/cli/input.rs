//! Events from standard input: one JSON object a line, each line accounted for.

use std::io::{self, BufRead, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;

use streamll_actors::event::{Confirmation, Decoder, MAX_EVENT_BYTES};
use streamll_actors::ingress::{Emitted, Emitter, Patience, Unconfirmed};
use tracing::warn;

use crate::pipes;

/// How many lines may wait for their confirmation.
const UNCONFIRMED: usize = 65_536;
/// What some programs write at the start of a file, which may have been put behind another one.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How lines become events.
pub(super) struct Input {
    pub(super) emitter: Emitter,
    /// For whom a line waits.
    pub(super) patience: Patience,
    /// Whether to print the number of each line that is held safely.
    pub(super) ack: bool,
    /// Set to end before the end of the input.
    pub(super) stop: Arc<AtomicBool>,
}

impl Input {
    /// Reads to the end, and returns who prints the acknowledgements that are still to come; must run on a thread of its
    /// own, outside of any runtime.
    pub(super) fn read(self, mut from: impl BufRead) -> (io::Result<()>, Option<Printer>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().build() {
            Ok(runtime) => runtime,
            Err(error) => return (Err(error), None),
        };
        let printer = self.ack.then(Printer::start);
        let mut decoder = Decoder::default();
        let mut line = Vec::new();
        let mut number = 0_u64;
        let read = runtime.block_on(async {
            while !self.stop.load(Ordering::Relaxed) && next_line(&mut from, &mut line)? {
                number += 1;
                let json = line.strip_suffix(b"\n").unwrap_or(&line);
                if json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json).trim_ascii().is_empty() {
                    continue;
                }
                let event = match decoder.decode(json) {
                    Ok(event) => event,
                    Err(error) => {
                        self.emitter.reject();
                        complain(number, &error.to_string());
                        continue;
                    }
                };
                match &printer {
                    None => {
                        if self.emitter.send_patiently(event, self.patience).await == Emitted::Closed {
                            break;
                        }
                    }
                    Some(printer) => {
                        let sent = self.emitter.send_with_receipt(event, self.patience).await;
                        printer.print_when_held(number, sent);
                    }
                }
            }
            Ok(())
        });
        (read, printer)
    }
}

fn complain(number: u64, why: &str) {
    // Standard error may be closed; that must not end the input.
    let _ = writeln!(pipes::stderr(), "streamll: line {number}: {why}");
}

/// Reads one line, at most a little more than the largest event: what is longer is skipped to its end. `false` at the
/// end of the input.
fn next_line(from: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = MAX_EVENT_BYTES as u64 + 2;
    if from.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() != Some(&b'\n') && line.len() as u64 == limit {
        from.skip_until(b'\n')?;
    }
    Ok(true)
}

/// Prints the numbers of the lines that are held safely, in order.
pub(super) struct Printer {
    lines: SyncSender<(u64, Unconfirmed)>,
    thread: thread::JoinHandle<()>,
}

impl Printer {
    fn start() -> Printer {
        let (lines, inbox) = sync_channel(UNCONFIRMED);
        let thread = thread::spawn(move || {
            if let Err(error) = print_all(&inbox) {
                warn!(%error, "no more acknowledgements: standard output is closed");
                // The input goes on: those who asked for numbers can hear no more of them.
                inbox.iter().for_each(drop);
            }
        });
        Printer { lines, thread }
    }

    fn print_when_held(&self, number: u64, sent: Unconfirmed) {
        let _ = self.lines.send((number, sent));
    }

    /// Waits until the fate of every line is known.
    pub(super) fn finish(self) {
        drop(self.lines);
        let _ = self.thread.join();
    }
}

fn print_all(inbox: &Receiver<(u64, Unconfirmed)>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut out = io::BufWriter::new(pipes::stdout());
    loop {
        let (number, sent) = match inbox.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return out.flush(),
            Err(TryRecvError::Empty) => {
                out.flush()?;
                match inbox.recv() {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                }
            }
        };
        // What no sink wants is safe in the only place where it was to be.
        if runtime.block_on(sent.confirmation()) != Confirmation::Lost {
            writeln!(out, "{number}")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_costs_no_more_memory_than_the_largest_event_and_the_next_line_is_whole() {
        let mut input = vec![b'x'; 3 * MAX_EVENT_BYTES];
        input.extend_from_slice(b"\nnext\nlast");
        let mut from = io::BufReader::new(&input[..]);
        let mut line = Vec::new();
        assert!(next_line(&mut from, &mut line).unwrap());
        assert!(line.len() > MAX_EVENT_BYTES && line.len() < MAX_EVENT_BYTES + 3);
        assert!(next_line(&mut from, &mut line).unwrap());
        assert_eq!(line, b"next\n");
        assert!(next_line(&mut from, &mut line).unwrap());
        assert_eq!(line, b"last");
        assert!(!next_line(&mut from, &mut line).unwrap());
    }
}
