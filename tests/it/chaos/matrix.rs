//! The fault matrix: every fault that the system has to bear, and what shows that it does.
//!
//! A row is shown by cells, by tests, or by both. A cell does its fault to a whole system under load, by a seed, and has the promises
//! checked from outside: all of them, or those that are about edits by hand (network-correct-mongodb). `make chaos` runs all cells; other runs take two of them, other ones each day. `EZOUT_CHAOS_SEED` and
//! `EZOUT_CHAOS_CELL` choose the seed and one cell; what fails once is kept in [`REGRESSIONS`].

mod disks;
mod network;
mod processes;
mod readers;
mod servers;
mod tampered;
mod three;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use time::OffsetDateTime;

use super::promise::Promise;
use super::scene::Outcome;
use super::{chosen, say};
use crate::support;

/// How a cell is to be run.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub seed: u64,
    /// With some of the faults, so that two cells take a minute and a half at most.
    pub brief: bool,
}

/// A cell, by the name that chooses it. It has no outcome where this machine cannot do its fault, which it says.
struct Cell {
    name: &'static str,
    run: fn(Order) -> LocalBoxFuture<'static, Option<Outcome>>,
    /// Whether it can be brief.
    brief: bool,
}

/// A fault, and what shows that it is borne.
struct Row {
    fault: &'static str,
    what: &'static str,
    cells: &'static [Cell],
    tests: &'static [&'static str],
}

macro_rules! cell {
    ($name:literal, $run:path) => {
        cell!($name, $run, true)
    };
    ($name:literal, $run:path, $brief:literal) => {
        Cell {
            name: $name,
            run: |order| $run(order).boxed_local(),
            brief: $brief,
        }
    };
}

/// Cells that failed in a run of the tests, with the seed; they are run each time, after the product was mended.
const REGRESSIONS: &[(&str, u64)] = &[];
/// Tests beside this binary, by the beginnings of their names: those of the program's own parts.
const OF_PARTS: [&str; 2] = ["http::", "core::"];
/// Longest time of a cell, far beyond what one takes.
const CELL_MAX: Duration = Duration::from_mins(12);
/// Cells where nobody asks for all.
const SOME: usize = 2;

