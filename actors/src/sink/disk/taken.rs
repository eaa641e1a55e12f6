//! Disk buffers whose files are taken away while they are in use: nothing is said to be kept that is not there.

use std::sync::Arc;

use tokio::time::Instant;

use super::files::Files as _;
use super::model::{policy, start};
use super::power::Power;
use super::writer::{Next, Writer};
use crate::event::{Delivery, Event, Step};
use crate::sink::{Buffer, Fsync, OnOpen};

/// So small that most of the events rest on disk alone.
const SIZE: usize = 1 << 20;
const EVENTS: u64 = 1000;

fn push(buffer: &Buffer, writer: &mut Writer, numbers: std::ops::Range<u64>) {
    let step = Step::new("M");
    for n in numbers {
        let event = Event::new(&step, "start").with("n", n).with("text", "x".repeat(600));
        buffer.push([Delivery::new(event, "k".into())], Instant::now());
        while writer.turn(buffer, Instant::now()) == Next::Again {}
    }
}

fn end(buffer: &Buffer, writer: &mut Writer) {
    buffer.close_backlog();
    while writer.turn(buffer, Instant::now()) != Next::Ended {}
}

fn logs(files: &Power) -> Vec<String> {
    files.list().unwrap().into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn only_what_is_there_at_the_end_counts_as_kept_and_the_rest_is_counted_as_lost() {
    for (taken, marks) in [(1, false), (2, false), (usize::MAX, false), (usize::MAX, true)] {
        for from_the_end in [false, true] {
            let files = Arc::new(Power::default());
            let (buffer, mut writer) = start(&files, policy(SIZE, Fsync::Group));
            push(&buffer, &mut writer, 0..EVENTS);
            let before = buffer.balance(Instant::now());
            assert_eq!(before.waiting, before.on_disk);
            let mut names = logs(&files);
            if from_the_end {
                names.reverse();
            }
            names.iter().take(taken).for_each(|name| files.remove(name).unwrap());
            if marks {
                files.remove("marks").unwrap();
            }
            end(&buffer, &mut writer);
            let balance = buffer.balance(Instant::now());
            assert!(balance.holds());
            assert!(balance.shed + balance.in_memory() > before.shed, "{taken}: {balance:?}");
            drop((buffer, writer));
            let (buffer, _worker) = start(&files, policy(SIZE, Fsync::Group));
            let recovered = buffer.balance(Instant::now()).recovered;
            assert_eq!(recovered, balance.on_disk, "{taken} {from_the_end}");
        }
    }
}

#[test]
fn what_is_all_in_memory_is_written_again_and_nothing_is_lost() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(64 << 20, Fsync::Group));
    push(&buffer, &mut writer, 0..EVENTS);
    logs(&files).iter().for_each(|name| files.remove(name).unwrap());
    end(&buffer, &mut writer);
    let balance = buffer.balance(Instant::now());
    assert_eq!((balance.on_disk, balance.shed), (EVENTS, 0));
    drop((buffer, writer));
    let (buffer, _worker) = start(&files, policy(64 << 20, Fsync::Group));
    assert_eq!((buffer.balance(Instant::now()).recovered, buffer.disk_damage()), (EVENTS, (0, 0)));
}

#[test]
fn a_real_folder_that_is_taken_away_is_made_again_and_takes_what_comes_and_what_is_in_memory() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("buffers/live");
    let open = || {
        let buffer =
            Buffer::new("live".into(), policy(64 << 20, Fsync::Group), OnOpen::Buffer, Arc::default());
        super::open_inline(&buffer, &path).unwrap();
        buffer
    };
    let put = |buffer: &Buffer, n: u64| {
        let event = Event::new(&Step::new("M"), "start").with("n", n);
        buffer.push([Delivery::new(event, "k".into())], Instant::now());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for comes_more in [false, true] {
        let buffer = open();
        let found = buffer.balance(Instant::now()).recovered;
        (0..100).for_each(|n| put(&buffer, n));
        std::fs::remove_dir_all(root.path().join("buffers")).unwrap();
        if comes_more {
            put(&buffer, 100);
            assert!(buffer.disk_trouble().is_some() || path.join("marks").exists(), "it is found at once");
        }
        runtime.block_on(buffer.close());
        let balance = buffer.balance(Instant::now());
        assert!(balance.holds());
        assert_eq!(balance.on_disk + balance.shed + balance.in_memory(), found + 100 + u64::from(comes_more));
        drop(buffer);
        let buffer = open();
        assert_eq!(buffer.balance(Instant::now()).recovered, balance.on_disk);
        assert!(balance.on_disk >= 100, "{balance:?}");
        runtime.block_on(buffer.close());
    }
}
