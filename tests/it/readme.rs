//! Every route stands in the README with a curl line, and every line works, those of `mongosh` included: with the token that
//! it carries, and not without. Who may do what is what the README says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use ezout::core::policy::{Role, Verb};
use ezout::http::{Door, doors};
use ezout::views::{ParkedEvent, ParkedState, Views};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::resgate::Resgate;
use crate::support::{Stack, System, event, path, printed, session, skip, wait_for};

const SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
/// The visit of the walk.
const VISIT: &str = "7c29b2d3-7c8a-446e-a4e1-d8e2a51c0e96";
/// What a line has that needs a token.
const BEARER: &str = "-H \"Authorization: Bearer $TOKEN\" ";
/// How a line begins that makes the token, and how one that makes another.
const TOKEN: &str = "export TOKEN=$(target/debug/ezout ";
const OTHER_TOKEN: &str = "target/debug/ezout token ";
/// What is allowed by what is no route.
const ELSEWHERE: [(Verb, &str); 3] = [
    (Verb::Look, "every resource of Resgate"),
    (Verb::Handle, "the call `handle` of a basket's resource"),
    (Verb::Correct, "the call `correct` of a basket's resource"),
];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// How a line begins that follows resources with Node.
const FOLLOWS: &str = "node --experimental-websocket -e ";
/// Where the README has Resgate.
const RESGATE: &str = "127.0.0.1:8080";

/// Whether a line asks something of a running system.
fn asks(text: &str) -> bool {
    text.contains("curl ") || text.contains("mongosh ") || text.contains(OTHER_TOKEN) || text.contains(FOLLOWS)
}

/// The README's blocks of shell commands that ask something of a running system.
fn blocks() -> Vec<String> {
    let readme = read("README.md");
    let mut blocks = Vec::new();
    let mut rest = readme.as_str();
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (block, after) = after.split_once("\n```").expect("a block ends");
        if asks(block) {
            blocks.push(block.to_owned());
        }
        rest = after;
    }
    assert!(!blocks.is_empty());
    blocks
}

/// The commands of a block: lines, of which one that ends with a backslash or within quotes goes on.
fn commands(block: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in block.lines() {
        match commands.last_mut() {
            Some(command) if goes_on => {
                command.push('\n');
                command.push_str(line);
            }
            _ => commands.push(line.to_owned()),
        }
        let quotes = commands.last().map_or(0, |command| command.matches('\'').count());
        goes_on = line.ends_with('\\') || quotes % 2 == 1;
    }
    commands.retain(|command| asks(command));
    commands
}

