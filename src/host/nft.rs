//! The drop as an nftables chain (CAP_NET_ADMIN, Linux 5.12), for kernels that have no TCX links.
//!
//! The table is owned by a child process (`flags owner`), an `nft -i` that ends when the other end of its
//! standard input goes away, and with its owner the table goes too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};

use crate::threads::{self, NoThread};

/// Where nft may be when the search path does not lead to it.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// How often it is looked whether the chain is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long nft may take to make the chain, and to list it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long nft may take to end once it has nothing to read any more.
const PATIENCE_AT_END: Duration = Duration::from_secs(1);

/// The chain, as long as this lives.
pub struct Chain {
    child: Child,
    /// The other end of its standard input; closing it ends the child.
    stdin: Option<ChildStdin>,
}

impl Chain {
    /// Drops UDP to `targets` that comes in on `interface`. Takes a few seconds at the most.
    ///
    /// # Errors
    ///
    /// What is in the way, in words: no nft, no permission, no support in the kernel.
    #[allow(
        clippy::disallowed_methods,
        reason = "the child ends with its standard input"
    )]
    pub fn start(interface: &str, targets: &[SocketAddr]) -> Result<Self, String> {
        if let Ok(false) = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
            return Err("an nftables rule that drops them needs CAP_NET_ADMIN".to_owned());
        }
        let table = format!("vxtap_{}", std::process::id());
        let script = script(&table, interface, targets);
        let _inherited = Inherited::new();
        let mut reason = String::new();
        for program in PROGRAMS {
            let spawned = Command::new(program)
                .arg("-i")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                // Ctrl-C is for us; this child ends with us.
                .process_group(0)
                .spawn();
            match spawned {
                Ok(child) => return Self::of(child, program, &table, script),
                // No process can be had: another place makes no difference.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(NoThread::of("nft", error).to_string());
                }
                Err(error) => reason = format!("nft cannot be started: {error}"),
            }
        }
        Err(reason)
    }

    /// Lets `child`, a `program` that reads its standard input, make the chain.
    #[allow(
        clippy::disallowed_methods,
        reason = "the wait for another program has a limit"
    )]
    fn of(mut child: Child, program: &str, table: &str, script: String) -> Result<Self, String> {
        let (to, from) = (child.stdin.take(), child.stderr.take());
        let mut chain = Self { child, stdin: to };
        let no_thread = |error: NoThread| error.to_string();
        let complaints = from.map(complaints).transpose().map_err(no_thread)?;
        let until = Instant::now() + PATIENCE;
        let too_late = || {
            format!(
                "nft did not make the rule within {} s; this is what it was given:\n{script}",
                PATIENCE.as_secs()
            )
        };
        // A thread of its own: nobody knows whether the child reads.
        let (send, written) = channel();
        let text = script.clone();
        let stdin = chain.stdin.take();
        let writer = threads::start("vxtap-nft", move || {
            let written = stdin.and_then(|mut stdin| {
                let written = stdin.write_all(text.as_bytes());
                written.and_then(|()| stdin.flush()).ok().map(|()| stdin)
            });
            let _ = send.send(written);
        });
        writer.map_err(no_thread)?;
        chain.stdin = written.recv_timeout(PATIENCE).map_err(|_| too_late())?;
        let refused = |patience| {
            let complaint = complaints.as_ref()?.recv_timeout(patience).ok()?;
            Some(format!(
                "nft refused the rule, which needs nftables with 'flags owner' and Linux 5.12: {complaint}"
            ))
        };
        while Instant::now() < until {
            if let Some(refused) = refused(LOOK_EVERY) {
                return Err(refused);
            }
            let mut list = Command::new(program);
            list.args(["list", "table", "netdev", table]);
            let left = until.saturating_duration_since(Instant::now());
            let listed = output_within(&mut list, left).unwrap_or_default();
            if String::from_utf8_lossy(&listed).contains("drop") {
                return Ok(chain);
            }
            if !matches!(chain.child.try_wait(), Ok(None)) {
                let ended = || "nft ended before it made the rule".to_owned();
                return Err(refused(LOOK_EVERY).unwrap_or_else(ended));
            }
        }
        Err(refused(Duration::ZERO).unwrap_or_else(too_late))
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        drop(self.stdin.take());
        end_within(&mut self.child, PATIENCE_AT_END);
    }
}

/// CAP_NET_ADMIN among what child processes of this thread inherit (capabilities(7)), as long as this lives:
/// a capability that this program's file brought it does not pass to the programs it starts.
struct Inherited {
    was_inheritable: bool,
}

impl Inherited {
    /// `None` where the kernel or this process's bounds do not let it be; the child may have the right of its
    /// own accord then, as root's children do.
    fn new() -> Option<Self> {
        let right = Capability::CAP_NET_ADMIN;
        let was_inheritable = caps::has_cap(None, CapSet::Inheritable, right).ok()?;
        let is_ambient = caps::has_cap(None, CapSet::Ambient, right).ok()?;
        if is_ambient {
            return None;
        }
        caps::raise(None, CapSet::Inheritable, right).ok()?;
        let inherited = Self { was_inheritable };
        caps::raise(None, CapSet::Ambient, right).ok()?;
        Some(inherited)
    }
}

