//! What `grafana/` says is true: alerts have their pages, pages have commands that exist, and every query finds something
//! in a real Prometheus that scrapes a running system.

mod dashboards;
mod faults;
mod prometheus;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::dashboards::{Dashboard, dashboards};

/// What Grafana calls the units that are used.
const UNITS: [&str; 6] = ["bytes", "ops", "percentunit", "reqps", "s", "short"];
/// Where a link of Grafana finds the pages.
const PAGES: &str = "/public/runbook/";

/// A place in `grafana/`.
fn place(inside: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana").join(inside)
}

fn read(inside: &str) -> String {
    fs::read_to_string(place(inside)).unwrap()
}

/// Files of a folder in `grafana/` by their names without the extension.
fn files(folder: &str, extension: &str) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(place(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect()
}

/// The values of a key in the rules, in their order.
fn said<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    let values = rules
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
    values.map(str::trim).collect()
}

/// The page that a link leads to.
fn page_of(link: &str) -> &str {
    let page = link.strip_prefix(PAGES).and_then(|page| page.strip_suffix(".md"));
    page.unwrap_or_else(|| panic!("{link} is no link to a page"))
}

#[test]
fn each_alert_has_its_page_and_each_page_its_alert() {
    let rules = read("rules/alerts.yml");
    let (alerts, links) = (said(&rules, "alert:"), said(&rules, "runbook_url:"));
    let led: Vec<&str> = links.into_iter().map(page_of).collect();
    assert_eq!(alerts, led, "each alert leads to the page of its name");
    assert!(alerts.len() >= 40, "{} alerts", alerts.len());
    let pages = files("runbook", "md");
    let alerts: BTreeSet<&str> = alerts.into_iter().collect();
    assert_eq!(pages.keys().map(String::as_str).collect::<BTreeSet<_>>(), alerts);
    let severities = said(&rules, "labels:");
    assert!(
        severities
            .iter()
            .all(|labels| ["{ severity: page }", "{ severity: ticket }"].contains(labels)),
        "{severities:?}"
    );
    for (name, path) in &pages {
        let page = fs::read_to_string(path).unwrap();
        let titles: Vec<&str> = page.lines().filter(|line| line.starts_with('#')).collect();
        let wanted = [
            &format!("# {name}"),
            "## What it means",
            "## How to see it",
            "## What to do",
            "## It worked when",
        ];
        assert_eq!(titles, wanted, "{name}");
        for (_, rest) in page.match_indices("](").map(|(at, _)| page.split_at(at + 2)) {
            let link = &rest[..rest.find(')').unwrap()];
            assert!(place("runbook").join(link).is_file(), "{name} leads to {link}");
        }
    }
}

#[test]
fn each_panel_that_a_page_names_exists() {
    let titles: BTreeMap<String, BTreeSet<String>> = dashboards()
        .iter()
        .map(|dashboard| {
            let word = dashboard.title.trim_start_matches("EzOut: ").split(' ').next();
            let panels = dashboard.panels.iter().map(|panel| panel.title.clone()).collect();
            (word.unwrap().to_lowercase(), panels)
        })
        .collect();
    let all: BTreeSet<&String> = titles.values().flatten().collect();
    for (name, path) in files("runbook", "md") {
        let page = fs::read_to_string(path).unwrap();
        let (_, see) = page.split_once("## How to see it").unwrap();
        let (see, _) = see.split_once("## What to do").unwrap();
        let quoted: Vec<&str> = see.split('"').skip(1).step_by(2).collect();
        assert!(!quoted.is_empty(), "{name} names no panel");
        for panel in quoted {
            let found = all.iter().any(|title| title.starts_with(panel));
            assert!(found, "{name} names {panel:?}, which no dashboard has");
        }
    }
}

/// The commands of a page, one a line.
fn commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines).collect()
}

#[test]
fn each_command_of_a_page_exists() {
    let compose = fs::read_to_string(place("../docker-compose.yml")).unwrap();
    for (name, path) in files("runbook", "md") {
        let page = fs::read_to_string(path).unwrap();
        let commands = commands(&page);
        assert!(!commands.is_empty(), "{name} has no command");
        for line in commands {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["ezout", ref arguments @ ..] => {
                    let mut command = Command::new(env!("CARGO_BIN_EXE_ezout"));
                    let output = command.args(arguments).arg("--help").output().unwrap();
                    let printed = crate::support::all_printed(&output);
                    assert!(output.status.success(), "{name}: {line}: {printed}");
                    // `--help` of a command that is not there is that of the program.
                    assert!(
                        printed.contains(&format!("Usage: ezout {}", arguments[0])),
                        "{name}: {line}"
                    );
                }
                ["docker", "compose", verb, ref arguments @ ..] => {
                    assert!(["exec", "logs", "ps", "stop", "up"].contains(&verb), "{name}: {line}");
                    let mut arguments = arguments.iter();
                    while let Some(argument) = arguments.next() {
                        if ["--since", "--tail"].contains(argument) {
                            arguments.next();
                        } else if !argument.starts_with("--") {
                            let service = format!("\n  {argument}:\n");
                            assert!(
                                compose.contains(&service),
                                "{name}: {line}: there is no service {argument}"
                            );
                            if verb == "exec" {
                                break;
                            }
                        }
                    }
                }
                ["docker", "inspect", ..] | ["curl" | "mongosh", ..] => {}
                _ => panic!("{name}: {line}"),
            }
        }
    }
}

#[test]
fn each_panel_says_what_it_shows_in_which_unit_and_what_to_do() {
    let pages = files("runbook", "md");
    let source = read("provisioning/datasources/prometheus.yml");
    let named: Vec<String> = dashboards().iter().map(|dashboard| dashboard.name.clone()).collect();
    assert_eq!(named, ["integrity", "overview", "pipeline", "servers", "shops"]);
    for Dashboard { name, uid, panels, .. } in dashboards() {
        assert_eq!(uid, format!("ezout-{name}"));
        let mut taken = BTreeSet::new();
        for (number, panel) in panels.iter().enumerate() {
            let what = format!("{name}: {}", panel.title);
            assert_eq!(panel.id, number + 1, "{what}");
            assert!(UNITS.contains(&panel.unit.as_str()), "{what}: {}", panel.unit);
            assert!(
                panel.description.len() > 20 && panel.description.ends_with('.'),
                "{what}"
            );
            assert!(pages.contains_key(page_of(&panel.link)), "{what}: {}", panel.link);
            assert!(source.contains(&format!("uid: {}\n", panel.datasource)), "{what}");
            assert!(["stat", "timeseries"].contains(&panel.kind.as_str()), "{what}");
            assert!(!panel.queries.is_empty(), "{what}");
            for y in panel.rows.clone() {
                for x in panel.columns.clone() {
                    assert!(
                        x < 24 && taken.insert((x, y)),
                        "{what} lies on another panel, or outside"
                    );
                }
            }
        }
    }
}
