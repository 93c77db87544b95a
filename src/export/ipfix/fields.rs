//! What a flow record says in IPFIX: the fields it has, and their values one after the other.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::flow::columns::{COLUMNS, Element, Ipfix, VARIABLE, Value};
use crate::flow::record::FlowRecord;
use crate::mirror::direction::Direction;

/// Which of [`elements`] a record has: bit N is the one at N.
pub type Present = u128;

/// Seconds from 1900, where NTP counts from, to 1970 (RFC 5905 §6).
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Most bytes of a text. No field comes near it; it bounds a record to what a message can hold.
const TEXT_MOST: usize = 4096;

/// The encapsulation in the upper byte of a `layer2SegmentId`: VXLAN.
const VXLAN: u64 = 1 << 56;

/// The element whose upper byte says the encapsulation.
const LAYER2_SEGMENT_ID: u16 = 351;

const fn iana(number: u16, len: u16, name: &'static str) -> Element {
    Element {
        enterprise: None,
        number,
        len,
        name,
    }
}

/// What every record ends with, beside the fields of the table. The times once more, in milliseconds: many collectors read no
/// others. And which direction comes first: that of the initiator (RFC 5103 §6.3).
pub const ENDING: [Element; 3] = [
    iana(152, 8, "flowStartMilliseconds"),
    iana(153, 8, "flowEndMilliseconds"),
    iana(239, 1, "biflowDirection"),
];

/// The direction of the initiator.
const INITIATOR: u8 = 1;

/// Appends the values of [`ENDING`].
fn write_ending(record: &FlowRecord, out: &mut Vec<u8>) {
    const NS_A_MS: u64 = 1_000_000;
    for time in [record.ts_start, record.ts_end] {
        out.extend_from_slice(&(time.0 / NS_A_MS).to_be_bytes());
    }
    out.push(INITIATOR);
}

/// Every element of the table of fields, in its order.
static ELEMENTS: LazyLock<Vec<Element>> = LazyLock::new(|| {
    COLUMNS
        .iter()
        .flat_map(|column| column.ipfix.elements())
        .collect()
});

/// Every element of flow records.
pub fn elements() -> &'static [Element] {
    &ELEMENTS
}

/// Appends the values that `record` has to `out`, and those of [`ENDING`], and tells which it has.
pub fn write(record: &FlowRecord, out: &mut Vec<u8>) -> Present {
    let mut present = 0;
    let mut at = 0;
    for column in COLUMNS {
        let value = column.value(record);
        let said = value.and_then(|value| Some((value, choose(column.ipfix, &value, record)?)));
        if let Some((value, (element, behind))) = said {
            write_value(&value, element, record, out);
            present |= 1 << (at + behind);
        }
        at += column.ipfix.elements().count();
    }
    write_ending(record, out);
    present
}

/// The element of `ipfix` that says `value`, and how many stand before it.
fn choose(ipfix: Ipfix, value: &Value<'_>, record: &FlowRecord) -> Option<(Element, usize)> {
    match ipfix {
        Ipfix::None => None,
        Ipfix::One(element) => Some((element, 0)),
        Ipfix::ByVersion { v4, v6 } => Some(match is_v6(value, record) {
            true => (v6, 1),
            false => (v4, 0),
        }),
    }
}

/// Whether an element of IPv6 says it: an address has its own version, all else that of the flow.
fn is_v6(value: &Value<'_>, record: &FlowRecord) -> bool {
    match *value {
        Value::Address(address) => address.is_ipv6(),
        Value::Addresses([address, ..]) => address.is_ipv6(),
        _ => record.ip_v == 6,
    }
}

fn write_value(value: &Value<'_>, element: Element, record: &FlowRecord, out: &mut Vec<u8>) {
    match *value {
        Value::Time(ns) => out.extend_from_slice(&ntp(ns)),
        Value::Id(id) => write_number(id, element.len, out),
        Value::Number(number) => {
            let number = match element {
                Element {
                    enterprise: None,
                    number: LAYER2_SEGMENT_ID,
                    ..
                } => number | overlay(record),
                _ => number,
            };
            write_number(number, element.len, out);
        }
        Value::Text(text) => write_text(text, out),
        Value::Address(address) => write_address(address, out),
        // One element holds one address: the first is the one the session is known by.
        Value::Addresses(addresses) => {
            if let Some(address) = addresses.first() {
                write_address(*address, out);
            }
        }
        Value::Mac(mac) => out.extend_from_slice(&mac),
        // IANA's flowDirection: 0 ingress, 1 egress.
        Value::Direction(direction) => out.push(u8::from(direction == Direction::Outbound)),
    }
}

