//! What stands in the parentheses of `#[instrument(…)]`, read and checked.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens as _;
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, LitBool, LitStr, Result, Token, parenthesized};

/// All arguments, as they are named.
const KNOWN: [&str; 8] =
    ["module", "operation", "skip", "inputs", "outputs", "fields", "emitter", "stream_fields"];

/// What other tools call it.
const HABITS: [(&str, &str); 6] = [
    ("name", "operation = \"…\""),
    ("target", "module = \"…\""),
    ("skip_all", "inputs = false"),
    ("input", "inputs = false"),
    ("output", "outputs = false"),
    ("handle", "emitter = …"),
];

/// The arguments of one attribute.
pub(crate) struct Args {
    pub(crate) module: Option<LitStr>,
    pub(crate) operation: Option<LitStr>,
    /// Inputs that are not recorded.
    pub(crate) skip: Vec<Ident>,
    pub(crate) inputs: bool,
    pub(crate) outputs: bool,
    /// What `context!` takes.
    pub(crate) fields: Option<TokenStream>,
    pub(crate) emitter: Option<Expr>,
    pub(crate) stream_fields: Option<Ident>,
}

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> Result<Args> {
        let mut args = Args {
            module: None,
            operation: None,
            skip: Vec::new(),
            inputs: true,
            outputs: true,
            fields: None,
            emitter: None,
            stream_fields: None,
        };
        let mut given: Vec<String> = Vec::new();
        while !input.is_empty() {
            let name = input.call(Ident::parse_any).map_err(|e| {
                Error::new(e.span(), format!("an argument is wanted here: {}", KNOWN.join(", ")))
            })?;
            let known = name.to_string();
            if given.contains(&known) {
                return Err(Error::new(name.span(), format!("`{known}` is given twice")));
            }
            match known.as_str() {
                "module" => args.module = Some(text(input, &name)?),
                "operation" => args.operation = Some(text(input, &name)?),
                "skip" => args.skip = names(input, &name)?,
                "inputs" => args.inputs = switch(input, &name)?,
                "outputs" => args.outputs = switch(input, &name)?,
                "fields" => args.fields = Some(fields(input, &name)?),
                "emitter" => args.emitter = Some(emitter(input, &name)?),
                "stream_fields" => args.stream_fields = Some(stream_field(input, &name)?),
                _ => return Err(unknown(&name)),
            }
            given.push(known);
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(args)
    }
}

/// `= "…"`
fn text(input: ParseStream<'_>, name: &Ident) -> Result<LitStr> {
    let wanted = format!("`{name}` takes a text: {name} = \"…\"");
    equals(input, name, &wanted)?;
    let text: LitStr = input.parse().map_err(|e| Error::new(e.span(), &wanted))?;
    if text.value().is_empty() {
        return Err(Error::new(text.span(), format!("`{name}` must not be empty")));
    }
    Ok(text)
}

/// `= true` or `= false`
fn switch(input: ParseStream<'_>, name: &Ident) -> Result<bool> {
    let wanted = format!("`{name}` takes true or false: {name} = false");
    equals(input, name, &wanted)?;
    Ok(input.parse::<LitBool>().map_err(|e| Error::new(e.span(), &wanted))?.value)
}

/// `= expression`
fn emitter(input: ParseStream<'_>, name: &Ident) -> Result<Expr> {
    let wanted = "`emitter` takes an expression that is a handle or an emitter: emitter = self.handle";
    equals(input, name, wanted)?;
    let expr: Expr = input.parse()?;
    match &expr {
        Expr::Lit(literal) => Err(Error::new_spanned(literal, wanted)),
        _ => Ok(expr),
    }
}

/// `(a, b)`
fn names(input: ParseStream<'_>, name: &Ident) -> Result<Vec<Ident>> {
    let wanted = format!("`{name}` takes names of arguments: {name}(question, history)");
    let names = list(input, name, &wanted, |entry| {
        if entry.peek(Token![self]) {
            return Err(entry.error("`self` is never recorded: there is nothing to skip"));
        }
        Ident::parse_any(entry).map_err(|e| Error::new(e.span(), &wanted))
    })?;
    for (index, one) in names.iter().enumerate() {
        if names[..index].contains(one) {
            return Err(Error::new(one.span(), format!("`{one}` is skipped twice")));
        }
    }
    Ok(names)
}

