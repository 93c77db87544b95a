//! The network interfaces of this machine, and which of them mirrored traffic comes in on.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::net::if_::{InterfaceFlags, if_indextoname, if_nametoindex};

use crate::bpf::filter::Link;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// The kernel's number for it; `None` when it is gone.
    pub fn number(&self) -> Option<u32> {
        number(&self.name)
    }
}

/// The kernel's number for the interface of this name.
pub fn number(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// The name of the interface with this number; `None` when it is gone.
pub fn name(number: u32) -> Option<String> {
    let name = if_indextoname(number).ok()?.into_string().ok()?;
    // nix 0.32 takes the null pointer of an unknown number for success.
    (!name.is_empty()).then_some(name)
}

/// What packets of an interface start with (linux/if_arp.h); most have an Ethernet header.
pub fn link_of(interface: &str) -> Link {
    let kind = std::fs::read_to_string(format!("/sys/class/net/{interface}/type"));
    let ethernet = kind.map_or(true, |kind| matches!(kind.trim(), "1" | "772"));
    if ethernet {
        Link::Ethernet
    } else {
        Link::RawIp
    }
}

/// All interfaces of this network namespace.
///
/// # Errors
///
/// As getifaddrs(3).
pub fn list() -> io::Result<Vec<Interface>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        let known = interfaces
            .iter()
            .position(|known| known.name == entry.interface_name);
        let at = known.unwrap_or(interfaces.len());
        if known.is_none() {
            interfaces.push(Interface {
                name: entry.interface_name,
                up: entry.flags.contains(InterfaceFlags::IFF_UP),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                addresses: Vec::new(),
            });
        }
        let address = entry.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        if let Some(interface) = interfaces.get_mut(at) {
            interface.addresses.extend(address);
        }
    }
    Ok(interfaces)
}

/// The numbers of `interface` and of those stacked upon it, VLANs say: one packet comes in on several.
pub fn with_stacked(interface: &str) -> Vec<u32> {
    let mut found: Vec<String> = vec![interface.to_owned()];
    let mut at = 0;
    while let Some(name) = found.get(at).cloned() {
        let entries = std::fs::read_dir(format!("/sys/class/net/{name}"));
        for entry in entries.into_iter().flatten().flatten() {
            let entry = entry.file_name();
            let upper = entry
                .to_str()
                .and_then(|entry| entry.strip_prefix("upper_"));
            if let Some(upper) = upper.filter(|upper| !found.iter().any(|known| known == upper)) {
                found.push(upper.to_owned());
            }
        }
        at += 1;
    }
    found.iter().filter_map(|name| number(name)).collect()
}

/// Every address of this machine; none when they cannot be told.
pub fn local_addresses() -> Vec<IpAddr> {
    let interfaces = list().unwrap_or_default();
    interfaces
        .into_iter()
        .flat_map(|interface| interface.addresses)
        .collect()
}

/// The one interface on which traffic to all of `binds` comes in. Pure.
///
/// `0.0.0.0` and `[::]` beside each other mean "all there is": it is enough when an interface has an address
/// of one of the families. Every interface has a link-local address, so these tell something only where there
/// is no other.
///
/// # Errors
///
/// Why none can be named, in words that follow "because".
pub fn choose<'a>(
    binds: &[SocketAddr],
    interfaces: &'a [Interface],
) -> Result<&'a Interface, String> {
    if let Some(interface) = choose_by(binds, interfaces, |address| !is_link_local(address))? {
        return Ok(interface);
    }
    let found = choose_by(binds, interfaces, |_| true)?;
    found.ok_or_else(|| match binds.first() {
        Some(bind) => {
            let mut text = format!("no interface that is up has an address for {}", bind.ip());
            let down = |one: &&Interface| !one.up && !one.loopback && !one.addresses.is_empty();
            let names = interfaces.iter().filter(down).map(|one| one.name.as_str());
            match names.collect::<Vec<_>>().as_slice() {
                [] => {}
                [one] => text.push_str(&format!("; {one} is down")),
                several => text.push_str(&format!("; {} are down", several.join(", "))),
            }
            text
        }
        None => "no address is given".to_owned(),
    })
}

