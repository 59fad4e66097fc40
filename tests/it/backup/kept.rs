//! Backups that earlier versions made, in `tests/kept`: this one restores them and answers as they did.

use ezout::tools::servers::NatsServer;

use super::*;
use crate::support::binaries;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kept")
}

/// Everything that is kept, by the name of the version.
fn all() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    all.sort();
    assert!(!all.is_empty());
    all
}

fn copy(from: &Path, to: &Path) {
    for (path, content) in files(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// What a service answers about these baskets, and the updates that were told of them.
async fn answers(stack: &Stack, service: &Service, paths: &[String]) -> Value {
    let mut baskets = serde_json::Map::new();
    for path in paths {
        let answer = reqwest::get(format!("{}{path}", service.http_url())).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        baskets.insert(path.clone(), answer.json().await.unwrap());
    }
    let operator = stack.nats.url_of(ezout::nats::User::Operator);
    let address = ezout::nats::Address::parse(&operator).unwrap();
    let client = address.connect("a test").await.unwrap();
    let stream = jetstream::new(client).get_stream("UPDATES").await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let mut updates = Vec::new();
    for place in 1..=last {
        let message = stream.direct_get(place).await.unwrap();
        updates.push(serde_json::from_slice::<Value>(&message.payload).unwrap());
    }
    // Partitions are folded side by side, so updates of different shops stand in any order.
    updates.sort_by_key(|update| update["sequence"].as_u64());
    json!({ "answers": baskets, "updates": updates })
}

/// The paths that are asked about each basket.
fn paths(baskets: impl Iterator<Item = String>) -> Vec<String> {
    baskets
        .flat_map(|basket| {
            let (shop, session) = basket.split_once('.').unwrap();
            let session = format!("/v1/shops/{shop}/sessions/{session}");
            ["basket", "explain", "events", "corrections"].map(|what| format!("{session}/{what}"))
        })
        .collect()
}

/// `EZOUT_KEEP=v2 cargo test --test it backup::kept::makes` adds a version to what is kept.
#[tokio::test(flavor = "multi_thread")]
async fn makes_what_is_kept() {
    let Some(version) = chosen("EZOUT_KEEP") else { return };
    let folder = folder().join(version);
    let stack = Stack::start_spread(1).await;
    let service = stack.service_with("serve", EDITS).await;
    fill_with_everything(&stack, &service, 3).await;
    caught_up(&stack).await;
    let backup = folder.join("backup");
    printed(
        &stack
            .ezout(&["backup", backup.to_str().unwrap(), "--segment-events", "40"])
            .await,
    );
    std::fs::remove_file(backup.join("lock")).unwrap();
    let database = stack.database().await;
    let baskets = documents(&database, "baskets", doc! {}).await;
    let ids = baskets
        .into_values()
        .map(|basket| basket.get_str("_id").unwrap().to_owned());
    let answers = answers(&stack, &service, &paths(ids)).await;
    let text = serde_json::to_string_pretty(&answers).unwrap();
    std::fs::write(folder.join("answers.json"), text + "\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_an_earlier_version_is_restored_and_served_as_it_was() {
    for version in all() {
        // With users, as in production.
        let stack = Stack::start_with_users(|_| ()).await.with_streams(1);
        let backup = version.join("backup");
        printed(&stack.ezout(&["restore", backup.to_str().unwrap()]).await);
        let service = stack.service("serve").await;
        let text = std::fs::read_to_string(version.join("answers.json")).unwrap();
        let kept: Value = serde_json::from_str(&text).unwrap();
        let paths: Vec<String> = kept["answers"].as_object().unwrap().keys().cloned().collect();
        let last = kept["updates"].as_array().unwrap().len();
        let operator = stack.nats.url_of(ezout::nats::User::Operator);
        wait_for("every update", async || {
            let address = ezout::nats::Address::parse(&operator).unwrap();
            let client = address.connect("a test").await.ok()?;
            let stream = jetstream::new(client).get_stream("UPDATES").await.ok()?;
            (stream.cached_info().state.messages == last as u64).then_some(())
        })
        .await;
        let now = answers(&stack, &service, &paths).await;
        for path in &paths {
            assert_eq!(
                now["answers"][path],
                kept["answers"][path],
                "{} {path}",
                version.display()
            );
        }
        assert_eq!(now["updates"], kept["updates"], "{}", version.display());
        printed(&stack.ezout(&["rebuild"]).await);
        // And it is backed up again by this version.
        let again = tempfile::tempdir().unwrap();
        printed(&stack.ezout(&["backup", again.path().to_str().unwrap()]).await);
        printed(
            &stack
                .ezout(&["backup", "--verify", again.path().to_str().unwrap()])
                .await,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_on_three_servers() {
    let version = all().pop().unwrap();
    let stack = Stack::start_spread(1).await;
    let servers = NatsServer::start_cluster(&binaries().nats_server, &stack.folder().join("cluster")).await;
    let servers = servers.unwrap();
    let list = |of: fn(&NatsServer) -> String| servers.iter().map(of).collect::<Vec<_>>().join(",");
    let (urls, monitors) = (list(NatsServer::url), list(NatsServer::monitor_url));
    let environment = [
        ("EZOUT_NATS_URL", urls.as_str()),
        ("EZOUT_NATS_MONITOR_URL", &monitors),
        ("EZOUT_NATS_REPLICAS", "3"),
    ];
    let backup = version.join("backup");
    let restore = ["restore", backup.to_str().unwrap()];
    printed(&stack.ezout_with(&restore, &environment).await);
    let client = async_nats::connect(servers[0].url()).await.unwrap();
    let stream = jetstream::new(client).get_stream("CHECKOUT").await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, 3);
    // It serves from there.
    let service = stack.service_with("serve", &environment).await;
    let shop = session();
    let last = record(&service, &shop, &visit(&shop, &session(), 1)).await;
    assert!(last > manifest(&backup).unwrap()["journal"]["last_sequence"].as_u64().unwrap());
    let again = printed(&stack.ezout_with(&["rebuild"], &environment).await);
    assert!(!again.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_any_file_is_named_and_never_restored() {
    let version = all().pop().unwrap();
    let kept = tempfile::tempdir().unwrap();
    copy(&version.join("backup"), kept.path());
    let to = kept.path().to_str().unwrap();
    let stack = Stack::start_spread(1).await;
    printed(&stack.ezout(&["backup", "--verify", to]).await);
    let mut kinds = BTreeSet::new();
    for (path, content) in files(kept.path()) {
        let name = path.strip_prefix(kept.path()).unwrap().to_str().unwrap().to_owned();
        if name == "lock" {
            continue;
        }
        // One of each kind is enough for what takes servers.
        let kind = name.split_once('-').map_or(name.clone(), |(kind, _)| kind.to_owned());
        let is_first = kinds.insert(kind.trim_end_matches(char::is_numeric).to_owned());
        let mut flipped = content.clone();
        flipped[content.len() / 2] ^= 4;
        for broken in [Some(flipped), None] {
            match broken {
                Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let told = refused(&stack.ezout(&["backup", "--verify", to]).await);
            assert!(told.contains(&name), "{name}: {told}");
            if is_first {
                let told = refused(&stack.ezout(&["restore", to]).await);
                assert!(told.contains(&name), "{name}: {told}");
                assert!(stack.jetstream().await.get_stream("CHECKOUT").await.is_err(), "{name}");
            }
        }
        std::fs::write(&path, content).unwrap();
    }
    for kind in [
        "manifest.json",
        "journal/",
        "documents/members",
        "documents/audit",
        "documents/corrections",
    ] {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
    printed(&stack.ezout(&["restore", to]).await);
}
