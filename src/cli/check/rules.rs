//! The least rules that let exactly the configured sources reach the ports: for a security group and a network ACL, or
//! for the firewall of this machine. Pure, but for what is handed in of the machine.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cli::args::RuleKind;
use crate::cli::settings::listening::Listen;
use crate::host::interfaces::Interface;
use crate::mirror::networks::Network;

/// Packets that have to come through.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    /// The network they come from, as `ADDRESS/PREFIX`.
    source: String,
    /// The address they go to; none where it is not known.
    destination: Option<IpAddr>,
    port: u16,
    ipv6: bool,
}

impl Way {
    fn destination(&self) -> String {
        match self.destination {
            Some(address) => format!("{address}/{}", if self.ipv6 { 128 } else { 32 }),
            None => "TARGET".to_owned(),
        }
    }
}

/// The rules as text.
pub fn text(kind: RuleKind, listen: &Listen, here: &[Interface]) -> String {
    let networks = listen.run.worker.allowed.networks.fewest();
    let networks = networks.as_slice();
    let addresses = &listen.receive.addresses;
    let mut ways = Vec::new();
    for address in addresses
        .iter()
        .filter(|address| !address.ip().is_loopback())
    {
        let ipv6 = address.is_ipv6();
        for source in sources(networks, ipv6) {
            for destination in destinations(address.ip(), here) {
                ways.push(Way {
                    source: source.clone(),
                    destination,
                    port: address.port(),
                    ipv6,
                });
            }
        }
    }
    let mut text = head(
        &ways,
        networks,
        addresses.iter().any(|one| one.ip().is_unspecified()),
    );
    if ways.is_empty() {
        return text;
    }
    match kind {
        RuleKind::Huawei => huawei(&ways, &mut text),
        RuleKind::Aws => aws(&ways, &mut text),
        RuleKind::Alibaba => alibaba(&ways, &mut text),
        RuleKind::Nftables => nftables(&ways, &mut text),
    }
    text
}

/// Networks of a family that may send; all of it where none is named at all.
fn sources(networks: &[Network], ipv6: bool) -> Vec<String> {
    if networks.is_empty() {
        let all = if ipv6 { "::/0" } else { "0.0.0.0/0" };
        return vec![all.to_owned()];
    }
    let networks = networks.iter().filter(|network| network.is_ipv6() == ipv6);
    let with_prefix = |text: String| match (text.contains('/'), ipv6) {
        (true, _) => text,
        (false, true) => format!("{text}/128"),
        (false, false) => format!("{text}/32"),
    };
    networks
        .map(|network| with_prefix(network.to_string()))
        .collect()
}

/// The addresses that a bound one stands for; `None` where this machine has none of its family.
fn destinations(bound: IpAddr, here: &[Interface]) -> Vec<Option<IpAddr>> {
    if !bound.is_unspecified() {
        return vec![Some(bound)];
    }
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(address) => *address != Ipv4Addr::UNSPECIFIED && !address.is_link_local(),
        IpAddr::V6(address) => {
            *address != Ipv6Addr::UNSPECIFIED && !address.is_unicast_link_local()
        }
    };
    let interfaces = here.iter().filter(|one| !one.loopback);
    let addresses = interfaces.flat_map(|one| one.addresses.iter().copied());
    let of_family = addresses.filter(|address| address.is_ipv6() == bound.is_ipv6());
    let mut found: Vec<Option<IpAddr>> = of_family.filter(reachable).map(Some).collect();
    if found.is_empty() && bound.is_ipv4() {
        found.push(None);
    }
    found
}

