//! The attribute `#[instrument]` of streamll. Use it as `streamll::instrument`.

mod args;
mod expand;
mod function;
mod item;
mod shape;

use proc_macro::TokenStream;

/// Instruments the calls of a function, of a method, or of every method in an `impl` block. A call emits `start` with
/// its inputs, and `end` with its output. If the call fails, panics or is dropped, it emits `error` instead of `end`.
///
/// ```
/// struct RagPipeline;
///
/// #[streamll::instrument]
/// impl RagPipeline {
///     async fn forward(&self, question: &str) -> Result<String, std::io::Error> {
///         let documents = self.retrieve(question)?;
///         Ok(format!("{} documents", documents.len()))
///     }
///
///     fn retrieve(&self, question: &str) -> Result<Vec<String>, std::io::Error> {
///         Ok(vec![question.to_uppercase()])
///     }
/// }
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # assert_eq!(runtime.block_on(RagPipeline.forward("why"))?, "1 documents");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// Each call is a step. Inside another call, or inside a `streamll::trace`, it is a child of that step, with the same
/// `execution_id`. Elsewhere, it is the root of a run. Every event that is emitted inside the call belongs to it.
///
/// ```text
/// [16:31:42.156] ▶ forward (a1b2c3d4) {"question": "why"}
/// [16:31:42.157] ▶ retrieve (5e6f7a8b) {"question": "why"}
/// [16:31:42.161] ■ retrieve (5e6f7a8b) 0.00s {"output": ["WHY"]}
/// [16:31:42.162] ■ forward (a1b2c3d4) 0.01s {"output": "1 documents"}
/// ```
///
/// # Arguments
///
/// | argument | what it does | default |
/// |---|---|---|
/// | `module = "…"` | names the module | the type of the method; for a free function, the module that contains it, in CamelCase (`vector_store` → `VectorStore`) |
/// | `operation = "…"` | names the step | the name of the function |
/// | `skip(a, b)` | does not record these inputs | all inputs are recorded |
/// | `inputs = false` | records no inputs | |
/// | `outputs = false` | records neither the output nor the whole text of a stream | |
/// | `fields(tenant = expr, tags.region = expr)` | puts ids and tags on every event of the call and on every event inside it, as `context!` does; the expressions can use the arguments | |
/// | `emitter = expr` | sets where to emit, also for every event inside: a `Handle` or an `Emitter`, or a reference to one | the emitter of the enclosing scope, or else the installed topology |
/// | `stream_fields(answer)` | makes the items of the returned stream tokens of the field `answer` | |
///
/// ```
/// # struct Request { conversation_id: String, tenant: String }
/// struct Chat {
///     handle: streamll::Handle,
/// }
///
/// impl Chat {
///     #[streamll::instrument(
///         operation = "answer",
///         skip(api_key),
///         fields(conversation_id = request.conversation_id, tags.tenant = request.tenant),
///         emitter = self.handle,
///     )]
///     fn ask(&self, request: &Request, question: &str, api_key: &str) -> usize {
///         question.len()
///     }
/// }
/// ```
///
/// # Inputs and outputs
///
/// A value is recorded as JSON if its type has `Serialize`, or else as the text of its `Debug`, or else as the name of
/// its type. An input is recorded under its own name. An input that is a pattern is recorded under each name in the
/// pattern. An output is recorded under `output`. Not recorded are `self`, and the result of a function that returns
/// nothing.
///
/// In generic code, only the bounds that are written in that code count. A `T` without bounds is recorded as the name
/// of its type, whatever that type is. A `T: Serialize` is recorded as JSON.
///
/// Each value takes at most 4 KiB of JSON. A longer value is cut: of a text, the beginning of the text is recorded; of
/// any other value, the beginning of its JSON is recorded as a text. The key `truncated` lists the values that were
/// cut: `{"document": "Once upon", "truncated": ["document"]}`. Values are written only up to this limit, however large
/// they are. If a `Serialize` or `Debug` fails or panics, nothing else is harmed: the name of the type is recorded.
///
/// Inputs are recorded before the body begins. If no topology takes the events, neither inputs nor outputs are read.
///
/// # Errors, panics, cancellation
///
/// A returned `Err`, also by `?`, ends the call with `error`. The event has two keys:
///
/// * `error_message` is the text of the error and of all its causes, each once (`while loading: file not found`). If
///   the type has no `Display`, it is the text of its `Debug`.
/// * `error_type` is the name of the error's type: `ParseIntError`; `io::Error`, because `Error` alone would say
///   nothing; `(StatusCode, String)`. For an `Arc`, a `Box` or a reference, it is the name of the type inside. For a
///   report of anyhow or eyre, it is the name of its root cause if the `Debug` of the cause begins with `…Error`, or
///   else `anyhow::Error`. For a box of any error, it is found in the same way, or else it is `Error`. For a text, it
///   is `Error`.
///
/// A panic ends the call with `error` of the type `Panic`, and continues unchanged. A future that is dropped before it
/// is done ends the call with `error` of the type `Cancelled`. All of these events carry `duration`, in seconds.
///
/// # Futures
///
/// An `async fn`, and a function that returns `impl Future` or `Pin<Box<dyn Future>>` (also by the name `BoxFuture`,
/// and by `#[async_trait]`), begin when they are first polled, and end when they are done. If a function returns a
/// future, its own body runs before that, outside of the call. The future is `Send` if it was `Send` before. Its body
/// is boxed, so that futures do not grow with the depth of instrumented calls.
///
/// # Streams
///
/// A function whose signature shows a stream (`impl Stream`, `Pin<Box<dyn Stream>>`, `BoxStream`, or a `Result` or a
/// future of one) ends when the stream ends. The event is `end` after the last item, or `error` if one of the items was
/// an `Err` or if the stream is dropped. Events that the stream emits while it is polled are inside the call, on
/// whatever thread or task it is polled.
///
/// With `stream_fields(answer)`, each item that has a text becomes a `token` event. The closing event carries the whole
/// text under `answer`, the number of `tokens`, `time_to_first_token` and `tokens_per_second`. Texts, and `Result` and
/// `Option` of texts, work without extra code. For other items, implement `streamll::AsToken`:
///
/// ```
/// use streamll::{AsToken, instrument};
/// use tokio_stream::Stream;
///
/// struct Delta {
///     content: Option<String>,
/// }
///
/// impl AsToken for Delta {
///     fn as_token(&self) -> Option<&str> {
///         self.content.as_deref()
///     }
/// }
///
/// #[instrument(operation = "llm_call", stream_fields(answer))]
/// async fn complete(prompt: &str) -> Result<impl Stream<Item = Result<Delta, String>> + use<>, String> {
///     let words: Vec<_> = prompt.split(' ').map(|word| Ok(Delta { content: Some(word.to_owned()) })).collect();
///     Ok(tokio_stream::iter(words))
/// }
/// # drop(complete("forty two"));
/// ```
///
/// # `impl` blocks
///
/// All methods that have a body are instrumented, with the arguments of the block. The arguments `operation` and
/// `stream_fields` are only for a single method. `#[streamll(skip)]` leaves a method out. A method that has its own
/// `#[instrument(…)]` keeps that one.
///
/// ```
/// # struct Store;
/// #[streamll::instrument(inputs = false)]
/// impl Store {
///     fn add(&mut self, document: String) -> usize {
///         document.len()
///     }
///
///     #[streamll::instrument(operation = "retrieve")]
///     fn search(&self, query: &str) -> Vec<String> {
///         vec![query.to_owned()]
///     }
///
///     #[streamll(skip)]
///     const fn capacity() -> usize {
///         1024
///     }
/// }
/// # assert_eq!((Store.add("x".into()), Store.search("y").len(), Store::capacity()), (1, 1, 1024));
/// ```
///
/// # What it does not do
///
/// * A `const fn`, or a function without a body, cannot be instrumented.
/// * A function in an `impl` block that has neither `self` nor `Self` in its signature is treated as a free function,
///   unless the attribute is on the block.
/// * A stream of a named type, such as `ReceiverStream<String>`, is treated as a value. Return `impl Stream` instead.
/// * A closure that is an argument of the type `impl Fn(&str) -> &str`, with a lifetime that differs for each call, no
///   longer gets that lifetime from the signature. Return a `Box<dyn Fn(&str) -> &str>`, or the name of a function.
/// * With `#[track_caller]`, a panic in the body names the function itself as its place.
#[proc_macro_attribute]
pub fn instrument(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let instrumented =
        syn::parse(arguments).and_then(|args| item::instrument(&args, syn::parse(item.clone())?));
    match instrumented {
        Ok(instrumented) => instrumented.into(),
        Err(error) => {
            // And the item as it would be without: whoever uses it gets no errors that are none.
            let mut tokens = TokenStream::from(error.into_compile_error());
            tokens.extend(item::plain(item));
            tokens
        }
    }
}
