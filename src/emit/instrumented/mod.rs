//! The functions that code of `#[instrument]` calls. They are not part of the public API: they change with the macro.

mod items;
mod probe;
pub(super) mod render;

pub use items::AsToken;
pub use probe::{outcome, probe, problem};

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use streamll_actors::event::Context;
use streamll_actors::ingress::Emitter;
use tokio_stream::Stream;

use super::run::Open;
use super::tokens::Tokens;
use super::trace::{Trace, trace};
use items::{Errors, TokensAndErrors};
use render::Rendered;

use crate::fault::Fault;

/// The key that lists the values that were cut.
const TRUNCATED: &str = "truncated";

/// One instrumented function.
#[derive(Debug)]
pub struct Site {
    operation: &'static str,
    method: &'static str,
    names: OnceLock<Names>,
}

/// The names of a site, made by its first call.
#[derive(Debug)]
struct Names {
    owner: &'static str,
    module: Arc<str>,
    operation: Arc<str>,
    method: Arc<str>,
}

/// What the name of the module comes from.
#[derive(Debug, Clone, Copy)]
pub enum Module {
    /// The user named it.
    Named(&'static str),
    /// The type of the method.
    OfType(&'static str),
    /// The place of the function.
    At(&'static str),
}

impl Module {
    fn owner(self) -> &'static str {
        let (Module::Named(owner) | Module::OfType(owner) | Module::At(owner)) = self;
        owner
    }

    fn name(self) -> Arc<str> {
        match self {
            Module::Named(name) => name.into(),
            Module::OfType(name) => type_word(name).into(),
            Module::At(path) => {
                camel_case(path.rsplit("::").next().unwrap_or(path).trim_start_matches("r#")).into()
            }
        }
    }
}

/// Returns the name of a type without its path and its generic arguments.
fn type_word(name: &str) -> &str {
    let plain = name.trim_start_matches(['&', ' ']).trim_start_matches("mut ").trim_start_matches("dyn ");
    if plain.starts_with(['(', '[']) {
        return name;
    }
    let plain = plain.split(['<', ' ']).next().unwrap_or(plain);
    plain.rsplit("::").next().unwrap_or(plain)
}

fn camel_case(snake: &str) -> String {
    let words = snake.split('_').filter(|word| !word.is_empty());
    let capital = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().into_iter().flat_map(char::to_uppercase);
        first.chain(letters).collect::<String>()
    };
    words.map(capital).collect()
}

impl Site {
    #[must_use]
    pub const fn new(operation: &'static str, method: &'static str) -> Site {
        Site { operation, method, names: OnceLock::new() }
    }

    /// A call, right here.
    pub fn call(&'static self, module: Module) -> Call {
        let names = self.names.get_or_init(|| Names {
            owner: module.owner(),
            module: module.name(),
            operation: self.operation.into(),
            method: self.method.into(),
        });
        // A default method of a trait has many types.
        let same = names.owner == module.owner();
        let module = if same { names.module.clone() } else { module.name() };
        let trace = trace(names.operation.clone()).module(module).method(names.method.clone());
        Call { trace, cut: Vec::new() }
    }
}

/// A call that has not begun.
#[derive(Debug)]
#[must_use = "it has not begun"]
pub struct Call {
    trace: Trace,
    /// The inputs that were cut.
    cut: Vec<Value>,
}

impl Call {
    pub fn to(self, emitter: &Emitter) -> Call {
        Call { trace: self.trace.to(emitter), ..self }
    }

    pub fn context(self, context: Context) -> Call {
        Call { trace: self.trace.context(context), ..self }
    }

    /// Whether any graph takes the events. If none does, inputs and outputs are not rendered.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.trace.is_heard()
    }

    pub fn input(mut self, key: &'static str, value: Option<Rendered>) -> Call {
        let Some(Rendered { value, cut }) = value else { return self };
        if cut {
            self.cut.push(key.into());
        }
        Call { trace: self.trace.input(key, value), ..self }
    }

