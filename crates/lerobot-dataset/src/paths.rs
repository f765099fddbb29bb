//! Paths below the dataset's folder: the template `data_path` of `info.json`.

/// The template that LeRobot writes.
pub const DATA_PATH: &str = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet";

/// Characters of a template.
const MAX_TEMPLATE: usize = 512;

/// A template with two numbers, as Python's `str.format` fills it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Chunk(usize),
    File(usize),
}

impl Template {
    /// Parses a template and refuses one that could name a file outside of the folder.
    ///
    /// # Errors
    /// In words, without the place.
    pub fn parse(text: &str) -> Result<Template, String> {
        if text.is_empty() || MAX_TEMPLATE < text.len() || text.chars().any(char::is_control) {
            return Err("is empty, too long or has control characters".to_owned());
        }
        if text.starts_with('/') || text.contains('\\') {
            return Err("is not a path below the folder".to_owned());
        }
        if text.split('/').any(|part| part == ".." || part == "." || part.is_empty()) {
            return Err("leaves the folder".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            let Some(close) = from.strip_prefix('{').and_then(|inside| inside.find('}')) else {
                return Err("has an unmatched brace".to_owned());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(field(&from[1..=close])?);
            rest = &from[close + 2..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template { parts })
    }

    /// The path of one file, relative to the folder.
    #[must_use]
    pub fn fill(&self, chunk: u64, file: u64) -> String {
        let one = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Chunk(width) => format!("{chunk:0width$}", width = *width),
            Part::File(width) => format!("{file:0width$}", width = *width),
        };
        self.parts.iter().map(one).collect()
    }
}

/// `chunk_index`, `file_index`, each with an optional `:0Nd`.
fn field(text: &str) -> Result<Part, String> {
    let (name, format) = text.split_once(':').unwrap_or((text, "d"));
    let digits = format.strip_suffix('d').unwrap_or(format);
    let width = match digits {
        "" => Some(0),
        digits if digits.len() <= 3 => digits.parse().ok().filter(|width: &usize| *width <= 20),
        _ => None,
    };
    match (name, width) {
        ("chunk_index", Some(width)) => Ok(Part::Chunk(width)),
        ("file_index", Some(width)) => Ok(Part::File(width)),
        _ => Err(format!("has the field {{{text}}}; {{chunk_index}} and {{file_index}} are known")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fills_as_python_does() {
        let template = Template::parse(DATA_PATH).unwrap();
        assert_eq!(template.fill(0, 7), "data/chunk-000/file-007.parquet");
        assert_eq!(template.fill(1234, 56), "data/chunk-1234/file-056.parquet");
        assert_eq!(Template::parse("d/{file_index}.parquet").unwrap().fill(3, 4), "d/4.parquet");
    }

    #[test]
    fn paths_out_of_the_folder_are_refused() {
        for wrong in [
            "",
            "/etc/passwd",
            "../{chunk_index}",
            "data/../../x",
            "data//x",
            "./x",
            "C:\\x",
            "data\\x",
            "data/{chunk_index",
            "data/}x",
            "data/{episode_index:06d}",
            "data/{chunk_index:0999d}",
            "data/{chunk_index!r}",
            "data/{chunk_index.__class__}",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_filled_path_stays_in_the_folder(text in "[a-z./{}:0-9_\\\\]{0,40}", chunk: u64) {
            if let Ok(template) = Template::parse(&text) {
                let path = template.fill(chunk, 0);
                prop_assert!(!path.starts_with('/'), "{path}");
                prop_assert!(path.split('/').all(|part| part != ".." && part != "."), "{path}");
            }
        }
    }
}
