//! Whether what is written can go where it was told to: not onto a terminal, an input, or another output.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

pub use super::mistakes::Mistakes;
use super::storing;
use crate::outfile::{is_input, same_output};

/// Refuses to wait for a capture that somebody would have to type.
pub fn check_no_typed_input(inputs: &[PathBuf], mistakes: &mut Mistakes) {
    if inputs.iter().any(|path| path == Path::new("-")) && std::io::stdin().is_terminal() {
        mistakes.note(
            "standard input is a terminal, which holds no capture: name a file, or send a capture into standard \
             input ('tcpdump … -w - | vxtap …', or '< FILE')",
        );
    }
}

/// Refuses to write binary data to a terminal, by whatever name.
pub fn check_no_terminal(flag: &str, path: &Path, mistakes: &mut Mistakes) {
    if is_terminal(path) {
        mistakes.note(format!(
            "{flag} {} would write binary data to a terminal: name a file, or send standard output to a file \
             or to a program ('| tshark -r -')",
            path.display()
        ));
    }
}

fn is_terminal(path: &Path) -> bool {
    if path == Path::new("-") {
        return std::io::stdout().is_terminal();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        // A terminal that is opened must not become that of this process.
        let no_terminal = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let is_device = path
            .metadata()
            .is_ok_and(|meta| meta.file_type().is_char_device());
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).custom_flags(no_terminal);
        is_device && options.open(path).is_ok_and(|file| file.is_terminal())
    }
    #[cfg(not(unix))]
    false
}

/// Refuses outputs, each with its flag, that would be written into an input or into each other, and names
/// that are empty.
pub fn check_places(outputs: &[(&str, &Path)], inputs: &[PathBuf], mistakes: &mut Mistakes) {
    if inputs.iter().any(|path| path.as_os_str().is_empty()) {
        mistakes.note("the name of an input file is empty");
    }
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let shown = path.display();
        if path.as_os_str().is_empty() {
            mistakes.note(format!("{flag} needs the name of a file, and it is empty"));
            continue;
        }
        if let Some(input) = inputs.iter().find(|input| is_input(path, input)) {
            mistakes.note(format!(
                "{flag} {shown} would overwrite the input {}: choose another name",
                input.display()
            ));
        }
        let mut others = outputs.iter().skip(at + 1);
        // A store of captures and one of flow records may share a directory: their names differ.
        let share = |other_flag: &str, other: &Path| {
            *flag != other_flag && storing::is_store(path) && storing::is_store(other)
        };
        let other = others.find(|(flag, other)| same_output(path, other) && !share(flag, other));
        if let Some((other_flag, other)) = other {
            let as_other = match path == other {
                true => String::new(),
                false => format!(", which is {}", other.display()),
            };
            mistakes.note(format!(
                "{flag} and {other_flag} both write to {shown}{as_other}: choose different names"
            ));
        }
    }
}
