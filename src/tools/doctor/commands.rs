//! The commands that come next, to be copied as they are: with the options that this one was given, and without a password.

use std::fmt::Write as _;

use clap::Args as _;

use super::Args;
use crate::core::address::without_password;
use crate::journal::Server;

/// What the commands need to know.
#[derive(Debug)]
pub(super) struct Commands {
    /// How this program was called.
    program: String,
    /// Options that say where the streams are, where they are not the defaults.
    streams: String,
    /// Options that say where the views are.
    views: String,
    /// Options that say where the service listens.
    addresses: String,
    mongodb_uri: String,
    database: String,
    admin: String,
}

impl Commands {
    pub(super) fn new(args: &Args) -> Self {
        let options = |options: &[(&str, &str, &str)]| {
            let mut text = String::new();
            for (flag, variable, value) in options {
                if default_of(flag) != *value {
                    let _ = write!(text, " --{flag} {}", secret_or_quoted(variable, value));
                }
            }
            text
        };
        let monitors = args.journal.monitor_urls.join(",");
        let replicas = args.journal.replicas.to_string();
        let streams = args.journal.streams.to_string();
        Self {
            program: std::env::args_os()
                .next()
                .map_or_else(|| "ezout".to_owned(), |name| quoted(&name.to_string_lossy())),
            streams: options(&[
                ("nats-url", "EZOUT_NATS_URL", &args.journal.nats_url),
                ("nats-monitor-url", "EZOUT_NATS_MONITOR_URL", &monitors),
                ("nats-replicas", "EZOUT_NATS_REPLICAS", &replicas),
                ("journal-streams", "EZOUT_JOURNAL_STREAMS", &streams),
            ]),
            views: options(&[
                ("mongodb-uri", "EZOUT_MONGODB_URI", &args.views.uri),
                ("mongodb-database", "EZOUT_MONGODB_DATABASE", &args.views.database),
            ]),
            addresses: options(&[
                ("http-addr", "EZOUT_HTTP_ADDR", &args.http_addr),
                ("admin-addr", "EZOUT_ADMIN_ADDR", &args.admin_addr),
            ]),
            mongodb_uri: args.views.uri.clone(),
            database: args.views.database.clone(),
            admin: super::reachable(&args.admin_addr),
        }
    }

    /// Applies migrations and brings collections back.
    pub(super) fn migrate(&self) -> String {
        format!("{} migrate{}", self.program, self.views)
    }

    /// Gives the streams their settings.
    pub(super) fn migrate_streams(&self) -> String {
        format!("{} migrate --streams{}{}", self.program, self.streams, self.views)
    }

    pub(super) fn parked_list(&self) -> String {
        format!("{} parked{} list", self.program, self.views)
    }

    /// A rebuild with these options, that folds as the baskets that are read were folded.
    pub(super) fn rebuild(&self, options: &str, action_id: Option<&str>) -> String {
        let meaning = action_id
            .filter(|meaning| *meaning != "auto")
            .map(|meaning| format!(" --action-id {}", quoted(meaning)))
            .unwrap_or_default();
        let Self {
            program,
            streams,
            views,
            ..
        } = self;
        format!("{program} rebuild {options}{meaning}{streams}{views}")
    }

    pub(super) fn serve(&self) -> String {
        let Self {
            program,
            streams,
            views,
            addresses,
            ..
        } = self;
        format!("{program} serve{addresses}{streams}{views}")
    }

    /// One more projector, beside whatever else runs on the machine.
    pub(super) fn project(&self) -> String {
        format!(
            "{} project --admin-addr 127.0.0.1:0{}{}",
            self.program, self.streams, self.views
        )
    }

    /// This command once more.
    pub(super) fn doctor(&self) -> String {
        let Self {
            program,
            streams,
            views,
            addresses,
            ..
        } = self;
        format!("{program} doctor{addresses}{streams}{views}")
    }

    pub(super) fn readyz(&self) -> String {
        curl(&format!("http://{}/readyz", self.admin))
    }

