//! Each command × each user of NATS and each role of MongoDB: with what it needs it works, and with less it is refused, and
//! says what it needs.

use std::collections::BTreeSet;
use std::process::Output;

use clap::CommandFactory as _;
use ezout::config::Cli;
use ezout::nats::User;
use futures::future::join_all;

use crate::mongodb_roles::{uri, with_roles};
use crate::support::{Stack, all_printed, event, printed, refused, session, wait_for};

/// As whom a command comes to NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nats {
    /// It does not come.
    Nobody,
    /// As the user of the commands.
    Operator,
}

/// What a command may do in MongoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mongodb {
    /// It does not come, or nobody asks for its name.
    Nothing,
    /// What processes may.
    Service,
    /// What commands may.
    Operator,
}

/// A command, what it needs, and words that it says when it has that.
struct Row {
    command: &'static str,
    nats: Nats,
    mongodb: Mongodb,
    says: &'static str,
    /// Whether it ends as one that did it; nothing where that is not of the rights.
    succeeds: Option<bool>,
}

const fn row(command: &'static str, nats: Nats, mongodb: Mongodb, says: &'static str) -> Row {
    Row {
        command,
        nats,
        mongodb,
        says,
        succeeds: Some(true),
    }
}

impl Row {
    /// It may, and there is nothing to do it to.
    const fn finds_none(mut self) -> Self {
        self.succeeds = Some(false);
        self
    }

    /// How it ends depends on more than its rights.
    const fn ends_somehow(mut self) -> Self {
        self.succeeds = None;
        self
    }
}

/// Every command but those that are the service, or start servers of their own. `SHOP`, `SESSION` and `BASKET` stand for those that there are, and `FOLDER` for one that is the test's.
const ROWS: &[Row] = &[
    row(
        "migrate",
        Nats::Nobody,
        Mongodb::Operator,
        "every migration is applied already",
    ),
    row(
        "migrate --streams",
        Nats::Operator,
        Mongodb::Operator,
        "the stream UPDATES is as it should be",
    ),
    row("doctor", Nats::Operator, Mongodb::Operator, " 0 FAIL").ends_somehow(),
    row(
        "member add ada --role support",
        Nats::Nobody,
        Mongodb::Operator,
        "ada is support",
    ),
    row("member list", Nats::Nobody, Mongodb::Service, "ada"),
    row(
        "member remove ada",
        Nats::Nobody,
        Mongodb::Operator,
        "ada is no member any more",
    ),
    row("shop set SHOP --name Fruit", Nats::Nobody, Mongodb::Service, "Fruit"),
    row("shop list", Nats::Nobody, Mongodb::Service, "SHOP"),
    row("revoke ada", Nats::Nobody, Mongodb::Operator, "is revoked"),
    row(
        "revoke --list",
        Nats::Nobody,
        Mongodb::Service,
        "all of ada  until it is lifted, by command of user",
    ),
    row("revoke --lift ada", Nats::Nobody, Mongodb::Operator, "may count again"),
    row("parked list", Nats::Nobody, Mongodb::Service, "no event is parked"),
    row("parked show 1", Nats::Nobody, Mongodb::Service, "no event 1 is parked").finds_none(),
    row(
        "parked retry all",
        Nats::Nobody,
        Mongodb::Service,
        "0 events will be applied again",
    ),
    row("parked drop 1", Nats::Nobody, Mongodb::Service, "no event 1 is parked").finds_none(),
    row(
        "corrections list BASKET",
        Nats::Nobody,
        Mongodb::Service,
        "the basket has no correction",
    ),
    row("corrections held", Nats::Nobody, Mongodb::Service, "no shop is held"),
    row("corrections resume SHOP", Nats::Nobody, Mongodb::Service, "is not held").finds_none(),
    row("rebuild", Nats::Operator, Mongodb::Operator, "baskets equal, 0 not"),
    row("replay --shop SHOP", Nats::Operator, Mongodb::Nothing, "SHOP"),
    row(
        "replay --shop SHOP --to-subject replay.test",
        Nats::Operator,
        Mongodb::Nothing,
        "1 events were given out on replay.test",
    ),
    row("tail SHOP", Nats::Operator, Mongodb::Nothing, "SHOP"),
    row(
        "trace SHOP SESSION 1",
        Nats::Operator,
        Mongodb::Service,
        "place 1 of CHECKOUT",
    ),
    row("backup FOLDER", Nats::Operator, Mongodb::Service, "events were new"),
    row(
        "backup --verify FOLDER",
        Nats::Nobody,
        Mongodb::Nothing,
        "a whole backup",
    ),
    // The journal is there, so it is only compared.
    row(
        "restore FOLDER",
        Nats::Operator,
        Mongodb::Nothing,
        "the journal is in place already",
    ),
    row("token --role admin", Nats::Nobody, Mongodb::Nothing, "eyJ"),
    row(
        "simulate --for 1s --shoppers 1",
        Nats::Nobody,
        Mongodb::Nothing,
        " answers in ",
    ),
];
/// Those that are the service. They are not ready as somebody who may do less.
const PARTS: &[&str] = &["serve", "api", "project", "correct"];
/// The one that starts servers of its own.
const WITH_SERVERS: &str = "dev";

