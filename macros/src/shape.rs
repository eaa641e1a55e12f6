//! What a function returns, as far as its signature shows it: a value, a future or a stream.

use syn::visit_mut::{self, VisitMut};
use syn::{
    AssocType, GenericArgument, Path, PathArguments, ReturnType, Signature, Type, TypeParamBound, parse_quote,
};

/// What a call gives its caller.
pub(crate) enum Shape {
    /// A value, at once.
    Value(Given),
    /// Something that must be polled for it.
    Future {
        /// It comes in a pinned box.
        boxed: bool,
        given: Given,
    },
}

/// What a call gives in the end.
#[derive(Clone)]
pub(crate) struct Given {
    /// Its type as far as it can be named in a function's body; `None` when nothing is ever given.
    pub(crate) ty: Option<Type>,
    pub(crate) stream: Option<Stream>,
}

/// How a stream is given.
#[derive(Clone)]
pub(crate) struct Stream {
    /// The type of its items as far as it can be named in a body.
    pub(crate) item: Option<Type>,
    /// It comes in a pinned box.
    pub(crate) boxed: bool,
    /// It stands in the `Ok` of a `Result`.
    pub(crate) in_result: bool,
}

/// The shape of a function that is no `async fn`, and of what an `async fn` gives.
pub(crate) fn of(signature: &Signature) -> Shape {
    let ty = match &signature.output {
        ReturnType::Default => return Shape::Value(Given { ty: Some(parse_quote!(())), stream: None }),
        ReturnType::Type(_, ty) => plain(ty),
    };
    match polled(ty, ("Future", "Output"), &["BoxFuture", "LocalBoxFuture"]) {
        Some((boxed, output)) if signature.asyncness.is_none() => {
            let given = output.map_or(Given { ty: Some(parse_quote!(_)), stream: None }, |ty| given(&ty));
            Shape::Future { boxed, given }
        }
        _ => Shape::Value(given(ty)),
    }
}

fn given(ty: &Type) -> Given {
    let ty = plain(ty);
    Given { ty: namable(ty), stream: stream(ty) }
}

/// The type with `_` for every `impl Trait`, which cannot be written in a body.
pub(crate) fn namable(ty: &Type) -> Option<Type> {
    struct Blank;
    impl VisitMut for Blank {
        fn visit_type_mut(&mut self, ty: &mut Type) {
            match ty {
                Type::ImplTrait(_) => *ty = parse_quote!(_),
                _ => visit_mut::visit_type_mut(self, ty),
            }
        }
    }
    let mut ty = ty.clone();
    Blank.visit_type_mut(&mut ty);
    (!matches!(ty, Type::Never(_))).then_some(ty)
}

fn stream(ty: &Type) -> Option<Stream> {
    let direct = |ty| {
        let (boxed, item) = polled(ty, ("Stream", "Item"), &["BoxStream", "LocalBoxStream"])?;
        let item = item.as_ref().and_then(namable).filter(|_| !boxed);
        Some(Stream { item, boxed, in_result: false })
    };
    direct(ty).or_else(|| {
        let Type::Path(path) = ty else { return None };
        let last = path.path.segments.last()?;
        let first = types(&last.arguments).next().filter(|_| last.ident == "Result")?;
        Some(Stream { in_result: true, ..direct(plain(first))? })
    })
}

/// Whether a type is `impl Trait`, a pinned box of it, or one of these aliases of such a box; and what it gives.
fn polled(ty: &Type, name: (&str, &str), aliases: &[&str]) -> Option<(bool, Option<Type>)> {
    match ty {
        Type::ImplTrait(ty) => Some((false, gives(ty.bounds.iter(), name)?)),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            if aliases.iter().any(|alias| last.ident == alias) {
                return Some((true, types(&last.arguments).next().cloned()));
            }
            let inner = types(&last.arguments).next().filter(|_| last.ident == "Pin")?;
            let Type::Path(inner) = plain(inner) else { return None };
            let last = inner.path.segments.last()?;
            match plain(types(&last.arguments).next().filter(|_| last.ident == "Box")?) {
                Type::TraitObject(object) => Some((true, gives(object.bounds.iter(), name)?)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The `T` of the bound `Future<Output = T>`, or just that the bound of that name is there.
fn gives<'a>(
    bounds: impl Iterator<Item = &'a TypeParamBound>,
    (name, output): (&str, &str),
) -> Option<Option<Type>> {
    let paths = bounds.filter_map(|bound| match bound {
        TypeParamBound::Trait(bound) => Some(&bound.path),
        _ => None,
    });
    let found = paths.filter_map(|path: &Path| path.segments.last()).find(|last| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &found.arguments else { return Some(None) };
    Some(arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(AssocType { ident, ty, .. }) if ident == output => Some(ty.clone()),
        _ => None,
    }))
}

fn types(arguments: &PathArguments) -> impl Iterator<Item = &Type> {
    let arguments = match arguments {
        PathArguments::AngleBracketed(arguments) => Some(&arguments.args),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// Without parentheses, and without what a macro puts around it.
fn plain(ty: &Type) -> &Type {
    match ty {
        Type::Paren(inner) => plain(&inner.elem),
        Type::Group(inner) => plain(&inner.elem),
        _ => ty,
    }
}
