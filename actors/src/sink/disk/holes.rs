//! Disk buffers of which a file is missing, emptied, cut, copied, renamed or exchanged: what is there arrives, and what is not
//! is counted once, with a gap in its place.

use std::sync::Arc;

use tokio::time::Instant;

use super::files::Files as _;
use super::model::{policy, start};
use super::power::Power;
use super::writer::{Next, Writer};
use crate::event::{Delivery, Event, Step};
use crate::sink::batch::Mark;
use crate::sink::{Buffer, Fsync};

const EVENTS: u64 = 500;
/// So small that they are in several segments.
const SIZE: usize = 1 << 20;

fn turn(buffer: &Buffer, writer: &mut Writer) {
    while writer.turn(buffer, Instant::now()) == Next::Again {}
}

fn push(buffer: &Buffer, writer: &mut Writer, numbers: std::ops::Range<u64>) {
    let step = Step::new("M");
    for n in numbers {
        let event = Event::new(&step, "start").with("n", n).with("text", "x".repeat(600));
        buffer.push([Delivery::new(event, "k".into())], Instant::now());
        turn(buffer, writer);
    }
}

/// A buffer of which the first so many have been delivered, and its process killed.
fn stored(events: std::ops::Range<u64>, delivered: usize) -> Arc<Power> {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(SIZE, Fsync::Group));
    push(&buffer, &mut writer, events);
    deliver(&buffer, &mut writer, delivered);
    files
}

/// What arrived, in order, with what the gaps tell.
#[derive(Debug, Default, PartialEq)]
struct Arrived {
    numbers: Vec<u64>,
    repeats: usize,
    /// Behind how many events each gap came, and of how many it tells.
    gaps: Vec<(usize, u64)>,
}

fn deliver(buffer: &Buffer, writer: &mut Writer, mut most: usize) -> Arrived {
    let mut arrived = Arrived::default();
    turn(buffer, writer);
    let now = Instant::now();
    while most > 0
        && let Some(lease) = buffer.lease(buffer.incarnation(), most.min(10), usize::MAX, now)
    {
        most -= lease.items.len();
        for delivery in &lease.items {
            let number = |key: &str| delivery.event.data(key).unwrap().as_u64().unwrap();
            if delivery.event.is_system() {
                arrived.gaps.push((arrived.numbers.len(), number("count")));
                assert_eq!(delivery.event.data("reason").unwrap().as_str(), Some("missing on disk"));
            } else {
                arrived.numbers.push(number("n"));
                arrived.repeats += usize::from(delivery.attempt > 1);
            }
        }
        buffer.complete(&lease, &vec![Mark::Delivered; lease.items.len()], now);
        turn(buffer, writer);
    }
    assert!(buffer.balance(now).holds());
    arrived
}

struct Outcome {
    arrived: Arrived,
    recovered: u64,
    missing: u64,
    damaged: u64,
}

/// Starts on these files, is killed, starts once more, and delivers all that is there.
fn outcome(files: &Arc<Power>) -> Outcome {
    let (buffer, writer) = start(files, policy(SIZE, Fsync::Group));
    let recovered = buffer.balance(Instant::now()).recovered;
    let (damaged, missing) = buffer.disk_damage();
    drop((buffer, writer));
    let (buffer, mut writer) = start(files, policy(SIZE, Fsync::Group));
    assert_eq!(buffer.disk_damage(), (0, 0), "each is counted once");
    assert_eq!(buffer.balance(Instant::now()).recovered, recovered);
    let arrived = deliver(&buffer, &mut writer, usize::MAX);
    assert_eq!(arrived.gaps.iter().map(|(_, count)| count).sum::<u64>(), missing, "each hole has its gap");
    // And it works from then on.
    push(&buffer, &mut writer, 1000..1010);
    drop((buffer, writer));
    let (buffer, mut writer) = start(files, policy(SIZE, Fsync::Group));
    assert_eq!(deliver(&buffer, &mut writer, usize::MAX).numbers, (1000..1010).collect::<Vec<_>>());
    assert_eq!(buffer.disk_damage(), (0, 0));
    Outcome { arrived, recovered, missing, damaged }
}

fn segments(files: &Power) -> Vec<String> {
    files.all().into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".log")).collect()
}

