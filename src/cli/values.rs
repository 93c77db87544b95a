//! How the value of a flag is written: text in, the value out, or what is needed instead in words that
//! follow "invalid value '…' for --flag: ". Pure.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::capture::store::retention::MinFree;
use crate::filter::{Filter, Mistake};
use crate::flow::record::FlowId;
use crate::outfile::packed::{self, Codec};
use crate::send::options::HostPort;
use crate::send::traffic::{FrameSize, MAX_FRAME_LEN, MIN_FRAME_LEN};
use crate::stop::wall_clock_ns;
use crate::wire::{Vni, vxlan};

/// Longest name of an interface, in bytes (`IFNAMSIZ` of linux/if.h less its zero).
const LONGEST_INTERFACE_NAME: usize = 15;

/// Highest number of a core that can be asked for (`CPU_SETSIZE` of sched.h, less one).
const MOST_CORE: usize = 1023;

/// A whole number in `range`, digits alone.
pub fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.filter(|_| digits).ok_or_else(|| {
        let (least, most) = range.into_inner();
        format!("a number from {least} to {most} is needed")
    })
}

/// How many, at least one.
pub fn count(text: &str) -> Result<u64, String> {
    number(text, 1..=u64::MAX).map_err(|_| match number::<u64>(text, 0..=0) {
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("at most {}", u64::MAX)
        }
        _ => "a whole number above zero is needed".to_owned(),
    })
}

/// A port that can be sent to.
pub fn port(text: &str) -> Result<u16, String> {
    number(text, 1..=u16::MAX).map_err(|_| "a port from 1 to 65535 is needed".to_owned())
}

/// A port, or 0 for none.
pub fn port_or_none(text: &str) -> Result<u16, String> {
    number(text, 0..=u16::MAX)
        .map_err(|_| "a port from 1 to 65535 is needed, or 0 for none".to_owned())
}

/// A network identifier.
pub fn vni(text: &str) -> Result<Vni, String> {
    number(text, 0..=Vni::MAX.as_u32()).map(|number| Vni::new(number).unwrap_or(Vni::MAX))
}

/// One of several words.
pub fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("one of {} is needed", words.join(", "))
    })
}

/// A number of workers; `None` for `auto`.
pub fn workers(text: &str) -> Result<Option<u32>, String> {
    if text == "auto" {
        return Ok(None);
    }
    number(text, 1..=256)
        .map(Some)
        .map_err(|_| "a number from 1 to 256, or 'auto', is needed".to_owned())
}

/// Permission bits: "640", "0640", "0o640".
pub fn file_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) if plain => Ok(mode),
        _ => Err("an octal number up to 777 is needed, such as 640".to_owned()),
    }
}

/// A list of cores: "2", "0,2,4", "4-7".
pub fn cores(text: &str) -> Result<Vec<usize>, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let core = |text: &str| number::<usize>(text.trim(), 0..=usize::MAX).ok();
        match (core(first), core(last)) {
            (Some(first), Some(last)) if last < first => {
                return Err(format!(
                    "the range {first}-{last} ends before it begins; write {last}-{first}"
                ));
            }
            (Some(_), Some(last)) if last > MOST_CORE => {
                return Err(format!(
                    "no machine has a core {last}; the highest number is {MOST_CORE}"
                ));
            }
            (Some(first), Some(last)) => list.extend(first..=last),
            _ => return Err("cores by number are needed, as 2, 0,2 or 4-7".to_owned()),
        }
    }
    Ok(list)
}

/// A time with an optional unit: seconds without one.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ if number.is_empty() => return Err("a time is needed, as 90, 30s, 5m or 2h".to_owned()),
        _ => return Err(format!("unknown unit '{unit}'; use ms, s, m, h or d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a time is needed, as 90, 30s, 5m or 2h".to_owned())?;
    let longest = Duration::from_secs(100 * 365 * 86_400);
    match Duration::try_from_secs_f64(number * factor) {
        Ok(time) if time.is_zero() => Err("a time above zero is needed".to_owned()),
        Ok(time) if time <= longest => Ok(time),
        // Numbers alone reach this: neither a sign nor "NaN" gets here.
        _ => Err("the time is too long: at most 100 years, 36500d".to_owned()),
    }
}