const ROWS: &[Row] = &[
    Row {
        fault: "F1",
        what: "kill -9 of the API at moments by chance, before an append and after it",
        cells: &[cell!("api-killed", processes::api_killed)],
        tests: &[
            "chaos::cells::an_api_that_dies_around_an_append_records_each_event_once",
            "chaos::whatever_is_killed_nothing_is_lost_or_doubled",
        ],
    },
    Row {
        fault: "F2",
        what: "kill -9 of a projector between any two of its effects",
        cells: &[cell!("projector-killed", processes::projector_killed)],
        tests: &[
            "chaos::cells::a_projector_that_dies_between_two_effects_leaves_no_trace",
            "chaos::cells::parked_events_that_are_applied_later_are_applied_and_told_once",
        ],
    },
    Row {
        fault: "F3",
        what: "two projectors at once: the owner of a lease is frozen, and wakes when another one has it",
        cells: &[cell!("owner-frozen", processes::owner_frozen)],
        tests: &[
            "chaos::handover::a_partition_moves_within_ten_seconds_when_its_owner_dies_and_at_once_when_it_leaves",
        ],
    },
    Row {
        fault: "F4",
        what: "kill -9 of nats-server again and again, and a freeze of it",
        cells: &[cell!("nats-killed-and-frozen", servers::nats)],
        tests: &[
            "journal::a_killed_server_loses_no_acknowledged_event_and_retries_settle_the_rest",
            "journal::a_reader_goes_on_after_the_server_was_killed",
        ],
    },
    Row {
        fault: "F5",
        what: "kill -9 of mongod again and again, a freeze of it, and a primary of three that steps down",
        cells: &[
            cell!("mongod-killed-and-frozen", servers::mongod),
            cell!("primary-lost", three::primary_lost, false),
        ],
        tests: &["project::what_is_not_there_is_said_and_everything_goes_on_when_it_is_back"],
    },
    Row {
        fault: "F6",
        what: "the network between a part and a server: cut, reset, silent, one-way, swallowing, 300 ms late, 64 kbit/s",
        cells: &[
            cell!("network-api-nats", network::api_nats),
            cell!("network-api-mongodb", network::api_mongodb),
            cell!("network-project-nats", network::project_nats),
            cell!("network-project-mongodb", network::project_mongodb),
            cell!("network-correct-mongodb", network::correct_mongodb, false),
        ],
        tests: &["resources::strict::what_changes_while_the_service_is_cut_off_from_nats_is_healed_afterwards"],
    },
    Row {
        fault: "F7",
        what: "the disk of nats-server is full, and has room again",
        cells: &[cell!("disk-of-nats-full", disks::nats, false)],
        tests: &[],
    },
    Row {
        fault: "F8",
        what: "the disk of mongod is full, and has room again",
        cells: &[cell!("disk-of-mongod-full", disks::mongod, false)],
        tests: &[],
    },
    Row {
        fault: "F9",
        what: "the journal has as many bytes as it may",
        cells: &[cell!("journal-full", disks::journal)],
        tests: &["grafana::faults::chaos_each_fault_fires_its_alert_and_nothing_else"],
    },
    Row {
        fault: "F10",
        what: "viewers and subscribers that do not read, and a frozen Resgate",
        cells: &[
            cell!("readers-slow", readers::slow),
            cell!("resgate-frozen", readers::resgate_frozen),
        ],
        tests: &["live::a_slow_viewer_gets_the_newest_of_each_basket_and_costs_the_others_nothing"],
    },
    Row {
        fault: "F11",
        what: "an event again: with the same body, with another one, after a restart, and after the server has forgotten it",
        cells: &[cell!("repeats-forgotten", processes::repeats_forgotten)],
        tests: &[
            "append::the_original_example_is_recorded_once_and_another_price_is_a_conflict",
            "journal::a_storm_of_retries_after_a_restart_does_not_leave_the_fast_path",
            "journal::an_event_is_recorded_once_and_another_of_its_identity_is_a_conflict",
            "chaos::shuffled::ten_thousand_shuffled_and_repeated_events_fold_as_the_oracle_does",
        ],
    },
    Row {
        fault: "F12",
        what: "events in any order, a day late, and after the checkout",
        cells: &[],
        tests: &[
            "chaos::shuffled::ten_thousand_shuffled_and_repeated_events_fold_as_the_oracle_does",
            "core::basket::tests::a_late_action_is_put_where_it_belongs",
            "core::basket::tests::any_order_and_any_repetition_gives_the_same_basket",
        ],
    },
    Row {
        fault: "F13",
        // A clock of this machine cannot be moved for one process alone, and moving it for all would be an attack on the machine.
        what: "clocks of phones that are wrong by up to a day, and step back during a visit",
        cells: &[cell!("clocks-wrong", processes::clocks_wrong)],
        tests: &["tokens::every_hostile_token_is_refused_for_its_own_reason"],
    },
    Row {
        fault: "F14",
        what: "hostile tokens, hostile issuers",
        cells: &[],
        tests: &[
            "access::hostile::every_hostile_token_is_refused_at_every_door_and_causes_one_fetch",
            "tokens::a_flood_of_names_of_keys_causes_one_fetch",
            "tokens::an_issuer_that_lies_at_the_start_is_asked_again_and_never_believed",
            "tokens::an_issuer_that_lies_later_takes_no_key_away",
            "tokens::a_new_key_is_known_at_its_first_token_and_an_old_one_forgotten_with_its_tokens",
        ],
    },
    Row {
        fault: "F15",
        what: "a right token for another shop, and a revoked user",
        cells: &[],
        tests: &[
            "access::matrix::every_caller_at_every_route_gets_what_the_policy_says",
            "access::matrix::every_caller_at_every_resource_gets_the_same_through_resgate",
            "access::streams::whoever_loses_a_right_loses_the_streams_that_it_had_opened",
        ],
    },
    Row {
        fault: "F16",
        what: "ids that would be more than an id in a subject",
        cells: &[],
        tests: &[
            "append::nothing_is_recorded_of_what_is_refused",
            "access::names::an_id_that_is_none_is_refused_and_names_nothing_of_somebody_else",
        ],
    },
    Row {
        fault: "F17",
        what: "hostile bodies",
        cells: &[],
        tests: &[
            "access::floods::a_hostile_body_is_refused_with_its_code_and_nobody_else_notices",
            "http::tests::a_field_that_breaks_a_rule_is_named_on_every_route",
            "http::tests::a_body_that_does_not_come_is_given_up",
            "http::tests::large_bodies_together_have_a_bound_and_leave_room_for_single_events",
        ],
    },
    Row {
        fault: "F18",
        what: "slow and flooding connections",
        cells: &[],
        tests: &[
            "access::floods::a_flood_of_frames_is_cut_off_and_nobody_else_notices",
            "http::serve::tests::an_address_that_has_as_many_connections_as_it_may_gets_no_more_and_the_others_do",
            "http::serve::tests::a_connection_that_asks_nothing_is_ended",
            "http::serve::tests::a_client_that_takes_nothing_is_cut_off",
        ],
    },
    Row {
        fault: "F19",
        what: "what is too large, and bodies of many lines with a bad one",
        cells: &[],
        tests: &[
            "append::each_line_has_a_verdict_and_a_bad_one_spoils_no_other",
            "http::tests::an_event_that_is_too_large_is_refused_whether_or_not_its_size_is_stated",
            "http::tests::a_body_of_lines_has_its_limits",
        ],
    },
    Row {
        fault: "F20",
        what: "an event in the journal that cannot be read; the load of each cell has one, but for network-correct-mongodb",
        cells: &[],
        tests: &[
            "project::a_poisoned_session_waits_for_a_person_and_others_go_on",
            "project::events_whose_shop_or_type_is_not_known_are_parked",
        ],
    },
    Row {
        fault: "F21",
        what: "edits by hand of every kind",
        cells: &[],
        tests: &[
            "edits::many::every_edit_is_one_event_or_one_rejection_and_never_an_echo",
            "edits::lost::a_collection_that_is_dropped_or_renamed_comes_back_with_every_correction",
        ],
    },
    Row {
        fault: "F22",
        what: "the stream of changes is lost, and its follower dies between any two effects",
        cells: &[],
        tests: &[
            "edits::lost::edits_that_the_server_has_forgotten_are_found_by_comparison_and_none_twice",
            "edits::lost::a_stream_that_ends_since_the_database_was_dropped_goes_on_with_a_comparison",
            "edits::chaos::wherever_the_follower_of_edits_dies_each_edit_is_one_event",
        ],
    },
    Row {
        fault: "F23",
        what: "the journal's files are damaged, put back from an older copy, or gone, while the server is down",
        cells: &[cell!("journal-tampered-with", tampered::journal)],
        tests: &[
            "project::a_journal_restored_from_an_older_copy_halts_the_projector_until_it_is_whole_again",
            "project::another_journal_in_the_place_of_the_old_one_halts_the_projector",
            "project::a_restored_journal_that_has_grown_again_is_not_taken_for_the_old_one",
            "journal::a_journal_that_lost_its_end_is_not_appended_to",
        ],
    },
    Row {
        fault: "F24",
        // No program of another version runs beside this one: those that are restarted in turn are of one version.
        what: "what another version leaves behind: events of a type that is not known, a backup of an earlier one; and a restart of all roles in turn",
        cells: &[],
        tests: &[
            "project::events_whose_shop_or_type_is_not_known_are_parked",
            "backup::kept::a_backup_of_an_earlier_version_is_restored_and_served_as_it_was",
            "chaos::rolling::a_rolling_restart_of_all_roles_loses_and_doubles_nothing",
        ],
    },
    Row {
        fault: "F25",
        what: "a rebuild under load, killed and taken up again; each cell ends with one when the load has ended",
        cells: &[],
        tests: &[
            "rebuild::a_rebuild_under_load_finds_nothing_and_sends_nothing_again",
            "rebuild::a_rebuild_that_was_killed_goes_on_where_it_was",
        ],
    },
    Row {
        fault: "F26",
        what: "settings that are weaker than promised",
        cells: &[],
        tests: &[
            "journal::a_server_that_does_not_sync_is_called_weaker_and_so_are_the_receipts",
            "journal::a_stream_that_is_weaker_than_promised_is_named_with_every_reason",
            "doctor::settings_of_streams_are_compared_one_by_one_and_the_command_sets_them_right",
            "nats_users::each_user_may_do_what_the_table_says_and_nothing_else",
        ],
    },
    Row {
        fault: "F27",
        what: "three NATS servers: the leader is killed, frozen and cut off, one copy is damaged; one server of each kind is lost at once; processes of each role come and go over three of each kind",
        cells: &[
            cell!("leader-lost", three::leader_lost, false),
            cell!("one-of-each-lost", three::one_of_each_lost, false),
            cell!("copy-damaged", three::copy_damaged, false),
            cell!("many-processes", three::many_processes, false),
        ],
        tests: &["journal::a_cluster_keeps_three_copies_on_disk_and_survives_the_loss_of_one"],
    },
];