fn content(files: &Power, name: &str) -> Vec<u8> {
    files.read(name).unwrap().to_vec()
}

fn put(files: &Power, name: &str, bytes: &[u8]) {
    let _ = files.remove(name);
    files.write(name, 0, bytes).unwrap();
}

/// All of these that are not among those that arrived are counted, and stand where the gaps are.
#[track_caller]
fn is_accounted_for(outcome: &Outcome, events: std::ops::Range<u64>) {
    let numbers = &outcome.arrived.numbers;
    assert!(numbers.is_sorted_by(|a, b| a < b), "in order, and each once");
    assert_eq!(outcome.recovered, numbers.len() as u64);
    assert_eq!(outcome.recovered + outcome.missing, events.end - events.start, "what is missing is counted");
    for (place, count) in &outcome.arrived.gaps {
        let before = place.checked_sub(1).map_or(events.start, |before| numbers[before] + 1);
        let behind = numbers.get(*place).copied().unwrap_or(events.end);
        assert_eq!(behind - before, *count, "the gap behind {place} events");
    }
}

#[test]
fn any_segments_that_are_missing_or_emptied_or_cut_are_counted_once_and_have_a_gap_in_their_place() {
    for delivered in [0, 30] {
        let whole = stored(0..EVENTS, delivered);
        let names = segments(&whole);
        assert!(names.len() >= 5, "{names:?}");
        let last = names.len() - 1;
        let sets: Vec<Vec<usize>> = (0..=last)
            .map(|i| vec![i])
            .chain([
                vec![0, 1],
                vec![1, 2],
                vec![1, 3],
                vec![0, last],
                vec![last - 1, last],
                (0..=last).collect(),
            ])
            .collect();
        for set in sets {
            for cut in [None, Some(0), Some(20), Some(64), Some(30_000)] {
                let files = Arc::new(Power::with(&whole.all()));
                for i in &set {
                    let bytes = content(&files, &names[*i]);
                    files.remove(&names[*i]).unwrap();
                    if let Some(len) = cut {
                        put(&files, &names[*i], &bytes[..len.min(bytes.len())]);
                    }
                }
                let outcome = outcome(&files);
                let rest = outcome.recovered + outcome.missing;
                assert_eq!(rest, EVENTS - delivered as u64, "{set:?} cut to {cut:?}, {delivered} delivered");
                is_accounted_for(&outcome, delivered as u64..EVENTS);
                assert!(outcome.missing > 0 || cut == Some(30_000), "{set:?} cut to {cut:?}");
            }
        }
    }
}

#[test]
fn several_damaged_places_have_a_gap_each() {
    let files = stored(0..EVENTS, 0);
    for (name, places) in segments(&files).iter().zip([&[5000, 20_000, 40_000][..], &[9000], &[]]) {
        let mut bytes = content(&files, name);
        places.iter().for_each(|place| bytes[*place] ^= 1);
        put(&files, name, &bytes);
    }
    let outcome = outcome(&files);
    assert_eq!((outcome.damaged, outcome.missing, outcome.arrived.gaps.len()), (4, 4, 4));
    is_accounted_for(&outcome, 0..EVENTS);
}

#[test]
fn a_missing_segment_is_found_without_the_marks_too() {
    let files = stored(0..EVENTS, 0);
    let names = segments(&files);
    files.remove(&names[2]).unwrap();
    files.remove("marks").unwrap();
    is_accounted_for(&outcome(&files), 0..EVENTS);
}

#[test]
fn a_segment_that_was_renamed_or_copied_is_known_by_its_head() {
    let whole = stored(0..EVENTS, 0);
    let names = segments(&whole);
    for (from, to) in [(1, 3), (0, 4), (3, 1)] {
        // A copy beside it.
        let files = Arc::new(Power::with(&whole.all()));
        let bytes = content(&files, &names[from]);
        put(&files, "00000000000000000001.log", &bytes);
        put(&files, "09999999999999999999.log", &bytes);
        let outcome_of_copies = outcome(&files);
        assert_eq!((outcome_of_copies.missing, outcome_of_copies.damaged), (0, 0));
        is_accounted_for(&outcome_of_copies, 0..EVENTS);
        // Another name.
        let files = Arc::new(Power::with(&whole.all()));
        files.rename(&names[from], "09999999999999999999.log").unwrap();
        let renamed = outcome(&files);
        assert_eq!(renamed.missing, 0);
        is_accounted_for(&renamed, 0..EVENTS);
        // In the place of another.
        let files = Arc::new(Power::with(&whole.all()));
        put(&files, &names[to], &bytes);
        let exchanged = outcome(&files);
        assert!(exchanged.missing > 0);
        is_accounted_for(&exchanged, 0..EVENTS);
    }
}