/// `(answer)`
fn stream_field(input: ParseStream<'_>, name: &Ident) -> Result<Ident> {
    let wanted = "`stream_fields` takes the one name under which the tokens go: stream_fields(answer)";
    let mut names =
        list(input, name, wanted, |entry| Ident::parse_any(entry).map_err(|e| Error::new(e.span(), wanted)))?;
    match names.len() {
        1 => Ok(names.remove(0)),
        _ => Err(Error::new(names[1].span(), wanted)),
    }
}

/// `(tenant = expression, tags.region = expression)`
fn fields(input: ParseStream<'_>, name: &Ident) -> Result<TokenStream> {
    let wanted = "`fields` takes names with values: fields(tenant = user.tenant, tags.region = \"eu\")";
    let mut keys: Vec<String> = Vec::new();
    let fields = list(input, name, wanted, |entry| {
        let start = entry.span();
        let key = Punctuated::<Ident, Token![.]>::parse_separated_nonempty_with(entry, Ident::parse_any)
            .map_err(|e| Error::new(e.span(), wanted))?;
        let written = key.iter().map(Ident::to_string).collect::<Vec<_>>().join(".");
        if key.len() > 1 && !(key.len() == 2 && key[0] == "tags") {
            let message = format!("a field has one name, a tag is written tags.name: `{written}` is neither");
            return Err(Error::new_spanned(&key, message));
        }
        if keys.contains(&written) {
            return Err(Error::new(start, format!("the field `{written}` is given twice")));
        }
        if !entry.peek(Token![=]) {
            let message = format!("the field `{written}` has no value: {written} = expression");
            return Err(Error::new_spanned(&key, message));
        }
        let equals: Token![=] = entry.parse()?;
        if entry.peek(Token![%]) || entry.peek(Token![?]) {
            return Err(entry.error("an expression is wanted here; it is recorded by its `Serialize`"));
        }
        keys.push(written);
        let value: Expr = entry.parse()?;
        let mut field = key.to_token_stream();
        equals.to_tokens(&mut field);
        value.to_tokens(&mut field);
        Ok(field)
    })?;
    Ok(quote::quote!(#(#fields),*))
}

/// At least one entry, in parentheses.
fn list<T>(
    input: ParseStream<'_>,
    name: &Ident,
    wanted: &str,
    mut entry: impl FnMut(ParseStream<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    if !input.peek(syn::token::Paren) {
        return Err(Error::new(name.span(), wanted));
    }
    let content;
    parenthesized!(content in input);
    let mut entries = Vec::new();
    while !content.is_empty() {
        entries.push(entry(&content)?);
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    if entries.is_empty() {
        return Err(Error::new(name.span(), wanted));
    }
    Ok(entries)
}

fn equals(input: ParseStream<'_>, name: &Ident, wanted: &str) -> Result<()> {
    input.parse::<Token![=]>().map(|_| ()).map_err(|_| Error::new(name.span(), wanted))
}

fn unknown(name: &Ident) -> Error {
    let given = name.to_string();
    let habit = HABITS.iter().find(|(theirs, _)| *theirs == given).map(|(_, ours)| *ours);
    let known = habit.or_else(|| nearest(&given, KNOWN.into_iter()));
    let hint = match known {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("known are {}", KNOWN.join(", ")),
    };
    Error::new(name.span(), format!("unknown argument `{given}`; {hint}"))
}

/// The name that somebody who wrote `given` most likely meant.
pub(crate) fn nearest<'a>(given: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.map(|name| (distance(given, name), name));
    // A third of the word may be wrong.
    near.filter(|(far, name)| far * 3 <= name.len().max(given.len())).min().map(|(_, name)| name)
}

/// How many letters must be written, removed or changed to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// Says that an argument cannot stand on an `impl` block.
pub(crate) fn only_on_methods(args: &Args) -> Result<()> {
    let wrong = |span: Span, name: &str, why: &str| {
        let hint =
            format!("`{name}` belongs to one method: {why}; write #[streamll::instrument({name}…)] there");
        Err(Error::new(span, hint))
    };
    if let Some(operation) = &args.operation {
        return wrong(operation.span(), "operation", "all methods would have the same");
    }
    if let Some(field) = &args.stream_fields {
        return wrong(field.span(), "stream_fields", "not all return a stream");
    }
    Ok(())
}
