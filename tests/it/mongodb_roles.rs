//! The roles of `mongodb/roles.json` at a mongod that asks who comes: the service does all of its work, and changes nothing of the audit.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::{Client, Database};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::support::gateway::Gateway;
use crate::support::{Stack, binaries, event, printed, session, wait_for};

const ROLES: &str = include_str!("../../mongodb/roles.json");
/// MongoDB's code for what somebody has no right to.
const UNAUTHORIZED: i32 = 13;

fn uri(port: u16, user: &str, database: &str) -> String {
    format!("mongodb://{user}:geheim@127.0.0.1:{port}/?replicaSet=rs0&authSource={database}")
}

async fn connect(uri: &str) -> Client {
    Client::with_uri_str(uri).await.unwrap()
}

/// The server of a stack once more, with the same data, and now it asks who comes.
async fn asking(stack: &mut Stack, port: u16) -> Child {
    stack.mongod.kill().await;
    let folder = stack.folder().join("mongod");
    let key = folder.join("key");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .mode(0o600)
        .truncate(true)
        .open(&key)
        .unwrap();
    std::io::Write::write_all(&mut file, b"onlyfortests").unwrap();
    let log = std::fs::File::create(folder.join("asking.log")).unwrap();
    let server = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(&binaries().mongod)
        .arg("--dbpath")
        .arg(&folder)
        .args([
            "--port",
            &port.to_string(),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--replSet",
            "rs0",
        ])
        .args(["--wiredTigerCacheSizeGB", "0.25", "--keyFile"])
        .arg(&key)
        .stdout(Stdio::from(log))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    wait_for("the server to take writes", async || {
        let database = connect(&uri(port, "admin", "admin")).await.database("admin");
        let hello = database.run_command(doc! { "hello": 1 }).await.ok()?;
        hello.get_bool("isWritablePrimary").ok()?.then_some(())
    })
    .await;
    server
}

fn is_unauthorized(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(refusal) if refusal.code == UNAUTHORIZED)
}

async fn refused(database: &Database, command: Document) {
    let what = command.to_string();
    let answer = database.run_command(command).await;
    let error = answer.expect_err(&what);
    assert!(is_unauthorized(&error), "{what}: {error}");
}

