//! Disk buffers that are full, or whose disk is behind: who goes, and who must not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::handle::Hand;
use super::model::{policy, start};
use super::power::Power;
use super::writer::{Next, RETRY, Writer};
use crate::event::{Class, Confirmation, Delivery, Event, Receipt, Step};
use crate::sink::batch::Mark;
use crate::sink::{Buffer, BufferPolicy, Fsync, OnOpen};

fn event(class: Class, size: usize) -> Event {
    let mut event = Event::new(&Step::new("M"), "e").with("text", "x".repeat(size));
    event.set_class(class);
    event
}

fn push(buffer: &Buffer, class: Class, events: usize, size: usize, now: Instant) {
    for _ in 0..events {
        buffer.push([Delivery::new(event(class, size), "k".into())], now);
    }
}

fn turn(buffer: &Buffer, writer: &mut Writer, now: Instant) {
    while writer.turn(buffer, now) == Next::Again {}
}

/// How many events of each class arrive, with what the markers tell of.
fn deliver(buffer: &Buffer, writer: &mut Writer, now: Instant) -> ([usize; 3], u64) {
    let (mut arrived, mut reported) = ([0; 3], 0);
    turn(buffer, writer, now);
    while let Some(lease) = buffer.lease(buffer.incarnation(), usize::MAX, usize::MAX, now) {
        for delivery in &lease.items {
            match delivery.event.is_system() {
                true => {
                    reported += delivery.event.data("count").and_then(|count| count.as_u64()).unwrap_or(0)
                }
                false => arrived[delivery.event.class() as usize] += 1,
            }
        }
        buffer.complete(&lease, &vec![Mark::Delivered; lease.items.len()], now);
        turn(buffer, writer, now);
    }
    assert!(buffer.balance(now).holds());
    (arrived, reported)
}

#[test]
fn what_is_safe_on_disk_does_not_go_because_the_disk_is_behind() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(256 << 20, Fsync::Group));
    let now = Instant::now();
    for _ in 0..4 {
        push(&buffer, Class::Lifecycle, 1000, 4000, now);
        turn(&buffer, &mut writer, now);
    }
    assert_eq!(buffer.balance(now).on_disk, 4000);
    files.fail(true, true);
    turn(&buffer, &mut writer, now);
    push(&buffer, Class::Lifecycle, 1000, 4000, now);
    push(&buffer, Class::Audit, 6000, 4000, now);
    files.fail(false, false);
    let (arrived, reported) = deliver(&buffer, &mut writer, now + RETRY);
    let [_, lifecycle, audit] = arrived;
    assert!(lifecycle >= 4000, "{lifecycle} of those that were safe");
    assert!(audit > 3000, "audit events displace those that are not written: {audit}");
    assert_eq!((lifecycle + audit + reported as usize), 11_000);
}

#[test]
fn a_bound_of_events_sheds_few_and_an_event_beyond_the_size_sheds_none() {
    let now = Instant::now();
    let files = Arc::new(Power::default());
    let bounds = BufferPolicy { max_events: 3000, ..policy(4 << 20, Fsync::Group) };
    let (buffer, mut writer) = start(&files, bounds);
    for _ in 0..30 {
        push(&buffer, Class::Lifecycle, 100, 10, now);
        turn(&buffer, &mut writer, now);
    }
    assert_eq!((buffer.balance(now).waiting, buffer.balance(now).shed), (3000, 0));
    push(&buffer, Class::Audit, 1, 10, now);
    let shed = buffer.balance(now).shed;
    assert!(shed > 0 && shed < 600, "{shed} for one");
    push(&buffer, Class::Audit, 1, 5 << 20, now);
    assert_eq!(buffer.balance(now).shed, shed + 1, "it does not fit anyway");
    let ([_, lifecycle, audit], reported) = deliver(&buffer, &mut writer, now);
    assert_eq!((lifecycle as u64, audit, reported), (3000 - shed, 1, shed + 1));
}

#[test]
fn markers_of_what_was_shed_from_memory_survive_an_orderly_end() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(1 << 20, Fsync::Group));
    let now = Instant::now();
    files.fail(true, true);
    push(&buffer, Class::Token, 900, 700, now);
    turn(&buffer, &mut writer, now);
    push(&buffer, Class::Lifecycle, 400, 700, now);
    let shed = buffer.balance(now).shed;
    assert!(shed > 100, "{shed}");
    files.fail(false, false);
    turn(&buffer, &mut writer, now + RETRY);
    buffer.close_backlog();
    while writer.turn(&buffer, now + RETRY) != Next::Ended {}
    let (buffer, mut writer) = start(&files, policy(1 << 20, Fsync::Group));
    let (arrived, reported) = deliver(&buffer, &mut writer, now);
    assert_eq!((arrived.iter().sum::<usize>() as u64, reported), (1300 - shed, shed));
}

