//! Why a token is not believed.

/// Why a token is not believed. Each has a word for metrics and a message that says what to do; neither has anything of
/// the token in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read, or a claim is not what it has to be.
    #[error("the token cannot be used: {0}; get a new one from the issuer")]
    Malformed(&'static str),
    /// It is longer than tokens are.
    #[error("the token is longer than 4096 bytes; keep fewer custom claims in it")]
    TooLarge,
    /// It is not signed in the configured way.
    #[error("the token is not signed in the way that this service is set up for; send one of the configured issuer")]
    Algorithm,
    /// It names no key, or one that the issuer does not publish.
    #[error("the token is signed with a key that its issuer does not publish; sign in again")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the signature of the token is wrong; send the token exactly as the issuer gave it")]
    Signature,
    /// It has ended.
    #[error("the token has expired; get a new one and send the request again")]
    Expired,
    /// It begins in the future.
    #[error("the token is not valid yet; set the clocks of the issuer and of this service")]
    NotYetValid,
    /// Somebody else issued it.
    #[error("the token is of another issuer; sign in to the one that this service is set up for")]
    Issuer,
    /// It is for another service.
    #[error("the token is for another audience; ask the issuer for one for this service")]
    Audience,
    /// It is of a tenant of Firebase that is not the one of this service.
    #[error("the token is of another tenant of the issuer; sign in to the one that this service is set up for")]
    Tenant,
    /// It names nobody.
    #[error("the token names no subject, or one of more than 128 characters; sign in as a user")]
    Subject,
    /// A Firebase custom token, which is only good for signing in.
    #[error("this is a Firebase custom token; sign in with it, and send the ID token that you get")]
    CustomToken,
    /// Nobody can tell now, since the issuer's keys cannot be had.
    #[error("the keys of the token's issuer cannot be had now; send the request again in a few seconds")]
    KeysUnavailable,
}

impl Refused {
    /// Every reason once.
    pub const ALL: [Self; 13] = [
        Self::Malformed("it is not one"),
        Self::TooLarge,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::NotYetValid,
        Self::Issuer,
        Self::Audience,
        Self::Tenant,
        Self::Subject,
        Self::CustomToken,
        Self::KeysUnavailable,
    ];

    /// A word for metrics and for programs, which never changes.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLarge => "too_large",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Tenant => "tenant",
            Self::Subject => "subject",
            Self::CustomToken => "custom_token",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// Whether the same token may be right a moment later: 503 with `Retry-After`, where every other reason is 401.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::KeysUnavailable)
    }
}
