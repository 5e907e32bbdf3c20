//! Counting lines of code
//!
//! A line counts if a token of Rust lies on it that is compiled: no comment of any kind, no blank line, nothing that
//! `cfg` leaves out of the image.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, LineColumn, TokenStream, TokenTree};
use std::collections::BTreeSet;

/// Which features of a crate are switched on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// None.
    Off,
    /// That is not known; what depends on one counts.
    Unknown,
}

/// The number of lines of code in a file.
pub fn count(source: &str, features: Features) -> Result<usize> {
    let stream: TokenStream = source.parse().map_err(|error| anyhow!("not Rust: {error}"))?;
    let mut lines = Lines { with_code: BTreeSet::new(), features };
    lines.stream(stream);
    Ok(lines.with_code.len())
}

struct Lines {
    with_code: BTreeSet<usize>,
    features: Features,
}

impl Lines {
    fn stream(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut rest = &tokens[..];
        while let Some((first, behind)) = rest.split_first() {
            let Some(attribute) = Attribute::at(rest) else {
                self.token(first);
                rest = behind;
                continue;
            };
            let (own, behind) = rest.split_at(attribute.tokens);
            if attribute.cfg().and_then(|condition| self.holds(condition)) == Some(false) {
                rest = &behind[annotated(behind)..];
                continue;
            }
            if !attribute.is("doc") {
                own.iter().for_each(|token| self.token(token));
            }
            rest = behind;
        }
    }

    fn token(&mut self, token: &TokenTree) {
        match token {
            TokenTree::Group(group) => {
                if group.delimiter() != Delimiter::None {
                    self.with_code.extend([group.span_open().start().line, group.span_close().end().line]);
                }
                self.stream(group.stream());
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => {
                let (LineColumn { line: first, .. }, LineColumn { line: last, .. }) =
                    (token.span().start(), token.span().end());
                self.with_code.extend(first..=last);
            }
        }
    }

    /// Whether a condition of `cfg` holds in the image; nothing if that cannot be told.
    fn holds(&self, condition: TokenStream) -> Option<bool> {
        let tokens: Vec<TokenTree> = condition.into_iter().collect();
        let all = |stream: TokenStream| -> Vec<Option<bool>> {
            let parts: Vec<TokenTree> = stream.into_iter().collect();
            let parts = parts.split(|token| is_punct(token, ',')).filter(|part| !part.is_empty());
            parts.map(|part| self.holds(part.iter().cloned().collect())).collect()
        };
        match &tokens[..] {
            [TokenTree::Ident(name)] if name == "test" => Some(false),
            [TokenTree::Ident(name), ..] if name == "feature" && self.features == Features::Off => Some(false),
            [TokenTree::Ident(name), TokenTree::Group(group)] => {
                let parts = all(group.stream());
                match name.to_string().as_str() {
                    "not" => parts.first().copied().flatten().map(|holds| !holds),
                    "all" if parts.contains(&Some(false)) => Some(false),
                    "any" if parts.iter().all(|part| *part == Some(false)) => Some(false),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// An attribute: how many tokens it takes, and what is in its brackets.
struct Attribute {
    tokens: usize,
    content: Vec<TokenTree>,
}

impl Attribute {
    fn at(tokens: &[TokenTree]) -> Option<Attribute> {
        let (group, tokens) = match tokens {
            [hash, TokenTree::Group(group), ..] if is_punct(hash, '#') => (group, 2),
            [hash, bang, TokenTree::Group(group), ..] if is_punct(hash, '#') && is_punct(bang, '!') => (group, 3),
            _ => return None,
        };
        let content = group.stream().into_iter().collect();
        (group.delimiter() == Delimiter::Bracket).then_some(Attribute { tokens, content })
    }

    fn is(&self, name: &str) -> bool {
        matches!(self.content.first(), Some(TokenTree::Ident(first)) if first == name)
    }

    /// The condition, if it is `cfg`.
    fn cfg(&self) -> Option<TokenStream> {
        match &self.content[..] {
            [TokenTree::Ident(name), TokenTree::Group(group)] if name == "cfg" => Some(group.stream()),
            _ => None,
        }
    }
}

/// How many tokens the item, statement or field at the beginning takes, its further attributes included.
fn annotated(tokens: &[TokenTree]) -> usize {
    if let Some(attribute) = Attribute::at(tokens) {
        return attribute.tokens + annotated(&tokens[attribute.tokens..]);
    }
    const ITEMS: [&str; 12] =
        ["fn", "mod", "impl", "struct", "enum", "union", "trait", "unsafe", "extern", "macro_rules", "async", "const"];
    let words = tokens.iter().filter(|token| !matches!(token, TokenTree::Group(_)));
    let words: Vec<String> = words.take(3).map(ToString::to_string).collect();
    let public = usize::from(words.first().is_some_and(|word| word == "pub"));
    let item = words.get(public).is_some_and(|word| ITEMS.contains(&word.as_str()));
    let ends = |token: &TokenTree| match token {
        TokenTree::Punct(punct) => punct.as_char() == ';' || !item && punct.as_char() == ',',
        TokenTree::Group(group) => item && group.delimiter() == Delimiter::Brace,
        _ => false,
    };
    tokens.iter().position(ends).map_or(tokens.len(), |last| last + 1)
}

fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> usize {
        count(source, Features::Off).unwrap()
    }

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        let source = "//! Doc\n\n/* a\n b */\nfn f() { // why\n    /// Doc\n    let a = \"//\";\n\n}\n";
        assert_eq!(lines(source), 3);
        assert_eq!(lines("const A: &str = \"a\n\nb\";\n"), 3);
        assert_eq!(lines("#[inline]\n#[doc = \"text\"]\nfn f() {}\n"), 2);
    }

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\nfn h() {}\n"), 2);
        assert_eq!(lines("#[cfg(test)]\n#[allow(x)]\nfn f<A, B>(a: A) {\n}\n"), 0);
        assert_eq!(lines("#[cfg(test)]\nuse a::{b, c};\nuse d;\n"), 1);
        assert_eq!(lines("#[cfg(not(test))]\nfn f() {}\n"), 2);
    }

    #[test]
    fn what_needs_a_feature_does_not_count() {
        assert_eq!(lines("struct S {\n    a: u8,\n    #[cfg(feature = \"std\")]\n    pub b: u8,\n    c: u8,\n}\n"), 4);
        assert_eq!(lines("#[cfg(all(test, unix))]\nmod a;\n#[cfg(any(test, feature = \"std\"))]\npub mod b;\n"), 0);
        assert_eq!(count("#[cfg(feature = \"std\")]\nmod a;\n", Features::Unknown).unwrap(), 2);
    }

    #[test]
    fn what_is_no_rust_is_an_error() {
        assert!(count("fn f() {", Features::Off).is_err());
    }
}
