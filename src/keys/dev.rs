//! A key pair of this machine, to try everything without an issuer: `EZOUT_AUTH=dev` and `ezout token`.
//!
//! Its tokens go the same way as an issuer's. Whoever can read the file can be anybody, so it is for its owner alone,
//! and for nothing but trying.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::aws_lc;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::set::Key;
use super::{LIFE_MAX, hex, sha256};

/// Who issues the tokens of this machine.
pub const ISSUER: &str = "ezout-dev";
/// For whom they are.
pub const AUDIENCE: &str = "ezout";
/// The private key, in the folder of `EZOUT_AUTH_DEV_KEYS`.
const FILE: &str = "private.pem";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// What a token of this machine is to say.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// Who it is: 1 to 128 characters.
    pub subject: String,
    /// The role.
    pub role: Option<String>,
    /// The shops.
    pub shops: Vec<String>,
    /// The shopper that it is.
    pub shopper_id: Option<String>,
    /// How long it lasts from now on.
    pub lasts: std::time::Duration,
}

/// Why there is no key pair, or no token.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The file could be neither read nor made.
    #[error("cannot read or make {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{} may be read by others, who can then be anybody; delete it, or run chmod 600 on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// What is in the file is no key pair.
    #[error("{} is no private key of Ed25519 in PKCS #8; delete it, and a new one is made", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
    /// The system has no randomness, or refused to sign.
    #[error("the system could not make a key pair or a signature")]
    System,
    /// The token would last longer than one may.
    #[error("the token would last longer than 366 days; ask for less")]
    TooLong,
}

/// The key pair of this machine.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    private: Vec<u8>,
}

impl KeyPair {
    /// Opens the key pair in a folder, which is made if it is not there. Two processes that do so at once have the same.
    ///
    /// # Errors
    /// Where the file can be neither read nor made, is open to others, or holds something else.
    pub fn open(folder: &Path) -> Result<Self, DevError> {
        let path = folder.join(FILE);
        let failed = |source| DevError::File {
            path: path.clone(),
            source,
        };
        if !fs::exists(&path).map_err(failed)? {
            let pair = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new())
                .map_err(|_| DevError::System)?;
            let text = format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(pair.as_ref()));
            put(folder, &path, &text).map_err(failed)?;
        }
        // Read in any case: another process may have been the first.
        if fs::metadata(&path).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(DevError::Open { path });
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        Self::read(&text).ok_or(DevError::Unreadable { path })
    }

    fn read(text: &str) -> Option<Self> {
        let (_, text) = text.split_once(BEGIN)?;
        let (text, _) = text.split_once(END)?;
        let text: String = text.split_whitespace().collect();
        let private = STANDARD.decode(text).ok()?;
        let pair = Ed25519KeyPair::from_pkcs8(&private).ok()?;
        Some(Self { pair, private })
    }

    /// Makes a token, good from `now` on.
    ///
    /// # Errors
    /// Where it would last longer than [`LIFE_MAX`], or the system refuses to sign.
    pub fn sign(&self, grant: &Grant, now: OffsetDateTime) -> Result<String, DevError> {
        let expires_at = time::Duration::try_from(grant.lasts)
            .ok()
            .filter(|lasts| *lasts <= LIFE_MAX)
            .and_then(|lasts| now.checked_add(lasts))
            .ok_or(DevError::TooLong)?;
        let mut claims = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": grant.subject,
            "iat": now.unix_timestamp(),
            // To make one is to sign in.
            "auth_time": now.unix_timestamp(),
            "exp": expires_at.unix_timestamp(),
            "jti": Uuid::new_v4().to_string(),
        });
        if let Some(role) = &grant.role {
            claims["role"] = json!(role);
        }
        if !grant.shops.is_empty() {
            claims["shops"] = json!(grant.shops);
        }
        if let Some(shopper) = &grant.shopper_id {
            claims["shopper_id"] = json!(shopper);
        }
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.name() });
        let part = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = (aws_lc::DEFAULT_PROVIDER.signer_factory)(
            &jsonwebtoken::Algorithm::EdDSA,
            &EncodingKey::from_ed_der(&self.private),
        )
        .ok()
        .and_then(|signer| signer.try_sign(signed.as_bytes()).ok())
        .ok_or(DevError::System)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The public key with its name, which is made from it.
    pub(super) fn public(&self) -> (String, Key) {
        (self.name(), Key::ed25519(self.pair.public_key().as_ref()))
    }

    fn name(&self) -> String {
        hex(&sha256(self.pair.public_key().as_ref())[..8])
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyPair").field(&self.name()).finish()
    }
}

/// Makes a token with the key pair in a folder, as [`KeyPair::sign`] does.
///
/// # Errors
/// Those of [`KeyPair::open`] and [`KeyPair::sign`].
pub fn sign(folder: &Path, grant: &Grant, now: OffsetDateTime) -> Result<String, DevError> {
    KeyPair::open(folder)?.sign(grant, now)
}

/// Makes the file in one step, for its owner alone, unless somebody else was faster.
fn put(folder: &Path, path: &Path, text: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = folder.join(format!(".{}", Uuid::new_v4()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    // A link cannot take the place of a file that is there, as a rename would.
    let put = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&new, path));
    let removed = fs::remove_file(&new);
    match put {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => removed,
    }
}
