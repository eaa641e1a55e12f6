//! The code that an instrumented function becomes: its own body, and the calls around it.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::ext::IdentExt as _;
use syn::spanned::Spanned as _;
use syn::{Error, Ident, Result};

use crate::args::Args;
use crate::function::Function;
use crate::shape::{self, Given, Shape, Stream};

/// A function that stands by itself, or a method with an attribute of its own.
pub(crate) fn function(args: &Args, function: &Function) -> Result<TokenStream> {
    // Only where there is a type can `Self` be named, and only the signature shows that there is one.
    let has_type =
        function.signature.receiver().is_some() || names_self(function.signature.to_token_stream());
    instrument(args, function, has_type, "a `const fn` cannot be instrumented: it may run in the compiler")
}

/// A method of an instrumented `impl` block.
pub(crate) fn method(args: &Args, method: &Function) -> Result<TokenStream> {
    let hint = "a `const fn` cannot be instrumented: leave it out with #[streamll(skip)]";
    instrument(args, method, true, hint)
}

fn instrument(args: &Args, function: &Function, has_type: bool, is_const: &str) -> Result<TokenStream> {
    let Function { attributes, head, signature, body } = function;
    if let Some(keyword) = &signature.constness {
        return Err(Error::new_spanned(keyword, is_const));
    }
    let shape = shape::of(signature);
    let names = Names::new();
    let writer = Writer { args, names: &names };
    let (Shape::Value(given) | Shape::Future { given, .. }) = &shape;
    if let (Some(field), None) = (&args.stream_fields, &given.stream) {
        let message = "`stream_fields` is for a function that returns a stream, as its signature shows: \
                       `impl Stream`, `Pin<Box<dyn Stream>>`, `BoxStream`, or a future or `Result` of one";
        return Err(Error::new(field.span(), message));
    }
    let call = writer.call(function, has_type);
    let rest = match (&shape, signature.asyncness) {
        (Shape::Value(given), Some(_)) => writer.awaited(given, body),
        (Shape::Value(given), None) => writer.at_once(given, body),
        (Shape::Future { boxed, given }, _) => writer.future(*boxed, given, signature, body),
    };
    Ok(quote! {
        #(#attributes)* #head #signature {
            #call
            #rest
        }
    })
}

/// The variables of the expansion. No code of the user can see them, whatever it calls its own.
struct Names {
    call: Ident,
    run: Ident,
    given: Ident,
    future: Ident,
    good: Ident,
    error: Ident,
    item: Ident,
}

impl Names {
    fn new() -> Names {
        let name = |name| Ident::new(name, Span::mixed_site());
        Names {
            call: name("call"),
            run: name("run"),
            given: name("given"),
            future: name("future"),
            good: name("good"),
            error: name("error"),
            item: name("item"),
        }
    }
}

struct Writer<'a> {
    args: &'a Args,
    names: &'a Names,
}