#[test]
fn what_is_not_yet_on_its_disk_is_not_held() {
    let buffer = Buffer::new("model".into(), policy(1 << 20, Fsync::Group), OnOpen::Buffer, Arc::default());
    let mut event = event(Class::Lifecycle, 10);
    let (receipt, mut answer) = Receipt::new();
    event.set_receipt(receipt.clone());
    buffer.push([Delivery::new(event, "k".into())], Instant::now());
    receipt.routed(1);
    assert!(answer.try_recv().is_err(), "an earlier sink still has the folder");
    let files = Arc::new(Power::default());
    let (mut writer, attached) = Writer::open(&buffer, files).unwrap();
    buffer.put_on_disk(&attached.recovered, attached.disk(Hand::Thread(Arc::default())));
    assert!(answer.try_recv().is_err());
    turn(&buffer, &mut writer, Instant::now());
    assert_eq!(answer.try_recv(), Ok(Confirmation::Held(1)));
}

/// What waited in memory for the folder is more than may wait to be written.
#[test]
fn what_comes_in_behind_a_takeover_displaces_nothing_that_waited() {
    let files = Arc::new(Power::default());
    let policy = policy(1 << 30, Fsync::Group);
    let buffer = Buffer::new("model".into(), policy, OnOpen::Buffer, Arc::default());
    let now = Instant::now();
    push(&buffer, Class::Token, 5000, 8000, now);
    assert!(!buffer.is_pressed(0, 0));
    push(&buffer, Class::Token, 2000, 8000, now);
    assert!(buffer.is_pressed(0, 0), "a memory has 64 MiB");
    let (mut writer, attached) = Writer::open(&buffer, files).unwrap();
    buffer.put_on_disk(&attached.recovered, attached.disk(Hand::Thread(Arc::default())));
    push(&buffer, Class::Audit, 1000, 8000, now);
    assert_eq!(buffer.balance(now).shed, 0);
    assert_eq!(deliver(&buffer, &mut writer, now), ([7000, 0, 1000], 0));
    // Once it is written, as much may wait for the disk as ever.
    turn(&buffer, &mut writer, now);
    assert!(!buffer.is_pressed(0, 7 << 20) && buffer.is_pressed(0, 9 << 20));
}

#[test]
fn what_could_not_be_written_at_the_end_is_lost_and_not_unwanted() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(1 << 20, Fsync::Group));
    files.fail(true, true);
    let mut event = event(Class::Lifecycle, 10);
    let (receipt, mut answer) = Receipt::new();
    event.set_receipt(receipt.clone());
    buffer.push([Delivery::new(event, "k".into())], Instant::now());
    receipt.routed(1);
    buffer.close_backlog();
    while writer.turn(&buffer, Instant::now()) != Next::Ended {}
    assert_eq!(answer.try_recv(), Ok(Confirmation::Lost));
}

#[test]
fn with_an_interval_a_loss_of_power_costs_what_came_in_since_the_last_sync() {
    let every = Fsync::Every(Duration::from_millis(100));
    for (waits, recovered) in [(0, 0), (100, 50)] {
        let files = Arc::new(Power::default());
        let (buffer, mut writer) = start(&files, policy(1 << 20, every));
        let now = Instant::now();
        push(&buffer, Class::Lifecycle, 50, 10, now);
        turn(&buffer, &mut writer, now);
        turn(&buffer, &mut writer, now + Duration::from_millis(waits));
        // Nothing that was not synced is there.
        files.lose(|_| 1);
        let (buffer, _) = start(&files, policy(1 << 20, every));
        assert_eq!(buffer.balance(now).recovered, recovered, "after {waits} ms");
    }
}

/// A disk that is full while the broker is away: then the broker comes, and takes what waits before it could be written.
#[test]
fn what_leaves_before_it_could_be_written_ends_the_trouble_of_the_disk() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(64 << 20, Fsync::Group));
    let now = Instant::now();
    files.limit(Some(100));
    let mut answers = Vec::new();
    for _ in 0..900 {
        let mut event = event(Class::Lifecycle, 10_000);
        let (receipt, answer) = Receipt::new();
        event.set_receipt(receipt.clone());
        buffer.push([Delivery::new(event, "k".into())], now);
        receipt.routed(1);
        answers.push(answer);
    }
    turn(&buffer, &mut writer, now);
    assert!(buffer.disk_trouble().is_some() && !buffer.is_kept());
    assert!(buffer.is_pressed(0, 0), "a sender waits");
    let (arrived, _) = deliver(&buffer, &mut writer, now);
    assert_eq!(arrived[Class::Lifecycle as usize], 900);
    assert_eq!(buffer.disk_trouble(), None, "nothing is left that could not be written");
    assert!(!buffer.is_pressed(0, 0) && buffer.is_kept());
    assert_eq!(writer.turn(&buffer, now + RETRY), Next::Wait(None), "there is nothing to be tried again");
    assert!(answers.iter_mut().all(|answer| answer.try_recv() == Ok(Confirmation::Held(1))));
}

#[test]
fn a_disk_that_has_room_again_is_written_once_more_at_the_end() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(64 << 20, Fsync::Group));
    let now = Instant::now();
    files.fail(true, true);
    push(&buffer, Class::Lifecycle, 10, 10, now);
    turn(&buffer, &mut writer, now);
    files.fail(false, false);
    buffer.close_backlog();
    while writer.turn(&buffer, now) != Next::Ended {}
    let balance = buffer.balance(now);
    assert_eq!((balance.waiting, balance.in_memory()), (10, 0), "it is kept");
}