/// Gives the files at these places each the name of the next one.
fn rotate(files: &Power, names: &[String], places: &[usize]) {
    let contents: Vec<_> = places.iter().map(|place| content(files, &names[*place])).collect();
    for (i, content) in contents.iter().enumerate() {
        put(files, &names[places[(i + 1) % places.len()]], content);
    }
}

#[test]
fn any_segments_that_were_exchanged_are_put_in_order_and_nothing_is_missing() {
    for delivered in [0, 30] {
        let whole = stored(0..EVENTS, delivered);
        let names = segments(&whole);
        let all = 0..names.len();
        let pairs = all.clone().flat_map(|a| all.clone().filter(move |b| a < *b).map(move |b| vec![a, b]));
        let threes = all.clone().flat_map(|a| {
            let all = all.clone();
            all.clone().flat_map(move |b| all.clone().map(move |c| vec![a, b, c]))
        });
        // Each of them both ways round.
        let threes = threes.filter(|of| of[0] < of[1] && of[0] < of[2] && of[1].abs_diff(of[2]) == 1);
        for places in pairs.chain(threes.filter(|_| delivered > 0)) {
            for with_marks in if places.len() == 2 { &[true, false][..] } else { &[true] } {
                let files = Arc::new(Power::with(&whole.all()));
                rotate(&files, &names, &places);
                let mut from = delivered as u64;
                if !*with_marks {
                    files.remove("marks").unwrap();
                    from = 0;
                }
                let outcome = outcome(&files);
                assert_eq!((outcome.missing, outcome.damaged), (0, 0), "{places:?}");
                is_accounted_for(&outcome, from..EVENTS);
            }
        }
    }
}

#[test]
fn exchanged_segments_with_one_of_them_missing_besides_cost_only_that_one() {
    let whole = stored(0..EVENTS, 0);
    let names = segments(&whole);
    for gone in 0..names.len() {
        for places in [[0, 1, 2], [2, 1, 3], [1, 3, 4]] {
            let files = Arc::new(Power::with(&whole.all()));
            rotate(&files, &names, &places);
            files.remove(&names[gone]).unwrap();
            let outcome = outcome(&files);
            assert!(outcome.missing > 0 && outcome.missing < 150, "{places:?} without {gone}");
            is_accounted_for(&outcome, 0..EVENTS);
        }
    }
}

#[test]
fn without_marks_half_a_record_at_the_end_counts_as_one_that_is_missing() {
    let tampers: [fn(&Power); 2] =
        [|files| files.remove("marks").unwrap(), |files| put(files, "marks", &[7; 192])];
    for tamper in tampers {
        let files = stored(0..EVENTS, 0);
        let name = segments(&files).pop().unwrap();
        let bytes = content(&files, &name);
        put(&files, &name, &bytes[..bytes.len() - 100]);
        tamper(&files);
        let outcome = outcome(&files);
        assert_eq!((outcome.recovered, outcome.missing), (EVENTS - 1, 1));
        is_accounted_for(&outcome, 0..EVENTS);
    }
}

#[test]
fn a_file_of_another_buffer_is_put_aside_and_what_it_replaced_is_missing() {
    let other = stored(5000..5000 + EVENTS, 0);
    for i in 0..5 {
        let files = stored(0..EVENTS, 0);
        let name = segments(&files)[i].clone();
        let foreign = content(&other, &segments(&other)[i]);
        put(&files, &name, &foreign);
        let outcome = outcome(&files);
        assert!(outcome.missing > 0 && outcome.damaged == 1);
        is_accounted_for(&outcome, 0..EVENTS);
        let aside = files.all().into_iter().find(|(name, _)| name.starts_with("foreign-"));
        assert_eq!(aside.map(|(_, bytes)| bytes), Some(foreign));
    }
}

