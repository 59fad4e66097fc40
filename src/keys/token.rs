//! A token before anything of it is believed: its three parts, and what its header says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Refused;
use super::json::object;

/// Longest name of a key. What is longer is in no set of keys.
pub(super) const KID_BYTES_MAX: usize = 256;

/// A token whose header could be read.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What the signature is about: header and payload as they came.
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
    algorithm: String,
    kid: Option<String>,
}

impl<'a> Token<'a> {
    /// Takes a token apart. It must be no longer than tokens are.
    pub(super) fn read(text: &'a str) -> Result<Self, Refused> {
        let (signed, signature) = text
            .rsplit_once('.')
            .ok_or(Refused::Malformed("it is not three parts with dots between them"))?;
        let (header, payload) = signed
            .split_once('.')
            .filter(|(_, payload)| !payload.contains('.'))
            .ok_or(Refused::Malformed("it is not three parts with dots between them"))?;
        let header = decode(header)
            .and_then(|header| object(&header))
            .ok_or(Refused::Malformed("its header cannot be read"))?;
        // An extension that must be understood, and none is understood here.
        if header.contains_key("crit") {
            return Err(Refused::Malformed("its header asks for what is not known here"));
        }
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        Ok(Self {
            signed,
            payload,
            signature,
            algorithm: text("alg").unwrap_or_default().to_owned(),
            kid: text("kid")
                .filter(|kid| !kid.is_empty() && kid.len() <= KID_BYTES_MAX)
                .map(str::to_owned),
        })
    }

    pub(super) fn signed(&self) -> &'a str {
        self.signed
    }

    /// What the token says of how it is signed, to be compared and never to be followed.
    pub(super) fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The name of the key, where there is one that a key can have.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(super) fn signature(&self) -> Result<Vec<u8>, Refused> {
        decode(self.signature).ok_or(Refused::Malformed("its signature cannot be read"))
    }

    /// The claims. Nothing in them is true before the signature was checked.
    pub(super) fn payload(&self) -> Result<Map<String, Value>, Refused> {
        decode(self.payload)
            .and_then(|payload| object(&payload))
            .ok_or(Refused::Malformed("its claims cannot be read, or one occurs twice"))
    }
}

/// Takes base64 for URLs without padding, in its one canonical form.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