impl Drop for Inherited {
    fn drop(&mut self) {
        let _ = caps::drop(None, CapSet::Ambient, Capability::CAP_NET_ADMIN);
        if !self.was_inheritable {
            let _ = caps::drop(None, CapSet::Inheritable, Capability::CAP_NET_ADMIN);
        }
    }
}

/// What a program says on standard error, line by line, without its warnings.
fn complaints(stderr: impl Read + Send + 'static) -> Result<Receiver<String>, NoThread> {
    let (send, lines) = channel();
    threads::start("vxtap-nft", move || {
        let mut told = BufReader::new(stderr).lines().map_while(Result::ok);
        // What nobody listens to any more is read all the same: the program must not wait for us.
        told.by_ref().for_each(|line| {
            if !line.trim().is_empty() && !line.starts_with("Warning") {
                let _ = send.send(line);
            }
        });
    })?;
    Ok(lines)
}

/// What a program writes on standard output; `None` when it does not end in time, does not start, or there is no
/// thread to read it.
#[allow(
    clippy::disallowed_methods,
    reason = "a child that does not end in time is killed"
)]
fn output_within(command: &mut Command, patience: Duration) -> Option<Vec<u8>> {
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().ok()?;
    let stdout = child.stdout.take();
    let (send, output) = channel();
    let reader = threads::start("vxtap-nft", move || {
        let mut bytes = Vec::new();
        let read = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes));
        let _ = send.send(read.map(|read| read.map(|_| bytes)));
    });
    let output = reader.map(|_| output.recv_timeout(patience));
    end_within(&mut child, Duration::ZERO);
    output.ok()?.ok()??.ok()
}

/// Waits for a child that has nothing left to do, and ends it if it takes too long.
#[allow(
    clippy::disallowed_methods,
    reason = "the wait for another program has a limit"
)]
fn end_within(child: &mut Child, patience: Duration) {
    let until = Instant::now() + patience;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What nft is told. Pure.
fn script(table: &str, interface: &str, targets: &[SocketAddr]) -> String {
    let mut script = format!(
        "add table netdev {table} {{ flags owner; }}\n\
         add chain netdev {table} ingress {{ type filter hook ingress device \"{interface}\" priority -500; \
         policy accept; }}\n"
    );
    // One rule a family and port: a set of addresses is looked up at once, rules are tried one after the other.
    let mut rules: BTreeMap<(bool, u16), Vec<String>> = BTreeMap::new();
    for target in targets {
        let rule = rules.entry((target.is_ipv6(), target.port())).or_default();
        rule.push(target.ip().to_string());
    }
    for ((is_ipv6, port), addresses) in rules {
        let family = if is_ipv6 { "ip6" } else { "ip" };
        let _ = writeln!(
            script,
            "add rule netdev {table} ingress {family} daddr {{ {} }} udp dport {port} drop",
            addresses.join(", ")
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs that do not do what nft does cost a bounded time, and none of them is left behind.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "the chain ends its child")]
    fn other_programs_end_in_time() {
        let start = |script: &str| {
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", script]).stdin(Stdio::piped());
            let child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            let child = child.unwrap();
            let id = child.id();
            // More than a pipe holds: a program that reads nothing keeps the writer waiting.
            let long = "add rule\n".repeat(20_000);
            let outcome = Chain::of(child, "true", "t", long);
            let process = std::path::PathBuf::from(format!("/proc/{id}"));
            assert!(!process.exists(), "{script}: still there");
            outcome.err().unwrap()
        };
        let said = start("exec sleep 60");
        assert!(said.contains("within 2 s"), "{said}");
        let said = start("cat >/dev/null & trap '' TERM INT; exec sleep 60");
        assert!(said.contains("within 2 s"), "{said}");
        let said =
            start("echo 'Warning: old'>&2; echo 'Error: no such thing' >&2; exec cat >/dev/null");
        assert!(said.ends_with(": Error: no such thing"), "{said}");
        let said = start("cat >/dev/null & exit 3");
        assert!(said.contains("ended before"), "{said}");
    }

    #[test]
    fn rules_name_addresses_and_ports() {
        let targets = [
            "10.0.0.5:4789",
            "10.0.0.6:4789",
            "10.0.0.5:4790",
            "[fd00::5]:4790",
        ];
        let script = script("t", "eth0", &targets.map(|one| one.parse().unwrap()));
        let rules: Vec<&str> = script.lines().skip(2).collect();
        assert_eq!(
            rules,
            [
                "add rule netdev t ingress ip daddr { 10.0.0.5, 10.0.0.6 } udp dport 4789 drop",
                "add rule netdev t ingress ip daddr { 10.0.0.5 } udp dport 4790 drop",
                "add rule netdev t ingress ip6 daddr { fd00::5 } udp dport 4790 drop",
            ]
        );
        assert!(script.contains("device \"eth0\""));
    }
}
