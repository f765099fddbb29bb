//! The header and the Rust declarations cannot drift: Rust's view is written out as C and a C
//! compiler compares.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use tt_metal_sys::{CONSTANTS, HEADER, STRUCT_NAMES, signatures, struct_layouts};

/// The C spelling of a Rust type of the ABI.
fn c_type(rust: &str) -> String {
    let rust = rust.trim();
    if let Some(inner) = rust.strip_prefix("*const ") {
        return format!("const {}*", c_type(inner));
    }
    if let Some(inner) = rust.strip_prefix("*mut ") {
        return format!("{}*", c_type(inner));
    }
    if let Some((_, c)) = STRUCT_NAMES.iter().find(|(name, _)| *name == rust) {
        return (*c).into();
    }
    match rust {
        "u32" => "uint32_t",
        "i32" => "int32_t",
        "u64" => "uint64_t",
        "f32" => "float",
        "Status" => "ttp_status",
        "MeshHandle" => "ttp_mesh",
        "TensorHandle" => "ttp_tensor",
        "TraceHandle" => "ttp_trace",
        "c_char" => "char",
        "c_void" => "void",
        other => panic!("no C spelling for {other}"),
    }
    .into()
}

/// C that compiles only with a header of identical declarations.
fn comparison() -> String {
    let mut c = String::from("#include <stddef.h>\n");
    for (name, value) in CONSTANTS {
        writeln!(c, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    for layout in struct_layouts() {
        let name = layout.c_name;
        writeln!(c, "_Static_assert(sizeof({name}) == {}, \"size of {name}\");", layout.size)
            .unwrap();
        writeln!(
            c,
            "_Static_assert(_Alignof({name}) == {}, \"alignment of {name}\");",
            layout.align
        )
        .unwrap();
        for (field, offset, ty) in layout.fields {
            writeln!(
                c,
                "_Static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");"
            )
            .unwrap();
            // A pointer of the wrong type is an error under the flags below.
            let (ty, place) = match ty.strip_prefix('[').and_then(|t| t.strip_suffix("; 4]")) {
                Some(element) => (c_type(element), format!("&p->{field}[3]")),
                None => (c_type(ty), format!("&p->{field}")),
            };
            writeln!(c, "{ty}* check_{name}_{field}({name}* p) {{ return {place}; }}").unwrap();
        }
    }
    for signature in signatures() {
        let parameters: Vec<String> = signature
            .parameters
            .iter()
            .map(|(name, ty)| format!("{} {name}", c_type(ty)))
            .collect();
        let parameters = if parameters.is_empty() { "void".into() } else { parameters.join(", ") };
        // A second declaration with another type is an error in C.
        writeln!(c, "{} {}({parameters});", c_type(signature.result), signature.name).unwrap();
    }
    c
}

fn compiles(header: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tt_provider.h"), header).unwrap();
    let source = folder.path().join("compare.c");
    std::fs::write(&source, format!("#include \"tt_provider.h\"\n{}", comparison())).unwrap();
    let target = "x86_64-unknown-linux-gnu";
    let compiler = cc::Build::new()
        .target(target)
        .host(target)
        .opt_level(0)
        .cargo_metadata(false)
        .get_compiler();
    let output = Command::new(compiler.path())
        .args(["-std=c11", "-fsyntax-only", "-Wall", "-Werror"])
        .arg(&source)
        .output()
        .expect("a C compiler is needed for this test");
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Names of the functions that the header declares, comments left out.
fn declared_functions(header: &str) -> BTreeSet<String> {
    let mut code = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        code.push_str(before);
        rest = after.split_once("*/").expect("comment is closed").1;
    }
    code.push_str(rest);
    code.match_indices('(')
        .filter_map(|(at, _)| {
            let name: String =
                code[..at].chars().rev().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let name: String = name.chars().rev().collect();
            name.starts_with("ttp_").then_some(name)
        })
        .collect()
}

fn declared_constants(header: &str) -> BTreeSet<String> {
    header
        .split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.starts_with("TTP_") && !word.ends_with('_'))
        .map(String::from)
        .collect()
}

#[test]
fn the_header_says_what_rust_says() {
    compiles(HEADER).unwrap();
}

#[test]
fn both_have_the_same_functions_and_constants() {
    let ours: BTreeSet<String> = signatures().iter().map(|s| s.name.to_string()).collect();
    assert_eq!(declared_functions(HEADER), ours);
    let ours: BTreeSet<String> = CONSTANTS.iter().map(|(name, _)| name.to_string()).collect();
    // Comments speak of them too; what they name must exist.
    assert_eq!(declared_constants(HEADER), ours);
}

#[test]
fn a_changed_header_is_noticed() {
    let changes = [
        ("TTP_TRACE_RULE = 6,", "TTP_TRACE_RULE = 16,"),
        (
            "ttp_status ttp_trace_run(ttp_trace trace, uint32_t blocking);",
            "ttp_status ttp_trace_run(ttp_trace trace, uint64_t blocking);",
        ),
        ("uint64_t dram_limit_bytes;", "int64_t dram_limit_bytes;"),
        ("uint32_t command_queues;", "uint64_t command_queues;"),
        ("ttp_tensor bias, float eps,", "ttp_tensor bias, double eps,"),
    ];
    for (from, to) in changes {
        assert!(HEADER.contains(from), "{from}");
        assert!(compiles(&HEADER.replacen(from, to, 1)).is_err(), "not noticed: {to}");
    }
    assert!(
        !declared_functions(&HEADER.replace("ttp_status ttp_copy(", "ttp_status ttp_kopie("))
            .contains("ttp_copy")
    );
}
