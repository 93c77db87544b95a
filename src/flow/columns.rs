//! The fields of a flow record in the order in which they are written. One table, from which follows what is written
//! of records (JSON lines, CSV, Parquet) and about them (the JSON Schema and docs/FLOWS.md).
//!
//! A new field is one line in the table and one field of [`FlowRecord`]. Pure.

use std::net::IpAddr;

use super::app::App;
use super::community_id::CommunityId;
use super::first::Place;
use super::record::{FlowId, FlowRecord, Time};
use super::tcp::history::Letters;
use super::text;
use crate::mirror::direction::{By, Direction};
use crate::wire::inner::Mac;

/// A field of a flow record.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name wherever it is written.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What they count.
    pub unit: Unit,
    /// Every record has a value; else it is absent where it does not apply.
    pub always: bool,
    /// How IPFIX says it.
    pub ipfix: Ipfix,
    /// What it is, in a sentence or two of Markdown.
    pub sentence: &'static str,
    value: fn(&FlowRecord) -> Option<Value<'_>>,
}

impl Column {
    /// The value that `record` has.
    #[inline]
    pub fn value<'a>(&self, record: &'a FlowRecord) -> Option<Value<'a>> {
        (self.value)(record)
    }
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A moment: RFC 3339 with nanoseconds, UTC.
    Time,
    /// A length of time in nanoseconds.
    Duration,
    /// 64 bits, as 16 hexadecimal digits.
    Id,
    /// Text.
    Text,
    /// An IP address.
    Address,
    /// IP addresses, at least one.
    Addresses,
    /// A hardware address.
    Mac,
    /// `in` or `out`.
    Direction,
    /// A port of TCP, UDP or SCTP.
    Port,
    /// A number of 8 bits.
    U8,
    /// A number of 16 bits.
    U16,
    /// A number of 32 bits.
    U32,
    /// A number of 64 bits.
    U64,
}

impl Kind {
    /// The largest number of this kind; `None` where values are no numbers.
    pub const fn largest(self) -> Option<u64> {
        Some(match self {
            Self::U8 => u8::MAX as u64,
            Self::U16 | Self::Port => u16::MAX as u64,
            Self::U32 => u32::MAX as u64,
            Self::U64 | Self::Duration => u64::MAX,
            Self::Time
            | Self::Id
            | Self::Text
            | Self::Address
            | Self::Addresses
            | Self::Mac
            | Self::Direction => return None,
        })
    }
}

/// What numbers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nothing: it is a name, a code or a moment.
    None,
    /// Nanoseconds.
    Ns,
    /// Packets.
    Packets,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The word for it.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Ns => Some("ns"),
            Self::Packets => Some("packets"),
            Self::Bytes => Some("bytes"),
        }
    }
}

/// How IPFIX says a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipfix {
    /// Not at all: it follows from other fields.
    None,
    /// By one information element.
    One(Element),
    /// By one for each version of IP.
    ByVersion {
        /// IPv4.
        v4: Element,
        /// IPv6.
        v6: Element,
    },
}

impl Ipfix {
    /// Its elements.
    pub fn elements(self) -> impl Iterator<Item = Element> {
        let elements = match self {
            Self::None => [None, None],
            Self::One(element) => [Some(element), None],
            Self::ByVersion { v4, v6 } => [Some(v4), Some(v6)],
        };
        elements.into_iter().flatten()
    }
}

/// An IPFIX information element (RFC 7011 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Private enterprise number; `None` for those that IANA registers.
    pub enterprise: Option<u32>,
    /// Its number.
    pub number: u16,
    /// Bytes of a value; [`VARIABLE`] where each has its own.
    pub len: u16,
    /// Its name, that of the forward direction.
    pub name: &'static str,
}

/// Length of an element whose values have each their own (RFC 7011 §7).
pub const VARIABLE: u16 = 65_535;

/// The enterprise number that documentation uses (RFC 5612): ours, as long as this project has none of its own.
pub const OWN_ENTERPRISE: u32 = 32_473;

