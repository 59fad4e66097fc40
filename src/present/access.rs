//! Who may see and do what, and who says who he is.
//!
//! As long as `EZOUT_AUTH` is not there, everybody may get and call everything that exists, and whoever
//! authenticates is told that nobody is asked.

use super::route::{Resource, Route};
use crate::resgate::{Answer, Failure, Gateway, Request};

/// The token of a client as long as nobody is asked who he is.
const ANYBODY: &str = "{\"role\":\"anybody\"}";

/// What a client may do with what a name stands for.
pub(super) fn access(route: Option<Route>) -> Answer {
    match route {
        Some(Route::Shop(_, resource)) => Answer::Access {
            call: Resource::methods(resource),
        },
        Some(Route::Auth) | None => Answer::Failure(Failure::not_found()),
    }
}

/// Takes what a client says about who it is, and gives it its token, or takes that from it.
pub(super) async fn auth(gateway: &Gateway, request: &Request) -> Answer {
    let token = match request.method() {
        "jwt" | "header" | "cookie" => ANYBODY,
        "logout" => "null",
        _ => return Answer::Failure(Failure::method_not_found()),
    };
    let Some(cid) = request.body().cid.filter(|cid| is_connection(cid)) else {
        return Answer::Failure(Failure::invalid_params("the request names no connection"));
    };
    match gateway.give_token(&cid, token).await {
        Ok(()) => Answer::Result("null".to_owned()),
        Err(error) => {
            tracing::debug!("{error}");
            Answer::Failure(Failure::internal("the token could not be given; try again"))
        }
    }
}

/// Whether a text is the name of a connection as gateways make them. It becomes part of a subject, so nothing else may be in it.
fn is_connection(cid: &str) -> bool {
    cid.len() == 20 && cid.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_gateway_makes_names_a_connection() {
        assert!(is_connection("dc2cmhlqmd2tgi8lv4rg"));
        for other in [
            "",
            "dc2cmhlqmd2tgi8lv4r",
            "dc2cmhlqmd2tgi8lv4r.",
            "dc2cmhlqmd2tgi8lv4rz",
            "*",
            ">",
        ] {
            assert!(!is_connection(other), "{other}");
        }
    }
}
