//! The expansion and the code of the user do not see each other's names.

use streamll::instrument;

use super::{end, record, record_async, start};

/// The name of a static in the expansion.
const SITE: u8 = 1;

/// Methods of the expansion, on everything.
#[allow(dead_code)]
trait Everything {
    fn run(&mut self, _: u8) {}
    fn sync(&mut self, _: u8) {}
    fn output(&self) {}
    fn is_heard(&self) {}
    fn call(&self) {}
    fn input(&self) {}
    fn begin(&self) {}
    fn end(&self) {}
    fn render(&self) -> u8 {
        2
    }
    fn outcome(&self) -> u8 {
        3
    }
    fn deref(&self) -> u8 {
        4
    }
}

impl<T: ?Sized> Everything for T {}

#[instrument]
fn shadows(call: u8, run: u8, given: u8, future: u8, good: u8, error: u8, item: u8) -> u8 {
    let sum = call + run + given + future + good + error + item;
    sum + SITE + sum.render() + sum.outcome() + sum.deref()
}

#[instrument]
async fn shadows_later(call: u8, run: u8, given: u8) -> u8 {
    async fn probe(given: u8) -> u8 {
        given
    }
    call + run + probe(given).await + SITE + given.render()
}

/// What stands for itself in code that a macro writes.
#[allow(non_camel_case_types, dead_code)]
mod strange {
    pub(super) struct Option;
    pub(super) struct Result;
    pub(super) struct Box;
    pub(super) mod core {}
    pub(super) mod std {}
    pub(super) mod streamll {}

    #[::streamll::instrument(module = "Strange")]
    pub(super) fn among_them(bool: u8) -> u8 {
        let _ = (Option, Result, Box);
        bool
    }
}

macro_rules! instrumented {
    ($name:ident, $argument:ident) => {
        #[instrument]
        fn $name($argument: u8, inner: u8) -> u8 {
            $argument + inner
        }
    };
}
instrumented!(by_macro, argument);

#[test]
fn variables_of_any_name_mean_what_they_meant() {
    let (given, events) = record(|| shadows(1, 1, 1, 1, 1, 1, 1));
    assert_eq!(given, 7 + 1 + 2 + 3 + 4);
    assert_eq!(end(&events)["data"]["output"], given);
    let keys: Vec<_> = start(&events)["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["call", "run", "given", "future", "good", "error", "item"]);
    let (given, _) = record_async(shadows_later(1, 1, 1));
    assert_eq!(given, 6);
}

#[test]
fn items_and_modules_of_any_name_stay_out_of_the_way() {
    let (given, events) = record(|| (strange::among_them(3), by_macro(1, 2)));
    assert_eq!(given, (3, 3));
    assert_eq!(events[0]["data"]["bool"], 3);
    assert_eq!(events[2]["data"]["argument"], 1);
}
