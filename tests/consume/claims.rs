//! What a consumer had in hand when it died: its own next life goes on with it at once, others after a while.

use std::time::Duration;

use streamll::consume::{Consumer, ConsumerState};

use crate::servers::RedisServer;
use crate::{Running, STREAM, Seen, add_numbers, ask, number, pending, run, wait_for};

const IDLE: Duration = Duration::from_millis(400);

fn consumer(server: &RedisServer) -> Consumer {
    Consumer::connect(server.url(), STREAM).group("g").claim_after(IDLE)
}

/// A consumer that takes all there is in hand, and dies.
async fn dies(server: &RedisServer, name: &str, events: u64) {
    let running = Running::start(consumer(server).name(name).on("token", |_| std::future::pending::<()>()));
    running.until("it has all in hand", |status| status.balance.in_flight == events).await;
    running.crash().await;
}

#[test]
fn its_own_pending_entries_come_first_at_the_next_start() {
    let server = RedisServer::start();
    add_numbers(&server, 0..30);
    run(async {
        dies(&server, "worker-1", 30).await;
        add_numbers(&server, 30..40);
        let seen = Seen::default();
        // Far from the time after which others would take them over.
        let again = consumer(&server).claim_after(Duration::from_secs(600)).name("worker-1");
        let running = Running::start(again.on("token", seen.handler()));
        wait_for("all", || seen.len() == 40).await;
        running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..40), "the pending ones first");
        assert_eq!(pending(&server, "g"), 0);
    });
}

#[test]
fn the_entries_of_a_dead_consumer_are_taken_over() {
    let server = RedisServer::start();
    add_numbers(&server, 0..30);
    run(async {
        dies(&server, "dead", 30).await;
        let seen = Seen::default();
        let running = Running::start(consumer(&server).on("token", seen.handler()));
        wait_for("all", || seen.len() == 30).await;
        let status = running.stop().await;
        assert!(seen.numbers().into_iter().eq(0..30));
        assert_eq!((pending(&server, "g"), status.gaps), (0, 0));
    });
}

#[test]
fn a_living_consumer_keeps_what_it_has_in_hand_however_long_that_takes() {
    let server = RedisServer::start();
    add_numbers(&server, 0..20);
    run(async {
        let (slow, other) = (Seen::default(), Seen::default());
        let handler = slow.handler();
        // More than a busy machine keeps a healthy process waiting.
        let claim_after = Duration::from_secs(3);
        let keeps = Running::start(consumer(&server).claim_after(claim_after).on("token", move |event| {
            let first = number(&event) == 0;
            handler(event);
            async move {
                if first {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            }
        }));
        keeps.until("it has all in hand", |status| status.balance.in_flight == 20).await;
        let idle = Running::start(consumer(&server).claim_after(claim_after).on("token", other.handler()));
        idle.until("it reads", |status| status.state == ConsumerState::Consuming).await;
        wait_for("all", || slow.len() == 20).await;
        idle.stop().await;
        keeps.stop().await;
        assert_eq!(other.len(), 0, "it took over what was not dead");
        assert!(slow.numbers().into_iter().eq(0..20), "each once");
    });
}

#[test]
fn entries_that_were_trimmed_while_a_dead_consumer_had_them_are_a_gap() {
    let server = RedisServer::start();
    for taken_over in [true, false] {
        add_numbers(&server, 0..30);
        run(async {
            dies(&server, "gone", 30).await;
            let _: i64 = ask(&server, &format!("XTRIM {STREAM} MAXLEN 10"));
            let seen = Seen::default();
            let next = if taken_over { consumer(&server) } else { consumer(&server).name("gone") };
            let running = Running::start(next.on("token", seen.handler()));
            running.until("the gap is noticed", |status| status.missed == 20).await;
            wait_for("the rest", || seen.len() == 10).await;
            let status = running.stop().await;
            assert!(seen.numbers().into_iter().eq(20..30) && status.balances());
            assert_eq!(pending(&server, "g"), 0, "what is gone does not come again");
        });
    }
}

#[test]
fn what_is_trimmed_while_a_living_consumer_has_it_in_hand_is_handled_and_no_gap() {
    let server = RedisServer::start();
    add_numbers(&server, 0..30);
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let running = Running::start(consumer(&server).on("token", move |event| {
            let first = number(&event) == 0;
            handler(event);
            async move {
                if first {
                    tokio::time::sleep(3 * IDLE).await;
                }
            }
        }));
        running.until("it has all in hand", |status| status.balance.in_flight == 30).await;
        let _: i64 = ask(&server, &format!("XTRIM {STREAM} MAXLEN 0"));
        wait_for("all", || seen.len() == 30).await;
        let status = running.stop().await;
        assert_eq!((status.gaps, status.balance.handled), (0, 30), "{status:#?}");
    });
}