/// The enterprise number under which every element of IANA counts the other direction (RFC 5103 §6.1).
pub const REVERSE_ENTERPRISE: u32 = 29_305;

/// What says the same of an element of an enterprise (RFC 5103 §6.2).
pub const REVERSE_BIT: u16 = 0x4000;

impl Element {
    /// The element that counts the same in the other direction.
    pub const fn reverse(self) -> Self {
        match self.enterprise {
            None => Self {
                enterprise: Some(REVERSE_ENTERPRISE),
                ..self
            },
            Some(_) => Self {
                number: self.number | REVERSE_BIT,
                ..self
            },
        }
    }
}

const fn iana(number: u16, len: u16, name: &'static str) -> Element {
    Element {
        enterprise: None,
        number,
        len,
        name,
    }
}

const fn own(number: u16, len: u16, name: &'static str) -> Element {
    Element {
        enterprise: Some(OWN_ENTERPRISE),
        ..iana(number, len, name)
    }
}

const fn one(element: Element) -> Ipfix {
    Ipfix::One(element)
}

const fn reverse(element: Element) -> Ipfix {
    Ipfix::One(element.reverse())
}

/// What a flow is: it always has a name.
pub(crate) const fn app_name(app: &App) -> Option<&'static str> {
    Some(app.name())
}

const fn by_version(v4: Element, v6: Element) -> Ipfix {
    Ipfix::ByVersion { v4, v6 }
}

const OCTETS: Element = iana(1, 8, "octetDeltaCount");
const PACKETS: Element = iana(2, 8, "packetDeltaCount");
const FLAGS: Element = iana(6, 2, "tcpControlBits");
const LARGEST: Element = iana(26, 8, "maximumIpTotalLength");
const L2_OCTETS: Element = iana(352, 8, "layer2OctetDeltaCount");
const CAPTURED: Element = own(1, 8, "capturedOctetDeltaCount");
const TRUNCATED: Element = own(2, 8, "truncatedPacketDeltaCount");
const MISSING: Element = own(3, 8, "missingOctetDeltaCount");
const RETRANSMITTED: Element = own(18, 8, "tcpRetransmittedSegmentDeltaCount");
const UNSEEN: Element = own(19, 8, "tcpUnseenOctetDeltaCount");
const SEGMENT: Element = own(20, 2, "tcpLargestSegment");
const ANNOUNCED: Element = own(21, 2, "tcpAnnouncedSegmentSize");

