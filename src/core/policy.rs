//! Who may do what: one function, which every door asks.
//!
//! It is pure, and it is whole: a caller, a verb and what it is done to give an answer, whether it was
//! HTTP, Resgate or NATS that asked. Commands do not ask: who runs one has the servers' passwords. Nothing is
//! looked up here, so the time that an answer takes tells nobody what exists.

use std::collections::BTreeSet;
use std::fmt;

use super::id::{ShopId, ShopperId};

/// What a caller is; it decides which verbs are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Somebody who shops: sends what they do.
    Shopper,
    /// Somebody who watches shops.
    Merchant,
    /// Somebody who finds out what happened, and sets it right.
    Support,
    /// A program that sends what many shoppers do.
    Service,
    /// Somebody who runs the system.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Shopper, Self::Merchant, Self::Support, Self::Service, Self::Admin];

    /// Its word in tokens.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Shopper => "shopper",
            Self::Merchant => "merchant",
            Self::Support => "support",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }

    /// The role of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.word() == word)
    }

    /// What it may do where it may do anything.
    pub const fn may(self, verb: Verb) -> bool {
        match self {
            Self::Shopper | Self::Service => matches!(verb, Verb::Append),
            Self::Merchant => matches!(verb, Verb::Look | Verb::Handle),
            Self::Support => matches!(
                verb,
                Verb::Look | Verb::Handle | Verb::Replay | Verb::Correct | Verb::Inspect
            ),
            Self::Admin => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Append what a shopper did.
    Append,
    /// See baskets, as they are and as they were, and everything that is told live.
    Look,
    /// Take care of a basket for a while, which others see.
    Handle,
    /// Read the events of a session themselves, at once or at a pace.
    Replay,
    /// Change a basket, and see what was asked for.
    Correct,
    /// See how the system runs, and what it holds back.
    Inspect,
    /// Run the system: parked events, rebuilding, members, revocation, and who did what.
    Operate,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] = [
        Self::Append,
        Self::Look,
        Self::Handle,
        Self::Replay,
        Self::Correct,
        Self::Inspect,
        Self::Operate,
    ];

    /// Its word in logs and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Look => "look",
            Self::Handle => "handle",
            Self::Replay => "replay",
            Self::Correct => "correct",
            Self::Inspect => "inspect",
            Self::Operate => "operate",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a caller may do anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shops {
    /// In every shop, and where it is about no shop.
    All,
    /// In these.
    Only(BTreeSet<ShopId>),
}

impl Shops {
    /// Nowhere.
    pub const NONE: Self = Self::Only(BTreeSet::new());

    /// Whether a shop is one of them.
    pub fn has(&self, shop: ShopId) -> bool {
        match self {
            Self::All => true,
            Self::Only(shops) => shops.contains(&shop),
        }
    }

    /// These and those.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        match (self, others) {
            (Self::Only(mut shops), Self::Only(others)) => {
                shops.extend(others);
                Self::Only(shops)
            }
            (Self::All, _) | (_, Self::All) => Self::All,
        }
    }
}

/// Somebody of whom it is known who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What they are.
    pub role: Role,
    /// Where.
    pub shops: Shops,
    /// As which shopper, if as one only.
    pub shopper: Option<ShopperId>,
}

impl Caller {
    /// Who may do everything.
    pub const fn everybody() -> Self {
        Self {
            role: Role::Admin,
            shops: Shops::All,
            shopper: None,
        }
    }

    /// Who may send what shoppers do and nothing else, in every shop and as everybody.
    pub const fn anonymous() -> Self {
        Self {
            role: Role::Shopper,
            shops: Shops::All,
            shopper: None,
        }
    }
}

/// What it is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// Something of a shop.
    Shop(ShopId),
    /// The system.
    System,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No caller of this role does that.
    #[error("a token with another role is needed for that")]
    Role,
    /// The shop is none of the caller's. To be answered as if there were no such thing.
    #[error("not found")]
    Shop,
    /// The caller sends for one shopper only, and that is another.
    #[error("the token is of another shopper")]
    Shopper,
}

