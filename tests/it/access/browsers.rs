//! The same through the real Resgate, and what only browsers have: headers, cookies and origins.

use std::time::Duration;

use ezout::core::policy::Role;
use ezout::keys::dev::Grant;
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::guarded::{Got, Guarded, grant};
use super::resources::from_the_first_token_to_the_last;
use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::session;

#[tokio::test]
async fn a_browser_is_somebody_from_its_first_token_to_the_end_of_the_last() {
    let guarded = Guarded::shared().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    from_the_first_token_to_the_last::<ResClient>(&resgate.url()).await;
}

#[tokio::test]
async fn nobody_is_told_what_there_is_by_a_malformed_name() {
    let guarded = Guarded::shared().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    let other = guarded.shop_with(&session(), &session()).await;
    let client = ResClient::connect(&resgate.url()).await;
    let token = guarded.token(Role::Merchant, &[&session()]);
    client.auth("ezout.auth", "jwt", json!({ "jwt": token })).await.unwrap();
    for rid in [
        "ezout.shop.*.baskets".to_owned(),
        "ezout.shop.>".to_owned(),
        "ezout.>".to_owned(),
        "ezout.shop..baskets".to_owned(),
        format!("ezout.shop.{}.*", other.shop),
        format!("ezout.shop.{}", other.shop),
        format!("ezout.shop.{}.baskets.", other.shop),
        format!("ezout.shop.{}.baskets?x=1", other.shop),
        format!("ezout.shop.{}.basket.*", other.shop),
        format!("ezout.shop.{}.baskets", other.shop.to_uppercase()),
        format!("updates.store.{}", other.shop),
        "conn.x.token".to_owned(),
        "ezout.owner.1".to_owned(),
        "$JS.API.INFO".to_owned(),
    ] {
        let got = client.subscribe(&rid).await;
        let code = got.unwrap_err()["code"].as_str().unwrap().to_owned();
        assert!(
            ["system.notFound", "system.invalidRequest", "system.accessDenied"].contains(&&*code),
            "{rid}: {code}"
        );
    }
    let heard = format!("{:?}", client.frames());
    for secret in other.secrets() {
        assert!(!heard.contains(secret), "{heard}");
    }
}

#[tokio::test]
async fn a_request_over_http_is_of_whom_its_header_or_its_cookie_says() {
    let guarded = Guarded::shared().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    let (of, other) = (
        guarded.shop_with(&session(), "pears").await,
        guarded.shop_with(&session(), &session()).await,
    );
    let http = reqwest::Client::new();
    let list = |shop: &str| format!("{}/ezout/shop/{shop}/baskets", resgate.api_url());
    let ask = async |url: &str, headers: &[(&str, &str)]| {
        let mut request = http.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Got::of(request).await
    };
    let token = guarded.token(Role::Merchant, &[&of.shop]);
    let hour_ago = OffsetDateTime::now_utc() - Duration::from_hours(2);
    let expired = guarded.sign_at(&grant("ada", Some(Role::Admin), &["*"]), hour_ago);
    let (bearer, cookie) = (format!("Bearer {token}"), format!("a=b; ezout_token={token}"));
    let own_origin = resgate.url().trim_end_matches('/').replace("ws://", "http://");
    let lower = format!("bearer {token}");
    for (headers, status) in [
        (&[][..], 401),
        (&[("authorization", &*bearer)], 200),
        (&[("authorization", &*lower)], 200),
        (&[("authorization", &*token)], 401),
        (&[("authorization", "Bearer x")], 401),
        (&[("authorization", "Basic YTpi")], 401),
        (&[("authorization", &*format!("Bearer {expired}"))], 401),
        (&[("authorization", &*bearer), ("authorization", &*bearer)], 401),
        (&[("cookie", &*cookie)], 200),
        (&[("cookie", &*cookie), ("origin", &*own_origin)], 200),
        (&[("cookie", &*cookie), ("origin", "https://evil.example")], 401),
        (&[("cookie", &*cookie), ("origin", "null")], 401),
        (&[("cookie", &*format!("ezout_token={expired}"))], 401),
        // The header is what a page has set itself.
        (&[("authorization", &*bearer), ("origin", "https://shop.example")], 200),
    ] {
        let got = ask(&list(&of.shop), headers).await;
        assert_eq!(got.status, status, "{headers:?}: {got:?}");
        got.has_none_of(&other.secrets(), "an own shop");
    }
    // A shop of somebody else is as one that there is not.
    let headers = [("authorization", &*bearer)];
    let basket = |shop: &str| format!("{}/ezout/shop/{shop}/basket/{}", resgate.api_url(), other.session);
    let missing = session();
    for (foreign, none) in [
        (list(&other.shop), list(&missing)),
        (basket(&other.shop), basket(&missing)),
    ] {
        let (foreign, none) = (ask(&foreign, &headers).await, ask(&none, &headers).await);
        assert_eq!(foreign.status, 404);
        assert_eq!(foreign.whole(), none.whole());
    }
    // A merchant handles and does not correct; support does both.
    let support = guarded.token(Role::Support, &[&of.shop]);
    let call = async |token: &str, method: &str, params: Value| {
        let url = format!(
            "{}/ezout/shop/{}/basket/{}/{method}",
            resgate.api_url(),
            of.shop,
            of.session
        );
        let request = http.request(Method::POST, url).json(&params);
        Got::of(request.header("authorization", format!("Bearer {token}")))
            .await
            .status
    };
    let handle = json!({ "by": "Ada", "instead": true });
    let correct = json!({ "author": "Ada", "reason": "x", "adjustment": { "by": 2 } });
    assert_eq!(call(&token, "handle", handle.clone()).await, 200);
    assert_eq!(call(&token, "correct", correct.clone()).await, 401);
    assert_eq!(call(&support, "handle", handle).await, 200);
    assert_eq!(call(&support, "correct", correct).await, 200);
}

#[tokio::test]
async fn a_cookie_of_the_upgrade_counts_for_pages_of_the_same_origin_only() {
    let guarded = Guarded::shared().await;
    let Some(resgate) = Resgate::start(&guarded.stack).await else {
        return;
    };
    let of = guarded.shop_with(&session(), "pears").await;
    let rid = format!("ezout.shop.{}.baskets", of.shop);
    let token = guarded.sign(&Grant {
        lasts: Duration::from_hours(1),
        ..grant("ada", Some(Role::Merchant), &[&of.shop])
    });
    let cookie = format!("ezout_token={token}");
    let own_origin = resgate.url().trim_end_matches('/').replace("ws://", "http://");
    for (origin, comes_in) in [
        (None, true),
        (Some(own_origin.as_str()), true),
        (Some("https://evil.example"), false),
        (Some("null"), false),
    ] {
        let mut headers = vec![("Cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        let client = ResClient::connect_with(&resgate.url(), &headers).await.unwrap();
        for method in ["cookie", "header"] {
            assert_eq!(client.auth("ezout.auth", method, json!({})).await, Ok(Value::Null));
            let got = client.get(&rid).await;
            assert_eq!(got.is_ok(), comes_in, "{origin:?} {method}: {got:?}");
            client.auth("ezout.auth", "logout", json!({})).await.unwrap();
        }
    }
}