/// The upper byte of a `layer2SegmentId`. It has a number for VXLAN and none for Geneve: that is 0, nothing said.
fn overlay(record: &FlowRecord) -> u64 {
    match record.tunnel {
        Some(name) if name.starts_with("vxlan") => VXLAN,
        _ => 0,
    }
}

/// The lower bytes of a number, the first one first.
fn write_number(number: u64, len: u16, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    let from = bytes.len().saturating_sub(len.into());
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
}

fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

/// Text with its length in front: one byte, or from 255 on three (RFC 7011 §7).
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    let end = text.floor_char_boundary(TEXT_MOST);
    let text = text.get(..end).unwrap_or_default();
    match u8::try_from(text.len()) {
        Ok(len) if len < u8::MAX => out.push(len),
        _ => {
            out.push(u8::MAX);
            let len = u16::try_from(text.len()).unwrap_or_default();
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// A moment as seconds since 1900 and 2^-32 of them (RFC 7011 §6.1.10), rounded so that a reader who cuts off what is
/// below a nanosecond gets the same nanoseconds back. Seconds wrap in 2036, as NTP's do.
fn ntp(ns: u64) -> [u8; 8] {
    const NS: u64 = 1_000_000_000;
    let seconds = (ns / NS).wrapping_add(NTP_TO_UNIX_S) & u64::from(u32::MAX);
    let fraction = ((ns % NS) << 32).div_ceil(NS);
    (seconds << 32 | fraction).to_be_bytes()
}

/// The moment that [`ntp`] wrote, nanoseconds since 1970. Between 1968 and 2104 no era has to be guessed.
pub fn from_ntp(bytes: [u8; 8]) -> u64 {
    const NS: u64 = 1_000_000_000;
    let time = u64::from_be_bytes(bytes);
    let seconds = ((time >> 32) as u32).wrapping_sub(NTP_TO_UNIX_S as u32);
    u64::from(seconds) * NS + (((time & u64::from(u32::MAX)) * NS) >> 32)
}

/// The record of a template: its number, and element after element (RFC 7011 §3.2, §3.4.1).
pub fn template(id: u16, elements: &[Element]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 8 * elements.len());
    out.extend_from_slice(&id.to_be_bytes());
    let count = u16::try_from(elements.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    write_elements(elements, &mut out);
    out
}

/// Appends the specifiers of elements.
pub fn write_elements(elements: &[Element], out: &mut Vec<u8>) {
    const ENTERPRISE_BIT: u16 = 0x8000;
    for element in elements {
        let bit = if element.enterprise.is_some() {
            ENTERPRISE_BIT
        } else {
            0
        };
        out.extend_from_slice(&(element.number | bit).to_be_bytes());
        out.extend_from_slice(&element.len.to_be_bytes());
        if let Some(enterprise) = element.enterprise {
            out.extend_from_slice(&enterprise.to_be_bytes());
        }
    }
}

const _: () = assert!(VARIABLE == u16::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::columns::Kind;

    /// Each element has room for what its column may hold, and each has a bit.
    #[test]
    fn elements_hold_their_values() {
        assert!(elements().len() <= Present::BITS as usize);
        for column in COLUMNS {
            for element in column.ipfix.elements() {
                let right = match column.kind {
                    Kind::Time | Kind::Id => element.len == 8,
                    Kind::Text => element.len == VARIABLE,
                    Kind::Mac => element.len == 6,
                    Kind::Direction => element.len == 1,
                    Kind::Address | Kind::Addresses => element.len == 4 || element.len == 16,
                    kind => {
                        let most = u64::MAX >> (64 - 8 * u32::from(element.len.min(8)));
                        element.len <= 8 && kind.largest().unwrap() <= most
                    }
                };
                assert!(right, "{}: {element:?}", column.name);
            }
        }
    }

    /// RFC 5905: 1970 is 2,208,988,800 s behind 1900; a half second is 2^31.
    #[test]
    fn moments_in_ntp() {
        assert_eq!(ntp(0), [0x83, 0xaa, 0x7e, 0x80, 0, 0, 0, 0]);
        assert_eq!(ntp(1_500_000_000)[3..], [0x81, 0x80, 0, 0, 0]);
        // 2036-02-07T06:28:16Z begins the next era.
        let era = (u64::from(u32::MAX) + 1 - NTP_TO_UNIX_S) * 1_000_000_000;
        assert_eq!(ntp(era), [0; 8]);
        for ns in [1, 123_456_789, 999_999_999, 333_333_333] {
            assert_eq!(from_ntp(ntp(ns)), ns);
            // Behind the era too.
            assert_eq!(from_ntp(ntp(era + ns)), era + ns);
        }
    }

    #[test]
    fn text_has_its_length_in_front() {
        let written = |text: &str| {
            let mut out = Vec::new();
            write_text(text, &mut out);
            out
        };
        assert_eq!(written(""), [0]);
        assert_eq!(written("ab"), [2, b'a', b'b']);
        assert_eq!(written(&"a".repeat(254))[..2], [254, b'a']);
        assert_eq!(written(&"a".repeat(255))[..4], [255, 0, 255, b'a']);
        // What is longer is cut between characters.
        assert_eq!(written(&"ä".repeat(3000))[..3], [255, 16, 0]);
        assert_eq!(
            written(&("a".to_owned() + &"ä".repeat(3000)))[..3],
            [255, 15, 255]
        );
    }

    #[test]
    fn numbers_take_as_many_bytes_as_their_element() {
        let mut out = Vec::new();
        write_number(0x0102_0304, 2, &mut out);
        write_number(5, 1, &mut out);
        write_number(6, 8, &mut out);
        assert_eq!(out, [3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 6]);
    }

    /// The upper byte says VXLAN where it is VXLAN.
    #[test]
    fn the_segment_says_its_encapsulation() {
        let record = FlowRecord::sample(1);
        assert_eq!(overlay(&record), VXLAN);
        for (tunnel, upper) in [(Some("vxlan-gpe"), VXLAN), (Some("geneve"), 0), (None, 0)] {
            assert_eq!(
                overlay(&FlowRecord {
                    tunnel,
                    ..record.clone()
                }),
                upper
            );
        }
    }

    /// A template and a record by hand, for the first elements of the table.
    #[test]
    fn what_a_record_has_and_lacks() {
        let record = FlowRecord::sample(1);
        let mut out = Vec::new();
        let present = write(&record, &mut out);
        let has = |present: Present, name: &str| {
            let at = elements()
                .iter()
                .position(|element| element.name == name)
                .unwrap();
            present >> at & 1 == 1
        };
        assert_eq!(out[..8], ntp(record.ts_start.0));
        assert_eq!(out[16..24], record.flow_id.0.to_be_bytes());
        let ending = out.last_chunk::<17>().unwrap();
        let ms = 1_700_000_000_123_u64;
        assert_eq!(ending[..8], ms.to_be_bytes());
        assert_eq!(ending[8..], [&(ms + 5000).to_be_bytes()[..], &[1]].concat());
        // Outer source of IPv6, flow of IPv4.
        assert!(has(present, "exporterIPv6Address") && !has(present, "exporterIPv4Address"));
        assert!(has(present, "sourceIPv4Address") && !has(present, "sourceIPv6Address"));
        assert!(has(present, "icmpTypeIPv4") && !has(present, "icmpTypeIPv6"));
        let poor = FlowRecord {
            vni: None,
            src_port: None,
            place: None,
            ..record
        };
        let mut less = Vec::new();
        let lacks = write(&poor, &mut less);
        assert!(less.len() < out.len());
        for name in ["layer2SegmentId", "sourceTransportPort", "captureFileName"] {
            assert!(has(present, name) && !has(lacks, name), "{name}");
        }
        assert!(has(lacks, "packetDeltaCount"));
    }
}
