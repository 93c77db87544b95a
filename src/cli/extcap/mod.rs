//! Wireshark's external capture: called by it with `--extcap-*`, this program says which interface it has, what can be
//! set, and receives mirrored traffic into a FIFO.
//!
//! Whatever is on standard error Wireshark shows as a fault, so nothing is but what ended a capture; `--log-file` takes the
//! rest.

pub mod install;
mod offer;

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::settings::layers::Layers;
use super::settings::typed::{self, Text};
use super::{listen, logging, values};
use crate::failure::Failure;
use crate::say::divert;
use crate::wire::vxlan;

/// What Wireshark asks for.
#[derive(Debug, Default, Parser)]
#[command(name = "vxtap", args_override_self = true, disable_version_flag = true)]
pub struct Call {
    /// Which interfaces there are
    #[arg(long)]
    extcap_interfaces: bool,
    /// The version of Wireshark
    #[arg(long, num_args = 0..=1)]
    extcap_version: Option<Option<String>>,
    /// The interface that is meant
    #[arg(long)]
    extcap_interface: Option<String>,
    /// Which link types it has
    #[arg(long)]
    extcap_dlts: bool,
    /// What can be set
    #[arg(long)]
    extcap_config: bool,
    /// An option whose values are asked for again; none of ours has any
    #[arg(long)]
    extcap_reload_option: Option<String>,
    /// Nothing is left behind that would have to be cleaned up
    #[arg(long)]
    extcap_cleanup_postkill: bool,
    /// A filter; alone, whether it is valid
    #[arg(long, allow_hyphen_values = true)]
    extcap_capture_filter: Option<String>,
    /// Toolbars are not offered
    #[arg(long)]
    extcap_control_in: Option<PathBuf>,
    #[arg(long)]
    extcap_control_out: Option<PathBuf>,
    /// Receive
    #[arg(long, requires = "fifo")]
    capture: bool,
    /// Where packets go
    #[arg(long)]
    fifo: Option<PathBuf>,
    /// noisy, debug, info, message, warning, critical or error
    #[arg(long)]
    log_level: Option<String>,
    /// Where the log goes
    #[arg(long)]
    log_file: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// What can be set: see [`offer::CONFIGURATION`]. An empty text is one that was not set.
#[derive(Debug, Default, clap::Args)]
struct Options {
    #[arg(long)]
    port: Option<String>,
    #[arg(long)]
    bind: Option<String>,
    #[arg(long)]
    vni: Option<String>,
    #[arg(long)]
    allow: Option<String>,
    #[arg(long)]
    mtu: Option<String>,
    #[arg(long)]
    backend: Option<String>,
    #[arg(long)]
    workers: Option<String>,
}

impl Call {
    /// The call that this process was started with, if it is one.
    pub fn of_arguments() -> Option<Self> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        is_call(arguments.get(1..)?).then(|| Self::parse_from(arguments))
    }
}

/// Whether Wireshark says this: flags from the first word on, one of them its own.
fn is_call(arguments: &[OsString]) -> bool {
    let begins = |argument: &OsStr, with: &str| {
        let argument = argument.as_encoded_bytes();
        argument.starts_with(with.as_bytes())
    };
    let mut flags = arguments.iter();
    arguments.first().is_some_and(|first| begins(first, "--"))
        && flags.any(|flag| begins(flag, "--extcap-"))
}

/// Does what is asked for.
///
/// # Errors
///
/// When it makes no sense, and when a capture fails.
pub fn answer(call: &Call) -> Result<(), Failure> {
    let file = match &call.log_file {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let error = |error| Failure::usage(format!("--log-file {}: {error}", path.display()));
            Some(file.map_err(error)?)
        }
        None => None,
    };
    divert(file);
    logging::start(log_filter(call.log_level.as_deref()));
    match said(call)? {
        Some(text) => {
            let mut out = io::stdout();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
            Ok(())
        }
        None => listen::command(settings(call)?),
    }
}

