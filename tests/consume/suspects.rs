//! What was delivered several times to no end: tried by itself, soon, and judged by what happened to it alone.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use streamll::consume::Consumer;

use crate::proxy::Proxy;
use crate::servers::RedisServer;
use crate::{Running, STREAM, Seen, add_numbers, ask, entries, field, number, pending, run, wait_for};

const IDLE: Duration = Duration::from_millis(400);

/// A dead consumer has so many entries in hand, each delivered so often.
fn dead(server: &RedisServer, entries: u64, times: u64) {
    add_numbers(server, 0..entries);
    let _: String = ask(server, &format!("XGROUP CREATE {STREAM} g 0"));
    let _: ::redis::Value =
        ask(server, &format!("XREADGROUP GROUP g dead COUNT {entries} STREAMS {STREAM} >"));
    let all: Vec<(String, crate::Fields)> = ask(server, &format!("XRANGE {STREAM} - +"));
    let ids: Vec<_> = all.into_iter().map(|(id, _)| id).collect();
    let ids = ids.join(" ");
    let _: Vec<String> = ask(server, &format!("XCLAIM {STREAM} g dead 0 {ids} RETRYCOUNT {times} JUSTID"));
}

#[test]
fn suspects_are_tried_in_the_middle_of_a_busy_stream_and_none_is_judged_untried() {
    let server = RedisServer::start();
    dead(&server, 5, 3);
    add_numbers(&server, 10..6010);
    run(async {
        let (seen, busy) = (Seen::default(), Arc::new(AtomicU64::new(0)));
        let (handler, counted) = (seen.handler(), busy.clone());
        let consumer = Consumer::connect(server.url(), STREAM).group("g").claim_after(IDLE).prefetch(100);
        let running = Running::start(consumer.on("token", move |event| {
            match number(&event) {
                0..5 => handler(event),
                _ => drop(counted.fetch_add(1, Ordering::SeqCst)),
            }
            // Some of them hold up everything for longer than it takes to be taken for dead.
            let long = counted.load(Ordering::SeqCst) == 1000;
            async move { tokio::time::sleep(if long { 3 * IDLE } else { Duration::from_millis(1) }).await }
        }));
        wait_for("the five", || seen.len() >= 5).await;
        let busy = busy.load(Ordering::SeqCst);
        assert!(busy < 6000, "only when nothing else was to do");
        running.until("all", |status| status.balance.handled == 6005).await;
        let status = running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..5), "each once: {:?}", seen.numbers());
        assert_eq!((status.balance.dead_lettered, pending(&server, "g")), (0, 0), "{status:#?}");
    });
}

#[test]
fn what_ends_processes_of_fresh_names_is_a_dead_letter_and_its_neighbours_are_handled() {
    let server = RedisServer::start();
    add_numbers(&server, 0..20);
    run(async {
        let seen = Seen::default();
        let mut lives = 0;
        let status = loop {
            lives += 1;
            assert!(lives < 20, "it loops");
            let (handler, crashed) = (seen.handler(), Arc::new(AtomicBool::new(false)));
            let kills = crashed.clone();
            let consumer = Consumer::connect(server.url(), STREAM).group("g").claim_after(IDLE);
            let running = Running::start(consumer.on("token", move |event| {
                let is_killer = [3, 7].contains(&number(&event));
                match is_killer {
                    true => kills.store(true, Ordering::SeqCst),
                    false => handler(event),
                }
                async move {
                    if is_killer {
                        std::future::pending::<()>().await;
                    }
                }
            }));
            let is_over = || seen.numbers().into_iter().collect::<HashSet<_>>().len() == 18;
            running
                .until("the end, or the next crash", |status| {
                    crashed.load(Ordering::SeqCst)
                        || (is_over() && status.balance.in_flight == 0 && pending(&server, "g") == 0)
                })
                .await;
            if !crashed.load(Ordering::SeqCst) {
                break running.stop().await;
            }
            running.crash().await;
        };
        assert!(status.balances());
        let letters = entries(&server, "ai_events.dead");
        assert_eq!(letters.len(), 2, "{letters:?}");
        assert!(letters.iter().all(|letter| field(letter, "reason").contains("end the process")));
    });
}

#[test]
fn what_is_taken_over_is_bounded_by_prefetch() {
    let server = RedisServer::start();
    dead(&server, 500, 1);
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).group("g").claim_after(IDLE).prefetch(10);
        let hangs = consumer.stop_timeout(Duration::ZERO).on("token", |_| std::future::pending::<()>());
        let running = Running::start(hangs);
        running.until("it has some", |status| status.balance.in_flight >= 10).await;
        tokio::time::sleep(3 * IDLE).await;
        let in_hand = running.status().balance.in_flight;
        assert!(in_hand <= 20, "{in_hand}, and ten were allowed, beside those of one read");
        running.stop().await;
    });
}

#[test]
fn a_long_handler_and_lost_connections_do_not_hold_up_the_rest() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    add_numbers(&server, [0]);
    run(async {
        let (seen, gate) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (handler, waits) = (seen.handler(), gate.clone());
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let consumer = Consumer::connect(url, STREAM).group("g").workers(16);
        let running = Running::start(consumer.on("token", move |event| {
            let waits = waits.clone();
            let first = number(&event) == 0;
            handler(event);
            async move {
                while first && !waits.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }));
        wait_for("the first is under way", || seen.len() == 1).await;
        for connections in 2..8 {
            proxy.reset_peers();
            running.until("it is back", |status| status.connections >= connections).await;
        }
        add_numbers(&server, 1..10);
        // Those that share a worker with it wait.
        wait_for("others are handled meanwhile", || seen.len() >= 4).await;
        let times: Vec<(String, String, u64, u64)> = ask(&server, &format!("XPENDING {STREAM} g - + 1"));
        assert_eq!(times[0].3, 1, "what is in hand was delivered once");
        gate.store(true, Ordering::SeqCst);
        running.until("all", |status| status.balance.handled == 10).await;
        running.stop().await;
        assert_eq!(pending(&server, "g"), 0);
    });
}