/// A time as [`time`] reads it, no longer than this.
pub fn time_up_to(longest: Duration, text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time > longest {
        let longest = longest.as_secs();
        return Err(format!("the time is too long: at most {longest}s"));
    }
    Ok(time)
}

/// A moment, nanoseconds since 1970: RFC 3339, or without an offset in UTC, or a time before now as `-10m`.
pub fn moment(text: &str) -> Result<u64, String> {
    const NEEDED: &str = "a time is needed, as 2026-01-31T23:59:59Z, '2026-01-31 23:59:59' or 2026-01-31 (UTC), or -10m";
    if let Some(ago) = text.strip_prefix('-') {
        let ago = time(ago).map_err(|_| NEEDED.to_owned())?;
        let ago_ns = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        return Ok(wall_clock_ns().saturating_sub(ago_ns));
    }
    let with_offset = text.parse::<Timestamp>().ok();
    let in_utc = || {
        let time: DateTime = text.parse().ok()?;
        Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
    };
    let moment = with_offset.or_else(in_utc).ok_or(NEEDED)?;
    u64::try_from(moment.as_nanosecond())
        .map_err(|_| "a time from 1970 to 2554 is needed".to_owned())
}

/// The `flow_id` of a flow record.
pub fn flow_id(text: &str) -> Result<FlowId, String> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok().filter(|_| digits);
    id.map(FlowId)
        .ok_or_else(|| "16 hexadecimal digits are needed, the flow_id of a flow record".to_owned())
}

/// A community id, version 1.
pub fn community_id(text: &str) -> Result<[u8; 20], String> {
    let needed = "a community id is needed, as 1:LQU9qZlK+B5F3KDmev6m5PMibrg=";
    crate::flow::community_id::parse(text).ok_or_else(|| needed.to_owned())
}

/// A number of bytes with an optional unit, as GNU tools write it: kB, MB, GB, TB are powers of 1000; K, M, G, T and
/// KiB, MiB, GiB, TiB powers of 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    const EXAMPLE: &str = "a size is needed, as 500MB, 64MiB or 10GB";
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit = unit.trim_start();
    let power = |base: f64, letter: &str| {
        let letters = ["k", "m", "g", "t"];
        let power = letters.iter().zip(1..).find(|(known, _)| **known == letter);
        power.map(|(_, power)| base.powi(power))
    };
    let lower = unit.to_ascii_lowercase();
    let factor = match lower.as_str() {
        "" | "b" => Some(1.0),
        decimal if decimal.len() == 2 && decimal.ends_with('b') => power(1000.0, &decimal[..1]),
        binary => power(1024.0, binary.strip_suffix("ib").unwrap_or(binary)),
    };
    let Ok(number) = number.parse::<f64>() else {
        return Err(EXAMPLE.to_owned());
    };
    let Some(factor) = factor else {
        return Err(format!(
            "unknown unit '{unit}'; use kB, MB, GB, TB, KiB, MiB, GiB or TiB"
        ));
    };
    match number * factor {
        // 2^53: every whole number up to there is one of f64.
        bytes if (1.0..=9_007_199_254_740_992.0).contains(&bytes) => Ok(bytes as u64),
        bytes if bytes < 1.0 => Err("a size above zero is needed".to_owned()),
        _ => Err("the size is too large: at most 8192TiB".to_owned()),
    }
}

/// A number of bytes, or `none`.
pub fn bytes_or_none(text: &str) -> Result<Option<u64>, String> {
    match text {
        "none" => Ok(None),
        _ => bytes(text).map(Some),
    }
}

