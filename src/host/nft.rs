//! The drop as an nftables chain (CAP_NET_ADMIN, Linux 5.12), for kernels that have no TCX links.
//!
//! The table is owned by a child process (`flags owner`), an `nft -i` that ends when the other end of its
//! standard input goes away, and with its owner the table goes too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where nft may be when the search path does not lead to it.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];
/// How often, and how many times, it is looked whether the chain is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOKS: u32 = 100;

/// The chain, as long as this lives.
pub struct Chain {
    child: Child,
}

impl Chain {
    /// Drops UDP to `targets` that comes in on `interface`.
    ///
    /// # Errors
    ///
    /// What is in the way, in words: no nft, no permission, no support in the kernel.
    pub fn start(interface: &str, targets: &[SocketAddr]) -> Result<Self, String> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !may_administer(&status) {
            return Err("an nftables rule that drops them needs CAP_NET_ADMIN".to_owned());
        }
        let table = format!("vxtap_{}", std::process::id());
        let script = script(&table, interface, targets);
        let mut reasons = String::new();
        for program in PROGRAMS {
            let spawned = Command::new(program)
                .arg("-i")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                // Ctrl-C is for us; this child ends with us.
                .process_group(0)
                .spawn();
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => {
                    reasons = format!("nft cannot be started: {error}");
                    continue;
                }
            };
            // The pipe stays open in the child's handle; closing it ends the child.
            let written = child.stdin.as_mut().map(|stdin| {
                stdin
                    .write_all(script.as_bytes())
                    .and_then(|()| stdin.flush())
            });
            let mut drop = Self { child };
            if matches!(written, Some(Ok(()))) && drop.is_there(program, &table) {
                return Ok(drop);
            }
            return Err(format!(
                "nft did not take the rule (it needs CAP_NET_ADMIN, nftables with 'flags owner', Linux 5.12); \
                 this is what it was given:\n{script}"
            ));
        }
        Err(reasons)
    }

    /// Whether the chain has come to be.
    fn is_there(&mut self, program: &str, table: &str) -> bool {
        for _ in 0..LOOKS {
            let listed = Command::new(program)
                .args(["list", "table", "netdev", table])
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output();
            let text = listed.map(|listed| listed.stdout).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains("drop") {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Whether `/proc/self/status` shows CAP_NET_ADMIN among the effective capabilities (capabilities(7)); `true`
/// where that cannot be told. Without it nft stays at its prompt, and waiting for the rule would take long.
fn may_administer(status: &str) -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_none_or(|set| set >> CAP_NET_ADMIN & 1 != 0)
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

    #[test]
    fn the_capability_is_read_from_the_status() {
        assert!(may_administer("Name:\tvxtap\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_administer("CapEff:\t000001ffffffefff\n"));
        assert!(!may_administer("CapEff:\t0000000000000000\n"));
        assert!(may_administer(""), "cannot be told");
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