impl Denied {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Role, Self::Shop, Self::Shopper];

    /// Its word in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Shop => "shop",
            Self::Shopper => "shopper",
        }
    }
}

/// Whether a caller may do that.
///
/// # Errors
/// [`Denied`], the role before the shop: what a role never does tells nothing about a shop.
pub fn decide(caller: &Caller, verb: Verb, object: Object) -> Result<(), Denied> {
    decide_in(caller.role, [&caller.shops], verb, object)
}

/// The same of somebody of this role who is in all of these shops together, without adding them up.
///
/// # Errors
/// [`Denied`].
pub fn decide_in<const N: usize>(role: Role, shops: [&Shops; N], verb: Verb, object: Object) -> Result<(), Denied> {
    if !role.may(verb) {
        return Err(Denied::Role);
    }
    let is_theirs = shops.into_iter().any(|shops| match object {
        Object::Shop(shop) => shops.has(shop),
        Object::System => *shops == Shops::All,
    });
    if is_theirs { Ok(()) } else { Err(Denied::Shop) }
}

/// Whether a caller who may append may do so for this shopper.
///
/// # Errors
/// [`Denied::Shopper`].
pub fn decide_shopper(caller: &Caller, shopper: ShopperId) -> Result<(), Denied> {
    match caller.shopper {
        Some(own) if own != shopper => Err(Denied::Shopper),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn shop(n: u128) -> ShopId {
        ShopId::from(Uuid::from_u128(n))
    }

    fn caller(role: Role, shops: &[u128]) -> Caller {
        Caller {
            role,
            shops: Shops::Only(shops.iter().copied().map(shop).collect()),
            shopper: None,
        }
    }

    #[test]
    fn nobody_does_anything_in_another_shop() {
        for role in Role::ALL {
            for verb in Verb::ALL {
                let own = decide(&caller(role, &[1, 2]), verb, Object::Shop(shop(1)));
                let other = decide(&caller(role, &[1, 2]), verb, Object::Shop(shop(3)));
                let none = decide(&caller(role, &[]), verb, Object::Shop(shop(1)));
                let system = decide(&caller(role, &[1, 2]), verb, Object::System);
                assert_eq!(own.is_ok(), role.may(verb), "{role} {verb}");
                for denied in [other, none, system] {
                    assert_eq!(
                        denied,
                        Err(if role.may(verb) { Denied::Shop } else { Denied::Role }),
                        "{role} {verb}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_those_who_run_it_operate_and_shoppers_see_nothing() {
        for role in Role::ALL {
            assert_eq!(role.may(Verb::Operate), role == Role::Admin);
            assert_eq!(Role::parse(role.word()), Some(role));
        }
        for verb in Verb::ALL {
            assert_eq!(Role::Shopper.may(verb), verb == Verb::Append);
            assert!(decide(&Caller::everybody(), verb, Object::System).is_ok());
        }
        assert_eq!(Role::parse("owner"), None);
    }

    #[test]
    fn a_shopper_sends_for_nobody_else() {
        let (own, other) = (ShopperId::from(Uuid::from_u128(1)), ShopperId::from(Uuid::from_u128(2)));
        let named = Caller {
            shopper: Some(own),
            ..Caller::anonymous()
        };
        assert_eq!(decide_shopper(&named, own), Ok(()));
        assert_eq!(decide_shopper(&named, other), Err(Denied::Shopper));
        assert_eq!(decide_shopper(&Caller::anonymous(), other), Ok(()));
    }

    #[test]
    fn shops_of_two_sources_are_added_up() {
        let only = |shops: &[u128]| Shops::Only(shops.iter().copied().map(shop).collect());
        assert_eq!(only(&[1]).and(only(&[2])), only(&[1, 2]));
        assert_eq!(only(&[1]).and(Shops::All), Shops::All);
        assert_eq!(Shops::NONE.and(Shops::NONE), Shops::NONE);
    }
}
