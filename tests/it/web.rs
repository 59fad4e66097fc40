//! The merchants' page in a real browser, before a real system.
//!
//! Each file of `web/e2e` is somebody's walk through it, a Node program with Chromium. What it cannot do by itself it asks
//! for with a line of JSON on its output: a token, the end of a right, a service that is killed, a network that is cut.

mod issuer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use ezout::core::policy::Role;
use ezout::keys::dev::{self, Grant};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use self::issuer::Issuer;
use crate::access::guarded::{dev_mode, grant, keys_of};
use crate::project::poison;
use crate::support::proxy::Proxy;
use crate::support::resgate::Resgate;
use crate::support::{Service, Stack, chosen, path, printed, skip};

/// The oldest Node that builds the page.
const NODE: (u32, u32) = (20, 19);
/// How long a walk may take, far beyond what it takes.
const WALK_MAX: Duration = Duration::from_mins(10);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("web")
}

/// Runs a program in the folder of the page; what it printed, or what is wrong with it.
fn run(name: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Program::new("env");
    command
        .arg(name)
        .args(arguments)
        .current_dir(folder())
        .env("PATH", path());
    match command.output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Err(format!("{name} {arguments:?}: {}", String::from_utf8_lossy(&said)))
        }
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Whether there is Node and what the page is built of; said loudly where there is not.
fn has_node() -> bool {
    static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let version = run("node", &["--version"])?;
        let mut parts = version.trim().trim_start_matches('v').split('.').map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
            return Err(format!("node says that it is {version}"));
        };
        if (major, minor) < NODE {
            return Err(format!("there is no Node {}.{} or later on PATH", NODE.0, NODE.1));
        }
        let (wanted, has) = (
            folder().join("package-lock.json"),
            folder().join("node_modules/.package-lock.json"),
        );
        let written = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if written(&has).is_none_or(|has| written(&wanted).is_some_and(|wanted| wanted > has)) {
            run("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"])?;
        }
        Ok(())
    });
    if let Err(why) = installed {
        skip("node", why);
    }
    installed.is_ok()
}

/// Where Chromium is; said loudly where there is none.
fn chromium() -> Option<PathBuf> {
    let named = chosen("CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let on_path = || {
        let path = path();
        let folders = path.split(':').map(Path::new);
        let mut all = folders.flat_map(|folder| names.map(|name| folder.join(name)));
        all.find(|program| program.exists())
    };
    let found = named.or_else(on_path);
    if found.is_none() {
        skip(
            "chromium",
            "there is no Chromium on PATH, and CHROMIUM names none; `servers/install --with-browser` brings it",
        );
    }
    found
}

/// What is otherwise in a walk than in most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Setting {
    /// The page has its live data from Resgate.
    with_resgate: bool,
    people: People,
}

/// Who says who somebody is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum People {
    /// The key pair of this machine.
    #[default]
    Dev,
    /// An issuer of OIDC.
    Oidc,
    /// Firebase, whose keys are those of our issuer.
    Firebase,
}

/// The project of Firebase.
const PROJECT: &str = "shop-1a2b";

/// What a walk goes through.
struct Ground {
    setting: Setting,
    issuer: Issuer,
    // Whose log is looked through at its end, in the stack's folder.
    resgate: Option<Resgate>,
    stack: Stack,
    service: Service,
    /// Between the browser and the service.
    proxy: Proxy,
    /// Processes that take events beside it.
    others: Vec<Service>,
}

impl Ground {
    async fn new(setting: Setting) -> Option<Self> {
        let stack = Stack::start().await;
        let issuer = Issuer::start().await;
        let resgate = if setting.with_resgate {
            Some(Resgate::start_with(&stack, |options| options.trace = false).await?)
        } else {
            None
        };
        let service = Self::serve(&stack, resgate.as_ref(), (setting, &issuer), None).await;
        let proxy = Proxy::start(service.http_url().trim_start_matches("http://")).await;
        Some(Self {
            setting,
            issuer,
            resgate,
            stack,
            service,
            proxy,
            others: Vec::new(),
        })
    }

