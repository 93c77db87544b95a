//! The `vxtap` binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vxtap::cli::main()
}
