//! Every route stands in the README with a curl line, and every curl line works.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tokio::process::Command;

use crate::support::{System, system, wait_for};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The README's blocks of shell commands that call curl.
fn blocks() -> Vec<String> {
    let readme = read("README.md");
    let mut blocks = Vec::new();
    let mut rest = readme.as_str();
    while let Some((_, after)) = rest.split_once("```sh\n") {
        let (block, after) = after.split_once("\n```").expect("a block ends");
        if block.contains("curl ") {
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
    commands.retain(|command| command.contains("curl "));
    commands
}

/// Runs a command against the system and answers the status it got; curl itself may be cut off by its own time limit.
async fn run(system: &System, command: &str) -> (String, String) {
    let here = command
        .replace("http://127.0.0.1:8000", &system.http_url())
        .replace("http://127.0.0.1:8001", &system.admin_url());
    let folder = tempfile::tempdir().unwrap();
    let script = format!("curl() {{ command curl -sS --max-time 10 -o answer -w '%{{http_code}}' \"$@\"; }}\n{here}\n");
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder.path())
        .output()
        .await
        .unwrap();
    let answer = fs::read_to_string(folder.path().join("answer")).unwrap_or_default();
    let told = format!("{answer}\n{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8_lossy(&output.stdout).into_owned(), told)
}

#[tokio::test]
async fn every_curl_line_of_the_readme_works_from_top_to_bottom() {
    let system = system().await;
    for block in blocks() {
        for command in commands(&block) {
            // A basket follows its event a moment later.
            let mut last = (String::new(), String::new());
            for _ in 0..50 {
                last = run(system, &command).await;
                if last.0.starts_with('2') && last.0.len() == 3 {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            assert!(
                last.0.starts_with('2') && last.0.len() == 3,
                "{command}\nis answered {last:?}"
            );
        }
    }
    // What they recorded is there.
    wait_for("the README's basket", async || {
        let url = format!(
            "{}/v1/shops/123e4567-e89b-42d3-a456-426614174000/summary",
            system.http_url()
        );
        let summary: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        (summary["open_baskets"].as_u64()? >= 1).then_some(())
    })
    .await;
}

/// `METHOD /path`, with each part in braces as it stands.
pub fn routes() -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for (file, method) in [("src/http.rs", ""), ("src/http/health.rs", "")] {
        let source = read(file);
        for (_, rest) in source.match_indices(".route(").map(|(at, _)| source.split_at(at)) {
            let (_, rest) = rest.split_once('"').unwrap();
            let (path, rest) = rest.split_once('"').unwrap();
            let handler = rest.trim_start_matches([',', ' ', '\n']);
            let method = if handler.starts_with("post") {
                "POST"
            } else if handler.starts_with("get") {
                "GET"
            } else {
                method
            };
            assert!(
                !method.is_empty(),
                "{file}: how is {path} asked for? {}",
                &handler[..20]
            );
            routes.insert(format!("{method} {path}"));
        }
    }
    assert!(routes.len() > 10, "{routes:?}");
    routes
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
        let shown = commands.iter().any(|command| {
            let sends = [" -d ", " --data", "-X POST"]
                .iter()
                .any(|option| command.contains(option));
            let (_, url) = command.split_once("http://127.0.0.1:").unwrap();
            let url = url[4..].split([' ', '\'', '"', '?', '\n', '\\']).next().unwrap();
            let (url, path): (Vec<&str>, Vec<&str>) = (url.split('/').collect(), path.split('/').collect());
            let matches = url.len() == path.len()
                && url
                    .iter()
                    .zip(&path)
                    .all(|(part, wanted)| wanted.starts_with('{') || part == wanted);
            matches && sends == (method == "POST")
        });
        assert!(shown, "README.md shows no curl line for {route}");
    }
}