/// A format of compressed files with its level; `None` for no compression.
pub fn compression(text: &str) -> Result<Option<(Codec, u32)>, String> {
    if text == "none" {
        return Ok(None);
    }
    let (name, level) = match text.split_once(':') {
        Some((name, level)) => (name, Some(level)),
        None => (text, None),
    };
    let mut codecs = [Codec::Gzip, Codec::Zstd].into_iter();
    let codec = codecs.find(|codec| codec.name() == name);
    let needed = "none, gzip or zstd is needed, or one of them with a level, such as zstd:3";
    let codec = codec.ok_or_else(|| needed.to_owned())?;
    let level = level.map(|level| number(level, codec.levels()));
    Ok(Some((codec, level.transpose()?.unwrap_or(packed::LEVEL))))
}

/// Space left free: bytes, or percent of the file system.
pub fn min_free(text: &str) -> Result<MinFree, String> {
    match text.strip_suffix('%') {
        Some(percent) => number(percent, 1..=99)
            .map(MinFree::Percent)
            .map_err(|_| "a percentage from 1% to 99% is needed".to_owned()),
        None => bytes(text).map(MinFree::Bytes),
    }
}

/// A share, from 1% to 100%.
pub fn percent(text: &str) -> Result<u8, String> {
    let percent = text
        .strip_suffix('%')
        .map(|number| number.trim_end().parse());
    match percent {
        Some(Ok(percent @ 1..=100)) => Ok(percent),
        _ => Err("a percentage from 1% to 100% is needed".to_owned()),
    }
}

/// What names of files begin with.
pub fn file_prefix(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
    if text.is_empty() || text.len() > 100 || text.starts_with('.') || !text.chars().all(good) {
        return Err(
            "up to 100 letters, digits, '-', '_', '.', '@' and '+' are needed, with no '.' in front"
                .to_owned(),
        );
    }
    Ok(text.to_owned())
}

