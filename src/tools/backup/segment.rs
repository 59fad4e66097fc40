//! A file of events: packed records, in the order of the journal, closed by their number.
//!
//! Unpacked it begins with [`MAGIC`] and the journal's epoch. A record is its length, sequence, time, the lengths of
//! subject and headers, and then these and the body; numbers are little-endian. A record of length 0 is the end, with the
//! number of the records, so a file that was cut off is known by that alone.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use uuid::Uuid;

use super::files::{self, Digested};
use super::manifest::{JOURNAL, Segment};
use crate::nats::Original;

/// The first bytes, the last of which is the form.
const MAGIC: &[u8; 8] = b"EZOUTJ\0\x01";
/// How hard it is packed; more costs much and saves little.
const LEVEL: i32 = 3;
/// Bytes of a record beside subject, headers and body.
const FIXED: usize = 8 + 8 + 2 + 4;
/// A longer record is none: the server takes no such message.
const RECORD_MAX: usize = 64 * 1024 * 1024;

/// A segment that is being written.
pub(super) struct Writer {
    packed: zstd::Encoder<'static, Digested>,
    folder: PathBuf,
    part: PathBuf,
    first: u64,
    last: u64,
    events: u64,
    bytes: u64,
}

impl Writer {
    /// Begins a segment with the event of this sequence.
    pub(super) fn create(folder: &Path, epoch: Uuid, first: u64) -> anyhow::Result<Self> {
        let part = files::unfinished(&folder.join(JOURNAL).join(format!("{first:020}")));
        let mut packed = zstd::Encoder::new(Digested::create(&part)?, LEVEL)?;
        packed.write_all(MAGIC)?;
        packed.write_all(epoch.as_bytes())?;
        Ok(Self {
            packed,
            folder: folder.to_owned(),
            part,
            first,
            last: 0,
            events: 0,
            bytes: 0,
        })
    }

    pub(super) fn add(&mut self, event: &Original) -> anyhow::Result<()> {
        let length = FIXED + event.subject.len() + event.headers.len() + event.body.len();
        let mut fixed = Vec::with_capacity(4 + FIXED);
        fixed.extend_from_slice(&u32::try_from(length)?.to_le_bytes());
        fixed.extend_from_slice(&event.sequence.to_le_bytes());
        fixed.extend_from_slice(&event.stored_ns.to_le_bytes());
        fixed.extend_from_slice(&u16::try_from(event.subject.len())?.to_le_bytes());
        fixed.extend_from_slice(&u32::try_from(event.headers.len())?.to_le_bytes());
        for part in [
            &fixed[..],
            event.subject.as_bytes(),
            event.headers.as_bytes(),
            &event.body,
        ] {
            self.packed.write_all(part).context("cannot write events")?;
        }
        self.last = event.sequence;
        self.events += 1;
        self.bytes += 4 + length as u64;
        Ok(())
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends it, has it on disk, and gives it its name.
    pub(super) fn close(mut self) -> anyhow::Result<Segment> {
        self.packed.write_all(&0_u32.to_le_bytes())?;
        self.packed.write_all(&self.events.to_le_bytes())?;
        let (bytes, sha256) = self.packed.finish()?.finish().context("cannot write events")?;
        let file = name(self.first, self.last);
        files::put_in_place(&self.part, &self.folder.join(&file))?;
        Ok(Segment {
            file,
            first_sequence: self.first,
            last_sequence: self.last,
            events: self.events,
            unpacked_bytes: self.bytes,
            bytes,
            sha256,
        })
    }
}

/// The file of the events from one sequence to another.
fn name(first: u64, last: u64) -> String {
    format!("{JOURNAL}/{first:020}-{last:020}.zst")
}

/// The sequences that the name of a file tells.
pub(super) fn sequences(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_suffix(".zst")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// The events of a segment, one after the other.
pub(in crate::tools) struct Reader<'a> {
    unpacked: zstd::Decoder<'static, std::io::BufReader<&'a [u8]>>,
    events: u64,
    bytes: u64,
    last: u64,
    over: bool,
}

impl<'a> Reader<'a> {
    /// Reads the content of a file that has events of this journal.
    pub(in crate::tools) fn open(content: &'a [u8], epoch: Uuid) -> anyhow::Result<Self> {
        let mut reader = Self {
            unpacked: zstd::Decoder::new(content)?,
            events: 0,
            bytes: 0,
            last: 0,
            over: false,
        };
        ensure!(reader.take::<8>()? == *MAGIC, "it is no file of events");
        let of = Uuid::from_bytes(reader.take()?);
        ensure!(of == epoch, "its events are of another journal (epoch {of})");
        Ok(reader)
    }

