//! Who holds a UDP port of this machine. In goes the text of `/proc/net/udp` and `/proc`, out come words for
//! people.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who holds a UDP address or port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This program itself.
    Ourselves,
    /// A process: its number and name.
    Process(u32, String),
    /// A socket that no process has open: the kernel's own. Names of the vxlan devices there are.
    Kernel(Vec<String>),
    /// The kernel, or a process of another user whose files cannot be seen. Names of the vxlan devices.
    Hidden(Vec<String>),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whom, devices) = match self {
            Self::Ourselves => return f.write_str("this vxtap itself: --bind names it twice"),
            Self::Process(id, name) => return write!(f, "process {id} ({name})"),
            Self::Kernel(devices) => ("the kernel itself", devices),
            Self::Hidden(devices) => ("the kernel or another user's process", devices),
        };
        match devices.as_slice() {
            [] => write!(f, "{whom} (no vxlan device in this network namespace)"),
            devices => write!(f, "{whom} (vxlan devices here: {})", devices.join(", ")),
        }
    }
}

/// Who holds `address`, so that it cannot be bound; `None` when that cannot be told.
pub fn holder(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"];
    let tables = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let inode = inode_of(address, &tables)?;
    let link = format!("socket:[{inode}]");
    let mut all_seen = true;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            all_seen = false;
            continue;
        };
        let mut targets = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok());
        if targets.any(|target| target.as_os_str() == link.as_str()) {
            if id == std::process::id() {
                return Some(Holder::Ourselves);
            }
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Holder::Process(id, command.trim().to_owned()));
        }
    }
    // A socket that no process has open is the kernel's own, if all processes could be seen.
    Some(match all_seen {
        true => Holder::Kernel(vxlan_devices()),
        false => Holder::Hidden(vxlan_devices()),
    })
}

/// The inode of the socket in `/proc/net/udp` or `udp6` that is in the way of `address`: one of the same
/// address first, then one of every address. Pure.
fn inode_of(address: SocketAddr, tables: &[String]) -> Option<u64> {
    let mut in_the_way: Vec<(bool, u64)> = Vec::new();
    for line in tables.iter().flat_map(|table| table.lines().skip(1)) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let local = columns.get(1).and_then(|column| local_address(column));
        let inode = columns.get(9).and_then(|inode| inode.parse().ok());
        let (Some(local), Some(inode)) = (local, inode) else {
            continue;
        };
        if local.port() != address.port() {
            continue;
        }
        let same = local.ip() == address.ip();
        // A socket on [::] takes IPv4 too, unless it was told not to.
        let any =
            |one: IpAddr, other: IpAddr| one.is_unspecified() && (one.is_ipv6() || other.is_ipv4());
        if same || any(local.ip(), address.ip()) || any(address.ip(), local.ip()) {
            in_the_way.push((!same, inode));
        }
    }
    in_the_way.into_iter().min().map(|(_, inode)| inode)
}

/// `0100007F:12B5`: the address in 32-bit words, each in the byte order of this machine.
fn local_address(column: &str) -> Option<SocketAddr> {
    let (address, port) = column.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Names of the kernel's vxlan devices in this network namespace.
pub fn vxlan_devices() -> Vec<String> {
    let Ok(devices) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let is_vxlan = |device: &std::fs::DirEntry| {
        let about = std::fs::read_to_string(device.path().join("uevent")).unwrap_or_default();
        about.lines().any(|line| line == "DEVTYPE=vxlan")
    };
    let vxlan = devices.flatten().filter(is_vxlan);
    vxlan
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux prints them on a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_socket_that_is_in_the_way() {
        let udp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                    1: 0100007F:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0000 0\n\
                    2: 00000000:12B6 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 22 2 0000 0\n\
                    3: 0500000A:12B6 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 33 2 0000 0\n";
        let udp6 = "  sl  local_address remote_address st\n\
                    4: 00000000000000000000000000000000:12B7 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 44 2 0000 0\n\
                    5: B80D0120000000000000000001000000:12B8 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 55 2 0000 0\nnonsense\n";
        let tables = [udp.to_owned(), udp6.to_owned()];
        let inode = |address: &str| inode_of(address.parse().unwrap(), &tables);
        assert_eq!(inode("127.0.0.1:4789"), Some(11));
        assert_eq!(
            inode("0.0.0.0:4789"),
            Some(11),
            "every address, that one too"
        );
        assert_eq!(inode("10.0.0.5:4789"), None, "another address");
        assert_eq!(inode("10.0.0.5:4790"), Some(33), "the same before every");
        assert_eq!(inode("10.0.0.6:4790"), Some(22));
        assert_eq!(inode("10.0.0.6:4791"), Some(44), "[::] takes IPv4 too");
        assert_eq!(inode("[fd00::5]:4790"), None, "0.0.0.0 takes no IPv6");
        assert_eq!(inode("[2001:db8::1]:4792"), Some(55));
        assert_eq!(inode("[::]:4792"), Some(55));
        assert_eq!(inode("[2001:db8::2]:4792"), None);
    }

    #[test]
    fn a_socket_of_our_own() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(holder(address), Some(Holder::Ourselves));
        drop(socket);
    }

    #[test]
    fn words_for_people() {
        assert_eq!(
            Holder::Process(7, "nc".to_owned()).to_string(),
            "process 7 (nc)"
        );
        let kernel = Holder::Kernel(vec!["vx0".to_owned(), "vx1".to_owned()]);
        assert_eq!(
            kernel.to_string(),
            "the kernel itself (vxlan devices here: vx0, vx1)"
        );
        let hidden = Holder::Hidden(Vec::new()).to_string();
        assert!(
            hidden.contains("another user's process (no vxlan device"),
            "{hidden}"
        );
    }
}
