//! What is wrong with a filter expression, and where.

use std::fmt;

/// Most characters of an expression that are shown.
const SHOWN: usize = 100;

/// A mistake in a filter expression. Its text ends with two lines: the expression, and carets under the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it begins, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub reason: String,
    shown: String,
    carets: String,
}

impl Mistake {
    /// A mistake in the `len` characters of `text` behind the first `at`.
    pub(super) fn new(text: &str, at: usize, len: usize, reason: String) -> Self {
        // Around the mistake, where the expression is long.
        let begin = at.saturating_sub(SHOWN / 2);
        let shown = text.chars().skip(begin).take(SHOWN);
        let shown = shown
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let carets = " ".repeat(at - begin) + &"^".repeat(len.clamp(1, SHOWN / 2));
        Self {
            column: at + 1,
            reason,
            shown,
            carets,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            column,
            reason,
            shown,
            carets,
        } = self;
        write!(f, "column {column}: {reason}\n    {shown}\n    {carets}")
    }
}

impl std::error::Error for Mistake {}