/// The day since 1970.
fn today() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp() / 86_400).unwrap_or(0)
}

/// Cells to be run, each with its row and its seed.
fn chosen_cells() -> (Vec<(&'static Row, &'static Cell, u64)>, bool) {
    let all = || {
        ROWS.iter()
            .flat_map(|row| row.cells.iter().map(move |cell| (row, cell)))
    };
    let by_name = |name: &str| {
        let found = all().find(|(_, cell)| cell.name == name);
        found.unwrap_or_else(|| panic!("there is no cell {name}"))
    };
    let seed = chosen("EZOUT_CHAOS_SEED");
    let regressions = REGRESSIONS.iter().map(|(name, seed)| (by_name(name), *seed));
    let regressions = regressions.map(|((row, cell), seed)| (row, cell, seed));
    if let Some(name) = support::chosen("EZOUT_CHAOS_CELL") {
        let (row, cell) = by_name(&name);
        let brief = support::chosen("EZOUT_CHAOS_BRIEF").is_some();
        return (vec![(row, cell, seed.unwrap_or_else(today))], brief);
    }
    if support::chosen("EZOUT_CHAOS_MATRIX").as_deref() == Some("all") {
        let seed = seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
        let cells = all().map(|(row, cell)| (row, cell, seed));
        return (regressions.chain(cells).collect(), false);
    }
    let seed = seed.unwrap_or_else(today);
    let brief: Vec<_> = all().filter(|(_, cell)| cell.brief).collect();
    let first = usize::try_from(seed % 1_000_000).unwrap_or(0) * SOME;
    let some = (first..first + SOME).map(|place| brief[place % brief.len()]);
    let some = some.map(|(row, cell)| (row, cell, seed));
    (regressions.chain(some).collect(), true)
}

