//! `vxtap check`: the settings of `listen` as they hold, what they need of this machine and of the network, and every
//! mistake.

mod facts;
mod names;
mod page;
mod rules;

use std::path::Path;

use super::args::CheckArgs;
use super::settings::given::Given;
use super::settings::listening::Listen;
use super::settings::printed;
use crate::failure::Failure;
use crate::host::interfaces;
use crate::outfile::{Creation, write_whole};
use facts::Checked;

/// Runs the command.
///
/// # Errors
///
/// [`Failure::Usage`] with every mistake.
pub fn run(args: CheckArgs) -> Result<(), Failure> {
    let CheckArgs {
        file,
        json,
        toml,
        rules,
        settings,
    } = args;
    let mut given = Given::gather(settings, file.as_deref(), std::env::vars_os());
    let mut listen = Listen::of(&mut given);
    if let Some(listen) = &mut listen {
        listen.receive.leave_out_ipv6();
    }
    if json {
        let checked = Checked::new(&given, listen.as_ref());
        let mut text = serde_json::to_vec_pretty(&checked)?;
        text.push(b'\n');
        print(text)?;
        return given.mistakes.end(listen).map(drop);
    }
    if toml || rules.is_some() {
        let layers = given.layers.clone();
        let listen = given.mistakes.end(listen)?;
        let text = match rules {
            Some(kind) => rules::text(kind, &listen, &interfaces::list().unwrap_or_default()),
            None => printed::file_of(&layers).map_err(Failure::usage)?,
        };
        return print(text.into_bytes());
    }
    let checked = Checked::new(&given, listen.as_ref());
    print(page::text(&checked).into_bytes())?;
    given.mistakes.end(listen).map(drop)
}

fn print(text: Vec<u8>) -> Result<(), Failure> {
    Ok(write_whole(Path::new("-"), Creation::default(), text)?)
}
