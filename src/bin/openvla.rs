//! The command line: `openvla predict | inspect | selfcheck | bench | replay`.

use std::process::ExitCode;

fn main() -> ExitCode {
    openvla_tt::cli::main()
}
