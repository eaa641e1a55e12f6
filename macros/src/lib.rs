//! The attribute `#[instrument]` of streamll. Use it as `streamll::instrument`.

mod args;
mod expand;
mod function;
mod item;
mod shape;

use proc_macro::TokenStream;

/// Shows the calls of a function, of a method or of every method in an `impl` block: `start` with its inputs, `end` with its
/// output, `error` when it fails, panics or is dropped.
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
/// Each call is a step: inside of another call, or of a `streamll::trace`, a child of that step, with the same
/// `execution_id`; elsewhere the root of a run. Everything that is emitted below belongs to it.
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
/// | argument | what it does | without it |
/// |---|---|---|
/// | `module = "…"` | names the module | the type of the method; of a free function the module that it stands in, in CamelCase (`vector_store` → `VectorStore`) |
/// | `operation = "…"` | names the step | the name of the function |
/// | `skip(a, b)` | leaves these inputs out | all are recorded |
/// | `inputs = false` | leaves all inputs out | |
/// | `outputs = false` | leaves the output out, and the whole text of a stream | |
/// | `fields(tenant = expr, tags.region = expr)` | ids and tags on every event of the call and of everything below, as with `context!`; the expressions see the arguments | |
/// | `emitter = expr` | where to emit, also for everything below: a `Handle` or an `Emitter`, or a reference to one | where the enclosing scope does, else the installed topology |
/// | `stream_fields(answer)` | the items of the returned stream are tokens of the field `answer` | |
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
/// A value is recorded by `Serialize` where its type has it, else as the text of its `Debug`, else by the name of its type; an
/// input under its own name (of a pattern under each name in it), an output under `output`. `self` is never recorded, nor
/// what a function without a result returns.
///
/// Inside of generics only the bounds that are written there count: a `T` without bounds is recorded by its name, whatever it
/// turns out to be; a `T: Serialize` as JSON.
///
/// Each holds at most 4 KiB of JSON. What is longer is cut: a text stays the beginning of that text, anything else becomes the
/// text of the beginning of its JSON. The key `truncated` lists what was cut: `{"document": "Once upon", "truncated":
/// ["document"]}`. Values are written no further than that, however large they are. A `Serialize` or `Debug` that fails or
/// panics harms nobody: the name of the type is recorded.
///
/// Inputs are recorded before the body begins. While nobody takes events, neither inputs nor outputs are looked at.
///
/// # Errors, panics, cancellation
///
/// A returned `Err`, also by `?`, ends the call with `error`. `error_message` is what it displays, with all its causes
/// (`while loading: file not found`), each once; else its `Debug`. `error_type` is the name of its type: `ParseIntError`;
/// `io::Error`, as `Error` alone would say nothing; `(StatusCode, String)`; of an `Arc`, a `Box` or a reference that of what it
/// holds. A report of anyhow or eyre has the name of its root cause where that tells it, by a `Debug` that begins with
/// `…Error`, else `anyhow::Error`; so does a box of any error, else `Error`, as texts do. A panic does, with the type `Panic`, and goes on unchanged.
/// So does a future that is dropped before it is done, with the type `Cancelled`. All carry `duration`, in seconds.
///
/// # Futures
///
/// An `async fn` and a function that returns `impl Future` or `Pin<Box<dyn Future>>` (also by the name `BoxFuture`, and by
/// `#[async_trait]`) begin when they are first polled, and end when they are done. Of a function that returns a future the body
/// itself runs before that, outside of the call. The future is `Send` wherever it was. Its body stands in a box, so that
/// futures do not grow with the depth of instrumented calls.
///
/// # Streams
///
/// A function whose signature shows a stream (`impl Stream`, `Pin<Box<dyn Stream>>`, `BoxStream`, or a `Result` or a future of
/// one) ends with the stream: with `end` when it is through, with `error` when one of its items was an `Err` or when it is
/// dropped. What the stream does while it is polled is inside of the call, wherever that happens.
///
/// With `stream_fields(answer)` each item that has a text is a `token` event, and the end carries the whole text under
/// `answer`, the number of `tokens`, `time_to_first_token` and `tokens_per_second`. Texts, and `Result` and `Option` of texts,
/// have it by themselves; other items say it by `streamll::AsToken`:
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
/// All methods that have a body are instrumented, with the arguments of the block; `operation` and `stream_fields` belong to
/// one method. `#[streamll(skip)]` leaves a method out. A method with an `#[instrument(…)]` of its own keeps that one.
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
/// * A `const fn` cannot be instrumented, nor a function without a body.
/// * A function beside a type's methods that names neither `self` nor `Self` in its signature is taken for a free one, unless
///   the attribute stands on the block.
/// * A stream of a named type, such as `ReceiverStream<String>`, is a value like any other; return `impl Stream`.
/// * A closure given as `impl Fn(&str) -> &str`, with a lifetime of each call's own, does not learn that from the signature any
///   more: return a `Box<dyn Fn(&str) -> &str>`, or the name of a function.
/// * `#[track_caller]` names the function itself, in what its body panics with.
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