/// Runs a command against the system and answers the status it got; curl itself may be cut off by its own time limit.
async fn run(system: &System, command: &str, token: &str) -> (String, String) {
    let here = command
        .replace("http://127.0.0.1:8000", &system.http_url())
        .replace("http://127.0.0.1:8001", &system.admin_url());
    let folder = tempfile::tempdir().unwrap();
    let script = format!("curl() {{ command curl -sS --max-time 10 -o answer -w '%{{http_code}}' \"$@\"; }}\n{here}\n");
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("TOKEN", token)
        .current_dir(folder.path())
        .output()
        .await
        .unwrap();
    let answer = fs::read_to_string(folder.path().join("answer")).unwrap_or_default();
    let told = format!("{answer}\n{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), told)
}

/// Makes the edit of a line of `mongosh`, which not every machine has, and waits until it was taken.
async fn edit(system: &System, command: &str) {
    let (_, rest) = command.split_once("db.baskets.updateOne(").expect("an update");
    let (arguments, _) = rest.rsplit_once(')').unwrap();
    let arguments: Vec<Document> = serde_json::from_str(&format!("[{arguments}]")).expect("also JSON");
    let [which, update] = arguments.as_slice() else {
        panic!("{command}");
    };
    let database = system.stack.database().await;
    let corrections = database.collection::<Document>("corrections");
    let taken = async || {
        let by_hand = corrections.count_documents(doc! { "source": "database" });
        by_hand.await.unwrap()
    };
    let before = taken().await;
    let baskets = database.collection::<Document>("baskets");
    let updated = baskets.update_one(which.clone(), update.clone()).await.unwrap();
    assert_eq!(updated.modified_count, 1, "{command}");
    wait_for("the edit to be taken", async || (taken().await > before).then_some(())).await;
}

/// The id in the README of an event that could not be applied, and its place.
pub const PARKED: (&str, u64) = ("1edcc9f0-2f0e-4a53-9c0a-3e0f6a7d2b11", 977);

/// Has that event wait. It is of another journal, so no projector takes it up.
pub async fn park(stack: &Stack) {
    let views = Views::to_look_at(&stack.views_config()).await.unwrap();
    let (epoch, sequence) = PARKED;
    let event = ParkedEvent {
        id: ParkedEvent::id(epoch, sequence),
        epoch: epoch.to_owned(),
        partition: 0,
        sequence,
        basket: None,
        reason: "its body is not JSON".to_owned(),
        state: ParkedState::Parked,
        subject: format!("checkout.0.{SHOP}"),
        event_type: None,
        recorded_at: OffsetDateTime::UNIX_EPOCH,
        body: b"{".to_vec(),
    };
    views.park(&[event]).await.unwrap();
}

/// Runs the line that follows a shop's baskets: it prints them first, and then what an event changes.
async fn follow(system: &System, resgate: &Resgate, command: &str, token: &str) {
    let flag = Command::new("env")
        .args(["node", "--experimental-websocket", "-e", ""])
        .env("PATH", path())
        .output()
        .await;
    if !flag.is_ok_and(|output| output.status.success()) {
        skip("node", "there is no Node 20.10 or later on PATH");
        return;
    }
    let here = command.replace(&format!("ws://{RESGATE}/"), &resgate.url());
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {here}")])
        .env("TOKEN", token)
        .env("PATH", path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut frames = BufReader::new(child.stdout.take().unwrap()).lines();
    let list = format!("ezout.shop.{SHOP}.baskets");
    let visit = session();
    loop {
        let frame = tokio::time::timeout(Duration::from_mins(5), frames.next_line()).await;
        let frame = frame.expect("a frame comes").unwrap().expect("the line goes on");
        let frame: Value = serde_json::from_str(&frame).unwrap();
        if frame["result"]["collections"][&list].is_array() {
            let added = event(SHOP, &visit, 1, "ADD", 1, 1.5, 1.5);
            assert_eq!(system.service.publish(SHOP, &added).await.status(), 200);
        }
        if frame["event"] == format!("{list}.add") {
            assert_eq!(
                frame["data"]["value"]["rid"],
                format!("ezout.shop.{SHOP}.basket.{visit}")
            );
            break;
        }
    }
    // It is none of the README's visits, and leaves the numbers as they were.
    let ended = event(SHOP, &visit, 2, "CANCEL", 1, 1.5, 1.5);
    assert_eq!(system.service.publish(SHOP, &ended).await.status(), 200);
}

/// Makes the token of a line.
async fn made(system: &System, keys: &str, line: &str) -> String {
    // A star is a word of its own between quotes.
    let arguments = line.split_whitespace().map(|word| word.trim_matches('\''));
    let arguments: Vec<&str> = arguments.collect();
    let keys = [("EZOUT_AUTH_DEV_KEYS", keys)];
    let output = system.stack.ezout_with(&arguments, &keys).await;
    let token = printed(&output).trim().to_owned();
    assert_eq!(token.split('.').count(), 3, "{line}");
    token
}

/// What somebody with this token is answered.
async fn got(system: &System, token: &str, path: &str) -> Value {
    let url = format!("{}{path}", system.http_url());
    let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap();
    answer.json().await.unwrap()
}

/// What became of the corrections of the walk, the newest first, once so many are decided.
async fn walked(system: &System, token: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/shops/{SHOP}/sessions/{VISIT}/corrections");
    wait_for("the corrections of the walk", async || {
        let list = got(system, token, &path).await;
        let filed = list["corrections"].as_array()?.clone();
        let decided = |filed: &&Value| ["applied", "rejected"].contains(&filed["state"].as_str().unwrap());
        (filed.iter().filter(decided).count() == count).then_some(filed)
    })
    .await
}

#[tokio::test]
async fn every_line_of_the_readme_works_from_top_to_bottom() {
    let stack = Stack::start().await;
    let keys = stack.folder().join("keys").display().to_string();
    // As `ezout dev` runs it.
    let environment = [
        ("EZOUT_EDITS_PER_MINUTE", "60"),
        ("EZOUT_AUTH", "dev"),
        ("EZOUT_AUTH_DEV_KEYS", &keys),
        ("EZOUT_AUTH_ANONYMOUS", "append"),
    ];
    let service = stack.service_with("serve", &environment).await;
    let mut token = String::new();
    let system = &System { stack, service };
    wait_for("edits to be followed", async || {
        let feeds = system.stack.database().await.collection::<Document>("feeds");
        let place = feeds.find_one(doc! { "_id": "edits", "token": { "$ne": null } });
        place.await.unwrap()
    })
    .await;
    park(&system.stack).await;
    // None where there is none, which has been said.
    let resgate = Resgate::start(&system.stack).await;
    for block in blocks() {
        for command in commands(&block) {
            if command.starts_with("mongosh ") {
                edit(system, &command).await;
                continue;
            }
            if let Some(line) = command.strip_prefix(TOKEN) {
                token = made(system, &keys, line.trim_end_matches(')')).await;
                continue;
            }
            if let Some(options) = command.strip_prefix(OTHER_TOKEN) {
                made(system, &keys, &format!("token {options}")).await;
                continue;
            }
            let command = match &resgate {
                Some(resgate) if command.starts_with(FOLLOWS) => {
                    follow(system, resgate, &command, &token).await;
                    continue;
                }
                Some(resgate) => command.replace(&format!("http://{RESGATE}/api"), &resgate.api_url()),
                None if command.contains(RESGATE) => continue,
                None => command,
            };
            if command.contains(BEARER) {
                let (status, told) = run(system, &command.replace(BEARER, ""), &token).await;
                assert_eq!(status, "401", "without a token {command}\nis answered {told}");
            }
            // A basket follows its event a moment later.
            let mut last = (String::new(), String::new());
            for _ in 0..50 {
                last = run(system, &command, &token).await;
                if last.0.starts_with('2') && last.0.len() == 3 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(
                last.0.starts_with('2') && last.0.len() == 3,
                "{command}\nis answered {last:?}"
            );
        }
    }
    let token = made(system, &keys, &format!("token --role admin --shop {SHOP}")).await;
    // The walk led to where the README says.
    let told: Vec<Value> = walked(system, &token, 4)
        .await
        .iter()
        .map(|filed| json!([filed["source"], filed["state"], filed["rejection"]["code"]]))
        .collect();
    assert_eq!(
        json!(told),
        json!([
            ["api", "applied", null],
            ["database", "rejected", "field"],
            ["database", "applied", null],
            ["api", "applied", null]
        ])
    );
    let last = walked(system, &token, 4).await[0]["sequence"].as_u64().unwrap();
    let path = format!("/v1/shops/{SHOP}/sessions/{VISIT}/basket?min_sequence={last}");
    let basket = got(system, &token, &path).await;
    assert_eq!(
        (&basket["total"], &basket["item_count"]),
        (&json!(15.0), &json!(5)),
        "{basket}"
    );
    // What they recorded is there.
    wait_for("the README's basket", async || {
        let summary = got(system, &token, &format!("/v1/shops/{SHOP}/summary")).await;
        (summary["open_baskets"].as_u64()? >= 1).then_some(())
    })
    .await;
}

/// `METHOD /path` of every route, those of the second address included, with each part in braces as it stands.
pub fn routes() -> BTreeSet<String> {
    let api = doors().into_iter().map(|(method, path, _)| format!("{method} {path}"));
    let source = read("src/http/health.rs");
    let admin = source.split(".route(\"").skip(1).map(|rest| {
        let (path, handler) = rest.split_once("\", ").unwrap();
        assert!(handler.starts_with("get("), "how is {path} asked for?");
        format!("GET {path}")
    });
    let routes: BTreeSet<String> = api.chain(admin).collect();
    assert!(routes.len() > 20, "{routes:?}");
    routes
}

/// Whether nobody comes through the door of a route without a token.
fn needs_token(route: &str) -> bool {
    let mut doors = doors().into_iter();
    let door = doors.find(|(method, path, _)| format!("{method} {path}") == route);
    match door.map(|(_, _, door)| door) {
        None | Some(Door::Open) => false,
        Some(Door::Known) => true,
        Some(Door::Shop(verb) | Door::Body(verb) | Door::System(verb)) => verb != Verb::Append,
    }
}

#[test]
fn who_may_do_what_stands_in_the_readme() {
    let mut rows = Vec::new();
    let roles = Role::ALL.map(|role| format!("`{role}`")).join(" | ");
    rows.push(format!("| verb | by which routes and calls | {roles} |"));
    rows.push(format!("|---|---|{}", "---|".repeat(Role::ALL.len())));
    for verb in Verb::ALL {
        let asked = |door: Door| [Door::Shop(verb), Door::Body(verb), Door::System(verb)].contains(&door);
        let routes = doors().into_iter().filter(|(_, _, door)| asked(*door));
        let routes = routes.map(|(method, path, _)| format!("`{method} {path}`"));
        let elsewhere = ELSEWHERE.iter().filter(|(other, _)| *other == verb);
        let mut what: Vec<String> = routes.chain(elsewhere.map(|(_, what)| (*what).to_owned())).collect();
        if what.is_empty() {
            what.push("none yet".to_owned());
        }
        let may = Role::ALL
            .map(|role| if role.may(verb) { " yes |" } else { " |" })
            .concat();
        rows.push(format!("| `{verb}` | {} |{may}", what.join(", ")));
    }
    assert!(
        read("README.md").contains(&rows.join("\n")),
        "README.md does not say who may do what; the whole table is:\n\n{}\n",
        rows.join("\n")
    );
}

#[test]
fn every_route_is_in_the_readme_with_a_curl_line() {
    let readme = read("README.md");
    let commands: Vec<String> = blocks().iter().flat_map(|block| commands(block)).collect();
    for route in routes() {
        let (method, path) = route.split_once(' ').unwrap();
        assert!(
            readme.contains(&format!("`{route}`")) || (method == "GET" && readme.contains(&format!("`{path}`"))),
            "README.md does not list {route}"
        );
        let shown = commands.iter().filter(|command| {
            let sends = [" -d ", " --data"].iter().any(|option| command.contains(option));
            let of_method = match command.split_once("-X ") {
                Some((_, rest)) => rest.split(' ').next().unwrap() == method,
                None => sends == (method == "POST") && matches!(method, "GET" | "POST"),
            };
            let Some((_, url)) = command.split_once("http://127.0.0.1:") else {
                return false;
            };
            let url = url[4..].split([' ', '\'', '"', '?', '\n', '\\']).next().unwrap();
            let (url, path): (Vec<&str>, Vec<&str>) = (url.split('/').collect(), path.split('/').collect());
            let matches = url.len() == path.len()
                && url
                    .iter()
                    .zip(&path)
                    .all(|(part, wanted)| wanted.starts_with('{') || part == wanted);
            let is_of_route = matches && of_method;
            if is_of_route {
                let needs = needs_token(&route);
                assert_eq!(command.contains(BEARER), needs, "whether a token is in {command}");
            }
            is_of_route
        });
        assert!(shown.count() > 0, "README.md shows no curl line for {route}");
    }
}

/// Each promise ends with a command and the file that it runs; a test that is named is in that file.
#[test]
fn each_promise_names_what_shows_it() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("## What is promised").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let promises: Vec<&str> = section.lines().filter(|line| line.starts_with("- ")).collect();
    assert!(promises.len() >= 10);
    for promise in promises {
        let (_, shown) = promise
            .split_once(" Shown by [`")
            .unwrap_or_else(|| panic!("nothing shows this: {promise}"));
        for link in shown.split("[`") {
            let (command, rest) = link.split_once("`](").unwrap();
            let (file, _) = rest.split_once(')').unwrap();
            let words: Vec<&str> = command.split(' ').collect();
            match words.as_slice() {
                ["make", target] => {
                    let makefile = read("Makefile");
                    let (_, recipe) = makefile
                        .split_once(&format!("\n{target}:"))
                        .unwrap_or_else(|| panic!("there is no `{command}`"));
                    let recipe = recipe.split("\n\n").next().unwrap();
                    let part = file.trim_start_matches("tests/it/").split(['/', '.']).next().unwrap();
                    let runs_it =
                        recipe.contains(part) || file.starts_with("tests/bench/") && recipe.contains("--bench");
                    assert!(runs_it, "{command} runs nothing of {file}");
                    read(file);
                }
                ["cargo", "test", "--test", "it", filter] => {
                    let part = file
                        .trim_start_matches("tests/it/")
                        .trim_end_matches(".rs")
                        .replace('/', "::");
                    let is_there = if let Some(name) = filter.strip_prefix(&format!("{part}::")) {
                        tests_in(&read(file)).any(|test| test.starts_with(name))
                    } else {
                        *filter == part
                    };
                    assert!(is_there, "{command} runs nothing of {file}");
                }
                _ => panic!("what is {command:?}?"),
            }
        }
    }
}

/// The names of the tests in a file, and of the files in its folder.
fn tests_in(code: &str) -> impl Iterator<Item = &str> {
    let tests = code.split("test]\n").skip(1).chain(code.split("test(").skip(1));
    let functions = tests.filter_map(|rest| rest.split_once("fn ")?.1.split('(').next());
    let files = code
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    functions.chain(files)
}
