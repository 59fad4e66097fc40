//! Files that are there whole or not at all, also after a power cut.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

/// End of the name of a file that is being written.
const UNFINISHED: &str = "part";
/// The file by which two who would write at once know of each other.
const LOCK: &str = "lock";

/// The SHA-256 of bytes, in hexadecimal digits.
pub(in crate::tools) fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Keeps others from writing into a folder for as long as it is held.
pub(super) fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(LOCK);
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!("another backup is being written into {}", folder.display()),
        Err(std::fs::TryLockError::Error(error)) => Err(error).context("cannot lock the folder"),
    }
}

/// Makes a folder and those above it.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Where a file is while it is being written.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

/// Writes a file, or replaces it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = unfinished(path);
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", part.display()))?;
    put_in_place(&part, path)
}

/// Gives a file that is written and synced its name.
pub(super) fn put_in_place(part: &Path, path: &Path) -> anyhow::Result<()> {
    let rename = || {
        std::fs::rename(part, path)?;
        // The name is on disk when its folder is.
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    rename().with_context(|| format!("cannot write {}", path.display()))
}

/// A file that counts and digests what is written to it.
pub(super) struct Digested {
    file: std::io::BufWriter<File>,
    sum: Sha256,
    bytes: u64,
}

impl Digested {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            file: std::io::BufWriter::new(file),
            sum: Sha256::new(),
            bytes: 0,
        })
    }

    /// Has everything on disk, and answers how many bytes and their digest.
    pub(super) fn finish(self) -> std::io::Result<(u64, String)> {
        self.file.into_inner()?.sync_all()?;
        Ok((self.bytes, hexadecimal(&self.sum.finalize())))
    }
}

impl std::io::Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_everybody_else() {
        assert_eq!(
            digest(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn two_do_not_write_into_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let refused = lock(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("another backup"), "{refused}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
