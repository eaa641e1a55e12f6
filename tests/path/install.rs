//! The process-wide default. It is global, so there is one test, and no other test of this program may emit through it.

use streamll::{Emitted, Event, TokenStream as _};
use tokio_stream::StreamExt as _;

use super::{block_on, end, topology};

#[test]
fn events_before_install_are_shed_and_counted_and_a_later_install_replaces_an_earlier_one() {
    let step = streamll::step("Early");
    assert!(streamll::installed().is_none());
    for n in 0..5 {
        assert_eq!(streamll::emit(Event::new(&step, "start").with("n", n)), Emitted::Closed);
    }
    // A stream that was made before there is a default finds the default of the time when its tokens come.
    let early = tokio_stream::iter(["a", "b"]).tokens("answer", |item: &&'static str| Some(*item)).of(&step);
    assert_eq!(streamll::shed_before_install(), 5);

    let (first, first_kept) = topology();
    streamll::install(&first);
    assert_eq!(streamll::emit(Event::new(&step, "start").with("n", 5)), Emitted::Accepted);
    assert_eq!(block_on(early.collect::<Vec<_>>()), ["a", "b"]);

    let (second, second_kept) = topology();
    streamll::install(&second);
    std::thread::spawn(move || streamll::emit(Event::new(&step, "start").with("n", 6))).join().unwrap();

    end(&first);
    end(&second);
    assert_eq!(first_kept.kinds(), ["start", "token", "token", "end"]);
    assert_eq!(second_kept.numbers(), [6]);
    assert_eq!(streamll::shed_before_install(), 5);
    // The one that is the default is gone: still nothing to handle, and nothing panics.
    assert_eq!(streamll::emit(Event::new(&streamll::step("Late"), "start")), Emitted::Closed);
    assert_eq!(second.status().balance().shed, 1);
    assert!(second.status().balances());
}
