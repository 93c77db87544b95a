//! What a `--flows` means: a format and a place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::storing;
use crate::export::FlowFormat;

/// Endings of files that are compressed.
pub const PACKED: [&str; 5] = ["gz", "zst", "lz4", "bz2", "xz"];

/// Flow records of a format to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsTo {
    /// The format.
    pub format: FlowFormat,
    /// A file, a directory, or `-` for standard output.
    pub path: PathBuf,
}

impl FlowsTo {
    /// What was typed: a path alone, whose ending says the format, or a format, a colon and a path.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(typed: &Path) -> Result<Self, String> {
        let shown = typed.display();
        if let Some((prefix, path)) = prefix(typed) {
            let Some(format) = FlowFormat::by_name(prefix) else {
                return Err(format!(
                    "--flows {shown}: '{prefix}' is no format of flow records: {} is needed (a file of that name is ./{shown})",
                    names()
                ));
            };
            if path.as_os_str().is_empty() {
                return Err(format!(
                    "--flows {shown} needs the name of a file or directory behind the colon"
                ));
            }
            let path = path.to_owned();
            return Ok(Self { format, path });
        }
        let format = by_ending(typed);
        let path = typed.to_owned();
        match format {
            // Nobody knows whether the files in it are meant.
            Some(format) if format != FlowFormat::JsonLines && storing::is_store(typed) => {
                Err(format!(
                    "--flows {shown} is a directory: {}:{shown} writes {} into it, {}:{shown} {}",
                    format.name(),
                    format.words(),
                    FlowFormat::JsonLines.name(),
                    FlowFormat::JsonLines.words(),
                ))
            }
            format => Ok(Self {
                format: format.unwrap_or(FlowFormat::JsonLines),
                path,
            }),
        }
    }

    /// What to say of a file whose name promises something else.
    pub fn misleading_name(&self) -> Option<String> {
        if storing::is_store(&self.path) {
            return None;
        }
        let (path, is) = (self.path.display(), self.format.words());
        let extension = self.path.extension().and_then(OsStr::to_str);
        if extension.is_some_and(|extension| PACKED.contains(&&*extension.to_ascii_lowercase())) {
            return Some(format!(
                "{path} is plain {is}: --compress gzip or zstd compresses captures"
            ));
        }
        let other = by_ending(&self.path).filter(|other| *other != self.format)?;
        Some(format!("{path} is written as {is}, not {}", other.words()))
    }
}

/// The names of all formats: "jsonl, csv, parquet or ipfix".
fn names() -> String {
    let mut names: Vec<&str> = FlowFormat::ALL.iter().map(|format| format.name()).collect();
    let last = names.pop().unwrap_or_default();
    format!("{} or {last}", names.join(", "))
}

/// What stands in front of the first colon, where it is a word, and what behind. A word that begins a path, as in
/// `2026-11-26T10:00.jsonl` or `./a:b`, is none.
fn prefix(typed: &Path) -> Option<(&str, &Path)> {
    let bytes = typed.as_os_str().as_bytes();
    let at = bytes.iter().position(|byte| *byte == b':')?;
    let (prefix, behind) = bytes.split_at(at);
    let prefix = std::str::from_utf8(prefix).ok()?;
    let is_word = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_alphabetic());
    let path = Path::new(OsStr::from_bytes(behind.get(1..)?));
    is_word.then_some((prefix, path))
}

/// The format that the ending of a name says, whatever compressed the file. `.json` is JSON lines too.
fn by_ending(path: &Path) -> Option<FlowFormat> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match &*extension {
        "json" => Some(FlowFormat::JsonLines),
        packed if PACKED.contains(&packed) => by_ending(Path::new(path.file_stem()?)),
        extension => FlowFormat::by_name(extension),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &str) -> Result<(FlowFormat, String), String> {
        let FlowsTo { format, path } = FlowsTo::read(typed.as_ref())?;
        Ok((format, path.to_str().unwrap().to_owned()))
    }

    #[test]
    fn endings_and_prefixes_name_formats() {
        use FlowFormat::{Csv, Ipfix, JsonLines, Parquet};
        for (typed, format, path) in [
            ("f.jsonl", JsonLines, "f.jsonl"),
            ("f.json", JsonLines, "f.json"),
            ("f", JsonLines, "f"),
            ("f.txt", JsonLines, "f.txt"),
            ("-", JsonLines, "-"),
            ("dir/", JsonLines, "dir/"),
            ("/tmp", JsonLines, "/tmp"),
            ("f.csv", Csv, "f.csv"),
            ("a.b/F.CSV", Csv, "a.b/F.CSV"),
            ("f.csv.gz", Csv, "f.csv.gz"),
            ("f.parquet", Parquet, "f.parquet"),
            ("parquet:-", Parquet, "-"),
            ("f.ipfix", Ipfix, "f.ipfix"),
            ("ipfix:dir/", Ipfix, "dir/"),
            ("parquet:dir/", Parquet, "dir/"),
            ("csv:f", Csv, "f"),
            ("csv:-", Csv, "-"),
            ("csv:dir/", Csv, "dir/"),
            ("csv:/tmp", Csv, "/tmp"),
            ("csv:f.jsonl", Csv, "f.jsonl"),
            ("jsonl:f.csv", JsonLines, "f.csv"),
            ("jsonl:csv:f", JsonLines, "csv:f"),
            ("2026-11-26T10:00.csv", Csv, "2026-11-26T10:00.csv"),
            ("./csv:f", JsonLines, "./csv:f"),
            ("dir/x:y", JsonLines, "dir/x:y"),
            (":f", JsonLines, ":f"),
        ] {
            assert_eq!(read(typed), Ok((format, path.to_owned())), "{typed}");
        }
    }

    #[test]
    fn what_is_no_format_and_no_place() {
        for (typed, words) in [
            (
                "xml:f",
                "'xml' is no format of flow records: jsonl, csv, parquet or ipfix is needed",
            ),
            ("CSV:f", "'CSV' is no format"),
            ("csv:", "needs the name of a file or directory"),
            (
                "f.csv/",
                "is a directory: csv:f.csv/ writes CSV into it, jsonl:f.csv/ JSON lines",
            ),
        ] {
            let said = read(typed).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
        // A file with a colon in its name has a way.
        assert!(
            read("xml:f")
                .unwrap_err()
                .contains("(a file of that name is ./xml:f)")
        );
    }

    #[test]
    fn names_that_promise_something_else() {
        let told = |typed: &str| FlowsTo::read(typed.as_ref()).unwrap().misleading_name();
        for (typed, words) in [
            ("csv:f.jsonl", "f.jsonl is written as CSV, not JSON lines"),
            ("jsonl:f.csv", "f.csv is written as JSON lines, not CSV"),
            ("f.csv.gz", "f.csv.gz is plain CSV"),
            ("f.jsonl.ZST", "f.jsonl.ZST is plain JSON lines"),
        ] {
            assert_eq!(
                told(typed).map(|told| told.starts_with(words)),
                Some(true),
                "{typed}"
            );
        }
        for typed in [
            "f.csv",
            "csv:f",
            "csv:f.txt",
            "f.json",
            "-",
            "csv:-",
            "jsonl:f.csv/",
        ] {
            assert_eq!(told(typed), None, "{typed}");
        }
    }
}
