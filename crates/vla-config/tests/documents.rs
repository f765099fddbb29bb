//! `docs/parameters.md` is the table of parameters.
#![allow(clippy::unwrap_used)]

use vla_config::{PARAMETERS_MD, TABLE, Values, help, markdown};

#[test]
fn the_document_is_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PARAMETERS_MD);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, markdown()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == markdown(),
        "{PARAMETERS_MD} is out of date: UPDATE=1 cargo test -p vla-config --test documents"
    );
}

#[test]
fn rows_are_complete_and_unique() {
    for (i, row) in TABLE.iter().enumerate() {
        assert!(TABLE[..i].iter().all(|other| other.name != row.name), "{} twice", row.name);
        assert!(20 < row.text.len() && row.text.ends_with('.'), "{}", row.name);
        let number = matches!(
            row.kind(),
            vla_config::Type::Integer | vla_config::Type::Double | vla_config::Type::Doubles
        );
        assert_eq!(number, row.range.is_some(), "{}", row.name);
        // The default can be given, and is read back as it was.
        let (mut values, default) = (Values::default(), row.get(&Values::default()));
        row.set(&mut values, &default).unwrap();
        assert_eq!(row.get(&values), default, "{}", row.name);
        assert!(help().contains(row.name));
    }
}