/// What is said; `None` where packets are to be received. Pure.
fn said(call: &Call) -> Result<Option<String>, Failure> {
    if call.extcap_interfaces {
        return Ok(Some(offer::interfaces()));
    }
    match call.extcap_interface.as_deref() {
        Some(offer::INTERFACE) => {}
        Some(other) => {
            return Err(Failure::usage(format!(
                "there is no interface '{other}': it is called {}",
                offer::INTERFACE
            )));
        }
        None if call.extcap_cleanup_postkill => return Ok(Some(String::new())),
        None => return Err(Failure::usage("--extcap-interface is missing")),
    }
    let filter = call.extcap_capture_filter.as_deref();
    let filter = filter.filter(|filter| !filter.trim().is_empty());
    if call.extcap_dlts {
        Ok(Some(offer::DLTS.to_owned()))
    } else if call.extcap_config && call.extcap_reload_option.is_some() {
        Ok(Some(String::new()))
    } else if call.extcap_config {
        Ok(Some(offer::configuration()))
    } else if call.capture && filter.is_some() {
        Err(Failure::usage(offer::NO_FILTER))
    } else if call.capture {
        Ok(None)
    } else {
        // Asked alone, what is said is what is wrong with it.
        Ok(Some(filter.map_or_else(String::new, |_| {
            format!("{}\n", offer::NO_FILTER)
        })))
    }
}

/// What is received, as `vxtap listen` takes it.
fn settings(call: &Call) -> Result<Layers<typed::Listen>, Failure> {
    let set = |value: &Option<String>| {
        let value = value.as_deref().map(str::trim);
        value.filter(|value| !value.is_empty()).map(Text::from)
    };
    let list = |value: &Option<String>| {
        let texts = value.as_deref().unwrap_or_default().split([',', ' ']);
        let texts: Vec<Text> = texts
            .filter(|text| !text.is_empty())
            .map(Text::from)
            .collect();
        (!texts.is_empty()).then_some(texts)
    };
    let options = &call.options;
    let port = match set(&options.port) {
        Some(Text(port)) => values::port(&port).map_err(|needed| {
            Failure::usage(format!("invalid value '{port}' for --port: {needed}"))
        })?,
        None => vxlan::PORT,
    };
    let with_port = |address: IpAddr| Text(std::net::SocketAddr::new(address, port).to_string());
    let bind = match set(&options.bind) {
        Some(Text(address)) => Some(vec![address.parse().map(with_port).map_err(|_| {
            Failure::usage(format!(
                "invalid value '{address}' for --bind: an address of this machine is needed, without a port"
            ))
        })?]),
        None => None,
    };
    let mut flags = typed::Listen::default();
    flags.output.write = call.fifo.clone();
    // Wireshark starts it and ends it: nobody asks how it is.
    flags.watching.control = Some("none".into());
    flags.receive.bind = bind;
    flags.receive.backend = set(&options.backend);
    flags.filters.vni = list(&options.vni);
    flags.filters.allow = list(&options.allow);
    flags.truncation.mtu = set(&options.mtu);
    flags.limits.workers = set(&options.workers);
    let mut defaults = typed::Listen::defaults();
    // As with `vxtap listen`, a machine without IPv6 does without.
    let any = ["0.0.0.0", "[::]"].map(|any| Text(format!("{any}:{port}")));
    defaults.receive.bind = Some(any.to_vec());
    Ok(Layers::new(flags, defaults))
}