/// The name of an interface.
pub fn interface(text: &str) -> Result<String, String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    match text {
        "" => Err("the name of an interface is needed; 'ip link' lists them".to_owned()),
        _ if text.len() > LONGEST_INTERFACE_NAME => Err(format!(
            "the name of an interface has at most {LONGEST_INTERFACE_NAME} characters; 'ip link' lists them"
        )),
        _ if text.contains(bad) || matches!(text, "." | "..") => {
            Err("no interface can have that name; 'ip link' lists them".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// Where viewers connect to: `tcp://127.0.0.1:57012`, or `tcp://:57012` for the same. Port 0 lets the system choose
/// one.
pub fn tee(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLE: &str =
        "an address and a port are needed, as tcp://127.0.0.1:57012 or tcp://[::1]:57012";
    let Some(rest) = text.strip_prefix("tcp://") else {
        return Err(EXAMPLE.to_owned());
    };
    let address = match rest.split_once(':') {
        // No name is looked up: the next machine may resolve it otherwise.
        Some(("" | "localhost", port)) => {
            let port = port.parse().ok();
            port.map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        }
        _ => rest.parse().ok(),
    };
    address
        .filter(|address| !address.ip().is_multicast())
        .ok_or_else(|| EXAMPLE.to_owned())
}

/// The same, or a port alone, which is on 127.0.0.1.
pub fn listen_on(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => bind(text).map_err(|needed| format!("a port is needed, as 9469, or {needed}")),
    }
}

/// An address of this machine and a port: `0.0.0.0:4789`, `[::]:4789`, `[fe80::1%2]:4789`. Port 0 lets the
/// system choose one.
pub fn bind(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLE: &str = "an address and a port are needed, as 0.0.0.0:4789 or [::]:4789";
    let ipv6_alone = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, behind)) = rest.split_once(']') else {
            return Err(format!("the ']' is missing: {EXAMPLE}"));
        };
        let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
        let Ok(address) = address.parse::<Ipv6Addr>() else {
            return Err(format!("'{host}' is no IPv6 address: {EXAMPLE}"));
        };
        let Ok(zone) = number::<u32>(zone, 0..=u32::MAX) else {
            return Err(
                "behind '%' the number of an interface is needed; 'ip link' shows it".to_owned(),
            );
        };
        let port = match behind.strip_prefix(':') {
            Some(port) if !port.is_empty() => bind_port(port)?,
            None if !behind.is_empty() => {
                return Err(format!("'{behind}' is no port: {EXAMPLE}"));
            }
            _ => {
                return Err(format!(
                    "the port is missing: write [{host}]:{}",
                    vxlan::PORT
                ));
            }
        };
        if let Some(v4) = address.to_ipv4_mapped() {
            return Err(format!("that is an IPv4 address: write {v4}:{port}"));
        }
        if address.is_unicast_link_local() && zone == 0 {
            return Err(format!(
                "{address} is a link-local address, which each interface has for itself: write \
                 [{address}%NUMBER]:{port} with the interface's number; 'ip link' shows it"
            ));
        }
        if address.is_multicast() {
            return Err(no_group(text, "[::]", port));
        }
        return Ok(SocketAddrV6::new(address, port, 0, zone).into());
    }
    if let Some(port) = text.strip_prefix("::")
        // Shorter ones are rather an address: ::1.
        && port.len() >= 4
        && let Ok(port) = bind_port(port)
    {
        return Err(format!(
            "an IPv6 address stands in brackets before its port: write [::]:{port} for every IPv6 address"
        ));
    }
    if ipv6_alone(text) {
        return Err(format!(
            "an IPv6 address stands in brackets before its port: write [{text}]:{}",
            vxlan::PORT
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(match text.parse::<Ipv4Addr>() {
            Ok(address) => format!("the port is missing: write {address}:{}", vxlan::PORT),
            Err(_) if port_or_none(text).is_ok() => {
                format!("the address is missing: for every address 0.0.0.0:{text} and [::]:{text}")
            }
            Err(_) => EXAMPLE.to_owned(),
        });
    };
    if host.is_empty() || host == "*" {
        let port = bind_port(port)?;
        return Err(format!(
            "the address is missing: for every address 0.0.0.0:{port} and [::]:{port}"
        ));
    }
    if ipv6_alone(host) {
        return Err(format!(
            "an IPv6 address stands in brackets before its port: write [{host}]:{port}"
        ));
    }
    let Ok(address) = host.parse::<Ipv4Addr>() else {
        let numbers = host
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        return Err(if numbers || host.contains(':') {
            format!("'{host}' is no IP address: {EXAMPLE}")
        } else {
            format!("'{host}' is a name: the address itself is needed, as 127.0.0.1:{port}")
        });
    };
    if port.is_empty() {
        return Err(format!(
            "the port is missing: write {address}:{}",
            vxlan::PORT
        ));
    }
    let port = bind_port(port)?;
    if address.is_multicast() || address.is_broadcast() {
        return Err(no_group(host, "0.0.0.0", port));
    }
    Ok((address, port).into())
}

/// Why an address of many machines is not bound.
fn no_group(address: &str, any: &str, port: u16) -> String {
    format!(
        "{address} is no address of one machine, and vxtap joins no multicast group: write {any}:{port} for every \
         address of this machine"
    )
}

fn bind_port(text: &str) -> Result<u16, String> {
    number(text, 0..=u16::MAX).map_err(|_| {
        format!(
            "'{text}' is no port: a number from 1 to 65535 is needed, or 0 where the system shall choose"
        )
    })
}

/// "imix", "1400" or "64-1400".
pub fn frame_size(text: &str) -> Result<FrameSize, String> {
    if text == "imix" {
        return Ok(FrameSize::Imix);
    }
    let (shortest, longest) = text.split_once('-').unwrap_or((text, text));
    let len = |text: &str| number::<u16>(text, MIN_FRAME_LEN..=MAX_FRAME_LEN).ok();
    match (len(shortest), len(longest)) {
        (Some(shortest), Some(longest)) if shortest <= longest => {
            Ok(FrameSize::Between(shortest, longest))
        }
        _ => Err(format!(
            "'imix', a length like 512 or a range like 64-1400 is needed, from {MIN_FRAME_LEN} to \
             {MAX_FRAME_LEN} bytes"
        )),
    }
}

/// A number above zero, with or without a fraction.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a number above zero is needed".to_owned()),
    }
}

