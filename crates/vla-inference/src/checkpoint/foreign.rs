//! What a file holds instead of what its name promises, recognised by its first bytes. Asked only
//! after the parser of the file's own format has refused it, so that a parser's position in a web
//! page never is the message.

/// What the bytes are, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Completes "the file …".
    pub(super) what: &'static str,
    /// What to do.
    pub(super) remedy: &'static str,
}

/// Bytes of a file that are looked at.
const LOOKED_AT: usize = 512;

const DOWNLOAD_AGAIN: &str = "download it again";
const LFS: &str = "run git lfs install and git lfs pull in the folder, or download it with hf \
    download";
const SAVE_AS_SAFETENSORS: &str = "save the model with save_pretrained(safe_serialization=True)";

/// First bytes of a file, and what they mean.
const MAGIC: [(&[u8], Foreign); 12] = [
    (b"version https://git-lfs.github.com/spec/", foreign("is a Git LFS pointer", LFS)),
    (b"version https://hawser.github.com/spec/", foreign("is a Git LFS pointer", LFS)),
    (b"# xet version", foreign("is a pointer of git-xet, not the file", "run git xet pull")),
    (b"PK\x03\x04", foreign("is a zip archive or a PyTorch file", SAVE_AS_SAFETENSORS)),
    (b"\x80\x02", foreign("is a Python pickle, as older PyTorch files are", SAVE_AS_SAFETENSORS)),
    (
        b"GGUF",
        foreign("is a GGUF file with quantised weights", "use the bfloat16 *.safetensors files"),
    ),
    (b"\x1f\x8b", foreign("is compressed with gzip", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", foreign("is compressed with zstd", "unpack it first")),
    (b"\x89HDF", foreign("is an HDF5 file", "use the *.safetensors files of the model")),
    (b"\xff\xfe", foreign("is text in UTF-16", "save it as UTF-8")),
    (b"\xfe\xff", foreign("is text in UTF-16", "save it as UTF-8")),
    (b"#ROSBAG V2.0", foreign("is a ROS 1 bag", "give the folder of a checkpoint")),
];

/// Beginnings of texts that servers send instead of a file, in lower case and after white space.
const ANSWERS: [(&str, Foreign); 9] = [
    ("<!doctype", foreign("is a web page, not the file", DOWNLOAD_AGAIN)),
    ("<html", foreign("is a web page, not the file", DOWNLOAD_AGAIN)),
    ("<?xml", foreign("is an XML document, as a storage server's error is", DOWNLOAD_AGAIN)),
    ("<error>", foreign("is an XML document, as a storage server's error is", DOWNLOAD_AGAIN)),
    ("entry not found", foreign(NOT_FOUND, "check the name and download it again")),
    ("repository not found", foreign(NOT_FOUND, "check the name and download it again")),
    ("invalid username or password", foreign(REFUSED, "run hf auth login and download it again")),
    ("access to model", foreign(REFUSED, "accept the licence on its page, then download it again")),
    ("unauthorized", foreign(REFUSED, "run hf auth login and download it again")),
];
const NOT_FOUND: &str = "holds a server's answer that the file was not found";
const REFUSED: &str = "holds a server's refusal, not the file";

const fn foreign(what: &'static str, remedy: &'static str) -> Foreign {
    Foreign { what, remedy }
}

/// What the file's bytes are instead, where they are recognised.
pub(super) fn recognise(bytes: &[u8]) -> Option<Foreign> {
    if bytes.is_empty() {
        return Some(foreign("is empty", "restore the file from the original checkpoint"));
    }
    let head = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    // Checked before the formats: zeros are the beginning of none.
    if head.len() >= 8 && head.iter().all(|&byte| byte == 0) {
        return Some(foreign(
            "begins with zeros only: its place was reserved, its contents never arrived",
            DOWNLOAD_AGAIN,
        ));
    }
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(*found);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(foreign("is a tar archive", "unpack it and give the folder"));
    }
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']).to_lowercase();
    ANSWERS.iter().find(|(answer, _)| text.starts_with(answer)).map(|(_, found)| *found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_first_bytes() {
        let is = |bytes: &[u8], what: &str| {
            let found = recognise(bytes).map(|found| found.what).unwrap_or_default();
            assert!(found.contains(what), "{what}: {found}");
        };
        is(b"version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 8\n", "Git LFS");
        is(b"\n <!DOCTYPE html><html>", "web page");
        is(b"\xef\xbb\xbf<html>", "web page");
        is(b"Entry not found", "not found");
        is(b"Invalid username or password.", "refusal");
        is(b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "XML");
        is(b"", "empty");
        is(&[0; 9], "zeros");
        is(b"\x80\x02}q\x00", "pickle");
        assert_eq!(recognise(b"{\"a\": 1}"), None);
        assert_eq!(recognise(&[1; 600]), None);
    }
}