    /// Starts a NATS server as it runs or ran, with the settings that production has.
    pub(super) fn nats_server(server: &Server) -> String {
        let (host, cluster) = (&server.host, &server.cluster);
        // The server keeps its streams in a folder of this name in the one that it is given.
        let data = server.jetstream.config.store_dir.trim_end_matches("/jetstream");
        let data = if data.is_empty() {
            "\"$NATS_DATA\"".to_owned()
        } else {
            quoted(data)
        };
        let start = |file: &str| {
            let (port, monitor) = (server.port, server.http_port);
            format!("nats-server -c nats/{file} -a {host} -p {port} -m {monitor} -sd {data}")
        };
        let [one, two] = cluster.urls.as_slice() else {
            return start("server.conf");
        };
        format!(
            "EZOUT_NATS_NAME={} EZOUT_NATS_CLUSTER_LISTEN={}:{} EZOUT_NATS_ROUTE_1=nats://{one} EZOUT_NATS_ROUTE_2=nats://{two} {}",
            quoted(&server.name),
            cluster.addr,
            cluster.cluster_port,
            start("cluster.conf"),
        )
    }

    /// Has the MongoDB shell do something to the database.
    pub(super) fn mongosh(&self, script: &str) -> String {
        let uri = secret_or_quoted("EZOUT_MONGODB_URI", &self.mongodb_uri);
        let script = format!("db = db.getSiblingDB({:?}); {script}", self.database);
        format!("mongosh {uri} --quiet --eval {}", quoted(&script))
    }
}

/// Reads an address of HTTP.
pub(super) fn curl(url: &str) -> String {
    format!("curl -s {}", quoted(&without_password(url)))
}

/// What an option of this command is where nobody says anything.
fn default_of(flag: &str) -> String {
    let command = Args::augment_args(clap::Command::new("doctor"));
    let option = command.get_arguments().find(|option| option.get_long() == Some(flag));
    let defaults = option.map(clap::Arg::get_default_values).unwrap_or_default();
    let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
    defaults.join(",")
}

/// A value for the shell; one with a password is left to the variable that it belongs in.
fn secret_or_quoted(variable: &str, value: &str) -> String {
    if without_password(value) == value {
        quoted(value)
    } else {
        format!("\"${variable}\"")
    }
}

/// A word for the shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_./:=@,+-".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn commands(options: &[&str]) -> Commands {
        let command = Args::augment_args(clap::Command::new("doctor"));
        let matches = command.mut_args(|option| option.env(None::<&str>));
        let matches = matches.get_matches_from([&["doctor"], options].concat());
        Commands {
            program: "ezout".to_owned(),
            ..Commands::new(&Args::from_arg_matches(&matches).unwrap())
        }
    }

    #[test]
    fn a_command_has_the_options_that_are_not_the_defaults_and_no_password() {
        let plain = commands(&[]);
        assert_eq!(plain.migrate(), "ezout migrate");
        assert_eq!(plain.rebuild("--switch", Some("auto")), "ezout rebuild --switch");
        assert_eq!(plain.readyz(), "curl -s http://127.0.0.1:8001/readyz");

        let given = commands(&[
            "--nats-url",
            "nats://app:geheim@a:4222",
            "--mongodb-uri",
            "mongodb://a:1,b:2/?replicaSet=rs1",
            "--mongodb-database",
            "shop",
            "--admin-addr",
            "0.0.0.0:9001",
        ]);
        assert_eq!(
            given.rebuild("--switch", Some("number")),
            "ezout rebuild --switch --action-id number --nats-url \"$EZOUT_NATS_URL\" --mongodb-uri 'mongodb://a:1,b:2/?replicaSet=rs1' --mongodb-database shop"
        );
        assert_eq!(
            given.parked_list(),
            "ezout parked --mongodb-uri 'mongodb://a:1,b:2/?replicaSet=rs1' --mongodb-database shop list"
        );
        assert_eq!(given.readyz(), "curl -s http://127.0.0.1:9001/readyz");
        let secret = commands(&["--mongodb-uri", "mongodb://u:p@a:1/"]);
        assert_eq!(
            secret.mongosh("db.x.drop()"),
            r#"mongosh "$EZOUT_MONGODB_URI" --quiet --eval 'db = db.getSiblingDB("ezout"); db.x.drop()'"#
        );
    }

    #[test]
    fn words_survive_the_shell() {
        for (word, told) in [
            ("a", "a"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("a&b", "'a&b'"),
        ] {
            assert_eq!(quoted(word), told);
        }
    }
}
