//! The command line: `openvla predict | inspect | selfcheck | bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    openvla_tt::cli::main()
}
