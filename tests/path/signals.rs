//! What a signal does to an application: with [`streamll::drain_on_signals`], and with handlers of its own.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use streamll::{Deliveries, DeliveryError, Event, Sink, SinkSpec, Topology};

/// What the process of the test is to do.
const ROLE: &str = "STREAMLL_TEST_ROLE";
const OUT: &str = "STREAMLL_TEST_OUT";
/// So many events, one after the other.
const EVENTS: usize = 40;

/// Takes its time for each event, so that the rest waits in memory when the signal comes.
struct Slow(PathBuf);

impl Sink for Slow {
    async fn deliver(&mut self, batch: &mut Deliveries) -> Result<(), DeliveryError> {
        for i in 0..batch.len() {
            tokio::time::sleep(Duration::from_millis(25)).await;
            say(&self.0, "event");
            batch.delivered(i);
        }
        Ok(())
    }
}

fn say(out: &Path, what: &str) {
    let mut out = OpenOptions::new().append(true).create(true).open(out).unwrap();
    writeln!(out, "{what}").unwrap();
}

fn said(out: &Path, what: &str) -> usize {
    std::fs::read_to_string(out).unwrap_or_default().lines().filter(|line| *line == what).count()
}

/// The application, in a process of its own, which this test starts by its name.
#[test]
fn application() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let out = PathBuf::from(std::env::var_os(OUT).unwrap());
    let own = Arc::new(AtomicBool::new(false));
    if role == "own" {
        signal_hook::flag::register(Signal::TERM.as_raw(), own.clone()).unwrap();
    }
    let events = if role == "stuck" { EVENTS * 1000 } else { EVENTS };
    let to = out.clone();
    let sink = SinkSpec::new("slow", move || Slow(to.clone()));
    let handle =
        Topology::builder("app").shutdown_timeout(Duration::from_secs(3600)).sink("slow", sink).start();
    let handle = handle.unwrap();
    streamll::install(&handle);
    if role != "bare" {
        streamll::drain_on_signals().unwrap();
        streamll::drain_on_signals().unwrap();
    }
    let step = streamll::step("App");
    for _ in 0..events {
        handle.emit(Event::new(&step, "start"));
    }
    say(&out, "ready");
    while !own.load(Ordering::SeqCst) {
        thread::park_timeout(Duration::from_millis(10));
    }
    say(&out, "own");
    std::process::exit(7);
}

struct Application {
    child: Child,
    out: PathBuf,
    _folder: tempfile::TempDir,
}

impl Application {
    /// Started by a shell, which may ignore some signals.
    fn start(role: &str, before: &str) -> Application {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let me = std::env::current_exe().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before} exec \"$0\" --exact signals::application")]).arg(me);
        shell.env(ROLE, role).env(OUT, &out).stdout(std::process::Stdio::null());
        let application = Application { child: shell.spawn().unwrap(), out, _folder: folder };
        application.wait_for("ready", 1);
        application.wait_for("event", 1);
        application
    }

    fn wait_for(&self, what: &str, count: usize) {
        for _ in 0..3000 {
            if said(&self.out, what) >= count {
                return;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!("waited in vain for {count} {what}");
    }

    fn signal(&self, signal: Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

#[test]
fn a_signal_delivers_what_waits_and_then_ends_the_process_as_it_would_by_default() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut application = Application::start("drains", "ulimit -c 0;");
        application.signal(signal);
        assert_eq!(application.end().signal(), Some(signal.as_raw()));
        assert_eq!(said(&application.out, "event"), EVENTS, "{signal:?}");
    }
}

#[test]
fn without_a_word_a_signal_ends_a_program_undrained() {
    let mut application = Application::start("bare", "");
    application.signal(Signal::TERM);
    assert_eq!(application.end().signal(), Some(15));
    assert!(said(&application.out, "event") < EVENTS, "the documentation says so");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut application = Application::start("stuck", "");
    application.signal(Signal::TERM);
    application.wait_for("event", said(&application.out, "event") + 2);
    application.signal(Signal::HUP);
    assert_eq!(application.end().signal(), Some(1));
}

#[test]
fn what_is_ignored_stays_ignored_and_what_has_a_handler_keeps_it() {
    let mut application = Application::start("own", "trap '' HUP;");
    application.signal(Signal::HUP);
    application.wait_for("event", EVENTS);
    application.signal(Signal::TERM);
    assert_eq!((application.end().code(), said(&application.out, "own")), (Some(7), 1));
}