/// The words by which each command is called.
fn names(command: &clap::Command, before: &str) -> BTreeSet<String> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    let named = below.flat_map(|command| {
        let name = format!("{before}{}", command.get_name());
        match names(command, &format!("{name} ")) {
            leaves if leaves.is_empty() => BTreeSet::from([name]),
            leaves => leaves,
        }
    });
    named.collect()
}

#[test]
fn each_command_of_the_command_line_is_in_this_matrix() {
    let all = names(&Cli::command(), "");
    let rows = ROWS.iter().map(|row| row.command);
    let known: Vec<&str> = rows.chain(PARTS.iter().copied()).chain([WITH_SERVERS]).collect();
    let is_known = |name: &String| {
        known
            .iter()
            .any(|known| *known == name || known.starts_with(&format!("{name} ")))
    };
    let unknown: Vec<&String> = all.iter().filter(|name| !is_known(name)).collect();
    assert!(
        unknown.is_empty(),
        "say in this test what these commands need: {unknown:?}"
    );
    for row in ROWS {
        let is_one = all
            .iter()
            .any(|name| row.command == name || row.command.starts_with(&format!("{name} ")));
        assert!(is_one, "there is no command {:?}", row.command);
    }
}

/// Servers that ask who comes, a service, and a shop with a basket.
struct Asking {
    stack: Stack,
    http: String,
    admin: String,
    keys: String,
    shop: String,
    basket: String,
}

impl Asking {
    fn mongodb_uri(&self, role: Mongodb) -> String {
        let port = self.stack.mongod.port();
        match role {
            Mongodb::Nothing => format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0"),
            Mongodb::Service => uri(port, "ezout", "ezout"),
            Mongodb::Operator => uri(port, "operator", "ezout"),
        }
    }

    fn filled(&self, text: &str) -> String {
        let (_, session) = self.basket.split_once('.').expect("shop.session");
        text.replace("SHOP", &self.shop)
            .replace("BASKET", &self.basket)
            .replace("SESSION", session)
            .replace("FOLDER", &self.stack.folder().join("backup").display().to_string())
    }

