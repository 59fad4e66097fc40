//! The public keys of an issuer, read from what it publishes.
//!
//! Two forms are known, told apart by their content: a JWK set, and Google's map of names to certificates.
//! A key that is of no use here is left out; a document in which none is of use is refused.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use aws_lc_rs::signature::RsaPublicKeyComponents;
use jsonwebtoken::crypto::aws_lc;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::token::KID_BYTES_MAX;
use super::{Algorithm, OUTAGE_MAX};

/// Most keys in one document.
pub(super) const KEYS_MAX: usize = 100;
/// Lengths of an RSA key in bits: what is shorter can be broken, what is longer only costs time.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;
/// Bytes of a coordinate on P-256, and of a key on Ed25519.
const COORDINATE_BYTES: usize = 32;
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// A public key, and the one way in which it is used.
#[derive(Debug, Clone)]
pub(super) struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Public keys by name, and for how long they are good.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    // Keys of one name differ in their algorithm.
    keys: HashMap<String, Vec<Key>>,
    times: Option<Times>,
    epoch: u64,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    fresh_until: OffsetDateTime,
    served_until: OffsetDateTime,
}

/// Why what an issuer published gives no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SetError {
    /// Neither of the two forms.
    #[error("it is neither a JWK set nor a map of names to certificates")]
    Form,
    /// More keys than an issuer has.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
    /// Not one that can be used.
    #[error("none of its keys can be used in the configured way")]
    Useless,
}

impl KeySet {
    /// A key that is good for ever.
    pub(super) fn fixed((name, key): (String, Key)) -> Self {
        Self {
            keys: HashMap::from([(name, vec![key])]),
            times: None,
            epoch: 0,
        }
    }

    /// Reads what an issuer published, leaving out what may not sign in one of the `algorithms`.
    pub(super) fn read(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, SetError> {
        let document: Map<String, Value> = serde_json::from_slice(document).map_err(|_| SetError::Form)?;
        let keys = match document.get("keys") {
            Some(Value::Array(list)) => jwk_set(list, algorithms)?,
            Some(_) => return Err(SetError::Form),
            None => certificates(&document, algorithms)?,
        };
        if keys.is_empty() {
            return Err(SetError::Useless);
        }
        Ok(Self {
            keys,
            times: None,
            epoch: 0,
        })
    }

    /// The set as it follows another: good for `lasts` from `now` on, and some time longer where none follows.
    #[must_use]
    pub(super) fn after(mut self, before: &Self, now: OffsetDateTime, lasts: time::Duration) -> Self {
        let until = |lasts| now.checked_add(lasts).unwrap_or(now);
        self.times = Some(Times {
            fresh_until: until(lasts),
            served_until: until(lasts + OUTAGE_MAX),
        });
        // What was checked with a key that is gone must not be remembered.
        let goes = |(name, keys): (&String, &Vec<Key>)| {
            let kept = self.keys.get(name).map_or(&[] as &[Key], Vec::as_slice);
            keys.iter().any(|key| !kept.iter().any(|other| other.is(key)))
        };
        self.epoch = before.epoch + u64::from(before.keys.iter().any(goes));
        self
    }

    pub(super) fn len(&self) -> usize {
        self.keys.values().map(Vec::len).sum()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether there are keys that are not too old to be believed.
    pub(super) fn serves(&self, now: OffsetDateTime) -> bool {
        !self.keys.is_empty() && self.times.is_none_or(|times| now < times.served_until)
    }

    /// Whether the issuer says that these are its keys now.
    pub(super) fn is_fresh(&self, now: OffsetDateTime) -> bool {
        self.times.is_none_or(|times| now < times.fresh_until)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.contains_key(name)
    }

    /// The key of this name that signs in this way.
    pub(super) fn find(&self, name: &str, algorithm: Algorithm) -> Option<&Key> {
        self.keys.get(name)?.iter().find(|key| key.algorithm == algorithm)
    }
}

impl Key {
    /// A key on Ed25519 by its 32 bytes.
    pub(super) fn ed25519(public: &[u8]) -> Self {
        Self {
            algorithm: Algorithm::EdDsa,
            key: DecodingKey::from_ed_der(public),
        }
    }

    /// Whether a signature is this key's. The provider is named, so it cannot be another by somebody else's features.
    pub(super) fn has_signed(&self, signed: &str, signature: &Vec<u8>) -> bool {
        (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&self.algorithm.jsonwebtoken(), &self.key)
            .is_ok_and(|verifier| verifier.verify(signed.as_bytes(), signature).is_ok())
    }

    fn is(&self, other: &Self) -> bool {
        let same = match (self.key.kind(), other.key.kind()) {
            (DecodingKeyKind::SecretOrDer(key), DecodingKeyKind::SecretOrDer(other)) => key == other,
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent { n: other_n, e: other_e },
            ) => n == other_n && e == other_e,
            _ => false,
        };
        same && self.algorithm == other.algorithm
    }

    /// A key of RSA, unless it is too short to be trusted or longer than is good for us.
    fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let n = &n[n.iter().position(|byte| *byte != 0)?..];
        let bits = n.len() * 8 - n[0].leading_zeros() as usize;
        (RSA_BITS.contains(&bits) && !e.is_empty() && e.len() <= 8).then(|| Self {
            algorithm: Algorithm::Rs256,
            key: DecodingKey::from_rsa_raw_components(n, e),
        })
    }

