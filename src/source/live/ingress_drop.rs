//! Keeps what a packet ring has taken away from the rest of the network stack.
//!
//! A ring copies packets; the originals go on to IP and UDP, which costs as much again as the ring. They are
//! dropped at the interface's ingress, behind the ring. The rule must not outlive this process, even when
//! that is killed: an eBPF program on a TCX link goes with its descriptor (CAP_BPF and CAP_NET_ADMIN, Linux
//! 6.6), an nftables chain that a child process owns goes with that.

use std::net::{IpAddr, SocketAddr};

use crate::bpf::filter::Link;
use crate::host::nft;
use crate::sys::tcx::TcxLink;

/// The rule, as long as this lives.
pub enum IngressDrop {
    /// An eBPF program.
    Program(#[allow(dead_code, reason = "it is there to be dropped")] TcxLink),
    /// An nftables chain.
    Chain(#[allow(dead_code, reason = "it is there to be dropped")] nft::Chain),
}

/// The interface the rule stands at.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Its name.
    pub interface: &'a str,
    /// Its number.
    pub number: u32,
    /// What its packets start with.
    pub link: Link,
}

impl IngressDrop {
    /// Drops UDP to `wanted` that comes in there; `local` is what `0.0.0.0` and `[::]` stand for.
    ///
    /// # Errors
    ///
    /// What is in the way, in words: no permission, no support in the kernel, no nft.
    pub fn start(at: At<'_>, wanted: &[SocketAddr], local: &[IpAddr]) -> Result<Self, String> {
        let targets = targets(wanted, local);
        let no_program = match crate::bpf::drop::dropping(&targets, at.link) {
            Some(program) => match TcxLink::attach(at.number, &program) {
                Ok(link) => return Ok(Self::Program(link)),
                Err(error) => error.to_string(),
            },
            None => format!("{} addresses are too many for it", targets.len()),
        };
        match nft::Chain::start(at.interface, &targets) {
            Ok(chain) => Ok(Self::Chain(chain)),
            Err(no_chain) => Err(format!(
                "an eBPF program that drops them needs CAP_BPF, CAP_NET_ADMIN and Linux 6.6 ({no_program}); \
                 {no_chain}"
            )),
        }
    }

    /// What drops them, for people.
    pub const fn by(&self) -> &'static str {
        match self {
            Self::Program(_) => "eBPF",
            Self::Chain(_) => "nftables",
        }
    }
}

/// The addresses that `wanted` stands for, one by one. Pure.
fn targets(wanted: &[SocketAddr], local: &[IpAddr]) -> Vec<SocketAddr> {
    let mut targets: Vec<SocketAddr> = Vec::new();
    for wanted in wanted {
        let same_family = |ip: &&IpAddr| ip.is_ipv4() == wanted.is_ipv4();
        if wanted.ip().is_unspecified() {
            let all = local.iter().filter(same_family);
            targets.extend(all.map(|ip| SocketAddr::new(*ip, wanted.port())));
        } else {
            targets.push(SocketAddr::new(wanted.ip(), wanted.port()));
        }
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_stands_for_those_of_this_machine() {
        let wanted = [
            "10.0.0.5:4789",
            "[::]:4790",
            "[fe80::1%3]:4790",
            "0.0.0.0:4789",
        ];
        let local = ["10.0.0.5", "fd00::5", "fe80::1"].map(|one| one.parse().unwrap());
        let targets = targets(&wanted.map(|one| one.parse().unwrap()), &local);
        let expected = ["10.0.0.5:4789", "[fd00::5]:4790", "[fe80::1]:4790"];
        assert_eq!(targets, expected.map(|one| one.parse().unwrap()));
    }
}
