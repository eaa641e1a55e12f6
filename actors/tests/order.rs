//! Promise 4: per sink, events leave in the order the router saw them.

use std::time::Duration;

use streamll_actors::graph::Plan;
use streamll_actors::testkit::{Act, Journal, Rig, run, settle};

const TAKES: Duration = Duration::from_millis(5);

#[test]
fn everything_arrives_in_order_and_batches_grow_by_themselves() {
    run(async {
        let journal = Journal::new([]);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        settle().await;
        rig.emit_all(0..1000);
        let drained = rig.end().await;
        assert!(drained.complete);
        assert_eq!(journal.numbers(), (0..1000).collect::<Vec<_>>());
        assert_eq!(journal.opened_and_closed(), (1, 1));
    });
}

#[test]
fn nothing_overtakes_after_an_outage_a_retry_or_a_crash() {
    run(async {
        let script = [
            Act::Deliver,
            Act::Unavailable(3),
            Act::Unknown(1),
            Act::Panic(2),
            Act::Overload,
            Act::Misconfigured,
        ];
        let journal = Journal::new(script);
        let rig = Rig::start(Plan::new("test").sink(journal.spec("live", TAKES))).await;
        for chunk in 0..20 {
            rig.emit_all(chunk * 50..(chunk + 1) * 50);
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(rig.end().await.complete);
        assert_eq!(journal.numbers(), (0..1000).collect::<Vec<_>>());
    });
}
