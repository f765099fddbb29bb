//! The machine as checks read it: a root folder, variables and a user, all of which tests make up.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The largest file of /proc or /sys read, bytes.
const FILE_MAX: u64 = 1 << 20;
/// The most entries of a folder looked at.
const ENTRIES_MAX: usize = 4096;

/// Where checks look.
pub(super) struct Host {
    root: PathBuf,
    variables: BTreeMap<String, String>,
    user: u32,
    groups: Vec<u32>,
}

/// Space of a file system, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) free: u64,
    pub(super) total: u64,
}

impl Host {
    /// This machine.
    pub(super) fn this() -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let mut host = Self {
            root: PathBuf::from("/"),
            variables: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
            user: 0,
            groups: Vec::new(),
        };
        // The effective user and groups, from the text that tests make up, too.
        let status = host.read("/proc/self/status").unwrap_or_default();
        let numbers = |field: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect()
        };
        host.user = numbers("Uid:").get(1).copied().unwrap_or(u32::MAX);
        host.groups = numbers("Groups:");
        host.groups.extend(numbers("Gid:").get(1));
        host
    }

    /// A made-up machine below `root`.
    #[cfg(test)]
    pub(super) fn below(root: &Path, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self { root: root.into(), variables: variables.collect(), user: 0, groups: Vec::new() }
    }

    /// The same machine as this user, in no group.
    #[cfg(test)]
    pub(super) fn of_user(self, user: u32) -> Self {
        Self { user, groups: Vec::new(), ..self }
    }

    /// Where an absolute path lies.
    pub(super) fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.root.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    pub(super) fn exists(&self, absolute: impl AsRef<Path>) -> bool {
        self.path(absolute).exists()
    }

    pub(super) fn is_folder(&self, absolute: impl AsRef<Path>) -> bool {
        self.path(absolute).is_dir()
    }

    /// A file's text, without white space around it; `None` when it cannot be read.
    pub(super) fn read(&self, absolute: impl AsRef<Path>) -> Option<String> {
        let mut bytes = Vec::new();
        File::open(self.path(absolute)).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file's number.
    pub(super) fn number(&self, absolute: impl AsRef<Path>) -> Option<u64> {
        self.read(absolute)?.parse().ok()
    }

    /// Names in a folder, sorted.
    pub(super) fn list(&self, absolute: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.path(absolute)).into_iter().flatten().take(ENTRIES_MAX);
        let mut names: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// A variable's value; `None` when it is unset or empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether the user is root.
    pub(super) fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Whether the user may read and write a file, by its mode; access lists are not read.
    pub(super) fn may_use(&self, absolute: impl AsRef<Path>) -> bool {
        let Ok(metadata) = fs::metadata(self.path(absolute)) else { return false };
        let shift = if metadata.uid() == self.user {
            6
        } else if self.groups.contains(&metadata.gid()) {
            3
        } else {
            0
        };
        self.is_root() || metadata.mode() >> shift & 0o6 == 0o6
    }

    /// Space of the file system of a path, or of its nearest folder that exists.
    pub(super) fn space(&self, absolute: impl AsRef<Path>) -> Option<Space> {
        let path = self.path(absolute);
        let existing = path.ancestors().find(|path| path.exists())?;
        let text = std::ffi::CString::new(existing.as_os_str().as_encoded_bytes()).ok()?;
        // SAFETY: an all-zero statvfs is a valid value of this plain structure.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a zero-terminated path and a structure of this call, both alive during it.
        let status = unsafe { libc::statvfs(text.as_ptr(), &raw mut found) };
        (status == 0).then(|| Space {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// Bytes in the unit that reads best.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, f64); 3] = [("GiB", 1073741824.0), ("MiB", 1048576.0), ("KiB", 1024.0)];
    let count = count as f64;
    let unit = UNITS.iter().find(|(_, size)| *size <= count);
    unit.map_or_else(|| format!("{count} B"), |(name, size)| format!("{:.1} {name}", count / size))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn permissions_are_those_of_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("device");
        fs::write(&file, "").unwrap();
        let owner = fs::metadata(&file).unwrap().uid();
        let host = |user| Host::below(folder.path(), &[]).of_user(user);
        let set = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let other = owner + 1;
        for (mode, of_other) in [(0o600, false), (0o666, true), (0o664, false), (0o662, false)] {
            set(mode);
            assert_eq!(host(other).may_use("/device"), of_other, "{mode:o}");
        }
        set(0o060);
        assert_eq!(host(owner).may_use("/device"), owner == 0);
        let mut member = host(other);
        member.groups.push(fs::metadata(&file).unwrap().gid());
        assert!(member.may_use("/device"));
        assert!(!host(0).may_use("/missing"));
    }

    #[test]
    fn this_machine_is_read() {
        let host = Host::this();
        assert_ne!(host.user, u32::MAX);
        assert!(host.read("/proc/meminfo").unwrap().contains("MemTotal"));
        let space = host.space("/no/such/folder").unwrap();
        assert!(0 < space.total && space.free <= space.total);
        assert_eq!(host.read("/no/such/file"), None);
    }

    #[test]
    fn bytes_read_well() {
        assert_eq!((bytes(12), bytes(64 << 20)), ("12 B".to_owned(), "64.0 MiB".to_owned()));
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }
}