/// What the rules let through, as a table, and what to know of them.
fn head(ways: &[Way], networks: &[Network], any_address: bool) -> String {
    let mut text =
        String::from("# Mirrored traffic to let through to vxtap, and nothing else:\n#\n");
    text.push_str("#   protocol  port   source               destination\n");
    for way in ways {
        let (port, source) = (way.port, &way.source);
        let _ = writeln!(
            text,
            "#   UDP       {port:<5}  {source:<19}  {}",
            way.destination()
        );
    }
    text.push_str("#\n");
    if ways.is_empty() {
        text.push_str(
            "# No address is bound that others reach, or --allow names no network of its family.\n",
        );
    }
    if networks.is_empty() {
        text.push_str("# --allow names no sources: these rules are as open as the settings. Name them first.\n");
    }
    if any_address {
        text.push_str(
            "# The bind is every address: the destinations are those that this machine has now. Run this on the target,\n\
             # or name the address with --bind.\n",
        );
    }
    if ways.iter().any(|way| way.port == 0) {
        text.push_str("# Port 0 lets the system choose: name a port with --bind before you write rules for it.\n");
    }
    text
}

/// Each value once, in its order.
fn each<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut each = Vec::new();
    for value in values {
        if !each.contains(&value) {
            each.push(value);
        }
    }
    each
}

/// Sources and ports; a security group belongs to the interface and needs no destination.
fn of_group(ways: &[Way]) -> Vec<(&str, u16, bool)> {
    each(
        ways.iter()
            .map(|way| (way.source.as_str(), way.port, way.ipv6)),
    )
}

fn huawei(ways: &[Way], text: &mut String) {
    text.push_str("# Terraform. Security group of the target's network interface:\n");
    for (number, (source, port, ipv6)) in of_group(ways).into_iter().enumerate() {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        let _ = write!(
            text,
            "resource \"huaweicloud_networking_secgroup_rule\" \"vxtap_{}\" {{\n  \
               security_group_id = var.target_security_group_id\n  \
               direction         = \"ingress\"\n  \
               ethertype         = \"{family}\"\n  \
               protocol          = \"udp\"\n  \
               ports             = \"{port}\"\n  \
               remote_ip_prefix  = \"{source}\"\n\
             }}\n",
            number + 1
        );
    }
    text.push_str("# In the huaweicloud_vpc_network_acl of the target's subnet, if it has one:\n");
    for way in ways {
        let version = if way.ipv6 { 6 } else { 4 };
        let Way { source, port, .. } = way;
        let _ = write!(
            text,
            "ingress_rules {{\n  \
               action                 = \"allow\"\n  \
               ip_version             = {version}\n  \
               protocol               = \"udp\"\n  \
               source_ip_address      = \"{source}\"\n  \
               destination_ip_address = \"{}\"\n  \
               destination_port       = \"{port}\"\n\
             }}\n",
            way.destination()
        );
    }
}

fn aws(ways: &[Way], text: &mut String) {
    text.push_str("# Security group of the target's network interface:\n");
    for (source, port, ipv6) in of_group(ways) {
        let range = match ipv6 {
            true => format!("Ipv6Ranges=[{{CidrIpv6={source}}}]"),
            false => format!("IpRanges=[{{CidrIp={source}}}]"),
        };
        let _ = writeln!(
            text,
            "aws ec2 authorize-security-group-ingress --group-id sg-TARGET \\\n  \
             --ip-permissions 'IpProtocol=udp,FromPort={port},ToPort={port},{range}'"
        );
    }
    text.push_str(
        "# Network ACL of the target's subnet, if it is not the default one; choose free rule numbers. An AWS ACL knows no\n\
         # destination: it is the whole subnet.\n",
    );
    for (number, (source, port, ipv6)) in of_group(ways).into_iter().enumerate() {
        let block = if ipv6 {
            "--ipv6-cidr-block"
        } else {
            "--cidr-block"
        };
        let _ = writeln!(
            text,
            "aws ec2 create-network-acl-entry --network-acl-id acl-TARGET --ingress --rule-number {} \\\n  \
             --protocol udp --port-range From={port},To={port} {block} {source} --rule-action allow",
            100 + 10 * number
        );
    }
}