    fn from_jwk(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let signs = common
            .public_key_use
            .as_ref()
            .is_none_or(|of| *of == PublicKeyUse::Signature);
        let verifies = common
            .key_operations
            .as_ref()
            .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !signs || !verifies {
            return None;
        }
        let read = DecodingKey::from_jwk(jwk).ok()?;
        let key = match (&jwk.algorithm, read.kind()) {
            (AlgorithmParameters::RSA(_), DecodingKeyKind::RsaModulusExponent { n, e }) => Self::rsa(n, e)?,
            (AlgorithmParameters::EllipticCurve(key), DecodingKeyKind::SecretOrDer(point))
                if key.curve == EllipticCurve::P256 && point.len() == 1 + 2 * COORDINATE_BYTES =>
            {
                Self {
                    algorithm: Algorithm::Es256,
                    key: read,
                }
            }
            (AlgorithmParameters::OctetKeyPair(key), DecodingKeyKind::SecretOrDer(public))
                if key.curve == EllipticCurve::Ed25519 && public.len() == COORDINATE_BYTES =>
            {
                Self::ed25519(public)
            }
            _ => return None,
        };
        let named = key.algorithm.jsonwebtoken().into();
        common
            .key_algorithm
            .is_none_or(|algorithm| algorithm == named)
            .then_some(key)
    }

    fn from_certificate(pem: &str) -> Option<Self> {
        let read = DecodingKey::from_rsa_pem(pem.as_bytes()).ok()?;
        let public = aws_lc_rs::rsa::PublicKey::from_der(read.try_get_as_bytes().ok()?).ok()?;
        let parts = RsaPublicKeyComponents::<Vec<u8>>::from(&public);
        Self::rsa(&parts.n, &parts.e)
    }
}

fn jwk_set(list: &[Value], algorithms: &[Algorithm]) -> Result<HashMap<String, Vec<Key>>, SetError> {
    if list.len() > KEYS_MAX {
        return Err(SetError::TooMany);
    }
    let mut keys: HashMap<String, Vec<Key>> = HashMap::new();
    for value in list {
        let Ok(jwk) = serde_json::from_value::<Jwk>(value.clone()) else {
            continue;
        };
        let Some(name) = jwk.common.key_id.clone().filter(|name| is_name(name)) else {
            continue;
        };
        if let Some(key) = Key::from_jwk(&jwk).filter(|key| algorithms.contains(&key.algorithm)) {
            let named = keys.entry(name).or_default();
            // The first of a name counts, so that nothing that comes later in the list can take its place.
            if !named.iter().any(|other| other.algorithm == key.algorithm) {
                named.push(key);
            }
        }
    }
    Ok(keys)
}

fn certificates(
    document: &Map<String, Value>,
    algorithms: &[Algorithm],
) -> Result<HashMap<String, Vec<Key>>, SetError> {
    let is_certificate = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| text.trim_start().starts_with(CERTIFICATE))
    };
    if document.is_empty() || !document.values().all(is_certificate) {
        return Err(SetError::Form);
    }
    if document.len() > KEYS_MAX {
        return Err(SetError::TooMany);
    }
    let keys = document
        .iter()
        .filter(|(name, _)| is_name(name))
        .filter_map(|(name, value)| {
            let key = Key::from_certificate(value.as_str()?).filter(|key| algorithms.contains(&key.algorithm))?;
            Some((name.clone(), vec![key]))
        });
    Ok(keys.collect())
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= KID_BYTES_MAX
}
