//! Disk buffers that something has happened to: cut at any byte, with any bit flipped, with files that are no files of ours.

use std::sync::Arc;

use tokio::time::Instant;

use super::files::Files as _;
use super::head::HEAD as SEGMENT_HEAD;
use super::model::{policy, start};
use super::power::Power;
use super::writer::Next;
use crate::event::{Delivery, Event, Step};
use crate::sink::Fsync;

/// A name and what is in it.
type File = (String, Vec<u8>);

/// The files of a buffer with so many events waiting, and their JSON.
fn stored(events: u64) -> (Vec<File>, Vec<Vec<u8>>) {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(1 << 20, Fsync::Group));
    let now = Instant::now();
    let step = Step::new("M");
    let mut json = Vec::new();
    for n in 0..events {
        let event = Event::token(&step, "answer", "é", n);
        json.push(event.json().to_vec());
        buffer.push([Delivery::new(event, "k".into())], now);
    }
    while writer.turn(&buffer, now) == Next::Again {}
    (files.all(), json)
}

/// What arrives from these files, how many places were found damaged, and how many events are missing.
fn found(files: &[File]) -> (Vec<Vec<u8>>, u64, u64) {
    let files = Arc::new(Power::with(files));
    let (buffer, mut writer) = start(&files, policy(1 << 20, Fsync::Group));
    let now = Instant::now();
    while writer.turn(&buffer, now) == Next::Again {}
    let mut arrived = Vec::new();
    while let Some(lease) = buffer.lease(buffer.incarnation(), usize::MAX, usize::MAX, now) {
        let events = lease.items.iter().filter(|delivery| !delivery.event.is_system());
        arrived.extend(events.map(|delivery| delivery.event.json().to_vec()));
        buffer.complete(&lease, &vec![crate::sink::batch::Mark::Delivered; lease.items.len()], now);
        while writer.turn(&buffer, now) == Next::Again {}
    }
    assert!(buffer.balance(now).holds());
    assert_eq!(buffer.balance(now).waiting, 0);
    let (damaged, missing) = buffer.disk_damage();
    (arrived, damaged, missing)
}

fn log(files: &mut [File]) -> &mut Vec<u8> {
    &mut files.iter_mut().find(|(name, _)| name.ends_with(".log")).expect("a segment").1
}

#[test]
fn a_segment_that_is_cut_at_any_byte_of_its_last_records_gives_all_that_is_whole() {
    let (files, json) = stored(6);
    let mut whole = files.clone();
    let size = log(&mut whole).len();
    let record = (size - SEGMENT_HEAD) / 6;
    for len in size - 3 * record..=size {
        let mut cut = files.clone();
        log(&mut cut).truncate(len);
        let (arrived, damaged, missing) = found(&cut);
        let whole = (len - SEGMENT_HEAD) / record;
        assert_eq!((arrived.as_slice(), damaged), (&json[..whole], 0), "cut at {len}");
        // They were confirmed, and the marks know of them.
        assert_eq!(missing, 6 - whole as u64, "cut at {len}");
    }
}

#[test]
fn any_flipped_bit_costs_at_most_its_own_record_and_alters_none() {
    let (files, json) = stored(4);
    for (i, (name, bytes)) in files.iter().enumerate() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = files.clone();
            flipped[i].1[bit / 8] ^= 1 << (bit % 8);
            let (arrived, damaged, counted) = found(&flipped);
            let missing = json.iter().filter(|json| !arrived.contains(json)).count();
            assert_eq!(counted, missing as u64, "{name} bit {bit}");
            let known = arrived.iter().all(|event| json.contains(event));
            assert!(
                known && missing <= 1 && arrived.len() + missing == 4,
                "{name} bit {bit}: {}",
                arrived.len()
            );
            // The last record may as well be one that was never finished.
            let record = (bytes.len() - bytes.len().min(SEGMENT_HEAD)) / 4;
            let is_last = bit / 8 >= bytes.len() - record;
            let is_head = bit / 8 < SEGMENT_HEAD;
            assert!(
                !name.ends_with(".log") || is_head || (missing == 1 && (damaged == 1 || is_last)),
                "bit {bit}"
            );
        }
    }
}

#[test]
fn damage_is_counted_and_kept_aside_once_and_does_not_stop_what_comes_later() {
    let (mut files, json) = stored(4);
    let middle = log(&mut files).len() / 2 + 40;
    log(&mut files)[middle] ^= 1;
    let disk = Arc::new(Power::with(&files));
    for found in [(1, 1), (0, 0), (0, 0)] {
        let (buffer, writer) = start(&disk, policy(1 << 20, Fsync::Group));
        assert_eq!((buffer.balance(Instant::now()).recovered, buffer.disk_damage()), (3, found));
        drop(writer);
        let aside: Vec<_> = disk.all().into_iter().filter(|(name, _)| name.starts_with("damaged-")).collect();
        assert_eq!(aside.len(), 1);
        assert_eq!(aside[0].1.len(), (log(&mut files).len() - SEGMENT_HEAD) / 4);
    }
    assert_eq!(found(&disk.all()).0.len(), json.len() - 1);
}

#[test]
fn a_segment_that_cannot_be_read_any_more_is_counted_and_marked() {
    let (files, _) = stored(5);
    let disk = Arc::new(Power::with(&files));
    let (buffer, mut writer) = start(&disk, policy(1 << 20, Fsync::Group));
    let now = Instant::now();
    let name = disk.all().into_iter().map(|(name, _)| name).find(|name| name.ends_with(".log")).unwrap();
    disk.remove(&name).unwrap();
    for _ in 0..20 {
        writer.turn(&buffer, now);
    }
    let balance = buffer.balance(now);
    assert_eq!((balance.recovered, balance.shed, balance.waiting), (5, 5, 0));
    let lease = buffer.lease(0, 10, usize::MAX, now).expect("a marker");
    let marker = &lease.items[0].event;
    assert_eq!(marker.data("count").unwrap().as_u64(), Some(5));
    assert_eq!(marker.data("reason").unwrap().as_str(), Some("unreadable on disk"));
}

#[test]
fn damage_at_the_end_is_counted_like_any_other() {
    let (files, json) = stored(6);
    let mut half = files.clone();
    let record = (log(&mut half).len() - SEGMENT_HEAD) / 6;
    log(&mut half)[SEGMENT_HEAD + 3 * record..].fill(0);
    assert_eq!(found(&half), (json[..3].to_vec(), 1, 3));
    let mut whole = files;
    log(&mut whole).fill(0);
    assert_eq!(found(&whole), (vec![], 1, 6));
}

#[test]
fn strange_files_in_the_folder_are_left_alone() {
    let (mut files, json) = stored(3);
    for (name, bytes) in [("notes.txt", "hello"), ("00.log.bak", "x"), ("nonsense.log", "y"), ("7.new", "z")]
    {
        files.push((name.to_owned(), bytes.as_bytes().to_vec()));
    }
    assert_eq!(found(&files), (json, 0, 0));
}