/// The seed of a cell in a run of several: cells that are alike have different ones.
fn seed_of(name: &str, seed: u64) -> u64 {
    name.bytes()
        .fold(seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()))
}

/// What came of a cell, in a line of the table.
fn line(fault: &str, cell: &str, seed: u64, outcome: &Outcome) -> String {
    let deeds: u64 = outcome.deeds.values().sum();
    let mut line = format!("| {fault} | {cell} | {seed} | {deeds} | {} |", outcome.events);
    for promise in Promise::ALL {
        let checks = outcome.report.checks.get(&promise).copied().unwrap_or(0);
        let _ = write!(line, " {checks} |");
    }
    let _ = write!(line, " {} | {:.0} |", outcome.report.violations.len(), outcome.seconds);
    line
}

fn head() -> String {
    let promises: Vec<String> = Promise::ALL.iter().map(ToString::to_string).collect();
    let promises = promises.join(" | ");
    format!("| row | cell | seed | faults | events | {promises} | broken | seconds |")
}

/// Runs the cells one after the other. What a cell broke fails the test when all have been run.
#[tokio::test(flavor = "multi_thread")]
async fn every_promise_holds_whatever_fails() {
    let (cells, brief) = chosen_cells();
    let (mut lines, mut failures) = (vec![head()], Vec::new());
    let mut total = Outcome::default();
    for (row, cell, seed) in cells {
        let again = format!(
            "EZOUT_CHAOS_CELL={} EZOUT_CHAOS_SEED={seed}{}",
            cell.name,
            if brief { " EZOUT_CHAOS_BRIEF=1" } else { "" }
        );
        say(&format!("{} {}: {again}", row.fault, row.what));
        let order = Order {
            seed: seed_of(cell.name, seed),
            brief,
        };
        let running = tokio::time::timeout(CELL_MAX, (cell.run)(order));
        let Ok(Ok(outcome)) = AssertUnwindSafe(running).catch_unwind().await else {
            failures.push(format!("{} came to no end: {again}", row.fault));
            lines.push(format!("| {} | {} | {seed} | no end |", row.fault, cell.name));
            continue;
        };
        let Some(outcome) = outcome else {
            lines.push(format!(
                "| {} | {} | {seed} | not possible here |",
                row.fault, cell.name
            ));
            continue;
        };
        let done: Vec<String> = outcome
            .deeds
            .iter()
            .map(|(deed, times)| format!("{deed} ×{times}"))
            .collect();
        say(&format!("  done: {}", done.join(", ")));
        outcome.notes.iter().for_each(|note| say(&format!("  {note}")));
        for violation in outcome.report.violations.iter().take(super::SHOWN) {
            say(&format!("  broken {violation}"));
        }
        if let Some(first) = outcome.report.violations.first() {
            failures.push(format!("{again}: {first}"));
        }
        lines.push(line(row.fault, cell.name, seed, &outcome));
        total.add(outcome);
    }
    lines.push(line("all", "", 0, &total));
    if !brief {
        for row in ROWS {
            lines.extend(
                row.tests
                    .iter()
                    .map(|test| format!("| {} | test `{test}` |", row.fault)),
            );
        }
    }
    say(&lines.join("\n"));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

impl Outcome {
    fn add(&mut self, other: Self) {
        for (promise, times) in other.report.checks {
            self.report.kept(promise, times);
        }
        self.report.violations.extend(other.report.violations);
        for (deed, times) in other.deeds {
            *self.deeds.entry(deed).or_default() += times;
        }
        self.events += other.events;
        self.seconds += other.seconds;
    }
}

#[test]
fn every_row_is_there_and_what_shows_it_exists() {
    let rows: Vec<&str> = ROWS.iter().map(|row| row.fault).collect();
    let wanted: Vec<String> = (1..=27).map(|number| format!("F{number}")).collect();
    assert_eq!(rows, wanted);
    let program = std::env::current_exe().unwrap();
    let listed = std::process::Command::new(program)
        .args(["--list", "--format", "terse"])
        .output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let listed: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    for row in ROWS {
        let shown = !row.cells.is_empty() || !row.tests.is_empty();
        assert!(shown, "nothing shows {}", row.fault);
        for test in row.tests {
            let of_parts = OF_PARTS.iter().any(|part| test.starts_with(part));
            let exists = if of_parts {
                is_in_source(test)
            } else {
                listed.contains(test)
            };
            assert!(exists, "{} is shown by {test}, which there is not", row.fault);
        }
    }
    let names = ROWS.iter().flat_map(|row| row.cells.iter().map(|cell| cell.name));
    let names: Vec<&str> = names.collect();
    let distinct: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(distinct.len(), names.len(), "names of cells are distinct");
}

/// Whether a test of the program's own parts is in the file that its name says.
fn is_in_source(test: &str) -> bool {
    let mut parts: Vec<&str> = test.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Tests stand in the file of the part, or in one of their own below it.
    [parts.len(), parts.len() - 1].into_iter().any(|count| {
        let file = root.join(parts[..count].join("/")).with_extension("rs");
        std::fs::read_to_string(file).is_ok_and(|text| {
            let before = text.split_once(&format!("fn {name}(")).map(|(before, _)| before);
            before.is_some_and(|before| before.rsplit("\n\n").next().unwrap_or_default().contains("test]"))
        })
    })
}