/// The table. `NAME of PART by FUNCTION` is what FUNCTION tells of a part of the record that may not be there. `$then`
/// names a macro that takes the table: the one below, or one that writes every field by its type.
macro_rules! with_columns {
    ($then:ident) => {
        $then! {
            ts_start: Time, None, one(iana(156, 8, "flowStartNanoseconds")), "Time of the first packet.";
            ts_end: Time, None, one(iana(157, 8, "flowEndNanoseconds")), "Time of the last packet.";
            dur_ns: Duration, Ns, Ipfix::None, "Time between the two.";
            flow_id: Id, None, one(iana(148, 8, "flowId")), "Hash of session, VLANs, 5-tuple and start, the same in every run.";
            community_id: Text, None, one(own(4, VARIABLE, "communityId")), "Community id, version 1, seed 0. It knows nothing of VNIs. Absent where ports were cut off or are in another fragment.";
            vni: U32, None, one(iana(351, 8, "layer2SegmentId")), "VXLAN network identifier of the mirror session. In IPFIX the upper byte says 1, VXLAN.";
            outer_src: Addresses, None, by_version(iana(130, 4, "exporterIPv4Address"), iana(131, 16, "exporterIPv6Address")), "Outer source addresses of the mirror session.";
            outer_dst: Addresses, None, by_version(own(5, 4, "outerDestinationIPv4Address"), own(6, 16, "outerDestinationIPv6Address")), "Outer destination addresses of the mirror session.";
            tunnel: Text, None, one(own(7, VARIABLE, "tunnelName")), "`vxlan`, `vxlan-gpe` or `geneve`.";
            dir: Direction, None, one(iana(61, 1, "flowDirection")), "Which way the originator's packets went at the mirror source: `out`, which sent them, or `in`, which received them. Those of the responder went the other way. Absent where nothing tells.";
            dir_by: Text, None, one(own(25, VARIABLE, "flowDirectionEvidence")), "What tells that: `address`, one end is the mirror source's own IP address (`outer_src`); `mac`, one end has a hardware address that earlier packets showed to be its own.";
            src_ip: Address, None, by_version(iana(8, 4, "sourceIPv4Address"), iana(27, 16, "sourceIPv6Address")), "Address of the originator.";
            src_port: Port, None, one(iana(7, 2, "sourceTransportPort")), "Port of the originator.";
            dst_ip: Address, None, by_version(iana(12, 4, "destinationIPv4Address"), iana(28, 16, "destinationIPv6Address")), "Address of the responder.";
            dst_port: Port, None, one(iana(11, 2, "destinationTransportPort")), "Port of the responder.";
            proto: U8, None, one(iana(4, 1, "protocolIdentifier")), "IANA protocol number behind IPv6 extension headers and authentication headers. Absent where a packet is cut inside them.";
            ip_v: U8, None, one(iana(60, 1, "ipVersion")), "4 or 6.";
            icmp_type: U8, None, by_version(iana(176, 1, "icmpTypeIPv4"), iana(178, 1, "icmpTypeIPv6")), "ICMP type of the first packet. Requests and their answers share a flow.";
            icmp_code: U8, None, by_version(iana(177, 1, "icmpCodeIPv4"), iana(179, 1, "icmpCodeIPv6")), "ICMP code of the first packet.";
            vlan: U16, None, one(iana(243, 2, "dot1qVlanId")), "VLAN identifier of the inner frame's first tag. Part of what names the flow. A tag with identifier 0 (priority only) names no VLAN and is passed over.";
            vlan_inner: U16, None, one(iana(245, 2, "dot1qCustomerVlanId")), "VLAN identifier of the second tag, likewise.";
            src_mac: Mac, None, one(iana(56, 6, "sourceMacAddress")), "Hardware address of the originator in the first packet.";
            dst_mac: Mac, None, one(iana(80, 6, "destinationMacAddress")), "Hardware address of the responder in the first packet.";
            pkts_o: U64, Packets, one(PACKETS), "Packets of the originator.";
            pkts_r: U64, Packets, reverse(PACKETS), "Packets of the responder.";
            ip_bytes_o: U64, Bytes, one(OCTETS), "Bytes of the originator's IP packets as they declare them. Where one declares none, of its frame as far as it is known.";
            ip_bytes_r: U64, Bytes, reverse(OCTETS), "The same of the responder.";
            l2_bytes_o: U64, Bytes, one(L2_OCTETS), "Bytes of the originator's frames at the mirror source.";
            l2_bytes_r: U64, Bytes, reverse(L2_OCTETS), "The same of the responder.";
            cap_bytes_o: U64, Bytes, one(CAPTURED), "Bytes of the originator's frames that arrived.";
            cap_bytes_r: U64, Bytes, reverse(CAPTURED), "The same of the responder.";
            trunc_pkts_o: U64, Packets, one(TRUNCATED), "Packets of the originator that arrived cut.";
            trunc_pkts_r: U64, Packets, reverse(TRUNCATED), "The same of the responder.";
            trunc_missing_o: U64, Bytes, one(MISSING), "Bytes that were cut off the originator's packets.";
            trunc_missing_r: U64, Bytes, reverse(MISSING), "The same of the responder.";
            max_ip_len_o: U32, Bytes, one(LARGEST), "Largest IP packet of the originator, counted as in `ip_bytes_o`.";
            max_ip_len_r: U32, Bytes, reverse(LARGEST), "The same of the responder.";
            frag_pkts: U64, Packets, one(own(8, 8, "fragmentedPacketDeltaCount")), "Packets that were IP fragments.";
            dup_pkts: U64, Packets, one(own(24, 8, "duplicatePacketDeltaCount")), "Packets that are copies of others, or of which copies came from other mirror sessions (`--dedup`); each session's flow counts its own.";
            tcp_flags_o: U16, None, one(FLAGS), "Every TCP flag that the originator sent, as a number of nine bits: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128, AE (once NS) 256.";
            tcp_flags_r: U16, None, reverse(FLAGS), "The same of the responder.";
            history: Text, None, one(own(22, VARIABLE, "tcpHistory")), "What happened on a TCP connection, a letter an event as in Zeek, upper case for the originator; [TCP.md](TCP.md) has the letters.";
            conn_state: Text, None, one(own(23, VARIABLE, "tcpConnectionState")), "What became of a TCP connection, with Zeek's names; [TCP.md](TCP.md) has them.";
            half: Text, None, one(own(16, VARIABLE, "tcpOnlySideSeen")), "`o` or `r` where only the originator, or the responder, was seen, though its segments show that there is another.";
            rtt_syn_ns: Duration, Ns, one(own(17, 8, "tcpHandshakeNanoseconds")), "Time from the SYN to the ACK that ends the handshake. Absent where that is not clear.";
            retrans_o: U64, Packets, one(RETRANSMITTED), "TCP segments that the originator sent again. Absent where it was never seen.";
            retrans_r: U64, Packets, reverse(RETRANSMITTED), "The same of the responder.";
            gap_bytes_o: U64, Bytes, one(UNSEEN), "Bytes of the originator that the responder acknowledged and that were never seen: the mirror lost them. Absent where the originator was never seen.";
            gap_bytes_r: U64, Bytes, reverse(UNSEEN), "The same of the responder.";
            max_seg_o: U16, Bytes, one(SEGMENT), "Largest payload of the originator's TCP segments; 65,535 stands for that and more.";
            max_seg_r: U16, Bytes, reverse(SEGMENT), "The same of the responder.";
            mss_o: U16, Bytes, one(ANNOUNCED), "Largest segment that the originator takes, as its SYN says.";
            mss_r: U16, Bytes, reverse(ANNOUNCED), "The same of the responder.";
            tos: U8, None, one(iana(5, 1, "ipClassOfService")), "Type of service, or traffic class, of the first packet.";
            ttl_min: U8, None, one(iana(52, 1, "minimumTTL")), "Smallest time to live, or hop limit, of both directions.";
            ttl_max: U8, None, one(iana(53, 1, "maximumTTL")), "The largest.";
            end_reason: U8, None, one(iana(136, 1, "flowEndReason")), "Why the record ended: 1 silence, 2 the record was as long as `--active-timeout` lets it be, 3 FIN or RST ended the connection, 4 end of the run or of the interval of a file (`--rotate-interval`), 5 the table was full (`--max-flows`) and this flow was seen longest ago.";
            cont: U16, None, one(own(9, 2, "flowRecordsBefore")), "How many records of the same flow stand before this one. Absent in the first.";
            app of app by app_name: Text, None, one(iana(96, VARIABLE, "applicationName")), "`dns`, `tls` or `http`: what the first packets show. The port does not decide it; nothing else is told apart.";
            dns_query of app by App::dns_query: Text, None, one(own(10, VARIABLE, "dnsQueryName")), "The name in the first question.";
            dns_rcode of app by App::dns_rcode: U8, None, one(own(11, 1, "dnsResponseCode")), "The code of the answer to it: 0 no error, 2 server failure, 3 no such name, 5 refused. Multicast DNS has none.";
            tls_sni of app by App::tls_sni: Text, None, one(own(12, VARIABLE, "tlsServerName")), "The server name that the ClientHello asks for.";
            tls_alpn of app by App::tls_alpn: Text, None, one(own(13, VARIABLE, "tlsProtocolNames")), "The protocols that it offers, with a space between them.";
            http_host of app by App::http_host: Text, None, one(iana(460, VARIABLE, "httpRequestHost")), "The host of the first request, with its port if it names one.";
            http_method of app by App::http_method: Text, None, one(iana(459, VARIABLE, "httpRequestMethod")), "The method of the first request.";
            first_file of place by Place::file: Text, None, one(own(14, VARIABLE, "captureFileName")), "Name, without directory, of the file of the capture (`-w`) that has the first packet.";
            first_off of place by Place::offset: U64, Bytes, one(own(15, 8, "captureFileOffset")), "Where the record of that packet begins in the file; in the content of a compressed one.";
        }
    };
}
pub(crate) use with_columns;

