//! Packed weights on disk, so that the next start of the same model neither converts nor packs.
//!
//! A file's name is the SHA-256 of everything that determines its bytes: stored weights, folded
//! factors, column order per chip, number format and provider. Another checkpoint or layout
//! therefore has another name. A file whose content does not match its name, length or checksum is
//! replaced, with a warning.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Version of the file layout and of the weights' preparation before packing.
const MAGIC: [u8; 16] = *b"openvla_tt pk 1\0";
/// Magic, name, checksum of the payload.
const HEADER: usize = 16 + 32 + 32;

/// A folder of packed weights.
pub struct WeightCache {
    folder: PathBuf,
    found: AtomicU64,
    packed: AtomicU64,
}

/// Hits and misses of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Weights read from the cache.
    pub found: u64,
    /// Weights packed and written.
    pub packed: u64,
}

/// Hash of everything that determines the bytes of a packed weight.
pub struct Key(Sha256);

impl Key {
    /// Starts a key with the mesh's provider and number of chips.
    #[must_use]
    pub fn new(provider: &str, chips: usize) -> Self {
        let mut key = Self(Sha256::new());
        key.add(&MAGIC);
        key.add(provider.as_bytes());
        key.add(&(chips as u64).to_le_bytes());
        key
    }

    /// Adds a length-prefixed part.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

impl WeightCache {
    /// Opens a folder as a cache, creating it if missing.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), found: AtomicU64::new(0), packed: AtomicU64::new(0) })
    }

    /// Hits and misses so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            found: self.found.load(Ordering::Relaxed),
            packed: self.packed.load(Ordering::Relaxed),
        }
    }

    /// The `length` bytes under this key, from the folder or from `pack`.
    ///
    /// # Errors
    /// Those of `pack`; a folder that cannot be read or written only warns.
    pub fn get<E>(
        &self,
        key: Key,
        length: usize,
        pack: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let key = key.finish();
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.join(format!("{name}.tiles"));
        match read(&path, &key, length) {
            Ok(Some(bytes)) => {
                self.found.fetch_add(1, Ordering::Relaxed);
                return Ok(bytes);
            }
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!("{}: {problem}; the weight is packed anew", path.display())
            }
        }
        let bytes = pack()?;
        self.packed.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = write(&self.folder, &path, &key, &bytes) {
            tracing::warn!(
                "{}: {error}; the weight is not kept, check --weight-cache",
                path.display()
            );
        }
        Ok(bytes)
    }
}

/// Content of a cache file; `None` when it does not exist.
fn read(path: &Path, key: &[u8; 32], length: usize) -> Result<Option<Vec<u8>>, String> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // The length is known beforehand, which bounds the read.
    let wanted = (HEADER + length) as u64;
    let there = file.metadata().map_err(|error| error.to_string())?.len();
    if there != wanted {
        return Err(format!("{there} bytes where {wanted} were written"));
    }
    let mut header = [0; HEADER];
    let mut bytes = vec![0; length];
    file.read_exact(&mut header)
        .and_then(|()| file.read_exact(&mut bytes))
        .map_err(|error| error.to_string())?;
    let (magic, rest) = header.split_at(MAGIC.len());
    let (name, checksum) = rest.split_at(key.len());
    if magic != MAGIC || name != key {
        return Err("its header does not match its name".into());
    }
    if checksum != Sha256::digest(&bytes).as_slice() {
        return Err("its checksum is wrong: it is damaged".into());
    }
    Ok(Some(bytes))
}

/// Writes to a temporary file and renames it, so that readers never get a partial file.
fn write(folder: &Path, path: &Path, key: &[u8; 32], bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&MAGIC)?;
    file.write_all(key)?;
    file.write_all(&Sha256::digest(bytes))?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(part: &[u8]) -> Key {
        let mut key = Key::new("provider", 2);
        key.add(part);
        key
    }

    fn get(cache: &WeightCache, part: &[u8], bytes: &[u8]) -> Vec<u8> {
        cache.get(key(part), bytes.len(), || Ok::<_, ()>(bytes.to_vec())).unwrap()
    }

    #[test]
    fn damaged_files_are_repacked() {
        let folder = tempfile::tempdir().unwrap();
        let cache = WeightCache::open(&folder.path().join("made")).unwrap();
        let bytes: Vec<u8> = (0..200).collect();
        assert_eq!(get(&cache, b"a", &bytes), bytes);
        assert_eq!(get(&cache, b"a", &[0; 200]), bytes, "from the folder");
        assert_eq!(get(&cache, b"b", &[7; 200]), [7; 200], "another key");
        assert_eq!(cache.counts(), CacheCounts { found: 1, packed: 2 });
        let file = |part: &[u8]| {
            let name: String =
                key(part).finish().iter().map(|byte| format!("{byte:02x}")).collect();
            folder.path().join("made").join(format!("{name}.tiles"))
        };
        let whole = std::fs::read(file(b"a")).unwrap();
        let mut bent = whole.clone();
        bent[HEADER + 5] ^= 1;
        let mut grown = whole.clone();
        grown.push(0);
        // Every byte counts: payload, magic, name, checksum, length.
        let flipped = |at: usize| {
            let mut copy = whole.clone();
            copy[at] ^= 0x80;
            copy
        };
        let other = std::fs::read(file(b"b")).unwrap();
        for damaged in [
            bent,
            grown,
            whole[..whole.len() - 1].to_vec(),
            vec![],
            flipped(0),
            flipped(20),
            flipped(50),
            other,
        ] {
            std::fs::write(file(b"a"), &damaged).unwrap();
            assert_eq!(get(&cache, b"a", &bytes), bytes);
            assert_eq!(std::fs::read(file(b"a")).unwrap(), whole, "made anew");
        }
        assert_eq!(cache.counts(), CacheCounts { found: 1, packed: 10 });
    }

    #[test]
    fn key_parts_are_delimited() {
        let name = |parts: &[&[u8]]| {
            let mut key = Key::new("p", 1);
            parts.iter().for_each(|part| key.add(part));
            key.finish()
        };
        assert_ne!(name(&[b"ab", b"c"]), name(&[b"a", b"bc"]));
        assert_ne!(name(&[b"ab"]), name(&[b"ab", b""]));
        assert_ne!(Key::new("p", 1).finish(), Key::new("p", 2).finish());
    }
}
