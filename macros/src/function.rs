//! A function that is instrumented, and the names of its arguments.

use proc_macro2::{Ident, TokenStream};
use syn::{AttrStyle, Attribute, Pat, Signature};

/// A function with its body, which is passed on unread.
pub(crate) struct Function {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) head: TokenStream,
    pub(crate) signature: Signature,
    pub(crate) body: TokenStream,
}

impl Function {
    pub(crate) fn new(
        mut attributes: Vec<Attribute>,
        head: TokenStream,
        signature: Signature,
        body: TokenStream,
    ) -> Function {
        // The body moves into a closure, where inner attributes cannot stand.
        attributes.iter_mut().for_each(|attribute| attribute.style = AttrStyle::Outer);
        Function { attributes, head, signature, body }
    }

    /// The names that its arguments are bound to.
    pub(crate) fn inputs(&self) -> Vec<Ident> {
        self.conditional_inputs().into_iter().map(|(name, _)| name).collect()
    }

    /// The same, each with the `#[cfg(…)]` under which it is there: attributes see arguments before those are decided.
    pub(crate) fn conditional_inputs(&self) -> Vec<(Ident, Vec<Attribute>)> {
        let mut inputs = Vec::new();
        for input in &self.signature.inputs {
            if let syn::FnArg::Typed(input) = input {
                let conditions = input.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg"));
                let conditions: Vec<_> = conditions.cloned().collect();
                let mut names = Vec::new();
                bindings(&input.pat, &mut names);
                inputs.extend(names.into_iter().map(|name| (name, conditions.clone())));
            }
        }
        inputs
    }
}

fn bindings(pattern: &Pat, names: &mut Vec<Ident>) {
    match pattern {
        Pat::Ident(one) => {
            names.push(one.ident.clone());
            if let Some((_, inner)) = &one.subpat {
                bindings(inner, names);
            }
        }
        Pat::Tuple(tuple) => tuple.elems.iter().for_each(|inner| bindings(inner, names)),
        Pat::TupleStruct(tuple) => tuple.elems.iter().for_each(|inner| bindings(inner, names)),
        Pat::Slice(slice) => slice.elems.iter().for_each(|inner| bindings(inner, names)),
        Pat::Struct(fields) => fields.fields.iter().for_each(|field| bindings(&field.pat, names)),
        Pat::Reference(inner) => bindings(&inner.pat, names),
        Pat::Paren(inner) => bindings(&inner.pat, names),
        Pat::Type(inner) => bindings(&inner.pat, names),
        _ => {}
    }
}