fn alibaba(ways: &[Way], text: &mut String) {
    text.push_str("# Terraform. Security group of the target's network interface:\n");
    for (number, (source, port, ipv6)) in of_group(ways).into_iter().enumerate() {
        let address = if ipv6 {
            "ipv6_cidr_ip     "
        } else {
            "cidr_ip          "
        };
        let _ = write!(
            text,
            "resource \"alicloud_security_group_rule\" \"vxtap_{}\" {{\n  \
               security_group_id = var.target_security_group_id\n  \
               type              = \"ingress\"\n  \
               ip_protocol       = \"udp\"\n  \
               nic_type          = \"intranet\"\n  \
               policy            = \"accept\"\n  \
               port_range        = \"{port}/{port}\"\n  \
               {address} = \"{source}\"\n\
             }}\n",
            number + 1
        );
    }
    text.push_str(
        "# In the alicloud_network_acl of the target's vSwitch, if it has one; it knows no destination: it is the whole \
         vSwitch.\n",
    );
    for (source, port, ipv6) in of_group(ways) {
        let version = if ipv6 {
            "  ip_version     = \"ipv6\"\n"
        } else {
            ""
        };
        let _ = write!(
            text,
            "ingress_acl_entries {{\n  \
               protocol       = \"udp\"\n  \
               port           = \"{port}/{port}\"\n  \
               source_cidr_ip = \"{source}\"\n  \
               policy         = \"accept\"\n\
             {version}}}\n"
        );
    }
}

fn nftables(ways: &[Way], text: &mut String) {
    text.push_str(
        "# A table of its own ('nft -f FILE'): what is not from these sources does not reach the port. Where another chain\n\
         # of the input hook drops what it does not know, put the accept rules there too. A packet ring (--backend packet)\n\
         # takes packets before these rules; --allow is what it goes by.\n\
         table inet vxtap_sources {\n  chain input {\n    type filter hook input priority filter; policy accept;\n",
    );
    let family = |ipv6| if ipv6 { "ip6" } else { "ip" };
    for way in ways {
        let ip = family(way.ipv6);
        let to = way
            .destination
            .map(|address| format!("{ip} daddr {address} "));
        let from = match way.source.as_str() {
            "0.0.0.0/0" | "::/0" => String::new(),
            source => format!("{ip} saddr {source} "),
        };
        let nfproto = match (&to, from.as_str()) {
            (None, "") => format!("meta nfproto {} ", if way.ipv6 { "ipv6" } else { "ipv4" }),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "    {nfproto}{}{from}udp dport {} accept",
            to.unwrap_or_default(),
            way.port
        );
    }
    for port in each(ways.iter().map(|way| way.port)) {
        let _ = writeln!(text, "    udp dport {port} drop");
    }
    text.push_str("  }\n}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            up: true,
            loopback: name == "lo",
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn every_address_stands_for_those_that_others_reach() {
        let here = [
            interface("lo", &["127.0.0.1", "::1"]),
            interface("eth0", &["10.0.9.9", "fe80::1", "fd00::9"]),
        ];
        let of = |bound: &str| destinations(bound.parse().unwrap(), &here);
        assert_eq!(of("0.0.0.0"), [Some("10.0.9.9".parse().unwrap())]);
        assert_eq!(of("::"), [Some("fd00::9".parse().unwrap())]);
        assert_eq!(of("10.0.0.5"), [Some("10.0.0.5".parse().unwrap())]);
        assert_eq!(destinations("0.0.0.0".parse().unwrap(), &[]), [None]);
        assert_eq!(destinations("::".parse().unwrap(), &[]), []);
    }

    #[test]
    fn sources_of_a_family() {
        let networks: Vec<Network> = ["192.168.0.27", "10.0.0.0/8", "fd00::/64"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(sources(&networks, false), ["192.168.0.27/32", "10.0.0.0/8"]);
        assert_eq!(sources(&networks, true), ["fd00::/64"]);
        assert_eq!(sources(&networks[2..], false), [""; 0]);
        assert_eq!(sources(&[], false), ["0.0.0.0/0"]);
        assert_eq!(sources(&[], true), ["::/0"]);
    }
}