    /// Begins it, with its `start`.
    pub fn begin(self) -> Running {
        let trace = if self.cut.is_empty() { self.trace } else { self.trace.input(TRUNCATED, self.cut) };
        Running(trace.open())
    }
}

/// A call that has begun. Dropped before its end, it ends with `error`.
#[must_use = "it ends when this goes"]
pub struct Running(Open);

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.scope().fmt(f)
    }
}

impl Running {
    /// Runs a body that does not await.
    pub fn sync<T>(&mut self, body: impl FnOnce() -> T) -> T {
        self.0.enter(|_| body())
    }

    /// Runs a body that awaits.
    pub fn run<F: Future>(&mut self, body: F) -> impl Future<Output = F::Output> {
        // In a box: it would stand in this future twice, in one that awaits this four times, and so on.
        self.run_boxed(Box::pin(body))
    }

    pub fn run_boxed<F: Future + Unpin>(&mut self, body: F) -> impl Future<Output = F::Output> {
        self.0.carry(body)
    }

    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.0.scope().is_heard()
    }

    pub fn output(&self, value: Option<Rendered>) {
        let Some(Rendered { value, cut }) = value else { return };
        self.0.scope().output("output", value);
        if cut {
            self.0.scope().output(TRUNCATED, vec!["output"]);
        }
    }

    pub fn fail(&self, fault: Fault) {
        self.0.scope().fail_by(fault);
    }

    pub fn end(self) {
        self.0.scope().end();
    }

    /// Ends with a stream.
    pub fn stream<S, L>(self, stream: S, look: L) -> Tokens<S, Errors<L>>
    where
        S: Stream,
        L: FnMut(&S::Item) -> Option<Fault>,
    {
        Tokens::until(self.0, None, stream, Errors(look))
    }

    /// Ends with a stream, whose items are tokens of `field`.
    pub fn tokens<S, L>(self, field: &str, outputs: bool, stream: S, look: L) -> Tokens<S, TokensAndErrors<L>>
    where
        S: Stream<Item: AsToken>,
        L: FnMut(&S::Item) -> Option<Fault>,
    {
        Tokens::until(self.0, Some(field), stream, TokensAndErrors(look)).outputs(outputs)
    }
}

/// Where a call can emit.
#[diagnostic::on_unimplemented(
    message = "nothing can be emitted to `{Self}`",
    label = "`emitter` wants a `Handle` or an `Emitter`"
)]
pub trait Destination {
    fn emitter(&self) -> &Emitter;
}

impl Destination for Emitter {
    fn emitter(&self) -> &Emitter {
        self
    }
}

impl<T: Destination + ?Sized> Destination for &T {
    fn emitter(&self) -> &Emitter {
        (**self).emitter()
    }
}

/// Tells the type of a stream's items.
pub fn stream_of<I, S: Stream<Item = I>>(stream: S) -> S {
    stream
}

/// Calls it.
pub fn make<T>(body: impl FnOnce() -> T) -> T {
    body()
}

/// Tells a type, and is never called.
#[must_use]
pub fn never<T>() -> T {
    unreachable!("it stands behind `if false`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_names_its_module_without_path_and_parameters() {
        for (name, word) in [
            ("rag::pipeline::RagPipeline", "RagPipeline"),
            ("rag::Store<alloc::string::String, 3>", "Store"),
            ("&mut rag::Store<u8>", "Store"),
            ("dyn rag::Search + core::marker::Send", "Search"),
            ("str", "str"),
            ("(u8, a::B)", "(u8, a::B)"),
        ] {
            assert_eq!(&*Module::OfType(name).name(), word, "{name}");
        }
    }

    #[test]
    fn a_place_names_its_module_in_camel_case() {
        for (path, name) in [
            ("rag_api", "RagApi"),
            ("rag_api::vector_store", "VectorStore"),
            ("a::r#type", "Type"),
            ("a::_inner_2", "Inner2"),
            ("a::übung", "Übung"),
        ] {
            assert_eq!(&*Module::At(path).name(), name, "{path}");
        }
    }
}