    /// A command as these.
    async fn run(&self, command: &str, nats: Option<User>, mongodb: Mongodb) -> Output {
        let command = self.filled(command);
        let mut words: Vec<&str> = command.split(' ').collect();
        if words[0] == "simulate" {
            words.extend(["--url", &self.http]);
        }
        let url = nats.map_or_else(|| self.stack.nats.url(), |user| self.stack.nats.url_of(user));
        let environment = [
            ("EZOUT_NATS_URL", url.as_str()),
            ("EZOUT_MONGODB_URI", &self.mongodb_uri(mongodb)),
            ("EZOUT_HTTP_ADDR", self.http.trim_start_matches("http://")),
            ("EZOUT_ADMIN_ADDR", self.admin.trim_start_matches("http://")),
            ("EZOUT_AUTH_DEV_KEYS", &self.keys),
        ];
        self.stack.ezout_with(&words, &environment).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_does_its_work_as_who_it_has_to_be_and_is_refused_as_somebody_who_may_do_less() {
    let mut stack = Stack::start_with_users(|_| ()).await;
    let _mongod = with_roles(&mut stack).await;
    let keys = stack.folder().join("keys").to_str().unwrap().to_owned();
    let (shop, visit) = (session(), session());
    let basket = format!("{shop}.{visit}");
    let mut asking = Asking {
        stack,
        http: "http://127.0.0.1:1".to_owned(),
        admin: "http://127.0.0.1:1".to_owned(),
        keys,
        shop,
        basket,
    };
    // What each try said, or what was wrong with it.
    let mut tries: Vec<Result<(), String>> = Vec::new();
    let is_refused = |what: String, output: &Output, words: &str| {
        let said = all_printed(output);
        if output.status.success() || !said.contains(words) {
            return Err(format!("{what} was not refused with {words:?}: {said}"));
        }
        Ok(())
    };

    // Before there is anything.
    for role in [Mongodb::Nothing, Mongodb::Service] {
        let output = asking.run("migrate", Some(User::Operator), role).await;
        tries.push(is_refused(format!("migrate with {role:?}"), &output, "ezout_operator"));
    }
    printed(&asking.run("migrate", Some(User::Operator), Mongodb::Operator).await);
    let own = asking.mongodb_uri(Mongodb::Service);
    let service = asking.stack.service_with("serve", &[("EZOUT_MONGODB_URI", &own)]).await;
    (asking.http, asking.admin) = (service.http_url(), service.admin_url());
    let appended = async |number: i64| {
        let added = event(&asking.shop, &visit, number, "ADD", 1, 1.5, 1.5);
        assert_eq!(service.publish(&asking.shop, &added).await.status(), 200);
    };
    appended(1).await;
    service.basket(&asking.shop, &visit, 1).await;

    for Row {
        command,
        nats,
        mongodb,
        says,
        succeeds,
    } in ROWS
    {
        let lesser = [Mongodb::Nothing, Mongodb::Service]
            .into_iter()
            .filter(|role| role < mongodb);
        // Whatever there is to migrate was migrated above.
        for role in lesser.filter(|_| *command != "migrate") {
            let output = asking.run(command, Some(User::Operator), role).await;
            tries.push(is_refused(
                format!("{command} with {role:?}"),
                &output,
                "ezout_operator",
            ));
        }
        if *nats == Nats::Operator {
            let others = User::ALL.into_iter().filter(|user| *user != User::Operator).map(Some);
            let others: Vec<Option<User>> = others.chain([None]).collect();
            let outputs = others.iter().map(|user| asking.run(command, *user, *mongodb));
            for (user, output) in others.iter().zip(join_all(outputs).await) {
                let what = format!("{command} as {user:?}");
                tries.push(is_refused(what, &output, "name the user operator"));
            }
        }
        let user = (*nats == Nats::Operator).then_some(User::Operator);
        let (ended, said) = if command.starts_with("tail") {
            // It goes on until there is something to tell, and after that.
            (*succeeds, tail(&asking, &appended).await)
        } else {
            let output = asking.run(command, user, *mongodb).await;
            (Some(output.status.success()), all_printed(&output))
        };
        let is_done = said.contains(&asking.filled(says)) && (succeeds.is_none() || ended == *succeeds);
        let is_done = is_done && !said.contains("does not let") && !said.contains("may not do all");
        let failed = || format!("{command} did not say {says:?}, or ended otherwise ({ended:?}): {said}");
        tries.push(if is_done { Ok(()) } else { Err(failed()) });
    }
    let rows = tries.len();
    let wrong: Vec<String> = tries.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    eprintln!("the matrix of commands has {rows} rows");
}

/// The first update that the command prints.
async fn tail(asking: &Asking, happens: impl AsyncFn(i64)) -> String {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_ezout"))
        .args(["tail", &asking.shop])
        .env("EZOUT_NATS_URL", asking.stack.nats.url_of(User::Operator))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let telling = async {
        for number in 2.. {
            happens(number).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        line = lines.next_line() => line.unwrap().expect("an update"),
        () = telling => unreachable!("it goes on"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_ready_as_its_user_and_not_as_one_who_may_do_less() {
    let stack = Stack::start_with_users(|_| ()).await;
    // The first of all is the one that may make the streams.
    let _project = stack.service("project").await;
    let mut rows = 0;
    for part in PARTS {
        let own = User::of(part).unwrap();
        let tries = User::ALL.map(async |user| {
            let url = stack.nats.url_of(user);
            let service = stack.launch(part, &[("EZOUT_NATS_URL", &url)]);
            let suffices = user.is_part() && user.lacks(own).is_empty();
            wait_for(&format!("{part} as {}", user.name()), async || {
                let readiness = service.readiness().await?;
                let reasons = readiness["reasons"].to_string();
                if suffices {
                    assert!(!reasons.contains("the user for it"), "{reasons}");
                    (readiness["ready"] == true).then_some(())
                } else {
                    reasons.contains("the user for it").then_some(())
                }
            })
            .await;
        });
        rows += join_all(tries).await.len();
    }
    eprintln!("the matrix of parts has {rows} rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_may_not_work_with_the_baskets_says_so() {
    let mut stack = Stack::start_with_users(|_| ()).await;
    let port = stack.mongod.port();
    let _mongod = with_roles(&mut stack).await;
    let nobody = format!("mongodb://127.0.0.1:{port}/?replicaSet=rs0");
    let service = stack.launch("serve", &[("EZOUT_MONGODB_URI", &nobody)]);
    let reasons = wait_for("the reason", async || {
        let reasons = service.readiness().await?["reasons"].to_string();
        reasons.contains("mongodb does not let this user").then_some(reasons)
    })
    .await;
    assert!(reasons.contains("ezout_service"), "{reasons}");
    let refusal = refused(
        &stack
            .ezout_with(&["revoke", "ada"], &[("EZOUT_MONGODB_URI", &nobody)])
            .await,
    );
    assert!(!refusal.contains("ada"), "what was asked is not repeated: {refusal}");
}
