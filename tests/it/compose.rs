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

/// The lines of each service, without their indentation and without comments; its own before those that it shares.
fn services() -> BTreeMap<String, Vec<String>> {
    let text = read("docker-compose.yml");
    let mut blocks: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut names = Vec::new();
    let (mut name, mut in_services) = (String::new(), false);
    for line in text.lines().take_while(|line| *line != "volumes:") {
        let depth = line.len() - line.trim_start().len();
        match line.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            "services:" => in_services = true,
            shared if depth == 0 => {
                let (_, anchor) = shared.split_once(": &").expect("what is shared has an anchor");
                anchor.clone_into(&mut name);
            }
            service if in_services && depth == 2 => {
                service.trim_end_matches(':').clone_into(&mut name);
                // A service may be called as what it shares.
                name.insert(0, ' ');
                names.push(name.clone());
            }
            line => blocks.entry(name.clone()).or_default().push(line.to_owned()),
        }
    }
    let whole = |name: &String| (name.trim().to_owned(), lines_of(&blocks, name));
    names.iter().map(whole).collect()
}

fn lines_of(blocks: &BTreeMap<String, Vec<String>>, name: &str) -> Vec<String> {
    let (merges, mut lines): (Vec<_>, Vec<_>) =
        blocks[name].iter().cloned().partition(|line| line.starts_with("<<: *"));
    for shared in merges {
        lines.extend(lines_of(blocks, &shared["<<: *".len()..]));
    }
    lines
}

/// The services that run with a profile.
fn with_profile(profile: &str) -> BTreeMap<String, Vec<String>> {
    let mut services = services();
    services.retain(|_, service| find(service, "profiles").is_none_or(|profiles| profiles.contains(profile)));
    services
}

fn find<'a>(service: &'a [String], key: &str) -> Option<&'a str> {
    service
        .iter()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// What a service says under a key on one line.
fn value(service: &[String], key: &str) -> String {
    find(service, key).unwrap_or_else(|| panic!("no {key}")).to_owned()
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
        Self::with(program, arguments, Vec::new())
    }

    fn with(program: &Path, arguments: &[String], environment: Vec<(String, String)>) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment)
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
    let image_of = |service: &'_ [String]| value(service, "image");
    let image = |name: &str| image_of(&services[name]);
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
    for (name, service) in &services {
        let image = image_of(service);
        let (_, tag) = image.split_once(':').unwrap_or((&image, "0.0.0"));
        let numbers = tag.trim_start_matches('v').trim_end_matches("-alpine").split('.');
        let exact = numbers.map(str::parse::<u32>).collect::<Result<Vec<_>, _>>();
        assert_eq!(
            exact.map_or(0, |numbers| numbers.len()),
            3,
            "{name}: {image} is no exact version"
        );
        assert!(
            readme.contains(&format!("`{image}`")) || image == "ezout",
            "README.md does not name {image}"
        );
    }
    let needed = env!("CARGO_PKG_RUST_VERSION");
    assert!(read("Dockerfile").contains(&format!("FROM rust:{needed}-")), "{needed}");
}

