//! Events as a stream: each is acknowledged when the next one is asked for.

use streamll::consume::{Consumer, Start};
use tokio_stream::StreamExt as _;

use crate::servers::RedisServer;
use crate::{STREAM, add_numbers, number, pending, run, wait_for};

#[test]
fn a_stream_yields_each_event_and_acknowledges_it_when_the_next_is_asked_for() {
    let server = RedisServer::start();
    add_numbers(&server, 0..100);
    run(async {
        let consumer = Consumer::connect(server.url(), STREAM).group("g").name("n");
        let mut events = consumer.filter("data.conversation_id", "conv_3").into_stream().unwrap();
        for n in 0..5 {
            assert_eq!(number(&events.next().await.unwrap()), 10 * n + 3);
        }
        // Four, and those that the filter left out.
        wait_for("what was passed by is acknowledged", || pending(&server, "g") == 6).await;
        events.close().await;
        wait_for("the last is handled, too", || pending(&server, "g") == 5).await;
        let again = Consumer::connect(server.url(), STREAM).group("g").name("n");
        let mut again = again.into_stream().unwrap();
        assert_eq!(number(&again.next().await.unwrap()), 53, "it goes on where the other ended");
        drop(again);
        wait_for("dropped, the last is not handled", || pending(&server, "g") == 5).await;
    });
}

#[test]
fn a_stream_ends_where_it_is_told_to_and_when_it_is_stopped() {
    let server = RedisServer::start();
    add_numbers(&server, 0..50);
    run(async {
        let whole = Consumer::connect(server.url(), STREAM).start(Start::Begin).until("+");
        let events: Vec<_> = whole.into_stream().unwrap().collect().await;
        assert!(events.iter().map(number).eq(0..50));
        let live = Consumer::connect(server.url(), STREAM).into_stream().unwrap();
        let handle = live.handle();
        handle.stop();
        assert_eq!(live.collect::<Vec<_>>().await.len(), 0);
        assert!(handle.status().balances());
    });
}