macro_rules! columns {
    ($($name:ident $(of $of:ident by $get:path)?: $kind:ident, $unit:ident, $ipfix:expr, $sentence:expr;)+) => {
        /// Every field, in the order of the record.
        pub static COLUMNS: &[Column] = &[$(Column {
            name: stringify!($name),
            kind: Kind::$kind,
            unit: Unit::$unit,
            always: always!($name $(of $of)?),
            ipfix: $ipfix,
            sentence: $sentence,
            value: value!($name $(of $of by $get)?),
        }),+];
    };
}

/// Whether a field always has a value. What is told of a part that may not be there may not be there.
macro_rules! always {
    ($name:ident) => {
        always(|record| &record.$name)
    };
    ($name:ident of $of:ident) => {
        false
    };
}

/// What takes the value of a field out of a record.
macro_rules! value {
    ($name:ident) => {
        |record| record.$name.value()
    };
    ($name:ident of $of:ident by $get:path) => {
        |record| record.$of.as_ref().and_then(|of| $get(of)).map(Value::from)
    };
}

with_columns!(columns);

/// The value of a field, whatever it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nanoseconds since 1970.
    Time(u64),
    /// What is written as 16 hexadecimal digits.
    Id(u64),
    /// Any number: also a port, or a length of time.
    Number(u64),
    /// Text, from the network perhaps: it may need escaping.
    Text(&'a str),
    /// An IP address.
    Address(IpAddr),
    /// IP addresses.
    Addresses(&'a [IpAddr]),
    /// A hardware address.
    Mac(Mac),
    /// A direction that is known.
    Direction(Direction),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u8> for Value<'_> {
    fn from(number: u8) -> Self {
        Self::Number(number.into())
    }
}

impl Value<'_> {
    /// Whether a field of this kind may have it.
    pub fn is_of(&self, kind: Kind) -> bool {
        match self {
            Self::Time(_) => kind == Kind::Time,
            Self::Id(_) => kind == Kind::Id,
            Self::Number(number) => kind.largest().is_some_and(|largest| *number <= largest),
            Self::Text(_) => kind == Kind::Text,
            Self::Address(_) => kind == Kind::Address,
            Self::Addresses(addresses) => kind == Kind::Addresses && !addresses.is_empty(),
            Self::Mac(_) => kind == Kind::Mac,
            Self::Direction(_) => kind == Kind::Direction,
        }
    }

    /// Appends it as text, without quotation marks and as it is; a space stands between the parts of a list.
    #[inline]
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Number(number) => push_number(number, out),
            Self::Time(ns) => out.extend_from_slice(text::rfc3339(ns).bytes()),
            Self::Id(id) => out.extend_from_slice(text::hex(id).bytes()),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Address(address) => out.extend_from_slice(text::ip(address).bytes()),
            Self::Mac(mac) => out.extend_from_slice(text::mac(mac).bytes()),
            Self::Direction(direction) => {
                out.extend_from_slice(direction.name().unwrap_or_default().as_bytes());
            }
            Self::Addresses(addresses) => {
                for (at, address) in addresses.iter().enumerate() {
                    if at > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(text::ip(*address).bytes());
                }
            }
        }
    }
}