    fn take<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.unpacked.read_exact(&mut bytes).context("it is cut off")?;
        Ok(bytes)
    }

    /// The next event; nothing after the last.
    pub(in crate::tools) fn next(&mut self) -> anyhow::Result<Option<Original>> {
        if self.over {
            return Ok(None);
        }
        let length = u32::from_le_bytes(self.take()?) as usize;
        if length == 0 {
            let events = u64::from_le_bytes(self.take()?);
            ensure!(
                events == self.events,
                "it has {} events instead of {events}",
                self.events
            );
            self.over = true;
            return Ok(None);
        }
        ensure!(
            (FIXED..=RECORD_MAX).contains(&length),
            "a record cannot have {length} bytes"
        );
        let sequence = u64::from_le_bytes(self.take()?);
        let stored_ns = i64::from_le_bytes(self.take()?);
        let subject = usize::from(u16::from_le_bytes(self.take()?));
        let headers = u32::from_le_bytes(self.take()?) as usize;
        let mut rest = vec![0; length - FIXED];
        self.unpacked.read_exact(&mut rest).context("it is cut off")?;
        let Some(body) = subject.checked_add(headers).filter(|body| *body <= rest.len()) else {
            bail!("event {sequence} is shorter than its headers");
        };
        ensure!(sequence > self.last, "event {sequence} comes after event {}", self.last);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("a subject or a header is no text");
        let event = Original {
            sequence,
            stored_ns,
            subject: text(&rest[..subject])?,
            headers: text(&rest[subject..body])?,
            body: rest.split_off(body).into(),
        };
        self.last = sequence;
        self.events += 1;
        self.bytes += 4 + length as u64;
        Ok(Some(event))
    }
}

/// Reads all events of a file, and answers what the manifest says of it.
pub(super) fn survey(folder: &Path, file: &str, epoch: Uuid) -> anyhow::Result<Segment> {
    let content = std::fs::read(folder.join(file)).with_context(|| format!("{file} cannot be read"))?;
    let mut reader = Reader::open(&content, epoch)?;
    let mut first = None;
    while let Some(event) = reader.next()? {
        first.get_or_insert(event.sequence);
    }
    Ok(Segment {
        file: file.to_owned(),
        first_sequence: first.unwrap_or(0),
        last_sequence: reader.last,
        events: reader.events,
        unpacked_bytes: reader.bytes,
        bytes: content.len() as u64,
        sha256: files::digest(&content),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64) -> Original {
        Original {
            sequence,
            stored_ns: -5,
            subject: format!("checkout.1.{sequence}"),
            headers: if sequence == 2 {
                String::new()
            } else {
                "a: ü\r\nb: 2\r\n".to_owned()
            },
            body: vec![0, 255, 10].into(),
        }
    }

    #[test]
    fn events_are_read_as_they_were_written_and_nothing_of_a_file_that_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        files::make_folder(&folder.path().join(JOURNAL)).unwrap();
        let mut writer = Writer::create(folder.path(), Uuid::max(), 1).unwrap();
        let events = [1, 2, 7].map(event);
        for event in &events {
            writer.add(event).unwrap();
        }
        let segment = writer.close().unwrap();
        assert_eq!(
            (segment.first_sequence, segment.last_sequence, segment.events),
            (1, 7, 3)
        );
        assert_eq!(survey(folder.path(), &segment.file, Uuid::max()).unwrap(), segment);
        let (_, file) = segment.file.split_once('/').unwrap();
        assert_eq!(sequences(file), Some((1, 7)));

        let content = std::fs::read(folder.path().join(&segment.file)).unwrap();
        let read = |content: &[u8], epoch| -> anyhow::Result<Vec<Original>> {
            let mut reader = Reader::open(content, epoch)?;
            std::iter::from_fn(|| reader.next().transpose()).collect()
        };
        assert_eq!(read(&content, Uuid::max()).unwrap(), events);
        assert!(read(&content, Uuid::nil()).is_err());
        for length in 0..content.len() {
            assert!(read(&content[..length], Uuid::max()).is_err(), "{length} bytes");
        }
    }
}
