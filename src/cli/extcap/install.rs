//! `vxtap extcap`: puts vxtap into Wireshark's list of interfaces, or takes it out: a link to this program in the
//! directory where Wireshark looks.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::args::ExtcapArgs;
use crate::failure::Failure;
use crate::say::say;

/// The name of the link.
const NAME: &str = "vxtap";
/// Programs that know where Wireshark looks.
const KNOWERS: [&str; 2] = ["tshark", "wireshark"];

/// Runs the command.
///
/// # Errors
///
/// When there is no such directory, or something else has the name.
pub fn run(args: &ExtcapArgs) -> Result<(), Failure> {
    let dir = |dir: &Option<PathBuf>| match dir {
        Some(dir) => Ok(dir.clone()),
        None => personal_dir(),
    };
    if let Some(named) = &args.install {
        return install(&dir(named)?);
    }
    match &args.uninstall {
        Some(named) => uninstall(&dir(named)?),
        None => Ok(()),
    }
}

fn install(dir: &Path) -> Result<(), Failure> {
    let link = dir.join(NAME);
    let program = std::env::current_exe()
        .map_err(|error| Failure::running(format!("cannot tell where this program is: {error}")))?;
    refuse_foreign(&link)?;
    // Never a moment without a link.
    let new = dir.join(format!(".{NAME}.{}", std::process::id()));
    let linked = fs::create_dir_all(dir)
        .and_then(|()| symlink(&program, &new))
        .and_then(|()| fs::rename(&new, &link));
    linked.map_err(|error| {
        let _ = fs::remove_file(&new);
        Failure::running(format!("cannot link {}: {error}", link.display()))
    })?;
    say(format!(
        "vxtap: {} is a link to {}: Wireshark and 'tshark -D' list the interface vxtap from their next start on\n",
        link.display(),
        program.display()
    ));
    Ok(())
}

fn uninstall(dir: &Path) -> Result<(), Failure> {
    let link = dir.join(NAME);
    refuse_foreign(&link)?;
    match fs::remove_file(&link) {
        Ok(()) => say(format!("vxtap: removed {}\n", link.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say(format!("vxtap: there is no {}\n", link.display()));
        }
        Err(error) => {
            let text = format!("cannot remove {}: {error}", link.display());
            return Err(Failure::running(text));
        }
    }
    Ok(())
}

/// Leaves alone what was not made here: anything but a link.
fn refuse_foreign(link: &Path) -> Result<(), Failure> {
    match link.symlink_metadata() {
        Ok(meta) if !meta.is_symlink() => Err(Failure::running(format!(
            "{} is no link, so vxtap has not put it there: remove it yourself",
            link.display()
        ))),
        _ => Ok(()),
    }
}

/// Where Wireshark looks for programs of this user.
fn personal_dir() -> Result<PathBuf, Failure> {
    let mut found = KNOWERS.iter().filter_map(|knower| folders(knower).ok());
    let dir = found.find_map(|folders| extcap_dir(&folders));
    dir.ok_or_else(|| {
        Failure::running(
            "cannot ask tshark or wireshark for the personal extcap directory: name it, as 'vxtap extcap --install \
             DIR'; Wireshark shows it under Help, About, Folders",
        )
    })
}

fn folders(knower: &str) -> io::Result<String> {
    let mut command = Command::new(knower);
    let command = command.args(["-G", "folders"]).stdin(Stdio::null());
    let output = command.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The personal extcap directory in the words of `tshark -G folders`. Before 4.2 it is not in the list, but below the
/// personal configuration. Pure.
fn extcap_dir(folders: &str) -> Option<PathBuf> {
    let of = |wanted: &str| {
        let named = folders.lines().filter_map(|line| line.split_once(':'));
        let mut named = named.filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let (_, path) = named.next()?;
        Some(PathBuf::from(path.trim())).filter(|path| path.is_absolute())
    };
    of("Personal Extcap path").or_else(|| Some(of("Personal configuration")?.join("extcap")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_personal_directory_of_old_and_new_versions() {
        let old = "Temp:                \t/tmp\nPersonal configuration:\t/root/.config/wireshark\nExtcap path:\t/usr/lib/extcap\n";
        let dir = |folders: &str| extcap_dir(folders).unwrap();
        assert_eq!(dir(old), Path::new("/root/.config/wireshark/extcap"));
        let new = format!("{old}Personal Extcap path:\t/home/a b/.local/lib/wireshark/extcap\n");
        assert_eq!(
            dir(&new),
            Path::new("/home/a b/.local/lib/wireshark/extcap")
        );
        assert_eq!(extcap_dir("Extcap path:\t/usr/lib/extcap\n"), None);
        assert_eq!(extcap_dir("Personal configuration:\tnowhere\n"), None);
    }

    #[test]
    fn only_links_are_touched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/extcap");
        install(&dir).unwrap();
        // Once more, and over a link to somewhere else.
        install(&dir).unwrap();
        let link = dir.join(NAME);
        fs::remove_file(&link).unwrap();
        symlink("/nowhere", &link).unwrap();
        install(&dir).unwrap();
        let program = std::env::current_exe().unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), program);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        uninstall(&dir).unwrap();
        uninstall(&dir).unwrap();
        fs::write(&link, "a program of somebody else").unwrap();
        assert!(install(&dir).is_err() && uninstall(&dir).is_err());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}
