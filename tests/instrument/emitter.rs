//! `emitter = expr`: where the events go.

use streamll::{Emitter, Handle, instrument};

use super::{Recorder, lines, record};

struct Chat {
    handle: Handle,
}

impl Chat {
    #[instrument(emitter = self.handle, inputs = false)]
    fn answer(&self) {
        below();
    }

    #[instrument(emitter = self.handle)]
    async fn answer_later(&mut self) {
        tokio::task::yield_now().await;
        below();
    }
}

#[instrument(inputs = false, emitter = emitter)]
fn by_emitter(emitter: &Emitter) {
    below();
}

#[instrument(inputs = false, emitter = handle)]
fn by_handle(handle: &Handle) {
    below();
}

#[instrument]
fn below() {}

#[test]
fn the_events_of_a_call_and_of_all_below_go_where_the_argument_says() {
    let there = Recorder::new();
    let mut chat = Chat { handle: there.handle.clone() };
    let ((), here) = record(|| {
        chat.answer();
        by_emitter(there.handle.emitter());
        by_handle(&there.handle);
        below();
    });
    super::block_on(chat.answer_later());
    assert_eq!(lines(&here), ["start below {}", "end below {}"]);
    let expected = |name: &str| {
        [
            format!("start {name} {{}}"),
            "start below {}".into(),
            "end below {}".into(),
            format!("end {name} {{}}"),
        ]
    };
    let all: Vec<_> = ["answer", "by_emitter", "by_handle", "answer_later"].map(expected).concat();
    assert_eq!(lines(&there.events()), all);
}
