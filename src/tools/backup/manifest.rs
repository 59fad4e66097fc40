//! What a backup has: one file that names all others with their digests, and is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::files::{self, digest};
use crate::journal::{Lane, Spread};

/// The form that this program writes; it reads this one and those before it.
pub(in crate::tools) const FORMAT: u32 = 2;
/// That of a journal in one stream, which older programs read as well.
const FORMAT_OF_ONE: u32 = 1;
/// Name of the file.
pub(in crate::tools) const MANIFEST: &str = "manifest.json";
/// Folder of the events.
pub(in crate::tools) const JOURNAL: &str = "journal";
/// Folder of the documents.
pub(in crate::tools) const DOCUMENTS: &str = "documents";

/// A whole backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tools) struct Manifest {
    /// Form of the files.
    pub format: u32,
    /// Version of the program that wrote it.
    pub program: String,
    /// When it was taken.
    pub taken_at: String,
    /// The journal, or the first of the streams that it is spread over.
    pub journal: JournalPart,
    /// Its other streams, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<JournalPart>,
    /// What the journal cannot give back, by collection.
    pub documents: Vec<OfCollection>,
}

/// A stream of the journal in a backup. Sequences are those of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tools) struct JournalPart {
    pub epoch: Uuid,
    pub partitions: u16,
    /// The metadata of the stream, those two included.
    pub metadata: BTreeMap<String, String>,
    /// When the stream was created.
    pub created_at: String,
    /// Sequence of the first event; beyond the last where there is none.
    pub first_sequence: u64,
    /// The backup is true as of this sequence.
    pub last_sequence: u64,
    /// When that event was recorded; nothing where there never was one.
    pub last_recorded_at: Option<String>,
    /// Events, which are fewer than the sequences where some are gone.
    pub events: u64,
    pub segments: Vec<Segment>,
}

/// A file of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tools) struct Segment {
    pub file: String,
    pub first_sequence: u64,
    pub last_sequence: u64,
    pub events: u64,
    /// Bytes before they were packed.
    pub unpacked_bytes: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// The documents of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tools) struct OfCollection {
    pub collection: String,
    pub documents: u64,
    pub files: Vec<DocumentFile>,
}

/// A file of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::tools) struct DocumentFile {
    pub file: String,
    pub documents: u64,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Deserialize)]
struct Sealed {
    sha256: String,
    manifest: Box<RawValue>,
}

#[derive(Deserialize)]
struct OnlyFormat {
    format: u32,
}

impl Manifest {
    /// Reads that of a folder; nothing where there is none.
    pub(in crate::tools) fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let manifest = Self::parse(&text).with_context(|| format!("{} is damaged", path.display()))?;
        Ok(Some(manifest))
    }

    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let sealed: Sealed = serde_json::from_slice(text)?;
        let body = sealed.manifest.get();
        ensure!(digest(body.as_bytes()) == sealed.sha256, "its digest is another one");
        let OnlyFormat { format } = serde_json::from_str(body)?;
        if format > FORMAT {
            bail!("it has format {format}, and this program reads up to {FORMAT}: take a newer one");
        }
        let manifest: Self = serde_json::from_str(body)?;
        let streams = 1 + manifest.others.len();
        ensure!(
            u16::try_from(streams).ok().and_then(Spread::over).is_some(),
            "no journal has {streams} streams"
        );
        for file in manifest.files() {
            let named = Path::new(file);
            let plain = named
                .components()
                .all(|component| matches!(component, std::path::Component::Normal(_)));
            ensure!(plain, "{file} is no file of a backup");
        }
        Ok(manifest)
    }

    /// Replaces that of a folder: after a power cut there is the one before or this one.
    pub(in crate::tools) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let body = serde_json::to_string(self)?;
        let sealed = format!("{{\"sha256\":\"{}\",\n\"manifest\":{body}}}\n", digest(body.as_bytes()));
        files::replace(&folder.join(MANIFEST), sealed.as_bytes())
    }

    /// The form of a manifest of so many streams.
    pub(in crate::tools) fn format_of(spread: Spread) -> u32 {
        match spread {
            Spread::ONE => FORMAT_OF_ONE,
            _ => FORMAT,
        }
    }

    /// The streams of the journal.
    pub(in crate::tools) fn spread(&self) -> Spread {
        let streams = u16::try_from(1 + self.others.len()).ok();
        streams
            .and_then(Spread::over)
            .expect("it was looked at when it was read")
    }

    /// Each stream of the journal.
    pub(in crate::tools) fn parts(&self) -> impl DoubleEndedIterator<Item = (Lane, &JournalPart)> {
        let all: Vec<&JournalPart> = [&self.journal].into_iter().chain(&self.others).collect();
        self.spread().lanes().zip(all)
    }

    /// The stream that has a partition.
    pub(in crate::tools) fn part_of(&self, partition: u16) -> &JournalPart {
        let lane = self.spread().of_partition(partition);
        match lane.index().checked_sub(1) {
            None => &self.journal,
            Some(other) => &self.others[other],
        }
    }

    /// Events of all streams.
    pub(in crate::tools) fn events(&self) -> u64 {
        self.parts().map(|(_, part)| part.events).sum()
    }

    /// The files of events of all streams.
    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.parts().flat_map(|(_, part)| &part.segments)
    }

    /// The sequence that the backup is true as of, of several streams one for each.
    pub(in crate::tools) fn as_of(&self) -> String {
        let sequences = self.parts().map(|(_, part)| part.last_sequence.to_string());
        sequences.collect::<Vec<_>>().join(", ")
    }

    /// Every file that it names.
    pub(in crate::tools) fn files(&self) -> BTreeSet<&str> {
        let segments = self.segments().map(|segment| segment.file.as_str());
        let documents = self.documents.iter().flat_map(|documents| &documents.files);
        segments.chain(documents.map(|file| file.file.as_str())).collect()
    }

    /// Bytes of all files.
    pub(in crate::tools) fn bytes(&self) -> u64 {
        let segments: u64 = self.segments().map(|segment| segment.bytes).sum();
        let documents = self.documents.iter().flat_map(|documents| &documents.files);
        segments + documents.map(|file| file.bytes).sum::<u64>()
    }
}

