//! What bytes are that are no JPEG or PNG.

/// Beginnings by which a kind of file is recognised.
const KINDS: &[(&[u8], &str)] = &[
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"P5\n", "a PGM"),
    (b"P6\n", "a PPM"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF"),
    (b"qoif", "a QOI"),
    (b"\0\0\0\x01", "a part of an H.264 or H.265 video"),
    (b"\0\0\x01", "a part of an H.264 or H.265 video"),
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull` to fetch the file itself"),
    (b"<!DOCTYPE", "an HTML page: the download failed"),
    (b"<!doctype", "an HTML page: the download failed"),
    (b"<html", "an HTML page: the download failed"),
    (b"<svg", "an SVG"),
    (b"<?xml", "an XML file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip-compressed"),
];

/// Names of the formats in the container that HEIC, AVIF and videos share, by their brand.
const BRANDS: &[(&[u8], &str)] = &[
    (b"heic", "a HEIC, as phones save them"),
    (b"heix", "a HEIC, as phones save them"),
    (b"mif1", "a HEIF, as phones save them"),
    (b"avif", "an AVIF"),
];

/// What the bytes look like, with an article.
pub(super) fn found(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        return "empty";
    }
    if let Some(rest) = bytes.get(4..).and_then(|rest| rest.strip_prefix(b"ftyp")) {
        let brand = BRANDS.iter().find(|(brand, _)| rest.starts_with(brand));
        return brand.map_or("an MP4 video", |(_, name)| name);
    }
    if bytes.starts_with(b"RIFF") {
        return match bytes.get(8..12) {
            Some(b"WEBP") => "a WebP",
            Some(b"AVI ") => "an AVI video",
            _ => "a RIFF file",
        };
    }
    if let Some((_, name)) = KINDS.iter().find(|(start, _)| bytes.starts_with(start)) {
        return name;
    }
    if bytes.iter().all(|byte| *byte == 0) {
        return "zeros only";
    }
    if is_depth_header(bytes) {
        return "a depth image of compressed_depth_image_transport";
    }
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    let rest = &bytes[start..];
    if start > 0 && (rest.starts_with(b"\xff\xd8\xff") || rest.starts_with(b"\x89PNG")) {
        return "white space before a picture: the file was changed as a text";
    }
    if bytes.starts_with(b"\xef\xbf\xbd") {
        return "a picture that was saved as a text, which cannot be undone";
    }
    if bytes.iter().take(200).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return "a text";
    }
    "unknown"
}

/// Whether the bytes are those of `compressed_depth_image_transport`: a format number and two
/// parameters before a PNG.
pub(super) fn is_depth_header(bytes: &[u8]) -> bool {
    bytes.get(12..).is_some_and(|rest| rest.starts_with(b"\x89PNG\r\n\x1a\n"))
        && matches!(bytes[..4], [0 | 1, 0, 0, 0])
}
