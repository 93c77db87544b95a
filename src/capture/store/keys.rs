//! Keys that sign the lines of a manifest and verify them: Ed25519 (RFC 8032), from files as openssl writes them (PEM)
//! or 64 hexadecimal digits.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use super::manifest::hex;

/// Largest file that is read for a key.
const MOST_LEN: u64 = 64 << 10;
const MAKE: &str = "'openssl genpkey -algorithm ed25519 -out FILE' makes one";

/// The secret key of a run.
#[derive(Clone)]
pub struct Signer(Arc<SigningKey>);

impl Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer of {}", self.public())
    }
}

impl Signer {
    /// Reads the key in a file: PKCS#8 as PEM, or the seed in hexadecimal. A file that others may read is told of.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (text, mode) = read_text(path)?;
        let key = Self::parse(&text).map_err(|what| format!("{}: {what}", path.display()))?;
        if mode & 0o066 != 0 {
            let shown = path.display();
            tracing::warn!(
                "others may read the secret key in {shown} (mode {:03o}): 'chmod 600 {shown}'",
                mode & 0o777
            );
        }
        Ok(key)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let key = match (label(text), seed(text)) {
            (None, Some(seed)) => SigningKey::from_bytes(&seed),
            (Some("PRIVATE KEY"), _) => SigningKey::from_pkcs8_pem(text.trim())
                .map_err(|_| format!("it holds no Ed25519 key; {MAKE}"))?,
            (Some("ENCRYPTED PRIVATE KEY"), _) => {
                return Err(
                    "the key is encrypted: 'openssl pkey -in FILE -out OTHER' writes it without"
                        .to_owned(),
                );
            }
            (Some("PUBLIC KEY"), _) => {
                return Err("it holds a public key; the secret one is needed".to_owned());
            }
            (Some(other), _) => {
                return Err(format!(
                    "it holds '{other}', and an Ed25519 key is needed; {MAKE}"
                ));
            }
            (None, None) => {
                return Err(format!(
                    "it holds no key: PEM or 64 hexadecimal digits are needed; {MAKE}"
                ));
            }
        };
        Ok(Self(Arc::new(key)))
    }

    /// The signature of `bytes`, in hexadecimal.
    pub fn sign(&self, bytes: &[u8]) -> String {
        hex(&self.0.sign(bytes).to_bytes())
    }

    /// The public key that belongs to it, in hexadecimal.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }
}

/// The public key of runs that signed.
#[derive(Clone, Debug)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads the key in a file: PEM, or in hexadecimal.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (text, _) = read_text(path)?;
        Self::parse(&text).map_err(|what| format!("{}: {what}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        const MAKE: &str = "'openssl pkey -in KEY -pubout' writes it";
        let key = match (label(text), seed(text)) {
            (None, Some(bytes)) => VerifyingKey::from_bytes(&bytes).ok(),
            (Some("PUBLIC KEY"), _) => VerifyingKey::from_public_key_pem(text.trim()).ok(),
            (Some("PRIVATE KEY" | "ENCRYPTED PRIVATE KEY"), _) => {
                return Err(format!(
                    "it holds a secret key; the public one is needed: {MAKE}"
                ));
            }
            _ => None,
        };
        key.map(Self).ok_or_else(|| {
            format!("it holds no public Ed25519 key, as PEM or 64 hexadecimal digits; {MAKE}")
        })
    }

    /// Whether `signature`, in hexadecimal, is one of `bytes` with the secret key that belongs to it.
    pub fn verifies(&self, bytes: &[u8], signature: &str) -> bool {
        let signature = unhex(signature).map(|bytes| Signature::from_bytes(&bytes));
        signature.is_some_and(|signature| self.0.verify_strict(bytes, &signature).is_ok())
    }

    /// The key in hexadecimal.
    pub fn shown(&self) -> String {
        hex(self.0.as_bytes())
    }
}

/// The text of a file, and its mode.
fn read_text(path: &Path) -> Result<(String, u32), String> {
    let shown = path.display();
    let read = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut bytes = Vec::new();
        file.take(MOST_LEN).read_to_end(&mut bytes)?;
        Ok((bytes, mode))
    };
    let (bytes, mode) =
        read().map_err(|error: std::io::Error| format!("{shown} cannot be read: {error}"))?;
    // A key in another encoding (DER) is told of as none.
    Ok((String::from_utf8(bytes).unwrap_or_default(), mode))
}

/// What the first block of a PEM file says that it holds.
fn label(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    rest.split_once("-----").map(|(label, _)| label)
}

fn seed(text: &str) -> Option<[u8; 32]> {
    unhex(text.trim())
}

/// As many bytes as asked for, from hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8032 §7.1, test 2.
    const SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const OF_72: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f1\
                         1d8c387b2eaeb4302aeeb00d291612bb0c00";
    // The same, as openssl writes it: 'openssl pkey -inform DER' of 302e0201… and the seed.
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
                       MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n\
                       -----END PRIVATE KEY-----\n";
    const PUBLIC_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
                              MCowBQYDK2VwAyEAPUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=\n\
                              -----END PUBLIC KEY-----\n";

    #[test]
    fn signatures_are_those_of_the_rfc() {
        for text in [SEED, &format!("{}\n", SEED.to_uppercase()), PEM] {
            let signer = Signer::parse(text).unwrap();
            assert_eq!(signer.public(), PUBLIC);
            assert_eq!(signer.sign(&[0x72]), OF_72);
            assert_eq!(
                format!("{signer:?}"),
                format!("Signer of {PUBLIC}"),
                "no secret"
            );
        }
        for text in [PUBLIC, PUBLIC_PEM] {
            let key = PublicKey::parse(text).unwrap();
            assert!(key.verifies(&[0x72], OF_72));
            assert!(!key.verifies(&[0x73], OF_72));
            assert!(!key.verifies(&[0x72], &OF_72[2..]));
            assert!(!key.verifies(&[0x72], "ä"));
            assert_eq!(key.shown(), PUBLIC);
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let secret = |text: &str| Signer::parse(text).unwrap_err();
        assert!(secret("").contains("no key"));
        assert!(secret(&SEED[1..]).contains("no key"));
        assert!(secret(PUBLIC_PEM).contains("public key"));
        assert!(secret(rsa).contains("'RSA PRIVATE KEY'"));
        assert!(secret(&PEM.replace("PRIVATE", "ENCRYPTED PRIVATE")).contains("encrypted"));
        assert!(secret(&PEM.replace("MC4C", "MC5C")).contains("no Ed25519 key"));
        assert!(secret("-----BEGIN PRIVATE KEY-----").contains("no Ed25519 key"));
        let public = |text: &str| PublicKey::parse(text).unwrap_err();
        assert!(public(PEM).contains("secret key"));
        assert!(public("zz").contains("no public"));
    }
}