impl Writer<'_> {
    /// The call with all that is known before it begins.
    fn call(&self, function: &Function, has_type: bool) -> TokenStream {
        let call = &self.names.call;
        let method = function.signature.ident.unraw().to_string();
        let operation = self.args.operation.as_ref().map_or_else(|| method.clone(), syn::LitStr::value);
        let module = match &self.args.module {
            Some(module) => quote!(Named(#module)),
            None if has_type => quote!(OfType(::core::any::type_name::<Self>())),
            None => quote!(At(::core::module_path!())),
        };
        let emitter = self.args.emitter.iter().map(|emitter| {
            let there = quote_spanned! {emitter.span()=>
                ::streamll::__private::Destination::emitter(&#emitter)
            };
            quote!(.to(#there))
        });
        let fields = self.args.fields.iter().map(|fields| quote!(.context(::streamll::context! { #fields })));
        // In a block of its own, so that the body does not see the name of the static.
        let begin = quote! {
            let #call = {
                static SITE: ::streamll::__private::Site = ::streamll::__private::Site::new(#operation, #method);
                ::streamll::__private::Site::call(&SITE, ::streamll::__private::Module::#module)
            } #(#emitter)* #(#fields)*;
        };
        let mut inputs = function.conditional_inputs();
        inputs.retain(|(input, _)| self.args.inputs && !self.args.skip.contains(input));
        if inputs.is_empty() {
            return begin;
        }
        let seen = inputs.iter().map(|(input, conditions)| {
            let key = input.unraw().to_string();
            quote! {
                #(#conditions)*
                let #call = #call.input(#key, ::streamll::__private::probe(&#input).__streamll_value());
            }
        });
        quote! {
            #begin
            let #call = if ::streamll::__private::Call::is_heard(&#call) {
                #(#seen)*
                #call
            } else {
                #call
            };
        }
    }

    fn at_once(&self, given: &Given, body: &TokenStream) -> TokenStream {
        let Names { call, run, given: value, .. } = self.names;
        let Some(ty) = &given.ty else {
            return quote!(::streamll::__private::Running::sync(&mut #call.begin(), move || { #body }));
        };
        let finish = self.finish(given);
        let body = closure(ty, body);
        quote! {
            let mut #run = #call.begin();
            let #value = ::streamll::__private::Running::sync(&mut #run, #body);
            #finish
        }
    }

    fn awaited(&self, given: &Given, body: &TokenStream) -> TokenStream {
        let Names { call, run, given: value, .. } = self.names;
        let finish = self.finish(given);
        // Tells the compiler what the block gives: it cannot be written on it.
        let typed =
            given.ty.as_ref().map(|ty| quote!(if false { return ::streamll::__private::never::<#ty>(); }));
        let finish = if given.ty.is_some() { finish } else { value.to_token_stream() };
        quote! {
            let mut #run = #call.begin();
            let #value = ::streamll::__private::Running::run(&mut #run, async move { #typed #body }).await;
            #finish
        }
    }

    fn future(
        &self,
        boxed: bool,
        given: &Given,
        signature: &syn::Signature,
        body: &TokenStream,
    ) -> TokenStream {
        let Names { call, run, given: value, future, .. } = self.names;
        let returned = match &signature.output {
            syn::ReturnType::Type(_, ty) => shape::namable(ty),
            syn::ReturnType::Default => None,
        };
        let body = returned.map_or_else(|| quote!(move || { #body }), |ty| closure(&ty, body));
        let finish = if given.ty.is_some() { self.finish(given) } else { value.to_token_stream() };
        let ty = given.ty.as_ref().map(|ty| quote!(: #ty));
        let poll = if boxed { quote!(run_boxed) } else { quote!(run) };
        let whole = quote! {
            async move {
                let mut #run = #call.begin();
                let #value #ty = ::streamll::__private::Running::#poll(&mut #run, #future).await;
                #finish
            }
        };
        let whole = if boxed { quote!(::std::boxed::Box::pin(#whole)) } else { whole };
        quote! {
            let #future = ::streamll::__private::make(#body);
            #whole
        }
    }

    /// What becomes of the value that the body gave, and of the scope with it.
    fn finish(&self, given: &Given) -> TokenStream {
        let Names { run, given: value, good, error, .. } = self.names;
        match &given.stream {
            None => {
                let seen = self.seen();
                quote! {
                    match ::streamll::__private::outcome(&#value).__streamll_outcome() {
                        ::core::result::Result::Ok(#good) => #seen,
                        ::core::result::Result::Err(#error) => {
                            ::streamll::__private::Running::fail(&#run, ::streamll::__private::problem(#error).__streamll_fault())
                        }
                    }
                    #run.end();
                    #value
                }
            }
            Some(stream) if stream.in_result => {
                let wrapped = self.streaming(stream, good);
                let ty = &given.ty;
                quote! {
                    let #value: #ty = match #value {
                        ::core::result::Result::Ok(#good) => ::core::result::Result::Ok(#wrapped),
                        ::core::result::Result::Err(#error) => {
                            ::streamll::__private::Running::fail(&#run, ::streamll::__private::problem(&#error).__streamll_fault());
                            #run.end();
                            ::core::result::Result::Err(#error)
                        }
                    };
                    #value
                }
            }
            Some(stream) => {
                let wrapped = self.streaming(stream, value);
                let ty = &given.ty;
                quote! {
                    let #value: #ty = #wrapped;
                    #value
                }
            }
        }
    }

    /// Records the output `good`.
    fn seen(&self) -> TokenStream {
        let Names { run, good, .. } = self.names;
        if !self.args.outputs {
            return quote!({ let _ = #good; });
        }
        quote! {
            if ::streamll::__private::Running::is_heard(&#run) {
                ::streamll::__private::Running::output(&#run, ::streamll::__private::probe(#good).__streamll_value())
            }
        }
    }

    /// A stream with which the scope ends.
    fn streaming(&self, stream: &Stream, inner: &Ident) -> TokenStream {
        let Names { run, error, item, .. } = self.names;
        // Where the body leaves that open, its signature decides before anybody looks at the items.
        let typed = match &stream.item {
            Some(item) => quote!(::streamll::__private::stream_of::<#item, _>(#inner)),
            None => inner.to_token_stream(),
        };
        let look = quote! {
            |#item| match ::streamll::__private::outcome(#item).__streamll_outcome() {
                ::core::result::Result::Ok(_) => ::core::option::Option::None,
                ::core::result::Result::Err(#error) => {
                    ::core::option::Option::Some(::streamll::__private::problem(#error).__streamll_fault())
                }
            }
        };
        let wrapped = match &self.args.stream_fields {
            Some(field) => {
                let (span, outputs) = (field.span(), self.args.outputs);
                let field = field.unraw().to_string();
                quote_spanned!(span=> #run.tokens(#field, #outputs, #typed, #look))
            }
            None => quote!(#run.stream(#typed, #look)),
        };
        if stream.boxed { quote!(::std::boxed::Box::pin(#wrapped)) } else { wrapped }
    }
}

fn closure(ty: &syn::Type, body: &TokenStream) -> TokenStream {
    quote!(move || -> #ty { #body })
}

fn names_self(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == "Self",
        TokenTree::Group(group) => names_self(group.stream()),
        _ => false,
    })
}
