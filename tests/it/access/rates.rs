//! One shop that sends too much is told so, and no other shop notices it.

use ezout::core::policy::Role;
use futures::future::join_all;

use super::guarded::{Asker, dev_mode, grant, keys_of};
use crate::support::{Stack, event, session};

/// Shops that send now and then, and events of each.
const QUIET: usize = 20;
const EVENTS: i64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_that_floods_is_told_to_wait_and_quiet_ones_are_answered() {
    let stack = Stack::start().await;
    let keys = keys_of(&stack);
    let environment = [&dev_mode(&keys)[..], &[("EZOUT_RATE_SHOP", "1")]].concat();
    let service = stack.service_with("serve", &environment).await;
    let sender = |shop: &str| {
        let grant = grant(&session(), Some(Role::Service), &[shop]);
        let token = ezout::keys::dev::sign(&keys, &grant, time::OffsetDateTime::now_utc()).unwrap();
        Asker::new(&service, Some(token))
    };

    let loud = session();
    let flooder = sender(&loud);
    let path = format!("/v1/shops/{loud}/events");
    let visit = session();
    // As many as may come at once, and from then on one a second.
    let lines: Vec<_> = (1..=1_000)
        .map(|number| event(&loud, &visit, number, "ADD", 1, 1.5, 1.5))
        .collect();
    assert_eq!(flooder.post_lines(&path, &lines).await.status, 200);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let flood = async {
        let mut refused = 0;
        for number in 1.. {
            let got = flooder
                .publish(&loud, &event(&loud, &visit, 1_000 + number, "ADD", 1, 1.5, 1.5))
                .await;
            if got.status == 429 {
                assert_eq!(got.code(), "too_many_requests");
                let pause = got.headers.get("retry-after").and_then(|value| value.to_str().ok());
                let pause = pause.and_then(|pause| pause.parse::<u32>().ok());
                assert!(pause.is_some_and(|pause| pause > 0), "{got:?}");
                refused += 1;
            } else {
                // What has filled up again meanwhile.
                assert_eq!(got.status, 200, "{got:?}");
            }
            if *stopped.borrow() && refused > 0 {
                break;
            }
        }
        refused
    };
    let quiet = async {
        let sends = (0..QUIET).map(async |_| {
            let (shop, visit) = (session(), session());
            let phone = sender(&shop);
            for number in 1..=EVENTS {
                let got = phone
                    .publish(&shop, &event(&shop, &visit, number, "ADD", 1, 1.5, 1.5))
                    .await;
                assert_eq!(got.status, 200, "{got:?}");
            }
        });
        join_all(sends).await;
        stop.send_replace(true);
    };
    let (refused, ()) = tokio::join!(flood, quiet);
    eprintln!("{refused} events of the one were refused beside {QUIET} others");
}