    /// A service, at the address of the one before it where there was one.
    async fn serve(
        stack: &Stack,
        resgate: Option<&Resgate>,
        (setting, issuer): (Setting, &Issuer),
        before: Option<&Service>,
    ) -> Service {
        let keys = keys_of(stack);
        let keys_url = issuer.keys_url();
        let resgate = resgate.map(Resgate::url).unwrap_or_default();
        let address = before.map(|before| before.http_url().trim_start_matches("http://").to_owned());
        let mut environment = match setting.people {
            People::Dev => dev_mode(&keys).to_vec(),
            People::Oidc => vec![
                ("EZOUT_AUTH", "oidc"),
                ("EZOUT_AUTH_ISSUER", issuer.url()),
                ("EZOUT_AUTH_AUDIENCE", issuer::AUDIENCE),
                ("EZOUT_WEB_OIDC_CLIENT", issuer::CLIENT),
                ("EZOUT_HEARTBEAT", "200ms"),
            ],
            People::Firebase => vec![
                ("EZOUT_AUTH", "firebase"),
                ("EZOUT_AUTH_PROJECT", PROJECT),
                ("EZOUT_AUTH_KEYS_URL", &keys_url),
                ("EZOUT_WEB_FIREBASE_API_KEY", "the-key-of-the-page"),
                ("EZOUT_HEARTBEAT", "200ms"),
            ],
        };
        environment.push(("EZOUT_EDITS_PER_MINUTE", "60"));
        if !resgate.is_empty() {
            environment.push(("EZOUT_WEB_RESGATE_URL", &resgate));
        }
        if let Some(address) = &address {
            environment.push(("EZOUT_HTTP_ADDR", address));
        }
        stack.service_with("serve", &environment).await
    }

    /// A token that the service believes.
    fn sign(&self, grant: &Grant) -> String {
        let now = OffsetDateTime::now_utc();
        let (issuer, audience) = match self.setting.people {
            People::Dev => return dev::sign(&keys_of(&self.stack), grant, now).unwrap(),
            People::Oidc => (self.issuer.url().to_owned(), issuer::AUDIENCE),
            People::Firebase => (format!("https://securetoken.google.com/{PROJECT}"), PROJECT),
        };
        let now = now.unix_timestamp();
        let lasts = i64::try_from(grant.lasts.as_secs()).unwrap();
        self.issuer.sign(&json!({
            "iss": issuer, "aud": audience, "sub": grant.subject, "iat": now, "auth_time": now, "exp": now + lasts,
            "role": grant.role, "shops": grant.shops,
        }))
    }

    /// Does what a walk asks for.
    async fn answer(&mut self, asked: &Value) -> Value {
        match asked["ask"].as_str().unwrap() {
            "token" => {
                let role = Role::parse(asked["role"].as_str().unwrap()).expect("a role");
                let shops: Vec<&str> = asked["shops"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter_map(Value::as_str)
                    .collect();
                let mut grant = grant(asked["subject"].as_str().unwrap_or("somebody"), Some(role), &shops);
                if let Some(seconds) = asked["seconds"].as_u64() {
                    grant.lasts = Duration::from_secs(seconds);
                }
                json!({ "token": self.sign(&grant) })
            }
            "let_in" => {
                self.issuer.let_in(&asked["claims"]);
                json!({})
            }
            "issuer" => self.issuer.seen(),
            "forget" => {
                self.issuer.forget();
                json!({})
            }
            "poison" => {
                let (shop, session) = (asked["shop"].as_str().unwrap(), asked["session"].as_str().unwrap());
                json!({ "sequence": poison(&self.stack, shop, session, "{\"product_price\":").await })
            }
            "revoke" => {
                let subject = asked["subject"].as_str().unwrap();
                printed(&self.stack.ezout(&["revoke", subject]).await);
                json!({})
            }
            "another" => {
                let keys = keys_of(&self.stack);
                let another = self.stack.service_with("api", &dev_mode(&keys)).await;
                let url = another.http_url();
                self.others.push(another);
                json!({ "url": url })
            }
            "metric" => {
                let value = self.service.metric(asked["series"].as_str().unwrap()).await;
                json!({ "value": value })
            }
            "kill" => {
                self.service.kill().await;
                json!({})
            }
            "start" => {
                let people = (self.setting, &self.issuer);
                self.service = Self::serve(&self.stack, self.resgate.as_ref(), people, Some(&self.service)).await;
                json!({})
            }
            "cut" => {
                self.proxy.cut();
                json!({})
            }
            "mend" => {
                self.proxy.mend();
                json!({})
            }
            other => panic!("a walk asks for {other}"),
        }
    }
}

/// Goes through a file of `web/e2e`.
async fn walk(name: &str, setting: Setting) {
    if !has_node() {
        return;
    }
    let Some(chromium) = chromium() else { return };
    let Some(mut ground) = Ground::new(setting).await else {
        return;
    };
    let pictures = chosen("EZOUT_PICTURES").unwrap_or_default();
    let mut child = Command::new("env")
        .args(["node", &format!("e2e/{name}.js")])
        .current_dir(folder())
        .env("PATH", path())
        .env("EZOUT_PAGE", ground.proxy.url().replace("nats://", "http://"))
        .env("EZOUT_API", ground.service.http_url())
        .env("EZOUT_SOURCE", if setting.with_resgate { "resgate" } else { "sse" })
        .env("EZOUT_PICTURES", pictures)
        .env("CHROMIUM", chromium)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let walking = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            match serde_json::from_str::<Value>(&line) {
                Ok(asked) if asked["ask"].is_string() => {
                    let answer = ground.answer(&asked).await;
                    answers.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
                }
                _ => eprintln!("{line}"),
            }
        }
        child.wait().await.unwrap()
    };
    let asked_for = chosen("EZOUT_WEB_SECONDS").map_or(0, |seconds| seconds.parse().unwrap());
    let status = tokio::time::timeout(WALK_MAX + Duration::from_secs(asked_for), walking).await;
    assert!(status.expect("the walk ends").success(), "the walk {name} failed");
    if let Some(resgate) = &mut ground.resgate {
        resgate.kill().await;
    }
}