/// The interface, by those of its addresses that tell something.
fn choose_by<'a>(
    binds: &[SocketAddr],
    interfaces: &'a [Interface],
    tells: impl Fn(IpAddr) -> bool,
) -> Result<Option<&'a Interface>, String> {
    let mut chosen: Option<&Interface> = None;
    for bind in binds {
        let ip = bind.ip();
        let fits = |interface: &&Interface| {
            let mut addresses = interface.addresses.iter();
            match ip.is_unspecified() {
                true => {
                    let fits = |one: &IpAddr| one.is_ipv4() == ip.is_ipv4() && tells(*one);
                    interface.up && !interface.loopback && addresses.any(fits)
                }
                false => addresses.any(|one| *one == ip),
            }
        };
        let fitting: Vec<&Interface> = interfaces.iter().filter(fits).collect();
        let interface = match fitting.as_slice() {
            [interface] => *interface,
            [] if ip.is_unspecified() => continue,
            [] => return Err(format!("no interface has the address {ip}")),
            several => {
                let names: Vec<&str> = several.iter().map(|one| one.name.as_str()).collect();
                return Err(format!("{} could receive for {ip}", names.join(" and ")));
            }
        };
        if interface.loopback {
            return Err(format!("{ip} is a loopback address"));
        }
        if chosen.is_some_and(|chosen| chosen != interface) {
            return Err("the addresses belong to several interfaces".to_owned());
        }
        chosen = Some(interface);
    }
    Ok(chosen)
}

/// Whether an address holds on one link only (RFC 3927, RFC 4291 §2.5.6).
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, up: bool, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            up,
            loopback: name == "lo",
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_interface_that_owns_the_address() {
        let here = [
            interface("lo", true, &["127.0.0.1", "::1"]),
            interface("eth0", true, &["10.0.0.5", "fd00::5"]),
            interface("eth1", false, &["10.0.1.5"]),
        ];
        let name = |binds: &[&str]| {
            let binds: Vec<SocketAddr> = binds.iter().map(|one| one.parse().unwrap()).collect();
            choose(&binds, &here).map(|chosen| chosen.name.as_str())
        };
        assert_eq!(name(&["10.0.0.5:4789"]), Ok("eth0"));
        assert_eq!(name(&["10.0.1.5:4789"]), Ok("eth1"), "down, but meant");
        assert_eq!(name(&["0.0.0.0:4789"]), Ok("eth0"), "eth1 is down");
        assert_eq!(name(&["0.0.0.0:4789", "[::]:4789"]), Ok("eth0"));
        for no in [
            &["127.0.0.1:4789"][..],
            &["10.9.9.9:1"],
            &["10.0.0.5:1", "10.0.1.5:1"],
            &[],
        ] {
            assert!(name(no).is_err(), "{no:?}");
        }
        let mut more = here.to_vec();
        more.push(interface("docker0", true, &["172.17.0.1"]));
        let any = ["0.0.0.0:4789".parse().unwrap()];
        let why = choose(&any, &more).unwrap_err();
        assert!(why.contains("eth0 and docker0"), "{why}");
    }

    #[test]
    fn both_families_where_an_interface_has_only_one() {
        let here = [
            interface("lo", true, &["127.0.0.1", "::1"]),
            interface("eth0", true, &["10.0.0.5", "fe80::5"]),
            interface("veth0", true, &["fe80::9"]),
        ];
        let both: Vec<SocketAddr> = ["0.0.0.0:4789", "[::]:4789"]
            .map(|one| one.parse().unwrap())
            .to_vec();
        let name = |binds: &[SocketAddr], here: &[Interface]| {
            choose(binds, here).map(|chosen| chosen.name.clone())
        };
        // eth0 alone has an IPv4 address; link-local ones do not tell where traffic comes in.
        assert_eq!(name(&both, &here), Ok("eth0".to_owned()));
        let why = name(&both[1..], &here).unwrap_err();
        assert!(why.contains("eth0 and veth0 could receive for ::"), "{why}");
        assert_eq!(name(&both, &here[..2]), Ok("eth0".to_owned()));
        assert_eq!(name(&both[1..], &here[..2]), Ok("eth0".to_owned()));
        let only_v4 = [interface("eth0", true, &["10.0.0.5"])];
        assert_eq!(name(&both, &only_v4), Ok("eth0".to_owned()));
        assert!(name(&both[1..], &only_v4).is_err(), "asked for IPv6 alone");
        let only_v6 = [interface("eth0", true, &["fd00::5"])];
        assert_eq!(name(&both, &only_v6), Ok("eth0".to_owned()));
        let none = [interface("eth0", false, &["10.0.0.5", "fd00::5"])];
        assert!(
            name(&both, &none)
                .unwrap_err()
                .contains("no interface that is up has an address for 0.0.0.0; eth0 is down")
        );
    }

    #[test]
    fn this_machine_has_loopback() {
        let here = list().unwrap();
        let loopback = here.iter().find(|one| one.loopback).unwrap();
        assert!(loopback.number().is_some());
        assert_eq!(number("no-such-interface"), None);
        assert_eq!(
            name(loopback.number().unwrap()),
            Some(loopback.name.clone())
        );
        assert_eq!(name(u32::MAX), None);
    }
}
