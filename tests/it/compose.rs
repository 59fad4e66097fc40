//! What `docker-compose.yml` says is true: its versions, its files, and the command lines of its servers, which are started here without containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clap::CommandFactory as _;
use ezout::nats::User;
use ezout::tools::servers::{Mongod, MongodOptions, NatsOptions, NatsServer, free_port};
use serde_json::Value;

use crate::support::{binaries, printed, refused, resgate, session, skip, wait_for};

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

/// What a service is told by its environment.
fn environment(service: &[String]) -> BTreeMap<String, String> {
    let inline = find(service, "environment").map(|pairs| pairs.trim_matches(['{', '}', ' ']).split(", "));
    let lines = service
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("EZOUT_"));
    let pairs = inline.into_iter().flatten().chain(lines);
    pairs
        .filter_map(|pair| pair.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// Places, ports and addresses of containers, and what is here instead of them.
type Here = Vec<(String, String)>;

/// A text with what is here: ports and the address of all networks as they stand, names and folders wherever they do.
fn moved(text: &str, here: &Here) -> String {
    if let Some((_, instead)) = here.iter().find(|(place, _)| place == text) {
        return instead.clone();
    }
    let anywhere = here.iter().filter(|(place, _)| place.contains([':', '/']));
    anywhere.fold(text.to_owned(), |text, (place, instead)| text.replace(place, instead))
}

/// What runs in the container of a service, with other words for its command: the script that is mounted, or what its image begins with.
fn started_by(service: &[String], command: &[String], here: &Here) -> Vec<String> {
    let mut here = here.clone();
    here.extend(
        files(service)
            .into_iter()
            .map(|(place, file)| (place, file.display().to_string())),
    );
    let entrypoint = find(service, "entrypoint").map(|words| serde_json::from_str::<Vec<String>>(words).unwrap());
    let words = entrypoint.unwrap_or_default().into_iter().chain(command.to_vec());
    words.map(|word| moved(&word, &here)).collect()
}

/// The same as a process of this machine, which finds the programs of the images on PATH.
fn process(service: &[String], command: &[String], here: &Here) -> Command {
    let words = started_by(service, command, here);
    let programs = [Path::new(env!("CARGO_BIN_EXE_ezout")), &binaries().nats_server]
        .map(|file| file.parent().unwrap().display().to_string());
    let mut process = Command::new(&words[0]);
    process
        .args(&words[1..])
        .env("PATH", format!("{}:{}", programs.join(":"), crate::support::path()));
    for (name, value) in environment(service) {
        process.env(name, moved(&value, here));
    }
    process
}

/// A server that ends with the test.
struct Started(Child);

impl Started {
    fn new(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// What a service runs, with its own command.
    fn service(service: &[String], here: &Here) -> Self {
        Self::new(process(service, &list(service, "command"), here))
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

/// Lets the container `secrets` run, with a folder for its volume.
fn make_secrets(folder: &Path, here: &Here) {
    let service = &services()["secrets"];
    let mut here = here.clone();
    here.push(("/run/secrets".to_owned(), folder.display().to_string()));
    printed(&process(service, &list(service, "command"), &here).output().unwrap());
}

fn secret(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn its_secrets_are_made_once_and_by_chance() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let passwords = User::ALL.map(|user| format!("nats_password_{}", user.name()));
    let made = |folder: &Path| -> Vec<String> {
        make_secrets(folder, &Vec::new());
        let names = ["admin_token", "grafana_password"].into_iter().map(str::to_owned);
        names
            .chain(passwords.clone())
            .map(|name| secret(folder, &name))
            .collect()
    };
    let first = made(one.path());
    assert_eq!(made(one.path()), first, "a second start finds them again");
    let all: BTreeSet<String> = first.iter().cloned().chain(made(other.path())).collect();
    assert_eq!(all.len(), 2 * (2 + User::ALL.len()));
    assert!(
        all.iter()
            .all(|secret| secret.len() >= 32 && !secret.contains(char::is_whitespace))
    );
    for password in &first[2..] {
        let (first, hex) = password.split_at(1);
        assert!(
            first == "p" && hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{password}"
        );
    }
    let left: BTreeSet<String> = fs::read_dir(one.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let settings = ["resgate.json", "resgate-cluster.json"].map(str::to_owned);
    let expected = ["admin_token", "grafana_password"]
        .map(str::to_owned)
        .into_iter()
        .chain(passwords.clone())
        .chain(settings);
    assert_eq!(left, expected.collect::<BTreeSet<_>>(), "nothing else is left there");
    for name in passwords
        .iter()
        .map(String::as_str)
        .chain(["resgate.json", "resgate-cluster.json"])
    {
        let mode = fs::metadata(one.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} can be read by everybody");
    }

    // The settings of Resgate are those of everybody, with the address.
    let password = secret(one.path(), "nats_password_resgate");
    let url = |host: &str| format!("nats://resgate:{password}@{host}:4222");
    let three = ["nats-1", "nats-2", "nats-3"].map(url).join(",");
    for (name, urls) in [("resgate.json", url("nats")), ("resgate-cluster.json", three)] {
        let mut settings: Value = serde_json::from_str(&secret(one.path(), name)).unwrap();
        assert_eq!(settings.as_object_mut().unwrap().remove("natsUrl").unwrap(), urls);
        assert_eq!(
            settings,
            serde_json::from_str::<Value>(&read("nats/resgate.json")).unwrap()
        );
    }
    let file = read("docker-compose.yml");
    assert!(
        !file.contains("PASSWORD: ") && !file.contains("TOKEN: "),
        "a secret that everybody knows"
    );
}

/// A deployment of one profile without containers: its NATS with their users, a MongoDB, and room for whatever else it has.
struct Deployment {
    services: BTreeMap<String, Vec<String>>,
    here: Here,
    secrets: PathBuf,
    monitors: Vec<u16>,
    nats: Vec<Started>,
    _mongod: Mongod,
    folder: tempfile::TempDir,
}

impl Deployment {
    async fn start(profile: &str) -> Self {
        let services = with_profile(profile);
        let folder = tempfile::tempdir().unwrap();
        let mongod = MongodOptions::in_folder(&folder.path().join("mongod"));
        let mongod = Mongod::start(&binaries().mongod, mongod).await.unwrap();
        let secrets = folder.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        let mut here: Here = vec![
            ("0.0.0.0".to_owned(), "127.0.0.1".to_owned()),
            ("/run/secrets".to_owned(), secrets.display().to_string()),
            ("/var/lib/ezout".to_owned(), folder.path().display().to_string()),
        ];
        for hosts in ["mongo:27017", "mongo-1:27017,mongo-2:27017,mongo-3:27017"] {
            here.push((format!("mongodb://{hosts}/?replicaSet=rs0"), mongod.uri()));
        }
        let names: Vec<String> = services
            .keys()
            .filter(|name| *name == "nats" || name.starts_with("nats-"))
            .cloned()
            .collect();
        let mut monitors = Vec::new();
        for name in &names {
            let [client, monitor, route] = [0; 3].map(|_| free_port().unwrap());
            for (port, instead) in [(4222, client), (8222, monitor), (6222, route)] {
                here.push((format!("{name}:{port}"), format!("127.0.0.1:{instead}")));
            }
            monitors.push(monitor);
        }
        let mut deployment = Self {
            services,
            here,
            secrets,
            monitors,
            nats: Vec::new(),
            _mongod: mongod,
            folder,
        };
        make_secrets(&deployment.secrets, &deployment.here);
        deployment.nats = names.iter().map(|name| deployment.nats(name)).collect();
        for monitor in &deployment.monitors {
            wait_for("nats-server to be healthy", async || {
                let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/healthz")).await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
        }
        deployment
    }

    /// Where a name and a port of a container are here.
    fn place(&self, name: &str) -> String {
        moved(name, &self.here)
    }

    fn nats(&self, name: &str) -> Started {
        let port = |port: u16| {
            let place = self.place(&format!("{name}:{port}"));
            place.rsplit(':').next().unwrap().to_owned()
        };
        let mut here = vec![
            ("4222".to_owned(), port(4222)),
            ("8222".to_owned(), port(8222)),
            ("/data".to_owned(), self.folder.path().join(name).display().to_string()),
            ("0.0.0.0:6222".to_owned(), self.place(&format!("{name}:6222"))),
        ];
        here.extend(self.here.clone());
        Started::service(&self.services[name], &here)
    }

    /// Starts a service that has ports, and answers where they are here.
    fn serving(&mut self, name: &str, ports: [u16; 2]) -> (Started, [String; 2]) {
        let own = ports.map(|_| free_port().unwrap());
        let mut here = Vec::new();
        for (port, own) in ports.into_iter().zip(own) {
            here.push((format!("0.0.0.0:{port}"), format!("127.0.0.1:{own}")));
            here.push((port.to_string(), own.to_string()));
            self.here.push((format!("{name}:{port}"), format!("127.0.0.1:{own}")));
        }
        here.extend(self.here.clone());
        (
            Started::service(&self.services[name], &here),
            own.map(|own| format!("127.0.0.1:{own}")),
        )
    }

    /// Starts a part of the service, and waits until it is ready and has no complaint about its user.
    async fn part(&mut self, name: &str) -> (Started, String) {
        let (started, [http, admin]) = self.serving(name, [8000, 8001]);
        let token = secret(&self.secrets, "admin_token");
        let client = reqwest::Client::new();
        let readiness: Value = wait_for(&format!("{name} to be ready"), async || {
            let asked = client.get(format!("http://{admin}/readyz")).bearer_auth(&token);
            let answer = asked.send().await.ok()?;
            if answer.status().is_success() {
                answer.json().await.ok()
            } else {
                None
            }
        })
        .await;
        let checks = readiness["checks"].as_array().unwrap();
        let rights = checks.iter().find(|check| check["name"] == "rights").unwrap();
        assert_eq!(rights["ready"], true, "{name}: {readiness}");
        assert_eq!(readiness.get("warnings"), None, "{name}");
        (started, http)
    }

    /// `docker compose run --rm NAME …`
    fn run(&self, name: &str, command: &[&str]) -> std::process::Output {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        process(&self.services[name], &command, &self.here).output().unwrap()
    }

    /// Asks for a shop through a Resgate until it is there.
    async fn asks_resgate(&mut self, name: &str, part: &str) {
        let Some(program) = resgate::program() else { return };
        let settings = fs::read_dir(&self.secrets).unwrap().count();
        let service = self.services[name].clone();
        let [port, metrics] = [0; 2].map(|_| free_port().unwrap());
        let mut here = vec![
            ("8080".to_owned(), port.to_string()),
            ("8090".to_owned(), metrics.to_string()),
        ];
        here.extend(self.here.clone());
        let words = started_by(&service, &list(&service, "command"), &here);
        let mut command = Command::new(program);
        command.args(words);
        let _resgate = Started::new(command);
        let shop = session();
        let token = printed(&self.run(part, &["token", "--role", "support", "--shop", &shop]));
        let client = reqwest::Client::new();
        wait_for("the shop through Resgate", async || {
            let url = format!("http://127.0.0.1:{port}/api/ezout/shop/{shop}/feed");
            let asked = client.get(url).bearer_auth(token.trim());
            let feed: Value = asked.send().await.ok()?.json().await.ok()?;
            (feed["shop_id"] == shop.as_str()).then_some(())
        })
        .await;
        let metrics = reqwest::get(format!("http://127.0.0.1:{metrics}/metrics"))
            .await
            .unwrap();
        assert!(metrics.status().is_success());
        assert_eq!(
            fs::read_dir(&self.secrets).unwrap().count(),
            settings,
            "it leaves its settings alone"
        );
    }
}

#[tokio::test]
async fn on_one_machine_each_part_comes_to_nats_as_its_own_user() {
    let mut deployment = Deployment::start("single").await;
    let asked = list(&deployment.services["nats"], "test").pop().unwrap();
    assert_eq!(asked, "http://127.0.0.1:8222/healthz");
    let varz = reqwest::get(format!("http://127.0.0.1:{}/varz", deployment.monitors[0]))
        .await
        .unwrap();
    let varz: Value = varz.json().await.unwrap();
    assert_eq!(
        varz["jetstream"]["config"]["sync_always"], true,
        "acknowledged means on disk"
    );

    let refused_without_user = async_nats::connect(format!("nats://{}", deployment.place("nats:4222"))).await;
    assert!(refused_without_user.is_err(), "whoever names no user is not let in");
    let (_service, http) = deployment.part("ezout").await;
    let shop = session();
    let event = crate::support::event(&shop, &session(), 1, "ADD", 1, 1.0, 1.0);
    let answer = reqwest::Client::new()
        .post(format!("http://{http}/publish/{shop}"))
        .json(&event)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["ezout-durability"], "disk");

    // A command comes as an operator, and finds the service where it really is.
    let report = printed(&deployment.run("ezout", &["doctor"]));
    assert!(report.contains(&format!("http://{http} answers")), "{report}");
    printed(&deployment.run("ezout", &["parked", "list"]));
    deployment.asks_resgate("resgate", "ezout").await;

    // A second start has the same secrets, the same users and the same journal.
    let secrets = User::ALL.map(|user| secret(&deployment.secrets, &format!("nats_password_{}", user.name())));
    make_secrets(&deployment.secrets, &deployment.here);
    assert_eq!(
        secrets,
        User::ALL.map(|user| secret(&deployment.secrets, &format!("nats_password_{}", user.name())))
    );
    deployment.nats.clear();
    let nats = deployment.nats("nats");
    deployment.nats.push(nats);
    wait_for("the event in the journal", async || {
        let output = deployment.run("ezout", &["doctor"]);
        String::from_utf8_lossy(&output.stdout)
            .contains("journal      1 event")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn in_the_cluster_each_part_comes_to_nats_as_its_own_user() {
    let mut deployment = Deployment::start("cluster").await;
    for monitor in &deployment.monitors {
        wait_for("three that know each other", async || {
            let answer = reqwest::get(format!("http://127.0.0.1:{monitor}/jsz")).await.ok()?;
            let jsz: Value = answer.json().await.ok()?;
            (jsz["meta_cluster"]["cluster_size"] == 3 && jsz["meta_cluster"]["leader"].is_string()).then_some(())
        })
        .await;
    }
    for number in 1..=3 {
        let address = format!("nats://{}", deployment.place(&format!("nats-{number}:4222")));
        assert!(
            async_nats::connect(address).await.is_err(),
            "whoever names no user is not let in"
        );
    }
    let (_project, _) = deployment.part("project-1").await;
    let (_correct, _) = deployment.part("correct-1").await;
    let (_api, http) = deployment.part("api-1").await;
    let report = printed(&deployment.run("api-1", &["doctor"]));
    assert!(report.contains(&format!("http://{http} answers")), "{report}");
    deployment.asks_resgate("resgate-2", "api-1").await;
}

#[tokio::test]
async fn a_journal_of_a_start_without_users_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let (secrets, data) = (folder.path().join("secrets"), folder.path().join("data"));
    fs::create_dir(&secrets).unwrap();
    make_secrets(&secrets, &Vec::new());
    let nats = NatsServer::start(&binaries().nats_server, NatsOptions::in_folder(&data))
        .await
        .unwrap();
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let stream = async_nats::jetstream::stream::Config {
        name: "CHECKOUT".to_owned(),
        subjects: vec!["checkout.*.*".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(stream).await.unwrap();
    jetstream
        .publish("checkout.0.x", "an event".into())
        .await
        .unwrap()
        .await
        .unwrap();
    nats.stop().await;

    let [client, monitor] = [0; 2].map(|_| free_port().unwrap());
    let here: Here = [
        ("0.0.0.0", "127.0.0.1".to_owned()),
        ("4222", client.to_string()),
        ("8222", monitor.to_string()),
        ("/data", data.display().to_string()),
        ("/run/secrets", secrets.display().to_string()),
    ]
    .map(|(place, instead)| (place.to_owned(), instead))
    .to_vec();
    // The servers of a cluster would remove what they find there, so none of them starts.
    let one_of_three = &with_profile("cluster")["nats-1"];
    let said = refused(
        &process(one_of_three, &list(one_of_three, "command"), &here)
            .output()
            .unwrap(),
    );
    assert!(said.contains("streams of a cluster without users"), "{said}");
    assert!(data.join("jetstream/$G/streams/CHECKOUT").is_dir());

    let _server = Started::service(&services()["nats"], &here);
    let password = secret(&secrets, "nats_password_operator");
    let url = format!("nats://operator:{password}@127.0.0.1:{client}");
    let address = ezout::nats::Address::parse(&url).unwrap();
    let jetstream = wait_for("nats-server", async || {
        Some(async_nats::jetstream::new(address.connect("a test").await.ok()?))
    })
    .await;
    let stream = jetstream.get_stream("CHECKOUT").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 1);
}

/// A program that `servers/install --with-linters` brings; None where it is not, which is then said.
fn linter(program: &str) -> Option<Command> {
    let place = root().join(".servers/bin").join(program);
    if !place.exists() {
        skip(
            "linters",
            &format!("there is no {program}; `servers/install --with-linters` brings it"),
        );
        return None;
    }
    let mut command = Command::new(place);
    command.current_dir(root());
    Some(command)
}

#[test]
fn docker_compose_takes_it_with_each_profile() {
    for profile in ["single", "cluster"] {
        let Some(mut compose) = linter("docker-compose") else {
            return;
        };
        compose
            .args(["--file", "docker-compose.yml", "config", "--format", "json"])
            .env("COMPOSE_PROFILES", profile);
        let config: Value = serde_json::from_str(&printed(&compose.output().unwrap())).unwrap();
        let taken: BTreeSet<&String> = config["services"].as_object().unwrap().keys().collect();
        assert_eq!(taken, with_profile(profile).keys().collect(), "{profile}");
    }
}

#[test]
fn hadolint_has_nothing_to_say_about_the_image() {
    let Some(mut hadolint) = linter("hadolint") else { return };
    assert_eq!(printed(&hadolint.arg("Dockerfile").output().unwrap()), "");
}
