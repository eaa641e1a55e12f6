//! `module = "…"`, and the module's name without it.

use streamll::instrument;

use super::{record, start};

struct RagPipeline<T>(T);

impl<T> RagPipeline<T> {
    #[instrument(inputs = false)]
    fn by_value(self) {}

    #[instrument]
    fn build(inner: T) -> Self {
        RagPipeline(inner)
    }

    #[instrument(module = "Judge")]
    fn named(&self) {}
}

#[instrument]
fn at_the_module() {}

#[instrument(module = "Judge")]
fn named() {}

mod vector_store {
    #[streamll::instrument]
    pub(super) fn nested() {}
}

trait Named {
    fn named(&self);
}

/// The type of the block is a parameter.
#[instrument]
impl<T> Named for T {
    fn named(&self) {}
}

#[track_caller]
fn module_of<T>(run: impl FnOnce() -> T) -> String {
    start(&record(run).1)["module_name"].as_str().unwrap().to_owned()
}

#[test]
fn a_method_belongs_to_its_type_also_inside_of_another_scope() {
    assert_eq!(module_of(|| RagPipeline(1).by_value()), "RagPipeline");
    assert_eq!(module_of(|| RagPipeline::build("x").0), "RagPipeline");
    assert_eq!(module_of(|| streamll::trace("test").module("Outer").run_now()), "RagPipeline");
}

/// A scope around a call, of another module.
trait RunNow {
    fn run_now(self);
}

impl RunNow for streamll::Trace {
    fn run_now(self) {
        let _scope = self.enter();
        RagPipeline(1).by_value();
    }
}

#[test]
fn a_free_function_belongs_to_its_place_in_camel_case() {
    assert_eq!(module_of(at_the_module), "Module");
    assert_eq!(module_of(vector_store::nested), "VectorStore");
}

#[test]
fn the_argument_has_the_last_word() {
    assert_eq!(module_of(|| RagPipeline::named(&RagPipeline(1))), "Judge");
    assert_eq!(module_of(named), "Judge");
}

#[test]
fn a_block_for_all_types_names_each() {
    assert_eq!(module_of(|| Named::named(&1_u8)), "u8");
    assert_eq!(module_of(|| Named::named(&Vec::<u8>::new())), "Vec");
    assert_eq!(module_of(|| Named::named(&2_u8)), "u8");
}
