//! A filter expression taken apart into words and signs.

use super::expression::Relation;
use super::mistake::Mistake;

/// What stands at a place of the expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign<'a> {
    /// A name, a number, an address or a range.
    Word(&'a str),
    /// `and`, `&&`.
    And,
    /// `or`, `||`.
    Or,
    /// `not`, `!`.
    Not,
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `[`.
    OpenBracket,
    /// `]`.
    CloseBracket,
    /// `&`.
    BitAnd,
    /// `|`.
    BitOr,
    /// `=`, `==`, `!=`, `<`, `<=`, `>`, `>=`.
    Relation(Relation),
    /// Nothing follows.
    End,
}

/// A sign and its place, in characters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub sign: Sign<'a>,
    pub at: usize,
    pub len: usize,
}

/// What a word is made of: names, numbers, addresses of every kind, ranges and lists. A backslash tells a name from a
/// keyword: `proto \tcp`.
const fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '_' | '-' | ',' | '\\')
}

/// The signs of an expression; the last one is [`Sign::End`].
pub(super) fn signs(text: &str) -> Result<Vec<Token<'_>>, Mistake> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut at = 0;
    loop {
        let trimmed = rest.trim_start();
        at += rest.chars().count() - trimmed.chars().count();
        rest = trimmed;
        let Some(first) = rest.chars().next() else {
            break;
        };
        let (sign, bytes) = if is_of_word(first) {
            let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            let (word, _) = rest.split_at(end);
            (word_of(word), end)
        } else {
            let (sign, bytes) = sign_of(rest).ok_or_else(|| {
                Mistake::new(text, at, 1, format!("'{first}' means nothing in a filter"))
            })?;
            (sign, bytes)
        };
        // Words and signs are ASCII.
        tokens.push(Token {
            sign,
            at,
            len: bytes,
        });
        at += bytes;
        rest = rest.get(bytes..).unwrap_or_default();
    }
    tokens.push(Token {
        sign: Sign::End,
        at,
        len: 1,
    });
    Ok(tokens)
}

fn word_of(word: &str) -> Sign<'_> {
    match word {
        "and" => Sign::And,
        "or" => Sign::Or,
        "not" => Sign::Not,
        word => Sign::Word(word),
    }
}

/// The sign that a text begins with, and its bytes. The longest first.
fn sign_of(text: &str) -> Option<(Sign<'static>, usize)> {
    let signs = [
        ("&&", Sign::And),
        ("||", Sign::Or),
        ("!=", Sign::Relation(Relation::NotEqual)),
        ("==", Sign::Relation(Relation::Equal)),
        ("<=", Sign::Relation(Relation::AtMost)),
        (">=", Sign::Relation(Relation::AtLeast)),
        ("!", Sign::Not),
        ("=", Sign::Relation(Relation::Equal)),
        ("<", Sign::Relation(Relation::Below)),
        (">", Sign::Relation(Relation::Above)),
        ("(", Sign::Open),
        (")", Sign::Close),
        ("[", Sign::OpenBracket),
        ("]", Sign::CloseBracket),
        ("&", Sign::BitAnd),
        ("|", Sign::BitOr),
    ];
    let found = signs.into_iter().find(|(sign, _)| text.starts_with(sign));
    found.map(|(text, sign)| (sign, text.len()))
}