#[test]
fn its_files_ports_and_options_exist() {
    let services = services();
    let both = ["grafana", "prometheus", "secrets"];
    let single = with_profile("single");
    let mut wanted = vec!["ezout", "mongo", "nats", "resgate"];
    wanted.extend(both);
    assert_eq!(
        single.keys().collect::<BTreeSet<_>>(),
        wanted
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
            .iter()
            .collect()
    );
    let cluster = with_profile("cluster");
    let many = |kind: &str| {
        cluster
            .keys()
            .filter(|name| name.starts_with(&format!("{kind}-")))
            .count()
    };
    let counts = ["nats", "mongo", "api", "project", "correct", "resgate"].map(many);
    assert_eq!((counts, cluster.len()), ([3, 3, 2, 2, 2, 2], 14 + both.len()));
    let named = read("docker-compose.yml");
    for profile in [&single, &cluster] {
        let ports = profile.values().filter(|service| find(service, "ports").is_some());
        let ports: Vec<String> = ports.flat_map(|service| list(service, "ports")).collect();
        let places: BTreeSet<_> = ports.iter().map(|port| port.split(':').nth(1)).collect();
        assert_eq!(places.len(), ports.len(), "a port is taken twice: {ports:?}");
        assert!(ports.iter().all(|port| port.starts_with("127.0.0.1:")), "{ports:?}");
    }
    for (name, service) in &services {
        let restarts = if name == "secrets" { "\"no\"" } else { "always" };
        assert_eq!(value(service, "restart"), restarts, "{name}");
        assert!(value(service, "mem_limit").ends_with(['g', 'm']), "{name}");
        for (place, file) in files(service) {
            assert!(file.exists(), "{name}: {place} is nothing");
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
    for service in services.values().filter(|service| value(service, "image") == "ezout") {
        let role = command.find_subcommand(&list(service, "command")[0]).unwrap();
        let options = role.get_arguments().chain(command.get_arguments());
        let options: BTreeSet<_> = options.filter_map(|option| option.get_env()).collect();
        let set: Vec<&str> = service
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
        assert_eq!(value(service, "read_only"), "true");
    }
}

#[test]
fn its_prometheus_and_its_grafana_find_what_they_are_given() {
    let services = services();
    let config = read("grafana/prometheus.yml");
    let prometheus = files(&services["prometheus"]);
    let rules: BTreeSet<PathBuf> = fs::read_dir(root().join("grafana/rules"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    let given = prometheus
        .iter()
        .filter(|(place, _)| place.starts_with("/etc/prometheus/rules/"));
    assert_eq!(given.map(|(_, file)| file.clone()).collect::<BTreeSet<_>>(), rules);
    assert!(config.contains("\n  - rules/*.yml\n"));
    assert!(
        list(&services["prometheus"], "command").contains(&"--config.file=/etc/prometheus/prometheus.yml".to_owned())
    );
    assert!(prometheus.contains_key("/etc/prometheus/prometheus.yml"));

    // Each job finds its processes by a name that they have with either profile.
    let jobs: Vec<&str> = config
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- names: "))
        .collect();
    assert_eq!(jobs, ["[ezout]", "[resgate]"]);
    for (name, image, port) in [
        ("ezout", "ezout", "8001"),
        ("resgate", "resgateio/resgate:1.8.0", "8090"),
    ] {
        assert!(config.contains(&format!("- names: [{name}]\n        type: A\n        port: {port}\n")));
        for profile in ["single", "cluster"] {
            let alias = format!("networks: {{ default: {{ aliases: [{name}] }} }}");
            for (service, lines) in with_profile(profile)
                .iter()
                .filter(|(_, lines)| value(lines, "image") == image)
            {
                assert!(service == name || lines.contains(&alias), "nobody scrapes {service}");
            }
        }
    }

    let grafana = files(&services["grafana"]);
    let provider = read("grafana/provisioning/dashboards/ezout.yml");
    assert!(provider.contains("path: /etc/grafana/dashboards\n") && grafana.contains_key("/etc/grafana/dashboards"));
    let home = value(&services["grafana"], "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH");
    let home = home
        .trim_matches('"')
        .replace("/etc/grafana/dashboards", "grafana/dashboards");
    assert!(root().join(&home).is_file(), "{home}");
    // What the links of panels and alerts lead to.
    assert_eq!(
        grafana["/usr/share/grafana/public/runbook"],
        root().join("grafana/runbook")
    );
    let source = read("grafana/provisioning/datasources/prometheus.yml");
    assert!(source.contains("url: http://prometheus:9090\n"));
}

#[test]
fn its_secrets_are_made_once_and_by_chance() {
    let service = &services()["secrets"];
    let script = list(service, "command").pop().unwrap().replace("$$", "$");
    let make = |folder: &Path| {
        let script = script.replace("/run/secrets", folder.to_str().unwrap());
        let done = Command::new("sh").args(["-c", &script]).status().unwrap();
        assert!(done.success());
        ["admin_token", "grafana_password"].map(|name| fs::read_to_string(folder.join(name)).unwrap())
    };
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let made = make(one.path());
    assert_eq!(make(one.path()), made, "a second start finds them again");
    let all: BTreeSet<String> = made.into_iter().chain(make(other.path())).collect();
    assert_eq!(all.len(), 4);
    assert!(
        all.iter()
            .all(|secret| secret.len() == 32 && !secret.contains(char::is_whitespace))
    );
    // A process of the service is given what was made, and its own command.
    let entrypoint = list(&services()["ezout"], "entrypoint");
    let script = entrypoint[2].replace("$$", "$");
    let script = script.replace("/run/secrets", one.path().to_str().unwrap());
    let shown = script.replace("exec ezout", "sh -c 'echo \"$EZOUT_ADMIN_TOKEN $*\"' ezout");
    assert_ne!(shown, script);
    let started = Command::new("sh")
        .args(["-c", &shown, &entrypoint[3], "serve", "--append-queue", "9"])
        .output()
        .unwrap();
    let token = fs::read_to_string(one.path().join("admin_token")).unwrap();
    assert_eq!(
        String::from_utf8(started.stdout).unwrap(),
        format!("{token} serve --append-queue 9\n")
    );
    let file = read("docker-compose.yml");
    assert!(
        !file.contains("PASSWORD: ") && !file.contains("TOKEN: "),
        "a secret that everybody knows"
    );
}

#[tokio::test]
async fn its_three_nats_are_one_cluster() {
    let services = with_profile("cluster");
    let three: Vec<&Vec<String>> = services
        .iter()
        .filter(|(name, _)| name.starts_with("nats-"))
        .map(|(_, service)| service)
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let ports: Vec<[u16; 3]> = three.iter().map(|_| [0; 3].map(|_| free_port().unwrap())).collect();
    let mut servers = Vec::new();
    for (number, service) in three.iter().enumerate() {
        let [client, monitor, route] = ports[number];
        let own = [
            ("0.0.0.0", "127.0.0.1".to_owned()),
            ("4222", client.to_string()),
            ("8222", monitor.to_string()),
            ("/data", folder.path().join(number.to_string()).display().to_string()),
        ];
        let environment = value(service, "environment");
        let environment = environment.trim_matches(['{', '}', ' ']).split(", ").map(|pair| {
            let (name, text) = pair.split_once(": ").unwrap();
            let mut text = text
                .trim_matches('"')
                .replace("0.0.0.0:6222", &format!("127.0.0.1:{route}"));
            for (other, [_, _, route]) in ports.iter().enumerate() {
                text = text.replace(&format!("nats-{}:6222", other + 1), &format!("127.0.0.1:{route}"));
            }
            (name.to_owned(), text)
        });
        servers.push(Started::with(
            &binaries().nats_server,
            &here(service, &own)[1..],
            environment.collect(),
        ));
    }
    for [_, monitor, _] in &ports {
        wait_for("three that know each other", async || {
            let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/jsz")).await.ok()?;
            let jsz: Value = answer.json().await.ok()?;
            (jsz["meta_cluster"]["cluster_size"] == 3 && jsz["meta_cluster"]["leader"].is_string()).then_some(())
        })
        .await;
    }
    drop(servers);
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
