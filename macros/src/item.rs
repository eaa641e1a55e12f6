//! What the attribute stands on: a function with a body, or an `impl` block.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Error, ImplItem, ImplItemFn, ItemImpl, Result, Signature, Token, Visibility, braced};

use crate::args::{Args, nearest, only_on_methods};
use crate::expand;
use crate::function::Function;

/// An item that can be instrumented.
pub(crate) enum Item {
    Function(Box<Function>),
    Impl(Box<ItemImpl>),
}

impl Parse for Item {
    fn parse(input: ParseStream<'_>) -> Result<Item> {
        let ahead = input.fork();
        ahead.call(Attribute::parse_outer)?;
        let starts_impl = ahead.peek(Token![impl])
            || ahead.peek(Token![unsafe]) && ahead.peek2(Token![impl])
            || ahead.peek(Token![default]) && ahead.peek2(Token![impl]);
        if starts_impl {
            return Ok(Item::Impl(Box::new(input.parse()?)));
        }
        ahead.parse::<Visibility>()?;
        let before = ahead.fork();
        if ahead.parse::<Signature>().is_err() {
            return Err(wrong_place(&before));
        }
        let mut attributes = input.call(Attribute::parse_outer)?;
        let visibility: Visibility = input.parse()?;
        let signature: Signature = input.parse()?;
        if input.peek(Token![;]) {
            let message = "#[instrument] needs a body to look into; put it where the function is implemented";
            return Err(Error::new_spanned(&signature.ident, message));
        }
        let content;
        braced!(content in input);
        attributes.extend(content.call(Attribute::parse_inner)?);
        let function = Function::new(attributes, visibility.to_token_stream(), signature, content.parse()?);
        Ok(Item::Function(Box::new(function)))
    }
}

/// What the attribute makes of the item.
pub(crate) fn instrument(args: &Args, item: Item) -> Result<TokenStream> {
    match item {
        Item::Function(function) => {
            for name in &args.skip {
                let inputs = function.inputs();
                if !inputs.contains(name) {
                    return Err(no_such_input(name, &inputs));
                }
            }
            expand::function(args, &function)
        }
        Item::Impl(block) => instrument_impl(args, *block),
    }
}

/// The item without attributes of ours, which would have no meaning.
pub(crate) fn plain(item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let Ok(mut block) = syn::parse::<ItemImpl>(item.clone()) else { return item };
    for item in &mut block.items {
        if let ImplItem::Fn(method) = item {
            method.attrs.retain(|attribute| !attribute.path().is_ident("streamll"));
        }
    }
    block.into_token_stream().into()
}

fn instrument_impl(args: &Args, mut block: ItemImpl) -> Result<TokenStream> {
    only_on_methods(args)?;
    let mut wrong: Option<Error> = None;
    let mut all_inputs = Vec::new();
    for item in &mut block.items {
        let ImplItem::Fn(method) = item else { continue };
        match opted_out(method) {
            Ok(true) => continue,
            Ok(false) if has_its_own(method) => continue,
            Ok(false) => {}
            Err(error) => {
                combine(&mut wrong, error);
                continue;
            }
        }
        let function = of_method(method);
        all_inputs.extend(function.inputs());
        match expand::method(args, &function) {
            Ok(instrumented) => *item = ImplItem::Verbatim(instrumented),
            Err(error) => combine(&mut wrong, error),
        }
    }
    for name in &args.skip {
        if !all_inputs.contains(name) {
            combine(&mut wrong, no_such_input(name, &all_inputs));
        }
    }
    match wrong {
        Some(error) => Err(error),
        None => Ok(block.into_token_stream()),
    }
}

fn of_method(method: &ImplItemFn) -> Function {
    let ImplItemFn { attrs, vis, defaultness, sig, block } = method;
    let statements = &block.stmts;
    Function::new(attrs.clone(), quote!(#vis #defaultness), sig.clone(), quote!(#(#statements)*))
}

/// Takes `#[streamll(skip)]` away.
fn opted_out(method: &mut ImplItemFn) -> Result<bool> {
    let (ours, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut method.attrs).into_iter().partition(|a| a.path().is_ident("streamll"));
    method.attrs = others;
    for attribute in &ours {
        let skip = attribute.parse_args::<Ident>().is_ok_and(|word| word == "skip");
        if !skip {
            let message = "on a method stands #[streamll(skip)], to leave it out; arguments go into \
                           #[streamll::instrument(…)]";
            return Err(Error::new_spanned(attribute, message));
        }
    }
    Ok(!ours.is_empty())
}

/// Whether the method has an attribute of its own, with arguments of its own.
fn has_its_own(method: &ImplItemFn) -> bool {
    method.attrs.iter().any(|attribute| {
        let path = attribute.path();
        let named = path.segments.last().is_some_and(|last| last.ident == "instrument");
        named && (path.segments.len() == 1 || path.segments[0].ident == "streamll")
    })
}

fn combine(wrong: &mut Option<Error>, error: Error) {
    match wrong {
        Some(first) => first.combine(error),
        None => *wrong = Some(error),
    }
}

fn no_such_input(name: &Ident, inputs: &[Ident]) -> Error {
    let known: Vec<String> = inputs.iter().map(Ident::to_string).collect();
    let hint = match nearest(&name.to_string(), known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => format!("there are {}", known.join(", ")),
    };
    Error::new(name.span(), format!("`{name}` is no argument that could be skipped; {hint}"))
}

fn wrong_place(at: ParseStream<'_>) -> Error {
    let places = "#[instrument] goes on a function, a method or an impl block";
    if at.peek(Token![trait]) || at.peek(Token![unsafe]) && at.peek2(Token![trait]) {
        return at
            .error(format!("{places}; of a trait, put it on methods with a body or on its impl blocks"));
    }
    at.error(places)
}
