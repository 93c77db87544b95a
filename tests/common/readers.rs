//! Python with programs that read what we write, in a virtual environment of the tests' own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Imports all that scripts/test.sh installs: readers of Parquet, a judge of JSON Schemas, and the elements of IPFIX
/// that IANA registers.
const IMPORTS: &str = "import duckdb, pyarrow.parquet, jsonschema, rfc3339_validator, ipfix";

/// The interpreter; says why there is none.
pub fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(find).as_deref()
}

fn find() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("readers/bin/python");
    let mut command = Command::new(&python);
    command.args(["-c", IMPORTS]).stdin(Stdio::null());
    let why = match command.output() {
        Ok(output) if output.status.success() => return Some(python),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines().last().unwrap_or_default().to_owned()
        }
        Err(error) => error.to_string(),
    };
    let python = python.display();
    eprintln!(
        "skipped: {python}, which scripts/test.sh makes, has no duckdb, pyarrow, jsonschema and ipfix ({why})"
    );
    None
}
