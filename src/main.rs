//! The command line tool: parse, run, exit code. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tensortiff::cli::main()
}
