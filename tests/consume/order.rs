//! Order: several workers of one consumer keep that of every conversation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamll::consume::Consumer;

use crate::proxy::Proxy;
use crate::servers::RedisServer;
use crate::{Running, STREAM, Seen, add, json, number, run};

#[test]
fn eight_workers_keep_the_order_of_each_of_a_thousand_conversations() {
    const EVENTS: u64 = 50_000;
    const CONVERSATIONS: u64 = 1000;
    let server = RedisServer::start();
    // Five of one conversation stand next to each other: spread over workers, they would overtake.
    let of = |n: u64| {
        let (conversation, index) = (n / 5 % CONVERSATIONS, n / (5 * CONVERSATIONS) * 5 + n % 5);
        format!(
            r#"{{"event_type":"token","execution_id":"run","source":"s","seq":{n},"data":{{"token_index":{index},"conversation_id":"conv_{conversation}"}}}}"#
        )
    };
    add(&server, "event", (0..EVENTS).map(of));
    run(async {
        let seen = Arc::new(Mutex::new(HashMap::<String, Vec<u64>>::new()));
        // How many were being handled at once, and how many at most.
        let at_once = Arc::new(Mutex::new((0_usize, 0_usize)));
        let (noted, counted) = (seen.clone(), at_once.clone());
        let consumer =
            Consumer::connect(server.url(), STREAM).group("g").workers(8).on("token", move |event| {
                let (noted, counted) = (noted.clone(), counted.clone());
                async move {
                    {
                        let mut counted = counted.lock().unwrap();
                        counted.0 += 1;
                        counted.1 = counted.1.max(counted.0);
                    }
                    let n = number(&event);
                    // Some take longer, and some fail once.
                    match n % 997 {
                        0 => tokio::time::sleep(Duration::from_millis(3)).await,
                        _ => tokio::task::yield_now().await,
                    }
                    let conversation = event.data("conversation_id").unwrap().as_str().unwrap().to_owned();
                    let index = event.data("token_index").unwrap().as_u64().unwrap();
                    noted.lock().unwrap().entry(conversation).or_default().push(index);
                    counted.lock().unwrap().0 -= 1;
                }
            });
        let running = Running::start(consumer);
        running.until("all are handled", |status| status.balance.handled == EVENTS).await;
        running.stop().await;
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len() as u64, CONVERSATIONS);
        for (conversation, indices) in seen.iter() {
            assert!(indices.iter().copied().eq(0..EVENTS / CONVERSATIONS), "{conversation}: {indices:?}");
        }
        assert!(
            at_once.lock().unwrap().1 > 2,
            "they worked beside each other: {:?}",
            at_once.lock().unwrap()
        );
    });
}

#[test]
fn a_slow_conversation_does_not_hold_up_those_of_other_workers_and_another_key_can_be_chosen() {
    let server = RedisServer::start();
    let of = |n: u64| {
        format!(
            r#"{{"event_type":"x","execution_id":"one","source":"s","seq":{n},"data":{{"conversation_id":"same","user":{}}}}}"#,
            n % 16
        )
    };
    add(&server, "event", (0..320).map(of));
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let consumer = Consumer::connect(server.url(), STREAM).group("g").workers(16).key("data.user");
        let running = Running::start(consumer.stop_timeout(Duration::ZERO).on("x", move |event| {
            let hangs = number(&event) == 0;
            if !hangs {
                handler(event);
            }
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
            }
        }));
        // Those of user 0 wait, and of whoever shares its worker.
        running.until("the others are handled", |status| status.balance.handled >= 100).await;
        let numbers = seen.numbers();
        assert!(numbers.iter().all(|n| n % 16 != 0));
        running.stop().await;
    });
}

#[test]
fn eight_workers_keep_the_order_of_each_conversation_over_lost_connections() {
    const EVENTS: u64 = 3000;
    let server = RedisServer::start();
    let proxy = Proxy::to(server.port());
    add(&server, "event", (0..EVENTS).map(|n| json(n, 20)));
    run(async {
        let seen = Seen::default();
        let handler = seen.handler();
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let consumer = Consumer::connect(url, STREAM).group("g").workers(8).skip_duplicates(10_000);
        let running = Running::start(consumer.prefetch(500).on("token", move |event| {
            handler(event);
            async { tokio::time::sleep(Duration::from_millis(1)).await }
        }));
        for connections in 2..5 {
            let before = seen.len();
            crate::wait_for("some", || seen.len() >= before + 300).await;
            proxy.reset_peers();
            running.until("it is back", |status| status.connections >= connections).await;
        }
        running.until("all", |status| status.balance.handled == EVENTS).await;
        running.stop().await;
        let mut conversations = vec![Vec::new(); 20];
        seen.numbers().into_iter().for_each(|n| conversations[(n % 20) as usize].push(n / 20));
        for (conversation, places) in conversations.iter().enumerate() {
            assert!(places.iter().copied().eq(0..EVENTS / 20), "{conversation}: {places:?}");
        }
    });
}
