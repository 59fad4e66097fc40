//! The users of `nats/users.conf` at a real nats-server: each may do what its part needs, and nothing else.

mod watchers;

use std::collections::BTreeSet;

use ezout::nats::{Act, Address, RIGHTS, Right, User, not_refused, users_tag};
use ezout::tools::servers::{NatsOptions, NatsServer, NatsUsers};
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::support::res_client::ResClient;
use crate::support::resgate::Resgate;
use crate::support::{Stack, binaries, event, printed, session, wait_for};

fn subjects<'a>(rights: impl IntoIterator<Item = &'a Right>) -> BTreeSet<(Act, &'static str)> {
    rights.into_iter().map(|right| (right.act, right.subject)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_may_do_what_the_table_says_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let options = NatsOptions {
        users: Some(NatsUsers::open(folder.path()).unwrap()),
        ..NatsOptions::in_folder(folder.path())
    };
    let nats = NatsServer::start(&binaries().nats_server, options).await.unwrap();
    let tries = User::ALL.map(async |user| {
        let address = Address::parse(&nats.url_of(user)).unwrap();
        let allowed = not_refused(&address, RIGHTS).await.unwrap();
        let expected = RIGHTS.iter().filter(|right| right.may.contains(&user));
        assert_eq!(subjects(&allowed), subjects(expected), "{}", user.name());
    });
    join_all(tries).await;
    eprintln!("{} users tried {} subjects each", User::ALL.len(), RIGHTS.len());

    // Nobody comes in without a password, or with that of another.
    let api = nats.url_of(User::Api);
    for url in [
        nats.url(),
        api.replace("api:", "project:"),
        api.replace("api:p", "api:"),
        api.replace("api:", "nobody:"),
    ] {
        assert!(Address::parse(&url).unwrap().connect("stranger").await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_everybody_do_everything_makes_a_part_not_ready() {
    let stack = Stack::start_spread(1).await;
    let jetstream = stack.jetstream().await;
    let journal = jetstream
        .create_stream(ezout::journal::settings(1, ezout::journal::Lane::ONLY, 16))
        .await
        .unwrap();
    let appended = jetstream.publish("checkout.0.shop", "an event".into()).await.unwrap();
    appended.await.unwrap();
    let url = stack.nats.url().replace("nats://", "nats://api:whatever@");
    let service = stack.launch("api", &[("EZOUT_NATS_URL", &url)]);
    let reasons = wait_for("what must be refused to be tried", async || {
        let readiness = service.readiness().await?;
        let reasons = readiness["reasons"].to_string();
        reasons.contains("may remove the journal").then_some(reasons)
    })
    .await;
    for part in [
        "rights: the NATS user api may remove the journal (publish to $JS.API.STREAM.DELETE.CHECKOUT)",
        "the NATS user api may listen to events past the journal (subscribe to checkout.>)",
        "the NATS user api may tell updates that are not stored (publish to updates.store.probe)",
        "start nats-server with nats/users.conf",
    ] {
        assert!(reasons.contains(part), "{part} is not in {reasons}");
    }
    // And no harm was done by trying.
    assert_eq!(journal.get_info().await.unwrap().state.messages, 1);
    assert_eq!(journal.get_raw_message(1).await.unwrap().payload, "an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_as_none_of_the_users_of_a_part_is_not_ready() {
    let stack = Stack::start_with_users(|nats| nats.operator_without_password = true).await;
    let url = stack.nats.url();
    let (bob, operator) = (url.replace("://", "://bob:x@"), stack.nats.url_of(User::Operator));
    // Of nobody the server makes an operator here.
    for (url, wanted) in [
        (
            &bob,
            "NATS is reached as \"bob\", of whom nobody knows what must be refused",
        ),
        (&operator, "NATS is reached as \"operator\""),
        (&url, "NATS has users, and this process came as none of them"),
    ] {
        let service = stack.launch("api", &[("EZOUT_NATS_URL", url)]);
        let reasons = wait_for("the reason", async || {
            let readiness = service.readiness().await?;
            let reasons = readiness["reasons"].to_string();
            reasons.contains("rights: ").then_some(reasons)
        })
        .await;
        assert!(
            reasons.contains(&wanted.replace('"', "\\\"")),
            "{wanted} is not in {reasons}"
        );
        assert!(reasons.contains("api, project, correct or serve"), "{reasons}");
    }

    // The door has a user and an address of its own.
    let (keys, seed) = (stack.folder().join("keys"), stack.nats.users().unwrap().issuer_seed());
    let service = stack.launch(
        "api",
        &[
            ("EZOUT_NATS_URL", &*stack.nats.url_of(User::Api)),
            ("EZOUT_NATS_DOOR_URL", &bob),
            ("EZOUT_NATS_ISSUER_SEED", &seed),
            ("EZOUT_AUTH", "dev"),
            ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap()),
        ],
    );
    wait_for("the reason", async || {
        let readiness = service.readiness().await?;
        let reasons = readiness["reasons"].to_string();
        reasons
            .contains("nats/users.conf is door, in EZOUT_NATS_DOOR_URL")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_comes_as_another_one_is_told_so() {
    let stack = Stack::start_with_users(|_| ()).await;
    // The first of all is the one that may make the streams.
    let _project = stack.service("project").await;
    let serve = stack.nats.url_of(User::Serve);
    let larger = stack.service_with("api", &[("EZOUT_NATS_URL", &serve)]).await;
    let warning = "NATS is reached as \"serve\", who may do more than this process needs; the user for it is api";
    let readiness = larger.readiness().await.unwrap();
    assert_eq!(readiness["warnings"][0], format!("rights: {warning}"), "{readiness}");
    let log = std::fs::read_to_string(&larger.log).unwrap();
    assert!(log.contains("who may do more than this process needs"), "{log}");
    let found = stack
        .ezout_with(&["doctor", "--json"], &[("EZOUT_ADMIN_ADDR", &larger.admin_url())])
        .await;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains("who may do more than this process needs"), "{found}");

    let api = stack.nats.url_of(User::Api);
    let lesser = stack.launch("serve", &[("EZOUT_NATS_URL", &api)]);
    let reasons = wait_for("the reason", async || {
        let reasons = lesser.readiness().await?["reasons"].to_string();
        reasons.contains("who may not").then_some(reasons)
    })
    .await;
    assert!(reasons.contains("the user for it is serve"), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_asks_callers_warns_where_nats_asks_nobody() {
    let stack = Stack::start().await;
    let keys = stack.folder().join("keys");
    let asks = [("EZOUT_AUTH", "dev"), ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap())];
    let service = stack.service_with("serve", &asks).await;
    let warned = wait_for("the warning", async || {
        let warnings = service.readiness().await?["warnings"].to_string();
        warnings.contains("NATS asks nobody").then_some(warnings)
    })
    .await;
    assert!(warned.contains("nats/users.conf"), "{warned}");
    let log = std::fs::read_to_string(&service.log).unwrap();
    assert!(log.contains("NATS asks nobody"), "{log}");
    assert_eq!(service.readiness().await.unwrap()["ready"], true);
    // Who asks nobody has nothing to be passed by.
    let open = stack.service("api").await;
    assert_eq!(open.readiness().await.unwrap()["warnings"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sees_users_of_another_version() {
    let stack = Stack::start_with_users(|nats| nats.watchers_max = Some(2)).await;
    let users = async || {
        let said = stack.ezout(&["doctor", "--json"]).await;
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let all = said["checks"].as_array().unwrap().iter();
        all.filter(|finding| finding["check"] == "users")
            .cloned()
            .collect::<Vec<_>>()
    };
    // What was changed by hand is no other version.
    assert_eq!(users().await[0]["level"], "ok");
    // As before there was this line.
    let settings = stack.folder().join("nats/users.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    let older: Vec<&str> = text.lines().filter(|line| !line.starts_with("server_tags: ")).collect();
    std::fs::write(&settings, older.join("\n")).unwrap();
    let server = i32::try_from(stack.nats.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(server.unwrap(), rustix::process::Signal::HUP).unwrap();
    let found = wait_for("the finding", async || {
        users().await.into_iter().find(|found| found["level"] == "warn")
    })
    .await;
    assert!(
        found["fact"]
            .as_str()
            .unwrap()
            .contains("other users than the nats/users.conf of this version"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_does_its_work_as_its_own_user() {
    let stack = Stack::start_with_users(|_| ()).await;
    let edits = [("EZOUT_EDITS_PER_MINUTE", "60")];
    // The first of all is the one that may make the streams.
    let project = stack.service("project").await;
    let (api, correct) = tokio::join!(stack.service("api"), stack.service_with("correct", &edits));
    let (shop, session) = (uuid::Uuid::new_v4().to_string(), session());
    let operator = Address::parse(&stack.nats.url_of(User::Operator)).unwrap();
    let operator = operator.connect("operator").await.unwrap();
    let mut updates = operator.subscribe(format!("updates.store.{shop}")).await.unwrap();

    // Append, project, tell.
    let answer = api.publish(&shop, &event(&shop, &session, 1, "ADD", 1, 2.5, 2.5)).await;
    assert_eq!(answer.status(), 200);
    api.basket(&shop, &session, 1).await;
    let update = updates.next().await.unwrap();
    assert!(String::from_utf8_lossy(&update.payload).contains(&session));

    // The past of a session is read from the journal by the API.
    let url = format!("{}/v1/shops/{shop}/sessions/{session}/events", api.http_url());
    let past = reqwest::get(&url).await.unwrap();
    assert_eq!(past.status(), 200);
    assert!(past.text().await.unwrap().contains("product 1"));

    // A viewer of the API gets the next one.
    let url = format!("{}/v1/shops/{shop}/updates", api.http_url());
    let mut viewer = reqwest::get(&url).await.unwrap();
    let answer = api.publish(&shop, &event(&shop, &session, 2, "ADD", 2, 1.0, 3.5)).await;
    assert_eq!(answer.status(), 200);
    let mut seen = String::new();
    while !seen.contains("product 2") {
        let chunk = viewer.chunk().await.unwrap().expect("the viewer stays connected");
        seen += &String::from_utf8_lossy(&chunk);
    }

    // A correction by the API is taken by `correct`.
    let url = format!("{}/v1/shops/{shop}/sessions/{session}/corrections", api.http_url());
    let asked = json!({
        "author": "somebody", "reason": "a test",
        "quantity": { "product_id": 1, "quantity": 3 },
    });
    let corrected = reqwest::Client::new().post(&url).json(&asked).send().await.unwrap();
    let status = corrected.status();
    let body = corrected.text().await.unwrap();
    assert!(status.is_success(), "{status} {body}");

    // Resgate: a list, a page by query that is asked about again, and a change of it.
    if let Some(resgate) = Resgate::start(&stack).await {
        let client = ResClient::connect(&resgate.url()).await;
        let list = format!("ezout.shop.{shop}.baskets");
        let page = format!("ezout.shop.{shop}.sessions?limit=3");
        client.subscribe(&list).await.unwrap();
        client.subscribe(&page).await.unwrap();
        let other = self::session();
        api.publish(&shop, &event(&shop, &other, 1, "ADD", 1, 2.5, 2.5)).await;
        for rid in [&list, &page] {
            wait_for("the client to see the new basket", async || {
                client.tree(rid)?.to_string().contains(&other).then_some(())
            })
            .await;
        }
    }

    // The commands.
    let doctor = stack.ezout(&["doctor", "--json"]).await;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    for check in [
        "nats",
        "room",
        "sync",
        "users",
        "journal",
        "updates",
        "checkpoints",
        "lag",
    ] {
        let all = found["checks"].as_array().unwrap().iter();
        let mut of_check = all.filter(|finding| finding["check"] == check).peekable();
        assert!(of_check.peek().is_some(), "{check} is not in {said}");
        assert!(of_check.all(|finding| finding["level"] == "ok"), "{check}: {said}");
    }
    let replayed = printed(&stack.ezout(&["replay", "--shop", &shop]).await);
    assert!(replayed.lines().count() >= 3, "{replayed}");
    let to_subject = ["replay", "--shop", &shop, "--to-subject", "replay.test"];
    printed(&stack.ezout(&to_subject).await);
    printed(&stack.ezout(&["rebuild"]).await);
    printed(&stack.ezout(&["migrate", "--streams"]).await);
    printed(&stack.ezout(&["parked", "list"]).await);

    for service in [&api, &project, &correct] {
        let log = std::fs::read_to_string(&service.log).unwrap();
        assert!(!log.contains("Permissions Violation"), "{log}");
        let ready = service.readiness().await.unwrap();
        assert_eq!(ready["ready"], true, "{ready}");
        assert!(ready["checks"].to_string().contains("rights"), "{ready}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_were_made_without_users_are_there_with_them() {
    let folder = TempDir::new().unwrap();
    let binaries = binaries();
    let without = NatsServer::start(&binaries.nats_server, NatsOptions::in_folder(folder.path()))
        .await
        .unwrap();
    let context = async_nats::jetstream::new(async_nats::connect(without.url()).await.unwrap());
    context
        .create_stream(ezout::journal::settings(1, ezout::journal::Lane::ONLY, 16))
        .await
        .unwrap();
    context
        .publish("checkout.0.shop", "an event".into())
        .await
        .unwrap()
        .await
        .unwrap();
    without.stop().await;

    let options = NatsOptions {
        users: Some(NatsUsers::open(folder.path()).unwrap()),
        ..NatsOptions::in_folder(folder.path())
    };
    let with = NatsServer::start(&binaries.nats_server, options).await.unwrap();
    let operator = Address::parse(&with.url_of(User::Operator)).unwrap();
    let context = async_nats::jetstream::new(operator.connect("operator").await.unwrap());
    let stream = context.get_stream_no_info("CHECKOUT").await.unwrap();
    assert_eq!(stream.get_raw_message(1).await.unwrap().payload, "an event");
}

#[test]
fn the_settings_of_the_users_name_their_version() {
    let settings = include_str!("../../nats/users.conf");
    let others: Vec<&str> = settings
        .lines()
        .filter(|line| !line.starts_with("server_tags: "))
        .collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, others.join("\n").as_bytes());
    let digest: String = digest.as_ref()[..4]
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let wanted = format!("ezout-users:{digest}");
    assert_eq!(
        users_tag(),
        wanted,
        "nats/users.conf was changed; its tag is now {wanted}"
    );
}

/// What may be done with the one stream of a journal may be done with each of several, by the same users.
#[test]
fn each_stream_of_a_journal_has_the_rights_of_the_one() {
    let settings = include_str!("../../nats/users.conf");
    for user in settings.split("user: ").skip(1) {
        let subjects: BTreeSet<&str> = user.split('"').skip(1).step_by(2).collect();
        let token = |subject: &str, name: &str| subject.split('.').any(|token| token == name);
        let of_one: Vec<&&str> = subjects.iter().filter(|subject| token(subject, "CHECKOUT")).collect();
        for lane in ezout::journal::Spread::over(16).unwrap().lanes() {
            let name = lane.name();
            let wanted: BTreeSet<String> = of_one
                .iter()
                .map(|subject| subject.replace("CHECKOUT", &name))
                .collect();
            let found = subjects.iter().filter(|subject| token(subject, &name));
            let found: BTreeSet<String> = found.map(|subject| (*subject).to_owned()).collect();
            assert_eq!(found, wanted, "{}", user.lines().next().unwrap());
        }
    }
}

#[test]
fn the_readme_says_what_each_user_may_do() {
    let readme = include_str!("../../README.md");
    let rows = User::ALL.iter().map(|user| {
        let may = RIGHTS.iter().filter(|right| right.may.contains(user));
        let may: Vec<&str> = may.map(|right| right.what).collect();
        format!("| `{}` | {} |\n", user.name(), may.join("; "))
    });
    let nobody = RIGHTS.iter().filter(|right| right.may.is_empty());
    let nobody: Vec<&str> = nobody.map(|right| right.what).collect();
    let table: String = rows.chain([format!("| nobody | {} |\n", nobody.join("; "))]).collect();
    let table = format!("| user | may |\n|---|---|\n{table}");
    assert!(
        readme.contains(&table),
        "README.md lacks or misstates the users of NATS; the table is:\n\n{table}"
    );
}
