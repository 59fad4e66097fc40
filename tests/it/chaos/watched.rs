//! What a viewer of live updates must have been told: each version in order, or a snapshot that is no older.

use std::collections::BTreeMap;

use mongodb::bson::Bson;

use super::checker::Report;
use super::history::{Evidence, Sight, StoredUpdate, Viewed};
use super::promise::Promise::I7;

/// What a viewer has on its screen, and where it is.
struct Screen<'a> {
    viewer: &'a Viewed,
    /// All updates of the shop, in their order.
    told: Vec<(u64, &'a str, u64)>,
    /// By session, the version that is shown.
    shown: BTreeMap<String, u64>,
    /// Place in `told` of what must come next; nothing where that is not known.
    next: Option<usize>,
    coalescing: bool,
    /// What the last snapshot had, from the next connection on: only the one that gave it leaves out what it had beyond its place.
    had: BTreeMap<String, u64>,
    /// What it had, until then.
    snapshot: BTreeMap<String, u64>,
    /// Pages of a snapshot that has not ended.
    pages: Option<BTreeMap<String, u64>>,
}

/// Checks one viewer.
pub fn check(evidence: &Evidence, viewer: &Viewed, report: &mut Report) {
    let of_shop = |update: &&StoredUpdate| update.subject.ends_with(&viewer.shop);
    let told = evidence.updates.iter().filter(of_shop).map(|update| {
        let session = update.body["session_id"].as_str().unwrap_or_default();
        let version = update.body["basket"]["version"].as_u64().unwrap_or(0);
        (update.sequence, session, version)
    });
    let mut screen = Screen {
        viewer,
        told: told.collect(),
        shown: BTreeMap::new(),
        next: None,
        coalescing: false,
        had: BTreeMap::new(),
        snapshot: BTreeMap::new(),
        pages: None,
    };
    for sight in &viewer.sights {
        screen.take(sight, report);
    }
    screen.end(evidence, report);
}

impl Screen<'_> {
    fn take(&mut self, sight: &Sight, report: &mut Report) {
        let shop = &self.viewer.shop;
        match sight {
            Sight::Hello { recovered } => {
                self.coalescing = false;
                self.pages = None;
                report.expect(I7, !recovered || self.next.is_some(), || {
                    format!("a viewer of shop {shop} was told that nothing is missing, and had no place")
                });
                if *recovered {
                    self.had.extend(std::mem::take(&mut self.snapshot));
                } else {
                    self.next = None;
                    self.had.clear();
                    self.pages = Some(BTreeMap::new());
                }
            }
            Sight::Snapshot { baskets, up_to } => self.snapshot(baskets, *up_to, report),
            Sight::Coalesced => self.coalescing = true,
            Sight::Update {
                sequence,
                session,
                version,
            } => self.update(*sequence, session, *version, report),
        }
    }

    fn snapshot(&mut self, baskets: &[(String, u64)], up_to: Option<u64>, report: &mut Report) {
        let shop = &self.viewer.shop;
        for (session, version) in baskets {
            let had = self.shown.get(session).copied().unwrap_or(0);
            report.expect(I7, *version >= had, || {
                format!("a viewer of shop {shop} had {session} in version {had} and got a snapshot with {version}")
            });
        }
        let pages = self.pages.get_or_insert_default();
        pages.extend(baskets.iter().cloned());
        let Some(up_to) = up_to else { return };
        self.shown = self.pages.take().unwrap_or_default();
        self.snapshot = self.shown.clone();
        self.next = Some(self.told.partition_point(|(sequence, ..)| *sequence <= up_to));
    }

    fn update(&mut self, sequence: u64, session: &str, version: u64, report: &mut Report) {
        let shop = &self.viewer.shop;
        let had = self.shown.get(session).copied().unwrap_or(0);
        // A client knows by its version that it has this one.
        let again = self.had.get(session).is_some_and(|had| version <= *had);
        report.expect(I7, version > had || again, || {
            format!("a viewer of shop {shop} had {session} in version {had} and was told of {version}")
        });
        let place = self.told.iter().position(|(told, ..)| *told == sequence);
        let known = place.zip(self.next);
        report.expect(I7, known.is_some(), || {
            format!("a viewer of shop {shop} was told of {sequence}, which is not so or follows nothing")
        });
        let Some((place, next)) = known else { return };
        // What a snapshot had already is left out.
        let missing: Vec<u64> = self.told[next.min(place)..place]
            .iter()
            .filter(|(_, session, version)| self.shown.get(*session).is_none_or(|shown| shown < version))
            .map(|(sequence, ..)| *sequence)
            .collect();
        report.expect(I7, place >= next && (missing.is_empty() || self.coalescing), || {
            let next = self.told.get(next);
            format!("a viewer of shop {shop} was told of {sequence} after all before {next:?}, without {missing:?}")
        });
        self.next = Some(place + 1);
        self.shown.insert(session.to_owned(), version.max(had));
    }

    /// Ends with what is so: each basket that is shown in its last version, and none missing that is open.
    fn end(&self, evidence: &Evidence, report: &mut Report) {
        let shop = &self.viewer.shop;
        for (id, basket) in &evidence.baskets {
            let Some(session) = id.strip_prefix(&format!("{shop}.")) else {
                continue;
            };
            let version = match basket.get("version") {
                Some(Bson::Int64(version)) => u64::try_from(*version).unwrap_or(0),
                _ => 0,
            };
            let shown = self.shown.get(session).copied();
            let must = version > 0 && basket.get_str("status").is_ok_and(|status| status == "open");
            report.expect(I7, shown.map_or(!must, |shown| shown == version), || {
                format!("a viewer of shop {shop} ended with {session} in version {shown:?}, and it is {version}")
            });
        }
    }
}
