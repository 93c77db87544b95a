//! `vxtap completions` and `vxtap man`: what shells and man(1) know of the flags, made from the flags themselves.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use super::args::{self, CompletionsArgs, ManArgs};
use crate::failure::Failure;
use crate::outfile::{Creation, Existing, write_whole};

/// Writes a shell's completions to standard output.
///
/// # Errors
///
/// When standard output takes nothing.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    Ok(write_whole(
        Path::new("-"),
        Creation::default(),
        completions_for(args.shell),
    )?)
}

fn completions_for(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "vxtap", &mut text);
    text
}

/// Writes a man page for the program and one for each command into a directory.
///
/// # Errors
///
/// When a file cannot be written.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let creation = Creation::asked(Some(0o644), None, Existing::Replace);
    for (name, page) in pages()? {
        let path = args.dir.join(format!("{name}.1"));
        write_whole(&path, creation, page)?;
    }
    Ok(())
}

/// The name and text of each page.
fn pages() -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut program = args::command();
    program.build();
    let mut pages = vec![("vxtap".to_owned(), page(&program)?)];
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    for command in program.get_subcommands().filter(shown) {
        let name = format!("vxtap-{}", command.get_name());
        pages.push((name, page(command)?));
    }
    Ok(pages)
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    // clap gives back its text in pieces for the width of a terminal; roff fills lines itself.
    let command = command.clone().max_term_width(0);
    clap_mangen::Man::new(command)
        .source(concat!("vxtap ", env!("CARGO_PKG_VERSION")))
        .manual("vxtap manual")
        .render(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_command_has_a_page_that_names_its_flags() {
        let pages = pages().unwrap();
        for command in args::command().get_subcommands() {
            if command.is_hide_set() {
                continue;
            }
            let name = format!("vxtap-{}", command.get_name());
            let (_, page) = pages.iter().find(|(of, _)| *of == name).unwrap();
            let page = String::from_utf8_lossy(page).replace("\\-", "-");
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for flag in shown.filter_map(|arg| arg.get_long()) {
                assert!(page.contains(&format!("--{flag}")), "{name}: {flag}");
            }
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let text = completions_for(*shell);
            let text = String::from_utf8_lossy(&text);
            for command in args::command().get_subcommands() {
                if !command.is_hide_set() {
                    assert!(
                        text.contains(command.get_name()),
                        "{shell}: {}",
                        command.get_name()
                    );
                }
            }
            assert!(text.contains("rotate-size"), "{shell}");
        }
    }
}
