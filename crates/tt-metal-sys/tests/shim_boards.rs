//! The shim's table of boards (`shim/boards.hpp`) and this crate's are the same, and dispatch is
//! chosen by the machine's cards.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tt_metal_sys::boards::BOARDS;

/// Kinds of cluster by the numbers of `tt::tt_metal::ClusterType` (tt-metal 191d0eed), and whether
/// ttnn's `device.py` dispatches over Ethernet there.
const CLUSTERS: [(u32, &str, bool); 8] = [
    (1, "WORMHOLE", false),
    (2, "WORMHOLE", true),
    (3, "WORMHOLE", true),
    (12, "WORMHOLE", true),
    (7, "BLACKHOLE", false),
    (9, "BLACKHOLE", false),
    (14, "BLACKHOLE", false),
    (17, "BLACKHOLE", false),
];

#[test]
fn the_shims_table_is_ours() {
    let mut source = String::from("#include \"boards.hpp\"\n#include <string_view>\n");
    for facts in &BOARDS {
        writeln!(
            source,
            "constexpr const shim::Board& board{0} = *shim::find_board({0});\n\
            static_assert(board{0}.architecture == {1} && board{0}.chips == {2} && \
            board{0}.ring == {3} && board{0}.links == {4} && \
            std::string_view(board{0}.name) == \"{5}\");",
            facts.id, facts.chip.architecture, facts.chips, facts.ring, facts.links, facts.name
        )
        .unwrap();
    }
    writeln!(source, "static_assert(std::size(shim::boards) == {});", BOARDS.len()).unwrap();
    writeln!(source, "static_assert(shim::find_board(0) == nullptr);").unwrap();
    for (cluster, architecture, ethernet) in CLUSTERS {
        writeln!(
            source,
            "static_assert(shim::dispatches_over_ethernet({cluster}) == {ethernet} && \
            shim::architecture_of({cluster}) == TTP_ARCH_{architecture});"
        )
        .unwrap();
    }
    source += "static_assert(shim::architecture_of(18) == 0);\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("boards.cpp");
    std::fs::write(&file, source).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = "x86_64-unknown-linux-gnu";
    let compiler = cc::Build::new()
        .cpp(true)
        .target(target)
        .host(target)
        .opt_level(0)
        .cargo_metadata(false)
        .get_compiler();
    let output = Command::new(compiler.path())
        .args(["-std=c++20", "-fsyntax-only", "-Wall", "-I"])
        .arg(root.join("shim"))
        .arg("-I")
        .arg(root.join("include"))
        .arg(&file)
        .output()
        .expect("a C++ compiler is needed for this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