/// A filter expression.
pub fn filter(text: &str) -> Result<Filter, String> {
    text.parse().map_err(|mistake: Mistake| mistake.to_string())
}

/// An address without a port.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "an address without a port is needed, as 10.0.0.5 or fd00::5".to_owned())
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address alone; VXLAN's port where none is given.
pub fn host_port(text: &str) -> Result<HostPort, String> {
    let (host, port_text) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("the ']' is missing".to_owned()),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, behind))) => (host, Some(behind.strip_prefix(':').unwrap_or(behind))),
        // More than one colon makes an IPv6 address.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port_text.map(port) {
        None => vxlan::PORT,
        Some(Ok(port)) => port,
        Some(Err(_)) => return Err("the port is a number from 1 to 65535".to_owned()),
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let host = host.to_owned();
    Ok(HostPort { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tees() {
        for (text, meant) in [
            ("tcp://127.0.0.1:57012", "127.0.0.1:57012"),
            ("tcp://:57012", "127.0.0.1:57012"),
            ("tcp://localhost:0", "127.0.0.1:0"),
            ("tcp://[::1]:7", "[::1]:7"),
            ("tcp://0.0.0.0:7", "0.0.0.0:7"),
        ] {
            assert_eq!(tee(text).unwrap().to_string(), meant, "{text}");
        }
        for bad in [
            "127.0.0.1:57012",
            "udp://127.0.0.1:57012",
            "tcp://127.0.0.1",
            "tcp://57012",
            "tcp://:",
            "tcp://:65536",
            "tcp://host:57012",
            "tcp://::1:57012",
            "tcp://224.0.0.1:7",
        ] {
            assert!(tee(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments() {
        // date -u -d '2026-01-31 23:59:59' +%s
        let second = 1_769_903_999_000_000_000;
        for text in [
            "2026-01-31T23:59:59Z",
            "2026-01-31 23:59:59",
            "2026-01-31T23:59:59",
            "2026-02-01T01:59:59+02:00",
        ] {
            assert_eq!(moment(text), Ok(second), "{text}");
        }
        assert_eq!(moment("2026-01-31 23:59:59.25"), Ok(second + 250_000_000));
        assert_eq!(moment("2026-01-31"), Ok(second - 86_399_000_000_000));
        const TEN_MINUTES: u64 = 600_000_000_000;
        let before = wall_clock_ns() - TEN_MINUTES;
        let ago = moment("-10m").unwrap();
        assert!((before..=wall_clock_ns() - TEN_MINUTES).contains(&ago));
        for bad in [
            "",
            "now",
            "-",
            "-x",
            "1969-12-31",
            "23:59",
            "2026-02-30",
            "--since",
        ] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("68", 68..=65_535), Ok(68));
        assert_eq!(number("65535", 68..=65_535), Ok(65_535));
        let needed = Err("a number from 68 to 65535 is needed".to_owned());
        for bad in [
            "",
            "67",
            "65536",
            "-1",
            "+70",
            "1e3",
            " 70",
            "0x44",
            "99999999999999999999",
        ] {
            assert_eq!(number::<u32>(bad, 68..=65_535), needed, "{bad}");
        }
        assert_eq!(count("18446744073709551615"), Ok(u64::MAX));
        for (bad, word) in [
            ("18446744073709551616", "at most"),
            ("0", "above zero"),
            ("-1", "above zero"),
            ("1.5", "above zero"),
            ("", "above zero"),
        ] {
            assert!(count(bad).is_err_and(|text| text.contains(word)), "{bad}");
        }
        for bad in ["", "0", "65536", "-1", "x", "+4789"] {
            assert!(
                port(bad).is_err_and(|text| text.contains("1 to 65535")),
                "{bad}"
            );
        }
        assert_eq!(port_or_none("0"), Ok(0));
        assert!(port_or_none("65536").is_err_and(|text| text.contains("0 for none")));
    }

    #[test]
    fn words() {
        let words = [("yes", 1), ("no", 2)];
        assert_eq!(one_of("no", &words), Ok(2));
        assert_eq!(
            one_of("No", &words),
            Err("one of yes, no is needed".to_owned())
        );
        assert_eq!(workers("auto"), Ok(None));
        assert_eq!(workers("256"), Ok(Some(256)));
        for bad in ["", "0", "257", "4294967297", "Auto"] {
            assert!(
                workers(bad).is_err_and(|text| text.contains("1 to 256")),
                "{bad}"
            );
        }
    }

    #[test]
    fn core_lists() {
        assert_eq!(cores("2"), Ok(vec![2]));
        assert_eq!(cores("0,2,4-6"), Ok(vec![0, 2, 4, 5, 6]));
        for (bad, told) in [
            ("", "cores by number"),
            (",", "cores by number"),
            ("1,", "cores by number"),
            ("1-", "cores by number"),
            ("a", "cores by number"),
            ("0--1", "cores by number"),
            ("2-1", "the range 2-1 ends before it begins; write 1-2"),
            ("1024", "no machine has a core 1024"),
            ("0-99999", "no machine has a core 99999"),
        ] {
            let said = cores(bad).unwrap_err();
            assert!(said.contains(told), "{bad}: {said}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("36500d"), Ok(Duration::from_secs(36_500 * 86_400)));
        for (bad, word) in [
            ("", "as 90, 30s"),
            ("m", "as 90, 30s"),
            ("-1", "as 90, 30s"),
            ("1.2.3", "as 90, 30s"),
            ("5x", "unknown unit 'x'"),
            ("1e99d", "unknown unit 'e99d'"),
            ("0", "above zero"),
            ("0.0s", "above zero"),
            ("99999999999999999999", "too long"),
            ("99999999999999999999999d", "too long"),
            ("36501d", "too long"),
        ] {
            let said = time(bad).unwrap_err();
            assert!(said.contains(word), "{bad}: {said}");
        }
    }

    #[test]
    fn times_with_an_end() {
        let most = Duration::from_secs(10);
        assert_eq!(time_up_to(most, "10"), Ok(most));
        assert_eq!(time_up_to(most, "20ms"), Ok(Duration::from_millis(20)));
        let said = time_up_to(most, "10.001").unwrap_err();
        assert_eq!(said, "the time is too long: at most 10s");
        assert!(time_up_to(most, "0").is_err_and(|said| said.contains("above zero")));
    }

    #[test]
    fn interface_names() {
        assert_eq!(interface("enp0s31f6.4094"), Ok("enp0s31f6.4094".to_owned()));
        for (bad, word) in [
            ("", "the name of an interface is needed"),
            ("sixteen-letters-", "at most 15"),
            ("eth0/1", "no interface"),
            ("..", "no interface"),
            ("eth 0", "no interface"),
        ] {
            let said = interface(bad).unwrap_err();
            assert!(
                said.contains(word) && said.contains("ip link"),
                "{bad}: {said}"
            );
        }
    }

    #[test]
    fn addresses_to_bind() {
        for good in [
            "0.0.0.0:4789",
            "[::]:4789",
            "10.0.0.5:0",
            "[fe80::1%3]:65535",
            "[::1]:1",
        ] {
            assert_eq!(bind(good), Ok(good.parse().unwrap()), "{good}");
        }
        for (bad, word) in [
            (
                "",
                "an address and a port are needed, as 0.0.0.0:4789 or [::]:4789",
            ),
            ("x", "an address and a port are needed"),
            ("4789", "for every address 0.0.0.0:4789 and [::]:4789"),
            ("8472", "for every address 0.0.0.0:8472 and [::]:8472"),
            (":4789", "for every address 0.0.0.0:4789 and [::]:4789"),
            ("*:4789", "for every address 0.0.0.0:4789 and [::]:4789"),
            (":70000", "'70000' is no port: a number from 1 to 65535"),
            ("0.0.0.0", "the port is missing: write 0.0.0.0:4789"),
            ("0.0.0.0:", "the port is missing: write 0.0.0.0:4789"),
            ("::1", "in brackets before its port: write [::1]:4789"),
            ("::4789", "write [::]:4789 for every IPv6 address"),
            ("::8472", "write [::]:8472 for every IPv6 address"),
            ("::99999", "is no IP address"),
            ("fe80::1", "write [fe80::1]:4789"),
            ("[fe80::7]:4789", "write [fe80::7%NUMBER]:4789"),
            (
                "[ff02::1]:4789",
                "[ff02::1]:4789 is no address of one machine",
            ),
            ("224.0.0.1:8472", "write 0.0.0.0:8472 for every address"),
            ("255.255.255.255:4789", "no address of one machine"),
            ("fd00::5", "write [fd00::5]:4789"),
            ("[::1]", "the port is missing: write [::1]:4789"),
            ("[::1]:", "the port is missing: write [::1]:4789"),
            ("[::1:4789", "the ']' is missing"),
            ("[::1]4789", "'4789' is no port"),
            ("[fe80::1%eth0]:4789", "the number of an interface"),
            ("[10.0.0.5]:4789", "'10.0.0.5' is no IPv6 address"),
            ("[::ffff:10.0.0.5]:4789", "write 10.0.0.5:4789"),
            ("localhost:4789", "'localhost' is a name"),
            ("eth0:4789", "'eth0' is a name"),
            ("10.0.0.256:4789", "'10.0.0.256' is no IP address"),
            ("1.2.3:4789", "'1.2.3' is no IP address"),
            (
                "0.0.0.0:70000",
                "'70000' is no port: a number from 1 to 65535",
            ),
            ("0.0.0.0:-1", "'-1' is no port"),
            ("0.0.0.0:+1", "'+1' is no port"),
            ("0.0.0.0:vxlan", "'vxlan' is no port"),
        ] {
            let said = bind(bad).unwrap_err();
            assert!(said.contains(word), "{bad}: {said}");
        }
    }

    #[test]
    fn frame_sizes() {
        let between = |shortest, longest| Ok(FrameSize::Between(shortest, longest));
        assert_eq!(frame_size("imix"), Ok(FrameSize::Imix));
        assert_eq!(frame_size("512"), between(512, 512));
        assert_eq!(frame_size("60-65499"), between(60, 65_499));
        for bad in [
            "",
            "-",
            "59",
            "65500",
            "64-",
            "-64",
            "100-64",
            "64-1400-2",
            "IMIX",
            "6e1",
        ] {
            assert!(frame_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let read = |text: &str| host_port(text).map(|to| (to.host, to.port)).ok();
        let some = |host: &str, port: u16| Some((host.to_owned(), port));
        assert_eq!(read("target.example"), some("target.example", 4789));
        assert_eq!(read("target.example:4790"), some("target.example", 4790));
        assert_eq!(read("10.0.0.1"), some("10.0.0.1", 4789));
        assert_eq!(read("10.0.0.1:1"), some("10.0.0.1", 1));
        assert_eq!(read("fd00::1"), some("fd00::1", 4789));
        assert_eq!(read("[fd00::1]"), some("fd00::1", 4789));
        assert_eq!(read("[fd00::1]:65535"), some("fd00::1", 65_535));
        for bad in [
            "", ":4789", "a:", "a:0", "a:65536", "a:x", "a:+1", "[]:1", "[::1", "[::1]:", "[::1]x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
