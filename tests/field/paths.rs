//! Texts that are given as the path of a checkpoint.

use std::path::PathBuf;

use super::checkpoint_support::kit;
use super::folders::{link_kit, put};
use super::program::{Input, Should, check};

#[test]
fn paths_are_expanded_or_named() {
    let root = tempfile::tempdir().unwrap();
    let home = root.path().to_owned();
    link_kit(&home.join("models/openvla"));
    std::os::unix::fs::symlink("/mnt/disk/openvla-7b", home.join("broken")).unwrap();
    std::os::unix::fs::symlink("models", home.join("link")).unwrap();
    put(&home.join("file"), b"text");
    let given = |name, text: &str, should| Input {
        home: Some(home.clone()),
        ..Input::checkpoint(name, PathBuf::from(text), should)
    };
    let act = |name, text: &str| given(name, text, Should::Act(""));
    let refuse = |name, text: &str, parts| given(name, text, Should::Refuse(parts));
    let at = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let download: &[&str] = &["hf download openvla/openvla-7b --local-dir"];
    check(&[
        act("tilde", "~/models/openvla"),
        act("home_variable", "$HOME/models/openvla"),
        act("home_in_braces", "${HOME}/models/openvla"),
        act("slash_at_the_end", &format!("{}/", at("models/openvla"))),
        act("link_to_a_folder", &at("link/openvla")),
        refuse("tilde_user", "~robot/models/openvla", &["only ~/ is expanded"]),
        refuse("other_variable", "$MODELS/openvla", &["$ is not expanded"]),
        refuse("hub_name", "openvla/openvla-7b", download),
        refuse("hub_name_revision", "openvla/openvla-7b@main", download),
        refuse("hub_scheme", "hf:openvla/openvla-7b", download),
        refuse("hub_url", "https://huggingface.co/openvla/openvla-7b/tree/main", download),
        refuse("file_url", "file:///models/openvla", &["write the path alone: /models/openvla"]),
        refuse("space_at_the_end", &format!("{} ", at("models/openvla")), &["white space"]),
        refuse("line_break_at_the_end", "/models/openvla\n", &["white space"]),
        refuse("in_quotes", "\"/models/openvla\"", &["is in quotation marks"]),
        refuse("broken_link", &at("broken"), &["is a link to \"/mnt/disk/openvla-7b\""]),
        refuse("below_a_broken_link", &at("broken/x"), &["is a link to \"/mnt/disk/openvla-7b\""]),
        refuse("misspelt_part", &at("modles/openvla"), &["modles\": check the spelling"]),
        refuse("below_a_file", &at("file/x"), &["file\" is a file"]),
    ]);
    assert!(kit().is_dir());
}