/// What the service must not do, tried as the service.
async fn nothing_else(database: &Database) {
    let all = doc! {};
    for command in [
        doc! { "update": "audit", "updates": [{ "q": &all, "u": { "$set": { "who": "nobody" } }, "multi": true }] },
        doc! { "update": "audit", "updates": [{ "q": &all, "u": { "who": "nobody" }, "upsert": true }] },
        doc! { "delete": "audit", "deletes": [{ "q": &all, "limit": 0 }] },
        doc! { "findAndModify": "audit", "query": &all, "remove": true },
        doc! { "aggregate": "audit", "pipeline": [{ "$merge": { "into": "audit", "whenMatched": "replace" } }], "cursor": {} },
        doc! { "aggregate": "baskets", "pipeline": [{ "$out": "audit" }], "cursor": {} },
        doc! { "drop": "audit" },
        doc! { "collMod": "audit", "validator": {} },
        doc! { "create": "audit_2" },
        doc! { "dropDatabase": 1 },
        doc! { "update": "members", "updates": [{ "q": { "_id": "eve" }, "u": { "$set": { "role": "admin" } }, "upsert": true }] },
        doc! { "delete": "revocations", "deletes": [{ "q": &all, "limit": 0 }] },
        doc! { "createUser": "eve", "pwd": "x", "roles": [] },
        doc! { "grantRolesToUser": "ezout", "roles": ["readWrite"] },
    ] {
        refused(database, command).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_does_its_work_with_rights_by_which_it_can_change_nothing_of_the_audit() {
    let mut stack = Stack::start().await;
    let database = stack.database().await;
    let roles: Vec<Document> = serde_json::from_str(ROLES).unwrap();
    assert_eq!(roles.len(), 2);
    for role in roles {
        database.run_command(role).await.unwrap();
    }
    for (user, role) in [("ezout", "ezout_service"), ("operator", "ezout_operator")] {
        let made = doc! { "createUser": user, "pwd": "geheim", "roles": [role] };
        database.run_command(made).await.unwrap();
    }
    let root = doc! { "createUser": "admin", "pwd": "geheim", "roles": ["root"] };
    let admin = connect(&stack.mongod.uri()).await.database("admin");
    admin.run_command(root).await.unwrap();
    let port = stack.mongod.port();
    let _server = asking(&mut stack, port).await;

    // Nobody comes in without a name, and the service does not make what it works with.
    let stranger = connect(&format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0")).await;
    refused(&stranger.database("ezout"), doc! { "find": "baskets" }).await;
    let (own, operator) = (uri(port, "ezout", "ezout"), uri(port, "operator", "ezout"));
    printed(
        &stack
            .ezout_with(&["migrate"], &[("EZOUT_MONGODB_URI", &operator)])
            .await,
    );
    let member = ["member", "add", "ada", "--role", "admin", "--shop", "*"];
    printed(&stack.ezout_with(&member, &[("EZOUT_MONGODB_URI", &operator)]).await);

    let backup = stack.folder().join("backup").display().to_string();
    let as_operator = [("EZOUT_MONGODB_URI", operator.as_str())];

    let keys = stack.folder().join("keys");
    let environment = [
        ("EZOUT_MONGODB_URI", own.as_str()),
        ("EZOUT_AUTH", "dev"),
        ("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap()),
        ("EZOUT_EDITS_PER_MINUTE", "60"),
        ("EZOUT_SCRUB_PER_MINUTE", "600"),
    ];
    let service = stack.service_with("serve", &environment).await;
    let token = printed(
        &stack
            .ezout_with(
                &["token", "--role", "admin", "--shop", "*", "--subject", "ada"],
                &[("EZOUT_AUTH_DEV_KEYS", keys.to_str().unwrap())],
            )
            .await,
    );
    let (shop, visit, token) = (session(), session(), token.trim());
    let http = reqwest::Client::new();
    let post = async |path: String, body: &serde_json::Value| {
        let url = format!("{}{path}", service.http_url());
        http.post(url).bearer_auth(token).json(body).send().await.unwrap()
    };
    let get = async |path: String| {
        let url = format!("{}{path}", service.http_url());
        let got = http.get(url).bearer_auth(token).send().await.ok()?;
        (got.status() == 200).then_some(got.json::<serde_json::Value>().await.unwrap())
    };
    let basket = format!("/v1/shops/{shop}/sessions/{visit}/basket");
    let added = event(&shop, &visit, 1, "ADD", 1, 1.5, 1.5);
    assert_eq!(post(format!("/publish/{shop}"), &added).await.status(), 200);
    wait_for("the basket", async || get(basket.clone()).await).await;

    // A correction by the API, one by hand, and somebody who takes care of the basket.
    let asked = json!({ "author": "Ada", "reason": "x", "adjustment": { "by": 1 } });
    let filed = post(format!("/v1/shops/{shop}/sessions/{visit}/corrections"), &asked).await;
    assert_eq!(filed.status(), 202);
    wait_for("the correction", async || {
        (get(basket.clone()).await?["corrections"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let by_operator = connect(&operator).await.database("ezout");
    let baskets = by_operator.collection::<Document>("baskets");
    let this = doc! { "_id": format!("{shop}.{visit}") };
    baskets
        .update_one(this, doc! { "$set": { "status": "cancelled" } })
        .await
        .unwrap();
    wait_for("the edit", async || {
        (get(basket.clone()).await?["corrections"].as_array()?.len() == 2).then_some(())
    })
    .await;
    let gateway = Gateway::connect(&stack.nats.url()).await;
    gateway
        .auth("ezout.auth", "jwt", json!({ "jwt": token }))
        .await
        .unwrap();
    let name = format!("ezout.shop.{shop}.basket.{visit}");
    gateway.call(&name, "handle", json!({ "by": "Ada" })).await.unwrap();

    // Who did it is there, and stays.
    let audit = get(format!("/v1/shops/{shop}/audit")).await.unwrap();
    assert_eq!(audit["entries"].as_array().unwrap().len(), 1, "{audit}");
    nothing_else(&connect(&own).await.database("ezout")).await;
    let kept = by_operator.collection::<Document>("audit");
    assert_eq!(kept.count_documents(doc! { "who": "ada" }).await.unwrap(), 1);

    // What cannot be made again is taken away by the operator.
    printed(&stack.ezout_with(&["backup", &backup], &as_operator).await);
    printed(&stack.ezout_with(&["backup", "--verify", &backup], &[]).await);

    let readiness = service.readiness().await.unwrap();
    assert_eq!(readiness["ready"], true, "{readiness}");
    let log = std::fs::read_to_string(&service.log).unwrap();
    assert!(!log.contains("not authorized"), "{log}");
}

/// What the code works with and the role does not name would be refused only when it is needed.
#[test]
fn the_role_names_every_collection_of_the_migrations() {
    let roles: Vec<serde_json::Value> = serde_json::from_str(ROLES).unwrap();
    let named: Vec<&str> = roles[0]["privileges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|privilege| privilege["resource"]["collection"].as_str().unwrap())
        .collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let migration: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for command in migration["commands"].as_array().unwrap() {
            let Some(made) = command["create"].as_str() else {
                continue;
            };
            let is_of_operators = ["members", "revocations", "rebuild_reports"].contains(&made);
            assert!(named.contains(&made) || is_of_operators, "{made} is not named");
        }
    }
}
