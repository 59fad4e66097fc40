//! What `docker-compose.yml` says is true: its versions, its files, and the command lines of its servers, which are started here without containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::CommandFactory as _;
use ezout::tools::servers::free_port;
use serde_json::Value;

use crate::support::{Stack, binaries, resgate, wait_for};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The lines of each service, without their indentation and without comments.
fn services() -> BTreeMap<String, Vec<String>> {
    let text = read("docker-compose.yml");
    let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    let lines = text
        .lines()
        .skip_while(|line| *line != "services:")
        .skip(1)
        .take_while(|line| *line != "volumes:");
    for line in lines.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
        match line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            Some(service) => service.trim_end_matches(':').clone_into(&mut name),
            None => services.entry(name.clone()).or_default().push(line.trim().to_owned()),
        }
    }
    services
}

/// What a service says under a key on one line.
fn value(service: &[String], key: &str) -> String {
    let prefix = format!("{key}: ");
    let found = service.iter().find_map(|line| line.strip_prefix(&prefix));
    found.unwrap_or_else(|| panic!("no {key}")).to_owned()
}

/// A list in brackets, which is JSON.
fn list(service: &[String], key: &str) -> Vec<String> {
    serde_json::from_str(&value(service, key)).unwrap()
}

/// The files of the repository that a service has, by their place in its container.
fn files(service: &[String]) -> BTreeMap<String, PathBuf> {
    let mounts = service.iter().filter_map(|line| line.strip_prefix("- ./"));
    mounts
        .map(|mount| {
            let [file, place, "ro"] = mount.split(':').collect::<Vec<_>>()[..] else {
                panic!("{mount}")
            };
            (place.to_owned(), root().join(file))
        })
        .collect()
}

/// The command of a service with files, ports and addresses of this machine.
fn here(service: &[String], own: &[(&str, String)]) -> Vec<String> {
    let files = files(service);
    list(service, "command")
        .into_iter()
        .map(|word| {
            let file = files.get(&word).map(|file| file.to_str().unwrap().to_owned());
            let own = own.iter().find(|(name, _)| *name == word).map(|(_, own)| own.clone());
            file.or(own).unwrap_or(word)
        })
        .collect()
}

/// A server that ends with the test.
struct Started(Child);

impl Started {
    fn new(program: &Path, arguments: &[String]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn its_versions_are_those_that_everything_else_is_run_with() {
    let services = services();
    let requirements = read("servers/requirements.txt");
    let readme = read("README.md");
    let image = |name: &str| value(&services[name], "image");
    let nats = image("nats");
    let nats = nats
        .strip_prefix("nats:")
        .and_then(|tag| tag.strip_suffix("-alpine"))
        .unwrap();
    assert!(requirements.contains(&format!("\nnats-server-bin=={nats} ")), "{nats}");
    let mongo = image("mongo");
    let mongo = mongo.strip_prefix("mongo:").unwrap();
    assert!(requirements.contains(&format!("# mongod {mongo},")), "{mongo}");
    let resgate = image("resgate");
    assert!(readme.contains(&format!("`{resgate}`")), "{resgate}");
    let needed = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("Dockerfile").contains(&format!("FROM rust:{needed}-")), "{needed}");
}

#[test]
fn its_files_ports_and_options_exist() {
    let services = services();
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["ezout", "mongo", "nats", "resgate"]
    );
    let named = read("docker-compose.yml");
    for (name, service) in &services {
        assert_eq!(value(service, "restart"), "always", "{name}");
        for port in list(service, "ports") {
            assert!(port.starts_with("127.0.0.1:"), "{name} is open to others at {port}");
        }
        for (place, file) in files(service) {
            assert!(file.is_file(), "{name}: {place} is no file");
        }
        for volume in service.iter().filter_map(|line| line.strip_prefix("- ")) {
            let volume = volume.split(':').next().unwrap();
            assert!(
                volume.starts_with("./") || named.contains(&format!("\n  {volume}:\n")),
                "{volume}"
            );
        }
    }
    let command = ezout::config::Cli::command();
    let serve = command
        .find_subcommand(&list(&services["ezout"], "command")[0])
        .unwrap();
    let options = serve.get_arguments().chain(command.get_arguments());
    let options: BTreeSet<_> = options.filter_map(|option| option.get_env()).collect();
    let set: Vec<&str> = services["ezout"]
        .iter()
        .filter_map(|line| Some(line.split_once(": \"")?.0))
        .filter(|name| name.starts_with("EZOUT_"))
        .collect();
    assert!(set.len() >= 5, "{set:?}");
    for name in set {
        assert!(
            options.contains(std::ffi::OsStr::new(name)),
            "there is no option {name}"
        );
    }
}

#[tokio::test]
async fn its_nats_is_a_server_whose_acknowledgement_means_on_disk() {
    let service = &services()["nats"];
    let folder = tempfile::tempdir().unwrap();
    let (port, monitor) = (free_port().unwrap(), free_port().unwrap());
    let own = [
        ("0.0.0.0", "127.0.0.1".to_owned()),
        ("4222", port.to_string()),
        ("8222", monitor.to_string()),
        ("/data", folder.path().to_str().unwrap().to_owned()),
    ];
    let command = here(service, &own);
    let _server = Started::new(&binaries().nats_server, &command[1..]);
    let asked = list(service, "test").pop().unwrap_or_default();
    assert_eq!(asked, "http://127.0.0.1:8222/healthz");
    wait_for("nats-server to be healthy", async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/healthz")).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/varz")).await.unwrap();
    let varz: Value = answer.json().await.unwrap();
    assert_eq!(varz["jetstream"]["config"]["sync_always"], true);
    assert_eq!(varz["port"], port);
    let jetstream = async_nats::jetstream::new(async_nats::connect(format!("nats://127.0.0.1:{port}")).await.unwrap());
    jetstream.query_account().await.unwrap();
}

#[tokio::test]
async fn its_resgate_serves_what_the_service_has() {
    let Some(program) = resgate::program() else { return };
    let stack = Stack::start().await;
    let service = stack.service("serve").await;
    let (port, metrics) = (free_port().unwrap(), free_port().unwrap());
    let own = [
        ("0.0.0.0", "127.0.0.1".to_owned()),
        ("nats://nats:4222", stack.nats.url()),
        ("8080", port.to_string()),
        ("8090", metrics.to_string()),
    ];
    let command = here(&services()["resgate"], &own);
    let settings = fs::read(root().join("nats/resgate.json")).unwrap();
    let _server = Started::new(&program, &command);
    let shop = crate::support::session();
    wait_for("the shop through Resgate", async || {
        let url = format!("http://127.0.0.1:{port}/api/ezout/shop/{shop}/feed");
        let feed: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
        (feed["shop_id"] == shop.as_str()).then_some(())
    })
    .await;
    assert!(
        reqwest::get(format!("http://127.0.0.1:{metrics}/metrics"))
            .await
            .unwrap()
            .status()
            .is_success()
    );
    assert_eq!(
        fs::read(root().join("nats/resgate.json")).unwrap(),
        settings,
        "it leaves its settings alone"
    );
    drop(service);
}