/// The backup in a folder, which must be there.
pub(in crate::tools) fn read(folder: &Path) -> anyhow::Result<Manifest> {
    let manifest = Manifest::read(folder)?;
    manifest.with_context(|| format!("{} has no whole backup: there is no {MANIFEST}", folder.display()))
}

/// Reads a file and holds it to what the manifest says of it.
pub(in crate::tools) fn read_file(folder: &Path, file: &str, bytes: u64, sha256: &str) -> anyhow::Result<Vec<u8>> {
    let path: PathBuf = folder.join(file);
    let content = std::fs::read(&path).with_context(|| format!("{file} cannot be read"))?;
    ensure!(
        content.len() as u64 == bytes,
        "{file} has {} bytes instead of {bytes}",
        content.len()
    );
    ensure!(
        digest(&content) == sha256,
        "{file} is damaged: its digest is another one"
    );
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            program: "0.1.0".to_owned(),
            taken_at: "2026-01-31T08:00:00Z".to_owned(),
            journal: JournalPart {
                epoch: Uuid::nil(),
                partitions: 16,
                metadata: BTreeMap::new(),
                created_at: "2026-01-31T08:00:00Z".to_owned(),
                first_sequence: 1,
                last_sequence: 0,
                last_recorded_at: None,
                events: 0,
                segments: Vec::new(),
            },
            others: Vec::new(),
            documents: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        manifest().write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest()));
        let text = std::fs::read(folder.path().join(MANIFEST)).unwrap();
        for place in 0..text.len() {
            let mut flipped = text.clone();
            flipped[place] ^= 1;
            // White space between the two is no content.
            let is_content = Manifest::parse(&flipped).map_or(true, |read| read != manifest());
            assert!(is_content, "byte {place}");
        }
    }

    #[test]
    fn a_newer_form_and_files_elsewhere_are_refused() {
        let parse = |manifest: &Manifest| {
            let body = serde_json::to_string(manifest).unwrap();
            let sealed = format!("{{\"sha256\":\"{}\",\"manifest\":{body}}}", digest(body.as_bytes()));
            Manifest::parse(sealed.as_bytes())
        };
        let newer = Manifest {
            format: FORMAT + 1,
            ..manifest()
        };
        assert!(parse(&newer).unwrap_err().to_string().contains("take a newer one"));
        for file in ["../x", "/etc/passwd", "journal/../../x"] {
            let mut elsewhere = manifest();
            elsewhere.documents.push(OfCollection {
                collection: "audit".to_owned(),
                documents: 1,
                files: vec![DocumentFile {
                    file: file.to_owned(),
                    documents: 1,
                    bytes: 1,
                    sha256: String::new(),
                }],
            });
            assert!(parse(&elsewhere).is_err(), "{file}");
        }
    }
}
