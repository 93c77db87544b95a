//! Where a collector listens: `ipfix://HOST[:PORT]` over UDP, `ipfix+tcp://HOST[:PORT]` over TCP.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::export::ipfix::{DOMAIN, PORT};

/// What carries messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Each message is a datagram.
    Udp,
    /// Messages one behind the other on a connection.
    Tcp,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    /// What stands in front of a host.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "ipfix://",
            Self::Tcp => "ipfix+tcp://",
        }
    }
}

/// A collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What carries messages to it.
    pub transport: Transport,
    host: Host,
    port: u16,
    /// The observation domain that messages name.
    pub domain: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, port) = (self.transport.scheme(), self.port);
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(out, "{scheme}[{address}]:{port}"),
            Host::Address(address) => write!(out, "{scheme}{address}:{port}"),
            Host::Name(name) => write!(out, "{scheme}{name}:{port}"),
        }
    }
}

impl Target {
    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether its host has to be looked up.
    pub const fn has_name(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// What was typed; `None` where it names no collector but a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(typed: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = typed.split_once("://")?;
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if scheme.is_empty() || !scheme.bytes().all(is_word) {
            return None;
        }
        let mut transports = Transport::ALL.into_iter();
        let is_it = |transport: &Transport| transport.scheme().strip_suffix("://") == Some(scheme);
        Some(match transports.find(is_it) {
            Some(transport) => Self::read_host(transport, rest),
            None => Err(format!(
                "'{scheme}://' leads to no collector: ipfix://HOST[:PORT] is IPFIX over UDP, ipfix+tcp://HOST[:PORT] over TCP"
            )),
        })
    }

    fn read_host(transport: Transport, rest: &str) -> Result<Self, String> {
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let domain = query.map_or(Ok(DOMAIN), read_query)?;
        let (host, port) = split(place)?;
        let port = match port {
            None => PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => {
                    return Err(format!(
                        "'{port}' is no port: a number from 1 to 65535 is needed"
                    ));
                }
                Ok(port) => port,
            },
        };
        Ok(Self {
            transport,
            host: read_name(host)?,
            port,
            domain,
        })
    }

    /// The host, as it was typed.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// Whether the host has to be looked up.
    pub const fn is_name(&self) -> bool {
        matches!(self.host, Host::Name(_))
    }

    /// Its addresses; a name is looked up, which may take a while.
    ///
    /// # Errors
    ///
    /// As the system says, or that there are none.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let name = match &self.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, self.port)]),
            Host::Name(name) => name,
        };
        let found = (name.as_str(), self.port).to_socket_addrs();
        let found: Vec<SocketAddr> = found
            .map_err(|error| io::Error::other(format!("the name {name} has no address: {error}")))?
            .collect();
        match found.is_empty() {
            true => Err(io::Error::new(
                ErrorKind::NotFound,
                format!("the name {name} has no address"),
            )),
            false => Ok(found),
        }
    }
}

/// What stands behind the question mark.
fn read_query(query: &str) -> Result<u32, String> {
    let number = query.strip_prefix("domain=").ok_or_else(|| {
        let advice = match query {
            "transport=tcp" => "; TCP is ipfix+tcp://HOST[:PORT]",
            _ => "",
        };
        format!("'?{query}' is not known: ?domain=N sets the observation domain{advice}")
    })?;
    let domain = number.parse();
    domain
        .map_err(|_| format!("'{number}' is no observation domain: a number of 32 bits is needed"))
}

/// Host and port, which may be missing. An address of IPv6 stands in brackets.
fn split(place: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, behind) = rest
            .split_once(']')
            .ok_or_else(|| format!("'{place}': the bracket is not closed"))?;
        return match behind.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if behind.is_empty() => Ok((host, None)),
            None => Err(format!(
                "'{place}': a colon and a port may follow the bracket"
            )),
        };
    }
    match place.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(format!(
            "'{place}': an IPv6 address stands in brackets: [ADDRESS]:PORT"
        )),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((place, None)),
    }
}

fn read_name(host: &str) -> Result<Host, String> {
    if let Ok(address) = host.parse() {
        return Ok(Host::Address(address));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    match host {
        "" => Err("the host is missing: ipfix://HOST[:PORT]".to_owned()),
        name if name.len() <= 253 && name.bytes().all(is_part) => {
            // What looks like an address and is none would be asked for as a name.
            match name
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
            {
                true => Err(format!("'{name}' is no IPv4 address")),
                false => Ok(Host::Name(name.to_owned())),
            }
        }
        other => Err(format!("'{other}' is no host name or address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &str) -> Option<Result<String, String>> {
        let told = |target: Target| format!("{target} {}", target.domain);
        Target::read(typed).map(|target| target.map(told))
    }

    #[test]
    fn collectors_are_read() {
        for (typed, told) in [
            ("ipfix://192.0.2.1", "ipfix://192.0.2.1:4739 1"),
            ("ipfix://192.0.2.1:9995/", "ipfix://192.0.2.1:9995 1"),
            (
                "ipfix+tcp://collector.example",
                "ipfix+tcp://collector.example:4739 1",
            ),
            (
                "ipfix+tcp://[2001:db8::1]:47",
                "ipfix+tcp://[2001:db8::1]:47 1",
            ),
            ("ipfix://[::1]?domain=7", "ipfix://[::1]:4739 7"),
        ] {
            assert_eq!(read(typed), Some(Ok(told.to_owned())), "{typed}");
        }
    }

    #[test]
    fn paths_are_none() {
        for typed in ["f.ipfix", "ipfix:f", "a/b://c", "-", "./ipfix://h"] {
            assert_eq!(read(typed), None, "{typed}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (typed, words) in [
            ("netflow://h", "'netflow://' leads to no collector"),
            ("ipfix://", "the host is missing"),
            ("ipfix://:4739", "the host is missing"),
            ("ipfix://h:0", "'0' is no port"),
            ("ipfix://h:65536", "'65536' is no port"),
            ("ipfix://h:", "'' is no port"),
            ("ipfix://2001:db8::1", "stands in brackets"),
            ("ipfix://[2001:db8::1", "the bracket is not closed"),
            ("ipfix://[::1]4739", "a colon and a port"),
            ("ipfix://192.0.2.256", "is no IPv4 address"),
            ("ipfix://a b", "is no host name"),
            ("ipfix://h/path", "is no host name"),
            ("ipfix://h?transport=tcp", "TCP is ipfix+tcp://"),
            ("ipfix://h?domain=-1", "is no observation domain"),
        ] {
            let said = read(typed).unwrap().unwrap_err();
            assert!(said.contains(words), "{typed}: {said}");
        }
    }

    /// Addresses are not looked up.
    #[test]
    fn addresses_of_addresses() {
        let target = Target::read("ipfix://[::1]:9").unwrap().unwrap();
        assert_eq!(target.addresses().unwrap(), ["[::1]:9".parse().unwrap()]);
    }
}