const RESGATE: Setting = Setting {
    with_resgate: true,
    people: People::Dev,
};

#[tokio::test]
async fn a_merchant_sees_everything_live_and_is_told_when_it_is_not() {
    walk("live", Setting::default()).await;
}

#[tokio::test]
async fn a_merchant_sees_the_same_through_resgate() {
    walk("live", RESGATE).await;
}

#[tokio::test]
async fn support_finds_out_why_and_corrects_it() {
    walk("correct", Setting::default()).await;
}

#[tokio::test]
async fn support_corrects_through_resgate_as_well() {
    walk("correct", RESGATE).await;
}

#[tokio::test]
async fn rights_that_end_end_what_resgate_brings() {
    walk("access", RESGATE).await;
}

#[tokio::test]
async fn who_tries_it_chooses_whom_to_be() {
    walk("dev", Setting::default()).await;
}

#[tokio::test]
async fn people_sign_in_at_an_issuer_and_stay_signed_in() {
    let people = People::Oidc;
    walk(
        "oidc",
        Setting {
            people,
            ..Setting::default()
        },
    )
    .await;
}

#[tokio::test]
async fn people_sign_in_with_firebase_or_are_told_why_not() {
    let people = People::Firebase;
    walk(
        "firebase",
        Setting {
            people,
            ..Setting::default()
        },
    )
    .await;
}

#[tokio::test]
async fn visits_of_any_day_are_found() {
    walk("history", Setting::default()).await;
}

#[tokio::test]
async fn who_runs_the_system_decides_about_parked_events() {
    walk("operations", Setting::default()).await;
}

#[tokio::test]
async fn a_basket_is_taken_over_and_its_visit_played() {
    walk("together", Setting::default()).await;
}

#[tokio::test]
async fn rights_that_end_end_what_is_on_the_screen() {
    walk("access", Setting::default()).await;
}

#[tokio::test]
async fn names_that_mean_the_page_ill_are_only_names() {
    walk("hostile", Setting::default()).await;
}

#[tokio::test]
async fn every_screen_is_for_everybody() {
    walk("screens", Setting::default()).await;
}

/// `make bench-web`: for as long as `EZOUT_WEB_SECONDS` says.
#[tokio::test]
async fn a_large_shop_is_shown_while_much_happens() {
    walk("bench", Setting::default()).await;
}

#[test]
fn the_page_is_what_its_sources_build() {
    if !has_node() {
        return;
    }
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("web-dist");
    let _ = fs::remove_dir_all(&built);
    run("npm", &["run", "build", "--", "--outDir", built.to_str().unwrap()]).unwrap();
    let (built, kept) = (files(&built), files(&folder().join("dist")));
    let names = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&built), names(&kept));
    for ((name, built), (_, kept)) in built.iter().zip(&kept) {
        assert!(
            built == kept,
            "{} is not what the sources build: `make web`",
            name.display()
        );
    }
}

/// The files below a folder, by name.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_parts_of_the_page_do_what_they_should() {
    if has_node() {
        eprintln!("{}", run("npm", &["test"]).unwrap());
    }
}
