//! The names of resources.

use uuid::Uuid;

use crate::core::id::{SessionId, ShopId};
use crate::core::policy::Verb;

/// The service's name, with which the names of all its resources begin.
pub(super) const SERVICE: &str = "ezout";

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// A resource of a shop.
    Shop(ShopId, Resource),
    /// Where clients say who they are.
    Auth,
}

/// A resource of a shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// The open baskets, the newest first.
    Baskets,
    /// A basket.
    Basket(SessionId),
    /// The shop in a few numbers.
    Summary,
    /// A page of the shop's sessions.
    Sessions,
    /// The shop's updates, as they come.
    Feed,
}

impl Resource {
    /// Every resource of a shop; its baskets are that of this session. No other one is found by its name.
    pub(super) const fn all(session: SessionId) -> [Self; 5] {
        [
            Self::Baskets,
            Self::Basket(session),
            Self::Summary,
            Self::Sessions,
            Self::Feed,
        ]
    }

    /// What follows the shop in its name.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Baskets => "baskets",
            Self::Basket(_) => "basket",
            Self::Summary => "summary",
            Self::Sessions => "sessions",
            Self::Feed => "feed",
        }
    }

    /// Its name in full.
    pub(super) fn name(self, shop: ShopId) -> String {
        let word = self.word();
        match self {
            Self::Basket(session) => format!("{SERVICE}.shop.{shop}.{word}.{session}"),
            Self::Baskets | Self::Summary | Self::Sessions | Self::Feed => format!("{SERVICE}.shop.{shop}.{word}"),
        }
    }

    /// The methods that may be called, and by whom.
    pub(super) const fn methods(self) -> &'static [(&'static str, Verb)] {
        match self {
            Self::Basket(_) => &[("correct", Verb::Correct), ("handle", Verb::Handle)],
            Self::Baskets | Self::Summary | Self::Sessions | Self::Feed => &[],
        }
    }
}

/// What a name stands for; nothing for any other. Ids must be in the form that we write ourselves, since a resource has one name.
pub(super) fn route(name: &str) -> Option<Route> {
    let mut tokens = name.split('.');
    if tokens.next() != Some(SERVICE) {
        return None;
    }
    let shop = match tokens.next()? {
        "auth" => return tokens.next().is_none().then_some(Route::Auth),
        "shop" => canonical(tokens.next()?, |text| ShopId::parse(text).ok())?,
        _ => return None,
    };
    let word = tokens.next()?;
    let mut all = Resource::all(SessionId::from(Uuid::nil())).into_iter();
    let resource = match all.find(|resource| resource.word() == word)? {
        Resource::Basket(_) => Resource::Basket(canonical(tokens.next()?, |text| SessionId::parse(text).ok())?),
        other => other,
    };
    tokens.next().is_none().then_some(Route::Shop(shop, resource))
}

fn canonical<Id: ToString>(text: &str, parse: impl Fn(&str) -> Option<Id>) -> Option<Id> {
    parse(text).filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_one_resource_or_of_none() {
        let shop = ShopId::from(Uuid::from_u128(1));
        let session = SessionId::from(Uuid::from_u128(2));
        for resource in Resource::all(session) {
            let name = resource.name(shop);
            assert_eq!(route(&name), Some(Route::Shop(shop, resource)));
            for other in [
                format!("{name}.x"),
                format!("x{name}"),
                name.replace('0', "A"),
                format!("{name}."),
            ] {
                assert_eq!(route(&other), None, "{other}");
            }
        }
        assert_eq!(route("ezout.auth"), Some(Route::Auth));
        for other in [
            "",
            "ezout",
            "ezout.shop",
            "ezout.auth.x",
            "other.auth",
            "ezout.shop.*.feed",
            "ezout.shop.>",
        ] {
            assert_eq!(route(other), None, "{other}");
        }
    }
}