#[test]
fn an_older_copy_of_the_last_segment_lacks_what_came_later() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(SIZE, Fsync::Group));
    push(&buffer, &mut writer, 0..20);
    let name = segments(&files)[0].clone();
    let older = content(&files, &name);
    push(&buffer, &mut writer, 20..50);
    drop((buffer, writer));
    put(&files, &name, &older);
    let outcome = outcome(&files);
    assert_eq!((outcome.recovered, outcome.missing), (20, 30));
    is_accounted_for(&outcome, 0..50);
}

#[test]
fn marks_that_are_gone_or_of_another_buffer_mean_that_all_is_delivered_again() {
    let other = stored(0..EVENTS, 100);
    let tampers: [fn(&Power, &Power); 4] = [
        |files, _| files.remove("marks").unwrap(),
        |files, _| put(files, "marks", &[]),
        |files, _| put(files, "marks", &[0; 192]),
        |files, other| put(files, "marks", &content(other, "marks")),
    ];
    for (i, tamper) in tampers.into_iter().enumerate() {
        let files = stored(0..EVENTS, 0);
        tamper(&files, &other);
        let outcome = outcome(&files);
        assert_eq!((outcome.missing, outcome.damaged), (0, u64::from(i == 3)), "{i}");
        is_accounted_for(&outcome, 0..EVENTS);
        assert_eq!(outcome.arrived.repeats as u64, EVENTS, "nobody knows what was sent");
    }
}

#[test]
fn older_marks_mean_that_what_is_there_is_delivered_again_and_nothing_is_missing() {
    let files = Arc::new(Power::default());
    let (buffer, mut writer) = start(&files, policy(SIZE, Fsync::Group));
    push(&buffer, &mut writer, 0..10);
    let first = content(&files, "marks");
    push(&buffer, &mut writer, 10..EVENTS);
    let second = content(&files, "marks");
    deliver(&buffer, &mut writer, 250);
    drop((buffer, writer));
    for older in [first, second] {
        let files = Arc::new(Power::with(&files.all()));
        put(&files, "marks", &older);
        let outcome = outcome(&files);
        let from = outcome.arrived.numbers[0];
        assert!(from > 0 && from <= 250, "the segments that were done are gone: {from}");
        assert_eq!((outcome.missing, outcome.damaged), (0, 0));
        is_accounted_for(&outcome, from..EVENTS);
    }
}

#[test]
fn later_marks_put_back_mean_that_all_is_delivered_again() {
    for (more, closes) in [(0, false), (0, true), (50, false), (50, true)] {
        let earlier = stored(0..EVENTS, 0);
        let later = Arc::new(Power::with(&earlier.all()));
        let (buffer, mut writer) = start(&later, policy(SIZE, Fsync::Group));
        push(&buffer, &mut writer, EVENTS..EVENTS + more);
        deliver(&buffer, &mut writer, usize::MAX);
        if closes {
            buffer.close_backlog();
            while writer.turn(&buffer, Instant::now()) != Next::Ended {}
        }
        put(&earlier, "marks", &content(&later, "marks"));
        let outcome = outcome(&earlier);
        assert_eq!((outcome.missing, outcome.damaged), (0, 0));
        is_accounted_for(&outcome, 0..EVENTS);
        assert_eq!(outcome.arrived.repeats as u64, EVENTS);
    }
}

/// A process that is killed when all is delivered leaves a segment that is done: it does not come again.
#[test]
fn what_is_done_does_not_come_again() {
    for events in [20, EVENTS] {
        let files = stored(0..events, usize::MAX);
        let (buffer, mut writer) = start(&files, policy(SIZE, Fsync::Group));
        assert_eq!(deliver(&buffer, &mut writer, usize::MAX), Arrived::default());
        assert_eq!(buffer.disk_damage(), (0, 0));
    }
}

#[test]
fn where_no_gap_can_be_written_what_is_missing_is_counted_all_the_same() {
    let files = stored(0..EVENTS, 0);
    let names = segments(&files);
    files.remove(&names[1]).unwrap();
    files.fail(true, true);
    let (buffer, writer) = start(&files, policy(SIZE, Fsync::Group));
    let balance = buffer.balance(Instant::now());
    assert_eq!(balance.recovered + buffer.disk_damage().1, EVENTS);
    drop((buffer, writer));
}
