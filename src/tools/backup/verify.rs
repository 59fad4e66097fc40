//! Reading a whole backup, and naming what is broken.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use mongodb::bson::Document;

use super::manifest::{self, DocumentFile, Manifest, Segment};
use super::{bar, segment};
use crate::tools::{complain, say};

/// Reads everything and holds it to its digest.
///
/// # Errors
/// Where anything is broken; each file is named before.
pub(super) fn run(folder: &Path) -> anyhow::Result<()> {
    let manifest = manifest::read(folder)?;
    let bar = bar(manifest.events())?;
    let mut broken = 0_u64;
    let mut tell = |outcome: anyhow::Result<()>, file: &str| {
        if let Err(error) = outcome {
            broken += 1;
            bar.suspend(|| complain(&format!("BROKEN {file}: {error:#}")));
        }
    };
    for (_, part) in manifest.parts() {
        let mut next = part.first_sequence;
        for segment in &part.segments {
            let of_segment = events(folder, &manifest, segment).and_then(|()| {
                ensure!(
                    segment.first_sequence >= next,
                    "it begins before the one before it has ended"
                );
                Ok(())
            });
            tell(of_segment, &segment.file);
            next = segment.last_sequence + 1;
            bar.inc(segment.events);
        }
        let events: u64 = part.segments.iter().map(|segment| segment.events).sum();
        if events != part.events {
            tell(
                Err(anyhow::anyhow!("its files have {events} events")),
                manifest::MANIFEST,
            );
        }
    }
    for part in &manifest.documents {
        for file in &part.files {
            tell(documents(folder, file).map(drop), &file.file);
        }
    }
    bar.finish_and_clear();
    if broken > 0 {
        bail!("{broken} of the files are broken");
    }
    say(&super::told(&manifest));
    Ok(())
}

fn events(folder: &Path, manifest: &Manifest, segment: &Segment) -> anyhow::Result<()> {
    let content = manifest::read_file(folder, &segment.file, segment.bytes, &segment.sha256)?;
    drop(content);
    let found = segment::survey(folder, &segment.file, manifest.journal.epoch)?;
    ensure!(found == *segment, "it does not have what the manifest says");
    Ok(())
}

/// The documents of a file.
pub(in crate::tools) fn documents(folder: &Path, file: &DocumentFile) -> anyhow::Result<Vec<Document>> {
    let content = manifest::read_file(folder, &file.file, file.bytes, &file.sha256)?;
    let unpacked = zstd::decode_all(&content[..]).context("it cannot be unpacked")?;
    let mut rest = &unpacked[..];
    let mut documents = Vec::new();
    while !rest.is_empty() {
        documents.push(Document::from_reader(&mut rest).context("it has what is no document")?);
    }
    ensure!(
        documents.len() as u64 == file.documents,
        "it has {} documents instead of {}",
        documents.len(),
        file.documents
    );
    Ok(documents)
}