/// What is logged, in Wireshark's words.
fn log_filter(level: Option<&str>) -> Targets {
    Targets::new().with_default(match level {
        Some("noisy") => LevelFilter::TRACE,
        Some("debug") => LevelFilter::DEBUG,
        Some("warning") => LevelFilter::WARN,
        Some("critical" | "error") => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(flags: &[&str]) -> Call {
        let words = [&["vxtap"], flags].concat();
        Call::try_parse_from(words).unwrap()
    }

    fn answered(flags: &[&str]) -> String {
        said(&call(flags)).unwrap().unwrap()
    }

    #[test]
    fn calls_are_told_from_commands() {
        let is = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            is_call(&words)
        };
        assert!(is(&["--extcap-interfaces", "--extcap-version=4.0"]));
        assert!(is(&["--capture", "--extcap-interface", "vxtap"]));
        assert!(is(&["--log-level", "debug", "--extcap-interfaces"]));
        assert!(!is(&[]));
        assert!(!is(&["--version"]));
        assert!(!is(&["extcap", "--install"]));
        assert!(!is(&["listen", "-w", "--extcap-interfaces"]));
    }

    #[test]
    fn what_wireshark_asks_is_answered() {
        let interfaces = answered(&["--extcap-interfaces", "--extcap-version=4.0"]);
        assert!(interfaces.contains("interface {value=vxtap}{display="));
        assert_eq!(interfaces, answered(&["--extcap-interfaces"]));
        let of = |flags: &[&str]| answered(&[&["--extcap-interface", "vxtap"], flags].concat());
        assert_eq!(
            of(&["--extcap-dlts"]),
            "dlt {number=1}{name=EN10MB}{display=Ethernet}\n"
        );
        let config = of(&["--extcap-config"]);
        assert!(config.contains("{call=--port}"), "{config}");
        assert_eq!(
            of(&["--extcap-config", "--extcap-reload-option", "port"]),
            ""
        );
        assert_eq!(answered(&["--extcap-cleanup-postkill"]), "");
        assert_eq!(of(&["--extcap-capture-filter", ""]), "");
        assert!(of(&["--extcap-capture-filter", "-x"]).contains("no capture filter"));
        for wrong in [
            &["--extcap-interface", "other", "--extcap-dlts"][..],
            &["--extcap-dlts"],
            &[
                "--extcap-interface",
                "vxtap",
                "--capture",
                "--fifo",
                "f",
                "--extcap-capture-filter",
                "tcp",
            ],
        ] {
            assert!(said(&call(wrong)).is_err(), "{wrong:?}");
        }
        assert!(Call::try_parse_from(["vxtap", "--capture"]).is_err());
    }

    /// Every option that is offered is one that a capture takes, with its default.
    #[test]
    fn what_is_offered_is_taken() {
        let capture = ["--extcap-interface", "vxtap", "--capture", "--fifo", "f"];
        let typed = |flags: &[&str]| settings(&call(&[&capture, flags].concat()));
        let mut defaults = Vec::new();
        for (flag, default) in offer::defaults() {
            defaults.extend([flag, default]);
        }
        assert_eq!(defaults.len(), 14);
        let said = |layers: Layers<typed::Listen>| {
            let flags = layers.iter().next().map(|(_, flags)| typed::told(flags));
            flags.unwrap()
        };
        let set = said(typed(&defaults).unwrap());
        let mut set: Vec<&str> = set.iter().map(|(name, _)| name.as_str()).collect();
        set.sort_unstable();
        assert_eq!(set, ["backend", "control", "mtu", "workers", "write"]);
        let flags = [
            "--port",
            "8472",
            "--bind",
            "::1",
            "--vni",
            "5,7-9",
            "--allow",
            "10.0.0.0/8 ::1",
        ];
        let set = said(typed(&flags).unwrap());
        let of = |name: &str| {
            let (_, value) = set.iter().find(|(known, _)| known == name).unwrap();
            value.as_str()
        };
        assert_eq!(of("bind"), "[::1]:8472");
        assert_eq!(of("vni"), "5, 7-9");
        assert_eq!(of("allow"), "10.0.0.0/8, ::1");
        for wrong in [["--port", "0"], ["--port", "x"], ["--bind", "1.2.3.4:5"]] {
            assert!(typed(&wrong).is_err(), "{wrong:?}");
        }
    }
}