#[inline]
fn push_number(number: u64, out: &mut Vec<u8>) {
    match number {
        // Most are.
        digit @ 0..10 => out.push(b'0' + digit as u8),
        number => out.extend_from_slice(text::decimal(number).bytes()),
    }
}

/// The type of a record's field.
trait Field {
    /// It always has a value.
    const ALWAYS: bool = true;

    fn value(&self) -> Option<Value<'_>>;
}

/// Whether a field, which is taken out of a record so, always has a value.
const fn always<F: Field>(_: fn(&FlowRecord) -> &F) -> bool {
    F::ALWAYS
}

impl<F: Field> Field for Option<F> {
    const ALWAYS: bool = false;

    #[inline]
    fn value(&self) -> Option<Value<'_>> {
        self.as_ref()?.value()
    }
}

impl Field for Direction {
    const ALWAYS: bool = false;

    #[inline]
    fn value(&self) -> Option<Value<'_>> {
        (*self != Self::Unknown).then_some(Value::Direction(*self))
    }
}

macro_rules! fields {
    ($($kind:ty: $value:expr),+ $(,)?) => {
        $(impl Field for $kind {
            #[inline]
            fn value(&self) -> Option<Value<'_>> {
                let value: fn(&Self) -> Value<'_> = $value;
                Some(value(self))
            }
        })+
    };
}
fields!(
    u8: |number| Value::Number((*number).into()),
    u16: |number| Value::Number((*number).into()),
    u32: |number| Value::Number((*number).into()),
    u64: |number| Value::Number(*number),
    Time: |Time(ns)| Value::Time(*ns),
    FlowId: |FlowId(id)| Value::Id(*id),
    CommunityId: |id| Value::Text(id.as_str()),
    Letters: |letters| Value::Text(letters.as_str()),
    &'static str: |text| Value::Text(text),
    IpAddr: |address| Value::Address(*address),
    [IpAddr; 1]: |addresses| Value::Addresses(addresses),
    Mac: |mac| Value::Mac(*mac),
    By: |by| Value::Text(by.name()),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_their_kind() {
        let records = [0, 1, 2].map(FlowRecord::sample);
        for column in COLUMNS {
            let mut values = records.iter().filter_map(|record| column.value(record));
            assert!(values.clone().next().is_some(), "{}", column.name);
            assert!(
                values.all(|value| value.is_of(column.kind)),
                "{}",
                column.name
            );
        }
        assert!(!Value::Number(256).is_of(Kind::U8));
        assert!(!Value::Number(7).is_of(Kind::Id));
    }

    /// What is said to be in every record is there in the poorest one too, and nothing else is.
    #[test]
    fn what_is_always_there() {
        let poor = FlowRecord {
            community_id: None,
            vni: None,
            outer_src: None,
            outer_dst: None,
            tunnel: None,
            dir: Direction::Unknown,
            dir_by: None,
            src_port: None,
            dst_port: None,
            proto: None,
            icmp_type: None,
            icmp_code: None,
            vlan: None,
            vlan_inner: None,
            src_mac: None,
            dst_mac: None,
            tcp_flags_o: None,
            tcp_flags_r: None,
            history: None,
            conn_state: None,
            half: None,
            rtt_syn_ns: None,
            retrans_o: None,
            retrans_r: None,
            gap_bytes_o: None,
            gap_bytes_r: None,
            max_seg_o: None,
            max_seg_r: None,
            mss_o: None,
            mss_r: None,
            cont: None,
            app: None,
            place: None,
            ..FlowRecord::sample(7)
        };
        for column in COLUMNS {
            let is_there = column.value(&poor).is_some();
            assert_eq!(is_there, column.always, "{}", column.name);
        }
    }

    #[test]
    fn values_as_text() {
        let text = |value: Value<'_>| {
            let mut out = Vec::new();
            value.write_text(&mut out);
            String::from_utf8(out).unwrap()
        };
        let [v4, v6] = ["10.0.0.1", "2001:db8::9"].map(|address| address.parse().unwrap());
        assert_eq!(text(Value::Addresses(&[v4, v6])), "10.0.0.1 2001:db8::9");
        assert_eq!(text(Value::Number(u64::MAX)), u64::MAX.to_string());
        assert_eq!(text(Value::Number(9)), "9");
        assert_eq!(text(Value::Id(0xab)), "00000000000000ab");
        assert_eq!(text(Value::Mac([2, 0, 0, 0, 0, 0xab])), "02:00:00:00:00:ab");
        assert_eq!(text(Value::Time(1)), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(text(Value::Text("as, \"it\" is")), "as, \"it\" is");
    }
}
