//! What Wireshark is told, in its own format (doc/extcap.adoc of Wireshark), pure.

/// The name of the one interface.
pub const INTERFACE: &str = "vxtap";

/// Inner frames are Ethernet frames.
pub const DLTS: &str = "dlt {number=1}{name=EN10MB}{display=Ethernet}\n";

/// Why a capture filter is refused.
pub const NO_FILTER: &str =
    "vxtap takes no capture filter: use its options for VNIs and networks, and a display filter";

/// An option of the interface.
struct Offered {
    call: &'static str,
    display: &'static str,
    /// Type, with what belongs to it.
    kind: &'static str,
    default: &'static str,
    tooltip: &'static str,
    /// What can be chosen, where it is a selector.
    values: &'static [&'static str],
}

const OPTIONS: [Offered; 7] = [
    Offered {
        call: "--port",
        display: "UDP port",
        kind: "{type=unsigned}{range=1,65535}",
        default: "4789",
        tooltip: "UDP destination port of the mirrored traffic",
        values: &[],
    },
    Offered {
        call: "--bind",
        display: "Receive on address",
        kind: "{type=string}",
        default: "",
        tooltip: "An address of this machine; empty for all, IPv4 and IPv6",
        values: &[],
    },
    Offered {
        call: "--vni",
        display: "VNIs",
        kind: "{type=string}",
        default: "",
        tooltip: "Take only these VNIs: 5, 5,7 or 10-20; empty for all",
        values: &[],
    },
    Offered {
        call: "--allow",
        display: "Mirror sources",
        kind: "{type=string}",
        default: "",
        tooltip: "Take only packets from these networks: 10.0.0.0/8,2001:db8::/32; empty for all",
        values: &[],
    },
    Offered {
        call: "--mtu",
        display: "MTU",
        kind: "{type=unsigned}{range=68,65535}",
        default: "1500",
        tooltip: "MTU of the path from mirror source to here, in bytes, by which truncation is judged",
        values: &[],
    },
    Offered {
        call: "--backend",
        display: "Receive by",
        kind: "{type=selector}",
        default: "auto",
        tooltip: "udp: sockets, behind the host's firewall. packet: a ring, before it; needs CAP_NET_RAW",
        values: &["auto", "udp", "packet"],
    },
    Offered {
        call: "--workers",
        display: "Workers",
        kind: "{type=string}",
        default: "auto",
        tooltip: "Threads that work on packets: a number, or auto",
        values: &[],
    },
];

/// The answer to `--extcap-interfaces`.
pub fn interfaces() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "extcap {{version={version}}}{{display=vxtap}}\n\
         interface {{value={INTERFACE}}}{{display=VXLAN mirror receiver}}\n"
    )
}

/// The answer to `--extcap-config`.
pub fn configuration() -> String {
    let mut text = String::new();
    for (number, option) in OPTIONS.iter().enumerate() {
        let Offered {
            call,
            display,
            kind,
            default,
            tooltip,
            values,
        } = option;
        let default = match *default {
            "" => String::new(),
            default => format!("{{default={default}}}"),
        };
        text.push_str(&format!(
            "arg {{number={number}}}{{call={call}}}{{display={display}}}{kind}{default}{{tooltip={tooltip}}}\n"
        ));
        for value in *values {
            let is_default = match *value == option.default {
                true => "{default=true}",
                false => "",
            };
            text.push_str(&format!(
                "value {{arg={number}}}{{value={value}}}{{display={value}}}{is_default}\n"
            ));
        }
    }
    text
}

/// Each option with its default.
#[cfg(test)]
pub fn defaults() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPTIONS.iter().map(|option| (option.call, option.default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_wiresharks() {
        let config = configuration();
        assert!(config.starts_with(
            "arg {number=0}{call=--port}{display=UDP port}{type=unsigned}{range=1,65535}{default=4789}{tooltip="
        ));
        assert!(config.contains("value {arg=5}{value=auto}{display=auto}{default=true}\n"));
        assert!(config.contains("value {arg=5}{value=udp}{display=udp}\n"));
        for line in config
            .lines()
            .chain(interfaces().lines())
            .chain(DLTS.lines())
        {
            let (_, fields) = line.split_once(' ').unwrap();
            let fields = fields.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
            for field in fields.split("}{") {
                assert!(field.contains('=') && !field.contains(['{', '}']), "{line}");
            }
        }
    }
}
