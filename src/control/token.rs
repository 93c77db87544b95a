//! The token that opens what is not for everybody. It is kept as a digest, and compared in the same time whatever is
//! offered.

use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::failure::Failure;

/// Fewest characters of a token: `openssl rand -hex 16` has 32.
const FEWEST: usize = 16;

/// A token.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The first line of `file`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or its first line is too short.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::usage(format!(
                "cannot read the token in {}: {error}",
                file.display()
            ))
        })?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.len() < FEWEST {
            return Err(Failure::usage(format!(
                "the first line of {} has fewer than {FEWEST} characters; 'openssl rand -hex 16' makes a token",
                file.display()
            )));
        }
        Ok(Self::of(token))
    }

    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether an Authorization header has it: `Bearer TOKEN`.
    pub fn is_in(&self, header: Option<&[u8]>) -> bool {
        let offered = header.and_then(|header| {
            let (scheme, token) = header.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        let offered: [u8; 32] = Sha256::digest(offered.unwrap_or_default()).into();
        self.0.ct_eq(&offered).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::of("0123456789abcdef");
        assert!(token.is_in(Some(b"Bearer 0123456789abcdef")));
        assert!(token.is_in(Some(b"bearer 0123456789abcdef")));
        for wrong in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer 0123456789abcde",
            b"Bearer 0123456789abcdef0",
            b"Bearer  0123456789abcdef",
            b"Basic 0123456789abcdef",
            b"0123456789abcdef",
            b"Bearer \xff",
        ] {
            assert!(!token.is_in(Some(wrong)), "{wrong:?}");
        }
        assert!(!token.is_in(None));
        assert_eq!(format!("{token:?}"), "Token", "it is in no log");
    }

    #[test]
    fn a_token_is_the_first_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "0123456789abcdef \nmore\n").unwrap();
        assert!(
            Token::read(&file)
                .unwrap()
                .is_in(Some(b"Bearer 0123456789abcdef"))
        );
        for short in ["", "short\n", "\n0123456789abcdef\n"] {
            std::fs::write(&file, short).unwrap();
            let said = Token::read(&file).unwrap_err().to_string();
            assert!(said.contains("openssl rand"), "{said}");
        }
        assert!(Token::read(Path::new("/no/such/token")).is_err());
    }
}
