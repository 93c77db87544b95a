#!/usr/bin/env python3
"""Makes the captures in testdata/.

    python3 scripts/make-testdata.py [OUTDIR]            write every file (default: testdata/)
    python3 scripts/make-testdata.py --check [OUTDIR]    write nothing; exit 1 if a file differs

Every byte is put together here from the RFCs, with the standard library only, so that the captures
share no code, and no mistake, with the program they test. The same bytes come out on every run and
on every Python from 3.9 on: no clock, no randomness, no compression by zlib, whose builds differ.

From top to bottom: the wire formats, the file formats, a cast of hosts, conversations between them,
and the cases, one function a file. testdata/README.md says what a reader must make of each.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import pathlib
import struct
import sys
import zlib
from typing import NamedTuple, Optional

# ---------------------------------------------------------------------------------------------
# Numbers from the registries

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_TEB = 0x6558  # transparent Ethernet bridging, in Geneve and GRE
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_MPLS = 0x8847
ETHERTYPE_MPLS_MULTICAST = 0x8848
ETHERTYPE_QINQ = 0x88A8
ETHERTYPE_EXPERIMENT = 0x88B5  # IEEE 802 local experimental
ETHERTYPE_LLDP = 0x88CC
ETHERTYPE_8200 = 0x8200  # the outer tag of some switches
ETHERTYPE_TRILL = 0x22F3
ETHERTYPE_PPPOE_DISCOVERY = 0x8863
ETHERTYPE_PPPOE_SESSION = 0x8864
ETHERTYPE_JUMBO_LLC = 0x8870
ETHERTYPE_BACKBONE = 0x88E7  # 802.1ah
ETHERTYPE_FABRICPATH = 0x8903
ETHERTYPE_CISCO_METADATA = 0x8909
ETHERTYPE_VN_TAG = 0x8926
ETHERTYPE_E_TAG = 0x893F
ETHERTYPE_NSH = 0x894F

PROTO_HOP_BY_HOP = 0
PROTO_ICMP = 1
PROTO_TCP = 6
PROTO_UDP = 17
PROTO_ROUTING = 43
PROTO_FRAGMENT = 44
PROTO_RSVP = 46
PROTO_GRE = 47
PROTO_ESP = 50
PROTO_AUTHENTICATION = 51
PROTO_ICMPV6 = 58
PROTO_NONE = 59
PROTO_DESTINATION = 60
PROTO_SCTP = 132

PORT_VXLAN = 4789
PORT_VXLAN_GPE = 4790
PORT_GENEVE = 6081
PORT_VXLAN_LINUX = 8472  # what Linux used before IANA gave out 4789

LINK_NULL = 0
LINK_ETHERNET = 1
LINK_RAW = 101
LINK_LOOP = 108
LINK_SLL = 113
LINK_RADIOTAP = 127
LINK_IEEE802_15_4 = 195
LINK_IPV4 = 228
LINK_IPV6 = 229
LINK_USBPCAP = 249
LINK_SLL2 = 276

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

ETHERNET_LEN = 14
IPV4_LEN = 20
IPV6_LEN = 40
UDP_LEN = 8
VXLAN_LEN = 8

# ---------------------------------------------------------------------------------------------
# Wire formats: values in, bytes out


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def address(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def is_ipv6(text: str) -> bool:
    return ":" in text


def noise(length: int, seed: str) -> bytes:
    """Bytes that look like ciphertext and are the same on every run."""
    blocks = (hashlib.sha256(f"{seed}/{n}".encode()).digest() for n in range(length // 32 + 1))
    return b"".join(blocks)[:length]


def internet_checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def transport_checksum(src: str, dst: str, proto: int, segment: bytes) -> int:
    """The checksum of TCP, UDP and ICMPv6, over the pseudo header of RFC 9293 or RFC 8200 §8.1."""
    if is_ipv6(src):
        pseudo = address(src) + address(dst) + struct.pack(">IxxxB", len(segment), proto)
    else:
        pseudo = address(src) + address(dst) + struct.pack(">xBH", proto, len(segment))
    return internet_checksum(pseudo + segment)


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC of SCTP (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def ethernet(dst: str, src: str, ethertype: int, payload: bytes) -> bytes:
    return mac(dst) + mac(src) + struct.pack(">H", ethertype) + payload


def vlan_tag(vid: int, ethertype: int, payload: bytes, *, priority: int = 0) -> bytes:
    """What follows an EtherType of 0x8100 or 0x88a8: tag, next EtherType, payload."""
    return struct.pack(">HH", priority << 13 | vid, ethertype) + payload


def mpls(labels: list[int], payload: bytes) -> bytes:
    """A label stack (RFC 3032); the last label carries the bottom-of-stack bit."""
    stack = b""
    for depth, label in enumerate(labels):
        bottom = depth == len(labels) - 1
        stack += struct.pack(">I", label << 12 | bottom << 8 | 64)
    return stack + payload


def snap(ethertype: int, payload: bytes, *, oui: bytes = b"\0\0\0") -> bytes:
    """LLC and SNAP (RFC 1042)."""
    return b"\xaa\xaa\x03" + oui + struct.pack(">H", ethertype) + payload


def length_frame(dst: str, src: str, llc: bytes) -> bytes:
    """An 802.3 frame: a length in place of an EtherType."""
    return ethernet(dst, src, len(llc), llc)


def pppoe(payload: bytes, *, session: int = 66, code: int = 0) -> bytes:
    """PPPoE (RFC 2516) around a PPP protocol number and what it names."""
    return struct.pack(">BBHH", 0x11, code, session, len(payload)) + payload


def ipv4(
    src: str,
    dst: str,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    ident: int = 0,
    df: bool = True,
    more: bool = False,
    offset: int = 0,
    options: bytes = b"",
    total_length: Optional[int] = None,
) -> bytes:
    """An IPv4 packet (RFC 791). `offset` is in bytes; `total_length` replaces the true one."""
    options += b"\0" * (-len(options) % 4)
    header_len = IPV4_LEN + len(options)
    if total_length is None:
        total_length = header_len + len(payload)
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | header_len // 4,
        0,
        total_length,
        ident,
        df << 14 | more << 13 | offset // 8,
        ttl,
        proto,
        0,
        address(src),
        address(dst),
    )
    header += options
    return header[:10] + struct.pack(">H", internet_checksum(header)) + header[12:] + payload


def ipv6(
    src: str,
    dst: str,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    flow_label: int = 0,
    payload_length: Optional[int] = None,
) -> bytes:
    """An IPv6 packet (RFC 8200); `payload_length` replaces the true one."""
    if payload_length is None:
        payload_length = len(payload)
    first = 6 << 28 | flow_label
    header = struct.pack(">IHBB", first, payload_length, next_header, hop_limit)
    return header + address(src) + address(dst) + payload


def ip(src: str, dst: str, proto: int, payload: bytes, *, ttl: int = 64, ident: int = 0) -> bytes:
    """IPv4 or IPv6, whichever the addresses are."""
    if is_ipv6(src):
        return ipv6(src, dst, proto, payload, hop_limit=ttl)
    return ipv4(src, dst, proto, payload, ttl=ttl, ident=ident)


def ethertype_of(packet: bytes) -> int:
    return ETHERTYPE_IPV6 if packet[0] >> 4 == 6 else ETHERTYPE_IPV4


def options_header(next_header: int, options: bytes = b"") -> bytes:
    """A hop-by-hop or destination options header, padded with PadN or Pad1 to 8 bytes."""
    padding = -(2 + len(options)) % 8
    if padding == 1:
        options += b"\0"
    elif padding:
        options += struct.pack(">BB", 1, padding - 2) + b"\0" * (padding - 2)
    return struct.pack(">BB", next_header, (2 + len(options)) // 8 - 1) + options


def routing_header(next_header: int, segment: str) -> bytes:
    """A segment routing header (RFC 8754) with one segment, already reached."""
    return struct.pack(">BBBBBBH", next_header, 2, 4, 0, 0, 0, 0) + address(segment)


def fragment_header(next_header: int, offset: int, more: bool, ident: int) -> bytes:
    return struct.pack(">BxHI", next_header, offset | more, ident)


def fragments(
    src: str, dst: str, proto: int, payload: bytes, cuts: list[int], ident: int
) -> list[bytes]:
    """One datagram in pieces, IPv4 or IPv6. `cuts` are payload offsets, multiples of 8."""
    pieces = []
    for start, end in zip([0] + cuts, cuts + [len(payload)]):
        more = end < len(payload)
        if is_ipv6(src):
            header = fragment_header(proto, start, more, ident)
            pieces.append(ipv6(src, dst, PROTO_FRAGMENT, header + payload[start:end]))
        else:
            piece = payload[start:end]
            pieces.append(
                ipv4(src, dst, proto, piece, ident=ident, df=False, more=more, offset=start)
            )
    return pieces


def udp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    payload: bytes,
    *,
    length: Optional[int] = None,
    checksum: bool = True,
) -> bytes:
    """A UDP datagram (RFC 768). `length` replaces the true one; no checksum means zero."""
    if length is None:
        length = UDP_LEN + len(payload)
    datagram = struct.pack(">HHHH", sport, dport, length, 0) + payload
    if not checksum:
        return datagram
    value = transport_checksum(src, dst, PROTO_UDP, datagram) or 0xFFFF
    return datagram[:6] + struct.pack(">H", value) + payload


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    seq: int,
    ack: int,
    flags: int,
    payload: bytes = b"",
    *,
    options: bytes = b"",
    window: int = 502,
) -> bytes:
    """A TCP segment (RFC 9293); `options` are padded with end-of-list to four bytes."""
    options += b"\0" * (-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    ports_and_numbers = struct.pack(">HHII", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF)
    segment = ports_and_numbers + struct.pack(">BBHHH", offset, flags, window, 0, 0)
    segment += options + payload
    value = transport_checksum(src, dst, PROTO_TCP, segment)
    return segment[:16] + struct.pack(">H", value) + segment[18:]


def icmp(kind: int, code: int, rest: bytes, payload: bytes) -> bytes:
    """ICMPv4 (RFC 792); `rest` is the second word of the header."""
    message = struct.pack(">BBH", kind, code, 0) + rest + payload
    return message[:2] + struct.pack(">H", internet_checksum(message)) + message[4:]


def icmpv6(src: str, dst: str, kind: int, code: int, rest: bytes, payload: bytes) -> bytes:
    """ICMPv6 (RFC 4443), whose checksum covers the addresses."""
    message = struct.pack(">BBH", kind, code, 0) + rest + payload
    value = transport_checksum(src, dst, PROTO_ICMPV6, message)
    return message[:2] + struct.pack(">H", value) + message[4:]


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """An ARP body for IPv4 over Ethernet; operation 1 asks, 2 answers."""
    head = struct.pack(">HHBBH", 1, ETHERTYPE_IPV4, 6, 4, operation)
    return head + mac(sender_mac) + address(sender) + mac(target_mac) + address(target)


def vxlan(
    vni: int, frame: bytes, *, flags: int = 0x08, reserved: int = 0, last_byte: int = 0
) -> bytes:
    """A VXLAN header and frame (RFC 7348 §5). `reserved` is bytes 1-3, `last_byte` is byte 7."""
    return struct.pack(">II", flags << 24 | reserved, vni << 8 | last_byte) + frame


def vxlan_gpe(vni: int, next_protocol: int, payload: bytes, *, flags: int = 0x0C) -> bytes:
    """VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe): flags R R Ver Ver I P B O, protocol in byte 3."""
    return struct.pack(">BxxBI", flags, next_protocol, vni << 8) + payload


def nsh(next_protocol: int, payload: bytes, *, words: int = 2) -> bytes:
    """A network service header (RFC 8300), MD type 2 with no metadata. `words` is its length."""
    return struct.pack(">HBBI", 63 << 6 | words, 2, next_protocol, 42 << 8 | 255) + payload


def geneve(
    protocol: int,
    payload: bytes,
    *,
    vni: int = 0,
    options: bytes = b"",
    version: int = 0,
    control: bool = False,
    critical: bool = False,
    option_words: Optional[int] = None,
) -> bytes:
    """Geneve (RFC 8926 §3.4). `option_words` replaces the true length of the options."""
    if option_words is None:
        option_words = len(options) // 4
    first = version << 6 | option_words
    second = control << 7 | critical << 6
    return struct.pack(">BBHI", first, second, protocol, vni << 8) + options + payload


def geneve_option(
    option_class: int, kind: int, data: bytes, *, words: Optional[int] = None
) -> bytes:
    """One Geneve option (RFC 8926 §3.5); data is a multiple of four bytes."""
    if words is None:
        words = len(data) // 4
    return struct.pack(">HBB", option_class, kind, words) + data


def cut(frame: bytes, length: int) -> bytes:
    """What a mirror source leaves of a frame when it may send `length` bytes of it."""
    return frame[:length]


def padded(frame: bytes, length: int = 60) -> bytes:
    """A frame brought to the Ethernet minimum, FCS left out."""
    return frame + b"\0" * (length - len(frame))


# ---------------------------------------------------------------------------------------------
# Link layers other than Ethernet


def sll(
    protocol: int, payload: bytes, *, kind: int = 0, sender: str = "02:00:00:00:09:01"
) -> bytes:
    """Linux cooked header, version 1. Kind 0 was for us, 4 was sent by us."""
    return struct.pack(">HHH6sxxH", kind, 1, 6, mac(sender), protocol) + payload


def sll2(
    protocol: int, payload: bytes, *, kind: int = 0, sender: str = "02:00:00:00:09:01"
) -> bytes:
    """Linux cooked header, version 2, which adds the interface index."""
    return struct.pack(">HxxIHBB6sxx", protocol, 2, 1, kind, 6, mac(sender)) + payload


def address_family(value: int, packet: bytes, *, order: str) -> bytes:
    """The four bytes in front of a packet on link types NULL and LOOP."""
    return struct.pack(order + "I", value) + packet


# ---------------------------------------------------------------------------------------------
# File formats: pcap, pcapng, gzip

NANOSECONDS = 1_000_000_000
SNAPLEN = 262_144


class Record(NamedTuple):
    """One captured packet. `orig_len` is its length before the capture cut it, if it did."""

    time_ns: int
    data: bytes
    orig_len: Optional[int] = None


# 2026-01-15 09:30:00 UTC
START = 1_768_469_400 * NANOSECONDS


def spaced(frames: list[bytes], *, step_us: int = 1_001) -> list[Record]:
    """Whole packets, evenly spaced from START on."""
    return [Record(START + n * step_us * 1_000, frame) for n, frame in enumerate(frames)]


def pcap_header(
    *,
    order: str = "<",
    nanoseconds: bool = False,
    link: int = LINK_ETHERNET,
    version: tuple[int, int] = (2, 4),
    snaplen: int = SNAPLEN,
) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    return struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, link)


def pcap_record(
    record: Record,
    *,
    order: str = "<",
    nanoseconds: bool = False,
    captured_len: Optional[int] = None,
) -> bytes:
    seconds, fraction = divmod(record.time_ns, NANOSECONDS)
    if not nanoseconds:
        fraction //= 1_000
    if captured_len is None:
        captured_len = len(record.data)
    orig_len = len(record.data) if record.orig_len is None else record.orig_len
    return struct.pack(order + "IIII", seconds, fraction, captured_len, orig_len) + record.data


def pcap(
    records: list[Record],
    *,
    order: str = "<",
    nanoseconds: bool = False,
    link: int = LINK_ETHERNET,
    version: tuple[int, int] = (2, 4),
) -> bytes:
    """A whole pcap file."""
    header = pcap_header(order=order, nanoseconds=nanoseconds, link=link, version=version)
    return header + b"".join(pcap_record(r, order=order, nanoseconds=nanoseconds) for r in records)


def capture(frames: list[bytes], *, link: int = LINK_ETHERNET) -> bytes:
    """The usual file of a case: little-endian microseconds, evenly spaced whole packets."""
    return pcap(spaced(frames), link=link)


class Interface(NamedTuple):
    """How an interface of a pcapng section writes its times."""

    tsresol: Optional[int] = None  # None leaves the option out: microseconds
    tsoffset: Optional[int] = None

    def ticks(self, time_ns: int) -> int:
        resolution = 6 if self.tsresol is None else self.tsresol
        base = 2 if resolution & 0x80 else 10
        per_second = base ** (resolution & 0x7F)
        time_ns -= (self.tsoffset or 0) * NANOSECONDS
        ticks, rest = divmod(time_ns * per_second, NANOSECONDS)
        if rest:
            raise ValueError(f"{time_ns} ns is no whole number of ticks at {resolution:#x}")
        return ticks


class PcapngSection:
    """One section of a pcapng file; every method appends one block and returns the section."""

    SHB, IDB, OPB, SPB, NRB, ISB, EPB = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6
    CUSTOM, CUSTOM_DO_NOT_COPY = 0x0BAD, 0x40000BAD
    EXAMPLE_PEN = 32_473  # RFC 5612: for documentation

    def __init__(self, order: str, *, with_length: bool = False) -> None:
        self.order = order
        self.with_length = with_length
        self.interfaces: list[Interface] = []
        self.blocks = b""

    def pack(self, layout: str, *values: int) -> bytes:
        return struct.pack(self.order + layout, *values)

    def option(self, code: int, value: bytes) -> bytes:
        return self.pack("HH", code, len(value)) + value + b"\0" * (-len(value) % 4)

    def options(self, *options: bytes) -> bytes:
        return b"".join(options) + self.pack("HH", 0, 0) if options else b""

    def block(
        self,
        kind: int,
        body: bytes,
        *,
        length: Optional[int] = None,
        trailer: Optional[int] = None,
    ) -> PcapngSection:
        """`length` and `trailer` replace the true length in front and behind."""
        body += b"\0" * (-len(body) % 4)
        true_length = 12 + len(body)
        length = true_length if length is None else length
        trailer = true_length if trailer is None else trailer
        self.blocks += self.pack("II", kind, length) + body + self.pack("I", trailer)
        return self

    def interface(self, interface: Interface, *, link: int = LINK_ETHERNET) -> PcapngSection:
        options = [self.option(2, b"mirror%d" % len(self.interfaces))]
        if interface.tsresol is not None:
            options.append(self.option(9, bytes([interface.tsresol])))
        if interface.tsoffset is not None:
            options.append(self.option(14, self.pack("q", interface.tsoffset)))
        self.interfaces.append(interface)
        return self.block(self.IDB, self.pack("HHI", link, 0, SNAPLEN) + self.options(*options))

    def ticks(self, number: int, time_ns: int) -> int:
        known = number < len(self.interfaces)
        return (self.interfaces[number] if known else Interface()).ticks(time_ns)

    def enhanced(
        self,
        number: int,
        record: Record,
        *options: bytes,
        captured_len: Optional[int] = None,
        trailer: Optional[int] = None,
    ) -> PcapngSection:
        ticks = self.ticks(number, record.time_ns)
        if captured_len is None:
            captured_len = len(record.data)
        orig_len = record.orig_len or captured_len
        body = self.pack("IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, captured_len, orig_len)
        body += record.data + b"\0" * (-len(record.data) % 4) + self.options(*options)
        return self.block(self.EPB, body, trailer=trailer)

    def simple(self, data: bytes) -> PcapngSection:
        return self.block(self.SPB, self.pack("I", len(data)) + data)

    def obsolete(self, number: int, record: Record) -> PcapngSection:
        ticks = self.ticks(number, record.time_ns)
        lengths = (len(record.data), record.orig_len or len(record.data))
        body = self.pack("HHIIII", number, 0xFFFF, ticks >> 32, ticks & 0xFFFFFFFF, *lengths)
        return self.block(self.OPB, body + record.data)

    def custom(self, kind: int, data: bytes) -> PcapngSection:
        return self.block(kind, self.pack("I", self.EXAMPLE_PEN) + data)

    def name(self, text: str, name: bytes) -> PcapngSection:
        value = address(text) + name + b"\0"
        return self.block(self.NRB, self.option(1, value) + self.pack("HH", 0, 0))

    def statistics(self, number: int, time_ns: int, received: int) -> PcapngSection:
        ticks = self.ticks(number, time_ns)
        body = self.pack("III", number, ticks >> 32, ticks & 0xFFFFFFFF)
        return self.block(self.ISB, body + self.options(self.option(4, self.pack("Q", received))))

    def to_bytes(self) -> bytes:
        header = PcapngSection(self.order)
        length = len(self.blocks) if self.with_length else -1
        header.block(self.SHB, self.pack("IHHq", 0x1A2B3C4D, 1, 0, length))
        return header.blocks + self.blocks


class BitWriter:
    """Bits in the order of deflate (RFC 1951 §3.1.1): lowest first."""

    def __init__(self) -> None:
        self.done = bytearray()
        self.bits = 0
        self.count = 0

    def put(self, value: int, width: int) -> None:
        self.bits |= value << self.count
        self.count += width
        while self.count >= 8:
            self.done.append(self.bits & 0xFF)
            self.bits >>= 8
            self.count -= 8

    def put_code(self, code: int, width: int) -> None:
        """A Huffman code: its highest bit comes first."""
        self.put(int(f"{code:0{width}b}"[::-1], 2), width)

    def put_symbol(self, symbol: int) -> None:
        """A literal or length symbol in the fixed code (RFC 1951 §3.2.6)."""
        if symbol < 144:
            self.put_code(0x30 + symbol, 8)
        elif symbol < 256:
            self.put_code(0x190 + symbol - 144, 9)
        elif symbol < 280:
            self.put_code(symbol - 256, 7)
        else:
            self.put_code(0xC0 + symbol - 280, 8)

    def to_bytes(self) -> bytes:
        return bytes(self.done) + (bytes([self.bits & 0xFF]) if self.count else b"")


def deflate_symbol(value: int, first: int, steps: int) -> tuple[int, int, int]:
    """Finds symbol, extra value and extra bits; `steps` codes share each number of extra bits."""
    symbol, base, extra = 0, first, 0
    while True:
        if value < base + (1 << extra):
            return symbol, value - base, extra
        base += 1 << extra
        symbol += 1
        if symbol >= 2 * steps and symbol % steps == 0:
            extra += 1


def deflate(data: bytes) -> bytes:
    """One block of fixed codes, with the plainest search for repeats that deserves the name."""
    out = BitWriter()
    out.put(0b011, 3)  # last block, fixed codes
    seen: dict[bytes, int] = {}
    position = 0
    while position < len(data):
        key = data[position : position + 4]
        earlier = seen.get(key)
        seen[key] = position
        length = 0
        if earlier is not None and position - earlier <= 32_768:
            longest = min(257, len(data) - position)  # 258 has a symbol of its own; not needed
            while length < longest and data[earlier + length] == data[position + length]:
                length += 1
        if earlier is None or length < 4:
            out.put_symbol(data[position])
            position += 1
            continue
        symbol, extra, width = deflate_symbol(length, 3, 4)
        out.put_symbol(257 + symbol)
        out.put(extra, width)
        symbol, extra, width = deflate_symbol(position - earlier, 1, 2)
        out.put_code(symbol, 5)
        out.put(extra, width)
        position += length
    out.put_symbol(256)
    return out.to_bytes()


def gzip_member(data: bytes) -> bytes:
    """One gzip member (RFC 1952) without name or time, from an unknown system."""
    head = struct.pack("<BBBBIBB", 0x1F, 0x8B, 8, 0, 0, 0, 255)
    return head + deflate(data) + struct.pack("<II", zlib.crc32(data), len(data))


# ---------------------------------------------------------------------------------------------
# The cast: mirror sources, the hosts they talk to, the mirror target


class Host(NamedTuple):
    """One end of a conversation as the mirror source sees it."""

    mac: str
    ip: str
    ip6: str = "2001:db8::1"
    ttl: int = 64


WEB = Host("02:00:0a:00:01:0b", "10.0.1.11", "2001:db8:1::11")
APP = Host("02:00:0a:00:01:0c", "10.0.1.12", "2001:db8:1::12")
STORE = Host("02:00:0a:00:02:15", "10.0.2.21", "2001:db8:2::21")
PEER = Host("02:00:0a:00:03:07", "10.0.3.7", "2001:db8:3::7", 63)

GATEWAY_MAC_1 = "02:00:0a:00:01:01"  # of 10.0.1.0/24
GATEWAY_MAC_2 = "02:00:0a:00:02:01"  # of 10.0.2.0/24

TARGET = Host("02:00:0a:00:09:09", "10.0.9.9", "2001:db8:9::9")
TARGET_GATEWAY_MAC = "02:00:0a:00:09:01"

VNI = 7  # where a case does not care


def behind(gateway_mac: str, host_ip: str, ttl: int, ip6: str = "2001:db8:f::1") -> Host:
    """A host in another network: the mirror source sees its gateway's MAC."""
    return Host(gateway_mac, host_ip, ip6, ttl)


def entropy_port(frame: bytes) -> int:
    """The outer source port: a hash of the inner 5-tuple, in 49152-65535 (RFC 7348 §5)."""
    ethertype = frame[12:14]
    key = frame[:14]
    if ethertype == b"\x08\x00" and len(frame) >= 34:
        key = frame[23:24] + frame[26:34]
        if frame[23] in (PROTO_TCP, PROTO_UDP, PROTO_SCTP):
            start = 14 + (frame[14] & 15) * 4
            key += frame[start : start + 4]
    elif ethertype == b"\x86\xdd" and len(frame) >= 54:
        key = frame[20:21] + frame[22:54]
        if frame[20] in (PROTO_TCP, PROTO_UDP, PROTO_SCTP):
            key += frame[54:58]
    return 49_152 + zlib.crc32(key) % 16_384


def outer_packet(
    udp_payload: bytes,
    *,
    source: Host = WEB,
    sport: int = 50_000,
    dport: int = PORT_VXLAN,
    v6: bool = False,
    checksum: bool = False,
    udp_length: Optional[int] = None,
) -> bytes:
    """The outer IP packet of one datagram to the target."""
    src, dst = (source.ip6, TARGET.ip6) if v6 else (source.ip, TARGET.ip)
    datagram = udp(src, dst, sport, dport, udp_payload, length=udp_length, checksum=checksum)
    return ip(src, dst, PROTO_UDP, datagram)


def to_target(packet: bytes) -> bytes:
    """The outer frame around an IP packet, as it reaches the target's network card."""
    return ethernet(TARGET.mac, TARGET_GATEWAY_MAC, ethertype_of(packet), packet)


def datagram(udp_payload: bytes, **outer: object) -> bytes:
    """The outer frame around any UDP payload; keywords as in `outer_packet`."""
    return to_target(outer_packet(udp_payload, **outer))


def mirrored(
    frame: bytes, *, vni: int = VNI, keep: Optional[int] = None, **outer: object
) -> bytes:
    """The outer frame around a mirrored one, cut to `keep` bytes by the mirror source."""
    kept = frame if keep is None else cut(frame, keep)
    return datagram(vxlan(vni, kept), sport=entropy_port(frame), **outer)


# ---------------------------------------------------------------------------------------------
# Single inner frames


def frame_of(src: Host, dst: Host, packet: bytes) -> bytes:
    return ethernet(dst.mac, src.mac, ethertype_of(packet), packet)


def udp_packet(
    payload: bytes, *, src: Host = WEB, dst: Host = PEER, v6: bool = False, sport: int = 40_000
) -> bytes:
    source, target = (src.ip6, dst.ip6) if v6 else (src.ip, dst.ip)
    return ip(source, target, PROTO_UDP, udp(source, target, sport, 9_999, payload), ttl=src.ttl)


def tcp_packet(
    payload: bytes,
    *,
    src: Host = WEB,
    dst: Host = PEER,
    v6: bool = False,
    seq: int = 1_000,
    options: bytes = b"",
) -> bytes:
    source, target = (src.ip6, dst.ip6) if v6 else (src.ip, dst.ip)
    segment = tcp(source, target, 40_001, 9_998, seq, 1, PSH | ACK, payload, options=options)
    return ip(source, target, PROTO_TCP, segment, ttl=src.ttl)


def udp_frame(payload: bytes, **given: object) -> bytes:
    return frame_of(given.get("src", WEB), given.get("dst", PEER), udp_packet(payload, **given))


def tcp_frame(payload: bytes, **given: object) -> bytes:
    return frame_of(given.get("src", WEB), given.get("dst", PEER), tcp_packet(payload, **given))


def numbered(number: int, length: int = 40) -> bytes:
    """A payload that says which packet it is, filled up with dots."""
    return f"packet {number} ".encode().ljust(length, b".")


def arp_request(asker: Host, target_ip: str) -> bytes:
    body = arp(1, asker.mac, asker.ip, "00:00:00:00:00:00", target_ip)
    return ethernet("ff:ff:ff:ff:ff:ff", asker.mac, ETHERTYPE_ARP, body)


def arp_reply(owner: Host, asker: Host) -> bytes:
    body = arp(2, owner.mac, owner.ip, asker.mac, asker.ip)
    return ethernet(asker.mac, owner.mac, ETHERTYPE_ARP, body)


def echo(
    src: Host, dst: Host, *, reply: bool, seq: int, v6: bool = False, ident: int = 0x1D2B
) -> bytes:
    """A ping of 56 bytes, as ping(8) sends it."""
    rest = struct.pack(">HH", ident, seq)
    data = struct.pack("<QQ", 1_768_469_400, 1_000 * seq) + bytes(range(0x10, 0x38))
    if v6:
        kind = 129 if reply else 128
        message = icmpv6(src.ip6, dst.ip6, kind, 0, rest, data)
        return frame_of(src, dst, ip(src.ip6, dst.ip6, PROTO_ICMPV6, message, ttl=src.ttl))
    message = icmp(0 if reply else 8, 0, rest, data)
    return frame_of(src, dst, ip(src.ip, dst.ip, PROTO_ICMP, message, ttl=src.ttl))


def lldp_frame(*, description: bytes = b"leaf switch") -> bytes:
    def tlv(kind: int, value: bytes) -> bytes:
        return struct.pack(">H", kind << 9 | len(value)) + value

    body = tlv(1, b"\x04" + mac(GATEWAY_MAC_1)) + tlv(2, b"\x05swp7") + tlv(3, b"\x00\x78")
    body += tlv(5, b"leaf-01") + tlv(6, description) + tlv(0, b"")
    return ethernet("01:80:c2:00:00:0e", GATEWAY_MAC_1, ETHERTYPE_LLDP, body)


def stp_frame() -> bytes:
    """802.3 with a length instead of an EtherType: LLC and a configuration BPDU, padded."""
    bridge = struct.pack(">H6s", 0x8000, mac(GATEWAY_MAC_1))
    bpdu = b"\0\0\0\0\0" + bridge + b"\0\0\0\0" + bridge + b"\x80\x07"
    bpdu += struct.pack(">HHHH", 0, 20 << 8, 2 << 8, 15 << 8)
    llc = b"\x42\x42\x03" + bpdu
    return padded(ethernet("01:80:c2:00:00:00", GATEWAY_MAC_1, len(llc), llc))


# ---------------------------------------------------------------------------------------------
# Application payloads


def dns_name(name: str) -> bytes:
    labels = (bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"".join(labels) + b"\0"


DNS_A, DNS_CNAME, DNS_SOA, DNS_AAAA = 1, 5, 6, 28


def dns_query(ident: int, name: str, kind: int) -> bytes:
    header = struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, 0)
    return header + dns_name(name) + struct.pack(">HH", kind, 1)


def dns_answer(
    ident: int, name: str, kind: int, answers: list[tuple[int, bytes]], *, nxdomain: bool = False
) -> bytes:
    """Answers are (type, data) about the name asked for; no such name brings a SOA instead."""
    flags = 0x8183 if nxdomain else 0x8180
    message = struct.pack(">HHHHHH", ident, flags, 1, len(answers), int(nxdomain), 0)
    message += dns_name(name) + struct.pack(">HH", kind, 1)
    for answer_kind, data in answers:
        message += struct.pack(">HHHIH", 0xC00C, answer_kind, 1, 300, len(data)) + data
    if nxdomain:
        data = dns_name("ns1.example.com") + dns_name("hostmaster.example.com")
        data += struct.pack(">IIIII", 2026011501, 7_200, 900, 1_209_600, 300)
        message += dns_name("example.com") + struct.pack(">HHIH", DNS_SOA, 1, 300, len(data)) + data
    return message


def tls_record(kind: int, body: bytes) -> bytes:
    return struct.pack(">BHH", kind, 0x0303, len(body)) + body


def tls_application(length: int, seed: str) -> bytes:
    return tls_record(23, noise(length, seed))


TLS_CHANGE_CIPHER_SPEC = tls_record(20, b"\x01")


def tls_handshake(kind: int, body: bytes) -> bytes:
    return tls_record(22, struct.pack(">BxH", kind, len(body)) + body)


def tls_extension(kind: int, body: bytes) -> bytes:
    return struct.pack(">HH", kind, len(body)) + body


def tls_client_hello(server_name: str) -> bytes:
    """TLS 1.3 with SNI, ALPN and an x25519 key share."""
    name = server_name.encode()
    share = struct.pack(">HH", 0x001D, 32) + noise(32, "client share" + server_name)
    extensions = tls_extension(0, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name)
    extensions += tls_extension(10, bytes.fromhex("0006001d00170018"))
    extensions += tls_extension(13, bytes.fromhex("00080403080404010501"))
    extensions += tls_extension(16, b"\x00\x0c\x02h2\x08http/1.1")
    extensions += tls_extension(43, bytes.fromhex("0403040303"))
    extensions += tls_extension(45, b"\x01\x01")
    extensions += tls_extension(51, struct.pack(">H", len(share)) + share)
    ciphers = bytes.fromhex("130113021303c02bc02fc02cc030")
    body = b"\x03\x03" + noise(32, "client random" + server_name)
    body += b"\x20" + noise(32, "session" + server_name)
    body += struct.pack(">H", len(ciphers)) + ciphers + b"\x01\x00"
    return tls_handshake(1, body + struct.pack(">H", len(extensions)) + extensions)


def tls_server_hello(server_name: str) -> bytes:
    share = struct.pack(">HH", 0x001D, 32) + noise(32, "server share" + server_name)
    extensions = tls_extension(43, b"\x03\x04") + tls_extension(51, share)
    body = b"\x03\x03" + noise(32, "server random" + server_name)
    body += b"\x20" + noise(32, "session" + server_name) + b"\x13\x01\x00"
    return tls_handshake(2, body + struct.pack(">H", len(extensions)) + extensions)


def http_page(length: int) -> bytes:
    """An HTTP answer whose body has exactly `length` bytes."""
    lines = (f"<p>line {n:04} of a page that is long enough to be cut</p>\n" for n in range(400))
    body = "".join(lines).encode()[:length]
    head = (
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 15 Jan 2026 09:30:00 GMT\r\n"
        f"Content-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def http_get(host: str, path: str) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
    return head.encode()


# ---------------------------------------------------------------------------------------------
# TCP conversations, in time


class Conversation:
    """A TCP conversation as seen at one of its ends, which is the mirror source.

    `frames` collects (microseconds since START, inner frame). The local end answers within a
    tenth of a millisecond; what the remote end sends takes a round trip.
    """

    def __init__(
        self,
        client: Host,
        server: Host,
        sport: int,
        dport: int,
        *,
        local: str,
        at_us: int,
        rtt_us: int = 8_000,
        mss: int = 1_396,
        v6: bool = False,
    ) -> None:
        self.hosts = {"client": client, "server": server}
        self.ports = {"client": sport, "server": dport}
        self.local = local
        self.now_us = at_us
        self.rtt_us = rtt_us
        self.mss = mss
        self.v6 = v6
        # Sequence and IP identification numbers only have to differ between conversations.
        start = zlib.crc32(f"{client.ip} {sport} {server.ip} {dport}".encode())
        self.seq = {"client": start, "server": start ^ 0x5A5A5A5A}
        self.ident = {"client": start & 0x7FFF, "server": start >> 16 & 0x7FFF}
        self.echoed = {"client": 0, "server": 0}
        self.last_side: Optional[str] = None
        self.frames: list[tuple[int, bytes]] = []

    @property
    def payload_max(self) -> int:
        return self.mss - 12  # the timestamp option is in every segment

    def other(self, side: str) -> str:
        return "server" if side == "client" else "client"

    def wait(self, us: int) -> Conversation:
        self.now_us += us
        return self

    def segment(self, side: str, flags: int, payload: bytes = b"") -> Conversation:
        """Adds one segment of `side`; SYN and FIN take a sequence number."""
        if self.last_side == side:
            self.now_us += 12
        elif self.last_side is not None:
            self.now_us += 85 if side == self.local else self.rtt_us
        self.last_side = side
        other = self.other(side)
        src, dst = self.hosts[side], self.hosts[other]
        source, target = (src.ip6, dst.ip6) if self.v6 else (src.ip, dst.ip)
        tsval = 3_000_000 + 1_000_000 * (side == "server") + self.now_us // 1_000
        timestamp = struct.pack(">BBII", 8, 10, tsval, self.echoed[side])
        self.echoed[other] = tsval
        if flags & SYN:
            options = struct.pack(">BBHBB", 2, 4, self.mss, 4, 2) + timestamp + b"\x01\x03\x03\x07"
        else:
            options = b"\x01\x01" + timestamp
        segment = tcp(
            source,
            target,
            self.ports[side],
            self.ports[other],
            self.seq[side],
            self.seq[other] if flags & ACK else 0,
            flags,
            payload,
            options=options,
            window=64_240 if flags & SYN else 501,
        )
        self.seq[side] += len(payload) + bool(flags & (SYN | FIN))
        self.ident[side] += 1
        packet = ip(source, target, PROTO_TCP, segment, ttl=src.ttl, ident=self.ident[side])
        self.frames.append((self.now_us, frame_of(src, dst, packet)))
        return self

    def open(self) -> Conversation:
        return self.segment("client", SYN).segment("server", SYN | ACK).segment("client", ACK)

    def send(self, side: str, data: bytes) -> Conversation:
        """Sends data in full segments; the other side acknowledges every second one."""
        other = self.other(side)
        pieces = [data[n : n + self.payload_max] for n in range(0, len(data), self.payload_max)]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            self.segment(side, ACK | PSH if last else ACK, piece)
            if number % 2 or last:
                self.segment(other, ACK)
        return self

    def close(self, first: str) -> Conversation:
        """FIN from both sides, each acknowledged."""
        second = self.other(first)
        self.segment(first, FIN | ACK).segment(second, ACK)
        return self.segment(second, FIN | ACK).segment(first, ACK)

    def inner_frames(self) -> list[bytes]:
        return [frame for _, frame in self.frames]


def tls_session(conversation: Conversation, server_name: str, answer_lengths: list[int]) -> None:
    """Handshake, one request, then the answer as one application record per length."""
    talk = conversation.open()
    talk.send("client", tls_client_hello(server_name))
    encrypted = tls_application(23, "extensions") + tls_application(840, "certificate")
    encrypted += tls_application(281, "verify") + tls_application(53, "finished")
    talk.send("server", tls_server_hello(server_name) + TLS_CHANGE_CIPHER_SPEC + encrypted)
    talk.send("client", TLS_CHANGE_CIPHER_SPEC + tls_application(53, "client finished"))
    talk.send("client", tls_application(180, "request" + server_name))
    for number, length in enumerate(answer_lengths):
        talk.send("server", tls_application(length, f"answer {number}"))
    talk.send("client", tls_application(19, "alert")).close("client")


def dns_exchange(
    client: Host,
    resolver: Host,
    at_us: int,
    ident: int,
    name: str,
    kind: int,
    answers: list[tuple[int, bytes]],
    *,
    nxdomain: bool = False,
) -> list[tuple[int, bytes]]:
    sport = 33_000 + ident % 20_000
    query = udp(client.ip, resolver.ip, sport, 53, dns_query(ident, name, kind))
    message = dns_answer(ident, name, kind, answers, nxdomain=nxdomain)
    answer = udp(resolver.ip, client.ip, 53, sport, message)
    return [
        (at_us, frame_of(client, resolver, ip(client.ip, resolver.ip, PROTO_UDP, query))),
        (at_us + 740, frame_of(resolver, client, ip(resolver.ip, client.ip, PROTO_UDP, answer))),
    ]


def ping(src: Host, dst: Host, at_us: int, count: int, **given: object) -> list[tuple[int, bytes]]:
    frames = []
    for seq in range(1, count + 1):
        start = at_us + (seq - 1) * 1_000_000
        frames.append((start, echo(src, dst, reply=False, seq=seq, **given)))
        frames.append((start + 410, echo(dst, src, reply=True, seq=seq, **given)))
    return frames


# ---------------------------------------------------------------------------------------------
# The cases

CASES = {}


def case(name: str):
    """Registers a function without arguments that returns the bytes of testdata/`name`."""

    def register(build):
        CASES[name] = build
        return build

    return register


class Scene:
    """Mirrored frames of several sources, put in the order of their time."""

    def __init__(self) -> None:
        self.events: list[tuple[int, bytes]] = []

    def mirror(
        self, frames: list[tuple[int, bytes]], source: Host, vni: int, keep: Optional[int] = None
    ) -> None:
        for at_us, frame in frames:
            self.events.append((at_us, mirrored(frame, vni=vni, source=source, keep=keep)))

    def other(self, at_us: int, outer_frame: bytes) -> None:
        self.events.append((at_us, outer_frame))

    def records(self) -> list[Record]:
        # sorted() keeps the order of equal times.
        events = sorted(self.events, key=lambda event: event[0])
        return [Record(START + at_us * 1_000, frame) for at_us, frame in events]


# The session of demo.pcap that keeps 96 bytes: a cloud's default, not a fault.
SESSION_LENGTH = 96
# Inner bytes left when the outer IPv4 packet may have 1500: 1500 - 20 - 8 - 8.
MTU_CUT = 1_464


@case("demo.pcap")
def demo() -> bytes:
    scene = Scene()
    web(scene)
    app(scene)
    store(scene)
    balancer = "10.0.9.2"
    probe = udp(balancer, TARGET.ip, 41_207, PORT_VXLAN, b"UDP health probe\n")
    scene.other(3_000_000, to_target(ipv4(balancer, TARGET.ip, PROTO_UDP, probe)))
    admin = "10.0.9.50"
    banner = b"SSH-2.0-OpenSSH_9.6\r\n"
    ssh = tcp(admin, TARGET.ip, 51_514, 22, 0x1B2C3D4E, 0x22334455, PSH | ACK, banner)
    scene.other(6_200_000, to_target(ipv4(admin, TARGET.ip, PROTO_TCP, ssh)))
    return pcap(scene.records())


def web(scene: Scene) -> None:
    """10.0.1.11, VNI 101: keeps the MTU rule (inner IP packets up to 1436), so all is whole."""
    gateway = Host(GATEWAY_MAC_1, "10.0.1.1")
    resolver = behind(GATEWAY_MAC_1, "10.0.0.2", 64)
    visitor = behind(GATEWAY_MAC_1, "203.0.113.45", 51, "2001:db8:feed::45")
    scanner = behind(GATEWAY_MAC_1, "192.0.2.66", 238)
    api = behind(GATEWAY_MAC_1, "198.51.100.20", 55)
    frames = [(10_000, arp_request(WEB, gateway.ip)), (10_180, arp_reply(gateway, WEB))]
    frames += dns_exchange(
        WEB, resolver, 60_000, 0x1A01, "api.example.com", DNS_A, [(DNS_A, address(api.ip))]
    )
    frames += dns_exchange(
        WEB,
        resolver,
        60_300,
        0x1A02,
        "api.example.com",
        DNS_AAAA,
        [(DNS_AAAA, address("2001:db8:cafe::20"))],
    )
    frames += dns_exchange(
        WEB, resolver, 2_400_000, 0x1A03, "old.example.com", DNS_A, [], nxdomain=True
    )
    frames += ping(WEB, gateway, 500_000, 4)

    page = Conversation(visitor, WEB, 52_144, 80, local="server", at_us=200_000, rtt_us=9_000)
    page.open().send("client", http_get("www.example.com", "/index.html"))
    page.wait(1_800).send("server", http_page(15_000)).close("server")
    tls = Conversation(WEB, api, 44_310, 443, local="client", at_us=900_000, rtt_us=6_000)
    tls_session(tls, "api.example.com", [1_200, 4_000])
    missing = Conversation(visitor, WEB, 52_160, 80, local="server", at_us=4_100_000)
    missing.open().send("client", http_get("www.example.com", "/favicon.ico"))
    missing.send("server", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").close("client")
    refused = Conversation(scanner, WEB, 40_100, 23, local="server", at_us=5_050_000)
    refused.segment("client", SYN).segment("server", RST | ACK)
    v6_page = Conversation(visitor, WEB, 52_170, 80, local="server", at_us=6_500_000, v6=True)
    v6_page.open().send("client", http_get("www.example.com", "/status"))
    v6_page.send("server", http_page(900)).close("server")
    for talk in (page, tls, missing, refused, v6_page):
        frames += talk.frames
    scene.mirror(frames, WEB, 101)


def app(scene: Scene) -> None:
    """10.0.1.12, VNI 101: its mirror session keeps 96 bytes of each frame."""
    gateway = Host(GATEWAY_MAC_1, "10.0.1.1")
    resolver = behind(GATEWAY_MAC_1, "10.0.0.2", 64)
    bank = behind(GATEWAY_MAC_1, "198.51.100.77", 52)
    frames = [(40_000, arp_request(gateway, APP.ip)), (40_095, arp_reply(APP, gateway))]
    frames += dns_exchange(
        APP, resolver, 1_300_000, 0x2B01, "pay.example.net", DNS_A, [(DNS_A, address(bank.ip))]
    )
    frames += dns_exchange(APP, resolver, 1_300_200, 0x2B02, "pay.example.net", DNS_AAAA, [])
    frames += dns_exchange(
        APP, resolver, 5_600_000, 0x2B03, "typo.example.com", DNS_A, [], nxdomain=True
    )
    frames += ping(gateway, APP, 3_300_000, 2, ident=0x77)
    pay = Conversation(APP, bank, 38_812, 443, local="client", at_us=1_302_000, rtt_us=14_000)
    tls_session(pay, "pay.example.net", [600, 2_500, 1_300])
    again = Conversation(APP, bank, 38_820, 443, local="client", at_us=7_100_000, rtt_us=14_000)
    tls_session(again, "pay.example.net", [800])
    scene.mirror(frames + pay.frames + again.frames, APP, 101, SESSION_LENGTH)


def store(scene: Scene) -> None:
    """10.0.2.21, VNI 202: inner IP packets of 1500 bytes, which would need outer packets of 1550. The
    path of 1500 leaves 1464 bytes of each inner frame.
    """
    client = behind(GATEWAY_MAC_2, PEER.ip, PEER.ttl)
    first = Conversation(
        client, STORE, 45_100, 8_080, local="server", at_us=2_000_000, rtt_us=600, mss=1_460
    )
    first.open().send("client", http_get("store.example.internal", "/objects/1"))
    first.wait(900).send("server", http_page(14_000)).close("client")
    scene.mirror(first.frames, STORE, 202, MTU_CUT)
    second = Conversation(
        client, STORE, 45_102, 8_080, local="server", at_us=5_200_000, rtt_us=600, mss=1_460
    )
    second.open().send("client", http_get("store.example.internal", "/objects/2"))
    second.wait(900).send("server", http_page(18_000)).close("client")
    scene.mirror(second.frames, STORE, 202, MTU_CUT)


# VXLAN headers


@case("i-flag-clear.pcap")
def i_flag_clear() -> bytes:
    return capture(
        [
            datagram(vxlan(VNI, udp_frame(numbered(1)))),
            datagram(vxlan(VNI, udp_frame(numbered(2)), flags=0x00)),
            datagram(vxlan(VNI, udp_frame(numbered(3)), flags=0xF7)),
        ]
    )


@case("reserved-bits.pcap")
def reserved_bits() -> bytes:
    frame = [udp_frame(numbered(n)) for n in range(6)]
    return capture(
        [
            datagram(vxlan(VNI, frame[0])),
            datagram(vxlan(VNI, frame[1], flags=0xFF)),
            datagram(vxlan(VNI, frame[2], reserved=0xFFFFFF)),
            datagram(vxlan(VNI, frame[3], last_byte=0xFF)),
            datagram(vxlan(VNI, frame[4], flags=0xFF, reserved=0xFFFFFF, last_byte=0xFF)),
            datagram(vxlan(0xFFFFFF, frame[5], flags=0x0C, last_byte=0x01)),
        ]
    )


@case("probes.pcap")
def probes() -> bytes:
    """Text decides for itself: 'h' has the I bit (0x68), 'U' (0x55) and 'P' (0x50) do not."""
    return capture(
        [
            datagram(b"\0"),
            datagram(b""),
            datagram(b"\0\0\0\0"),
            datagram(b"PING"),
            datagram(b"UDP health probe\n"),
            datagram(b"health-check"),
            mirrored(udp_frame(numbered(7))),
        ]
    )


@case("vxlan-header-cut.pcap")
def vxlan_header_cut() -> bytes:
    """A short snaplen of whoever captured: the record keeps less than the packet had."""
    whole = mirrored(udp_frame(numbered(1, 100)))
    kept = [38, 42, 46, 49, 50, 70, 100, len(whole)]
    return pcap(
        [Record(r.time_ns, r.data[:n], len(whole)) for r, n in zip(spaced([whole] * 8), kept)]
    )


@case("empty-inner.pcap")
def empty_inner() -> bytes:
    return capture(
        [
            datagram(vxlan(VNI, b"")),
            mirrored(udp_frame(numbered(2))),
            datagram(vxlan(8, b"")),
        ]
    )


@case("gbp.pcap")
def gbp() -> bytes:
    """VXLAN group policy: G in byte 0, D (0x40) and A (0x08) in byte 1, then the group."""
    cases = [(0x88, 0x00, 100), (0x88, 0x40, 200), (0x88, 0x08, 300), (0x88, 0x48, 65_535)]
    frames = [
        datagram(vxlan(VNI, udp_frame(numbered(n)), flags=flags, reserved=policy << 16 | group))
        for n, (flags, policy, group) in enumerate(cases)
    ]
    return capture(frames + [mirrored(udp_frame(numbered(4)))])


# Lengths


@case("inner-cuts.pcap")
def inner_cuts() -> bytes:
    """Cut by the mirror source: the outer lengths agree with what is there."""
    tcp4, udp4 = tcp_frame(numbered(1, 200)), udp_frame(numbered(2, 200))
    tcp6, udp6 = tcp_frame(numbered(3, 200), v6=True), udp_frame(numbered(4, 200), v6=True)
    tagged = tcp4[:12] + struct.pack(">H", ETHERTYPE_VLAN) + vlan_tag(5, ETHERTYPE_IPV4, tcp4[14:])
    return capture(
        [
            mirrored(tcp4, keep=6),  # inside the Ethernet header
            mirrored(tcp4, keep=14),  # right behind it
            mirrored(tcp4, keep=16),  # inside the IPv4 header, before its length
            mirrored(tcp4, keep=24),  # inside the IPv4 header, behind its length
            mirrored(tcp6, keep=38),  # inside the IPv6 header, behind its length
            mirrored(tcp4, keep=34),  # right behind the IPv4 header
            mirrored(tcp4, keep=40),  # inside the TCP header, behind the ports
            mirrored(udp4, keep=39),  # inside the UDP header, behind the ports
            mirrored(tcp4, keep=100),  # inside the payload
            mirrored(udp6, keep=100),  # inside the payload
            mirrored(tagged, keep=16),  # inside the VLAN tag
            mirrored(tcp4),
        ]
    )


@case("udp-length-mismatch.pcap")
def udp_length_mismatch() -> bytes:
    def wrong(number: int, udp_length: int) -> bytes:
        return datagram(vxlan(VNI, udp_frame(numbered(number))), udp_length=udp_length)

    true_length = UDP_LEN + VXLAN_LEN + len(udp_frame(numbered(0)))
    # Outer IP and UDP length both say more than the record has, and the record says it is whole.
    short_record = datagram(vxlan(VNI, udp_frame(numbered(5, 90))))[:-50]
    return capture(
        [
            wrong(0, true_length + 30),
            wrong(1, true_length - 20),
            wrong(2, 7),
            wrong(3, 0),
            wrong(4, true_length),
            short_record,
        ]
    )


@case("outer-trailing-bytes.pcap")
def outer_trailing_bytes() -> bytes:
    ack = frame_of(WEB, PEER, ip(WEB.ip, PEER.ip, PROTO_TCP, tcp(WEB.ip, PEER.ip, 1, 2, 3, 4, ACK)))
    small = udp_frame(b"tiny")
    v6_small = udp_frame(b"six", v6=True)
    trailer = bytes.fromhex("deadbeef")
    return capture(
        [
            mirrored(tcp_frame(numbered(1))) + trailer,
            padded(datagram(vxlan(VNI, b""))),
            mirrored(padded(ack)),
            mirrored(padded(small)),
            mirrored(padded(arp_request(WEB, "10.0.1.1"))),
            mirrored(padded(v6_small, 70)),
            mirrored(padded(ack)) + trailer,
        ]
    )


@case("inner-zero-length.pcap")
def inner_zero_length() -> bytes:
    """Segmentation offload writes 0 where the length does not fit or is not known yet."""
    segment4 = tcp(WEB.ip, PEER.ip, 40_001, 9_998, 1_000, 1, ACK, noise(1_600, "tso"))
    tso = ipv4(WEB.ip, PEER.ip, PROTO_TCP, segment4, total_length=0)
    segment6 = tcp(WEB.ip6, PEER.ip6, 40_001, 9_998, 1_000, 1, ACK, noise(700, "big tcp"))
    big = ipv6(WEB.ip6, PEER.ip6, PROTO_TCP, segment6, payload_length=0)
    # A jumbogram declares 70,000 bytes behind its IPv6 header (RFC 2675); 200 bytes are left.
    jumbo_len = 70_000
    data = noise(jumbo_len - 8 - 20, "jumbogram")
    segment = tcp(WEB.ip6, PEER.ip6, 40_002, 9_998, 1_000, 1, ACK, data)
    jumbo_option = struct.pack(">BBI", 0xC2, 4, jumbo_len)
    extension = options_header(PROTO_TCP, jumbo_option)
    jumbo = ipv6(WEB.ip6, PEER.ip6, PROTO_HOP_BY_HOP, extension + segment, payload_length=0)
    nothing = ipv6(WEB.ip6, PEER.ip6, PROTO_NONE, b"")
    return capture(
        [
            mirrored(frame_of(WEB, PEER, tso)),
            mirrored(frame_of(WEB, PEER, big)),
            mirrored(frame_of(WEB, PEER, jumbo), keep=200),
            mirrored(frame_of(WEB, PEER, nothing)),
            mirrored(udp_frame(numbered(5))),
        ]
    )


@case("session-96.pcap")
def session_96() -> bytes:
    """A mirror session that keeps 96 bytes, with VNI 1: what Huawei Cloud does by default."""
    gateway = Host(GATEWAY_MAC_1, "10.0.1.1")
    peer = behind(GATEWAY_MAC_1, PEER.ip, PEER.ttl, PEER.ip6)
    talk = Conversation(APP, peer, 40_200, 8_080, local="client", at_us=0)
    talk.open().send("client", http_get("app.example.internal", "/items?page=1"))
    # 14 + 40 + 60 bytes of headers: the cut falls inside the TCP options.
    sack = b"\x01\x01\x05\x1a" + noise(24, "sack") + b"\x01\x01" + struct.pack(">BBII", 8, 10, 5, 6)
    long_header = tcp_frame(numbered(7, 300), src=APP, dst=peer, v6=True, options=sack)
    exactly = udp_frame(b"u" * (SESSION_LENGTH - ETHERNET_LEN - 28), src=APP, dst=peer)
    one_more = udp_frame(b"u" * (SESSION_LENGTH - ETHERNET_LEN - 27), src=APP, dst=peer)
    frames = [arp_request(APP, gateway.ip)] + talk.inner_frames()
    frames += [
        long_header,
        exactly,
        one_more,
        echo(APP, gateway, reply=False, seq=1),
        lldp_frame(description=b"leaf switch with a description that is longer than 96"),
    ]
    return capture([mirrored(f, vni=1, source=APP, keep=SESSION_LENGTH) for f in frames])


@case("session-mtu.pcap")
def session_mtu() -> bytes:
    """A path of 1500 bytes: the outer IP packet is never longer, so the inner one is cut."""

    frames = []
    seq = 1_000
    for number, ip_len in enumerate([60, 1_500, 1_500, 1_450, 1_436, 1_437]):
        frames.append(tcp_frame(numbered(number, ip_len - 40), src=STORE, seq=seq))
        seq += ip_len - 40
    frames.append(tcp_frame(numbered(6, 1_500 - 60), src=STORE, v6=True))
    frames.append(ethernet(PEER.mac, STORE.mac, ETHERTYPE_EXPERIMENT, noise(1_486, "unknown")))
    return capture([mirrored(frame, source=STORE, keep=MTU_CUT) for frame in frames])


@case("both-ends.pcap")
def both_ends() -> bytes:
    """Both ends are mirrored: an egress copy here, an ingress copy there, one router between."""
    client = Host(WEB.mac, WEB.ip)
    server = Host(GATEWAY_MAC_1, STORE.ip)
    talk = Conversation(client, server, 40_300, 8_080, local="client", at_us=0, rtt_us=900)
    talk.open().segment("client", ACK | PSH, http_get("store.example.internal", "/health"))
    talk.segment("server", ACK)
    # The acknowledgement is late, so the server sends again, with a new IP identification: one
    # packet more, not a duplicate.
    talk.segment("server", ACK | PSH, b"HTTP/1.1 204 No Content\r\n\r\n")
    talk.seq["server"] -= len(b"HTTP/1.1 204 No Content\r\n\r\n")
    talk.wait(201_000).segment("server", ACK | PSH, b"HTTP/1.1 204 No Content\r\n\r\n")
    talk.segment("client", ACK)
    records = []
    for at_us, frame in talk.frames:
        outbound = frame[6:12] == mac(client.mac)
        sender, receiver = (WEB, STORE) if outbound else (STORE, WEB)
        sent = at_us if outbound else at_us - 240
        gateways = (GATEWAY_MAC_1, GATEWAY_MAC_2)
        near, far = gateways if outbound else gateways[::-1]
        packet = frame[ETHERNET_LEN:]
        egress = ethernet(near, sender.mac, ETHERTYPE_IPV4, packet)
        ingress = ethernet(receiver.mac, far, ETHERTYPE_IPV4, one_hop_later(packet))
        for time_us, copy, source in ((sent, egress, sender), (sent + 240, ingress, receiver)):
            outer_frame = mirrored(copy, vni=VNI, source=source)
            records.append(Record(START + (1_000 + time_us) * 1_000, outer_frame))
    return pcap(sorted(records, key=lambda record: record.time_ns))


def one_hop_later(packet: bytes) -> bytes:
    """The IPv4 packet a router sends on: TTL one lower, header checksum made anew."""
    header = packet[:8] + bytes([packet[8] - 1]) + packet[9:10] + b"\0\0" + packet[12:20]
    return header[:10] + struct.pack(">H", internet_checksum(header)) + header[12:] + packet[20:]


# Inner frames


def tagged_frame(frame: bytes, outer_type: int, tag: bytes) -> bytes:
    """`tag` holds everything from the first tag to the last EtherType."""
    return frame[:12] + struct.pack(">H", outer_type) + tag + frame[14:]


@case("inner-vlan.pcap")
def inner_vlan() -> bytes:
    segment = [tcp_frame(numbered(n), seq=1_000 + 40 * n) for n in range(5)]
    datagram6 = udp_frame(numbered(5), v6=True)
    customer = vlan_tag(30, ETHERTYPE_IPV4, b"")
    priority = vlan_tag(0, ETHERTYPE_IPV4, b"", priority=5)
    frames = [
        tagged_frame(segment[0], ETHERTYPE_VLAN, vlan_tag(100, ETHERTYPE_IPV4, b"")),
        tagged_frame(datagram6, ETHERTYPE_VLAN, vlan_tag(101, ETHERTYPE_IPV6, b"")),
        tagged_frame(segment[1], ETHERTYPE_QINQ, vlan_tag(200, ETHERTYPE_VLAN, customer)),
        tagged_frame(segment[2], ETHERTYPE_VLAN, vlan_tag(201, ETHERTYPE_VLAN, customer)),
        tagged_frame(segment[3], ETHERTYPE_VLAN, priority),
        tagged_frame(
            arp_request(WEB, "10.0.1.1"), ETHERTYPE_VLAN, vlan_tag(100, ETHERTYPE_ARP, b"")
        ),
    ]
    long_one = tagged_frame(segment[4], ETHERTYPE_QINQ, vlan_tag(200, ETHERTYPE_VLAN, customer))
    return capture([mirrored(f) for f in frames] + [mirrored(long_one, keep=80)])


@case("inner-mpls.pcap")
def inner_mpls() -> bytes:
    packet4, packet6 = udp_packet(numbered(1)), udp_packet(numbered(2), v6=True)

    def labelled(labels: list[int], packet: bytes, ethertype: int = ETHERTYPE_MPLS) -> bytes:
        return ethernet(PEER.mac, WEB.mac, ethertype, mpls(labels, packet))

    return capture(
        [
            mirrored(labelled([16_001], packet4)),
            mirrored(labelled([16_001, 24_005, 24_006], packet4)),
            mirrored(labelled([16_002, 2], packet6)),  # 2 is IPv6 explicit null
            mirrored(labelled([16_003], packet4, ETHERTYPE_MPLS_MULTICAST)),
            mirrored(labelled([16_001, 24_005], packet4), keep=60),
        ]
    )


def tag_of(control: bytes, ethertype: int, payload: bytes) -> bytes:
    """What follows the EtherType of any tag that names what comes behind it."""
    return control + struct.pack(">H", ethertype) + payload


@case("inner-layers.pcap")
def inner_layers() -> bytes:
    """What stands between Ethernet and IP, whole and cut to 128 bytes."""
    packet4, packet6 = udp_packet(numbered(1, 120)), udp_packet(numbered(2, 120), v6=True)
    customer_src, customer_dst = "02:00:00:00:aa:01", "02:00:00:00:aa:02"

    def framed(ethertype: int, payload: bytes) -> bytes:
        return ethernet(PEER.mac, WEB.mac, ethertype, payload)

    def customer(ethertype: int, payload: bytes) -> bytes:
        return ethernet(customer_dst, customer_src, ethertype, payload)

    ppp4, ppp6 = b"\x00\x21" + packet4, b"\x00\x57" + packet6
    vn_tag = bytes.fromhex("00110000")
    backbone = bytes.fromhex("0000000a")
    fabricpath = bytes.fromhex("0401")
    trill = bytes.fromhex("003f00010002")
    service_header = bytes.fromhex("0fc20201000001ff")  # two words, IPv4 behind them
    tagged = vlan_tag(30, ETHERTYPE_IPV4, packet4)
    frames = [
        framed(ETHERTYPE_PPPOE_SESSION, pppoe(ppp4)),
        framed(ETHERTYPE_PPPOE_SESSION, pppoe(ppp6)),
        framed(ETHERTYPE_PPPOE_SESSION, pppoe(ppp4[1:])),  # compressed protocol field
        framed(ETHERTYPE_VLAN, vlan_tag(7, ETHERTYPE_PPPOE_SESSION, pppoe(ppp4))),
        length_frame(PEER.mac, WEB.mac, snap(ETHERTYPE_IPV4, packet4)),
        length_frame(PEER.mac, WEB.mac, snap(ETHERTYPE_IPV6, packet6, oui=b"\0\0\xf8")),
        framed(ETHERTYPE_JUMBO_LLC, snap(ETHERTYPE_IPV4, packet4)),
        framed(ETHERTYPE_8200, tagged),
        framed(ETHERTYPE_VN_TAG, tag_of(vn_tag, ETHERTYPE_VLAN, tagged)),
        framed(ETHERTYPE_E_TAG, tag_of(bytes.fromhex("000000640000"), ETHERTYPE_IPV6, packet6)),
        framed(
            ETHERTYPE_CISCO_METADATA,
            tag_of(bytes.fromhex("010100010004"), ETHERTYPE_IPV4, packet4),
        ),
        framed(ETHERTYPE_FABRICPATH, fabricpath + customer(ETHERTYPE_VLAN, tagged)),
        framed(ETHERTYPE_BACKBONE, backbone + customer(ETHERTYPE_IPV4, packet4)),
        framed(
            ETHERTYPE_QINQ,
            vlan_tag(200, ETHERTYPE_BACKBONE, backbone + customer(ETHERTYPE_VLAN, tagged)),
        ),
        framed(ETHERTYPE_TRILL, trill + customer(ETHERTYPE_IPV6, packet6)),
        framed(ETHERTYPE_NSH, service_header + packet4),
        framed(ETHERTYPE_PPPOE_SESSION, pppoe(b"\x02\x81" + mpls([16_001], packet4))),
        framed(
            ETHERTYPE_BACKBONE,
            backbone + length_frame(customer_dst, customer_src, snap(ETHERTYPE_IPV4, packet4)),
        ),
    ]
    return capture([mirrored(f) for f in frames] + [mirrored(f, keep=128) for f in frames])


@case("inner-lengths.pcap")
def inner_lengths() -> bytes:
    """Lengths declared in front of what is no IP."""
    echo_request = pppoe(b"\xc0\x21\x09\x01\x00\xc8".ljust(200, b"."))
    offer = pppoe(b"\x01\x01\x00\x00".ljust(80, b"."), code=7)
    is_is = b"\xfe\xfe\x03\x83".ljust(1_497, b"\0")  # hello, padded as IS-IS does
    frames = [
        ethernet(PEER.mac, WEB.mac, ETHERTYPE_PPPOE_SESSION, echo_request),
        ethernet(PEER.mac, WEB.mac, ETHERTYPE_PPPOE_DISCOVERY, offer),
        length_frame("01:80:c2:00:00:14", WEB.mac, is_is),
    ]
    return capture(
        [mirrored(f) for f in frames]
        + [mirrored(f, keep=60) for f in frames]
        + [mirrored(stp_frame())]
    )


@case("inner-pseudowire.pcap")
def inner_pseudowire() -> bytes:
    packet4, packet6 = udp_packet(numbered(1, 120)), udp_packet(numbered(2, 120), v6=True)
    # Hardware addresses that look like the start of an IP header with a length of 1500.
    like_ip6 = ("60:57:18:21:05:dc", "11:40:20:01:0d:b8")
    like_ip4 = ("45:00:05:dc:21:43", "02:00:40:11:00:01")

    def wire(payload: bytes, *, word: bytes = b"") -> bytes:
        return ethernet(PEER.mac, WEB.mac, ETHERTYPE_MPLS, mpls([16_001], word + payload))

    asked = padded(arp_request(WEB, "10.0.1.1"))
    frames = [
        wire(frame_of(WEB, PEER, packet4)),
        wire(frame_of(WEB, PEER, packet6), word=b"\0\0\0\x05"),
        wire(ethernet(*like_ip6, ETHERTYPE_IPV4, packet4)),
        wire(ethernet(*like_ip4, ETHERTYPE_IPV6, packet6)),
        wire(ethernet(*like_ip6, ETHERTYPE_ARP, asked[14:])),
        wire(ethernet(*like_ip4, ETHERTYPE_EXPERIMENT, asked[14:])),
        wire(asked, word=b"\0\0\0\x06"),
        wire(packet6),
    ]
    return capture([mirrored(f) for f in frames] + [mirrored(f, keep=110) for f in frames])


@case("inner-bare.pcap")
def inner_bare() -> bytes:
    """IP packets directly behind a plain VXLAN header, and frames that only look like that."""
    packet4, packet6 = udp_packet(numbered(1, 120)), tcp_packet(numbered(2, 120), v6=True)

    def behind_vxlan(inner: bytes) -> bytes:
        return datagram(vxlan(VNI, inner))

    like_ip4 = ("45:00:00:4a:00:01", "00:00:40:11:00:01")
    wrong = packet4[:10] + b"\x12\x34" + packet4[12:]
    return capture(
        [
            behind_vxlan(packet4),
            behind_vxlan(packet6),
            behind_vxlan(packet4[:100]),
            behind_vxlan(packet6[:100]),
            behind_vxlan(ethernet(*like_ip4, ETHERTYPE_EXPERIMENT, b"no IP".ljust(60, b"."))),
            behind_vxlan(ethernet(*like_ip4, ETHERTYPE_IPV4, packet4)),
            behind_vxlan(wrong),
        ]
    )


@case("inner-fragments.pcap")
def inner_fragments() -> bytes:
    data = noise(600, "fragmented")
    whole4 = udp(WEB.ip, PEER.ip, 40_010, 9_999, data)
    whole6 = udp(WEB.ip6, PEER.ip6, 40_010, 9_999, data)
    pieces = fragments(WEB.ip, PEER.ip, PROTO_UDP, whole4, [200, 400], 0x4D01)
    pieces += fragments(WEB.ip6, PEER.ip6, PROTO_UDP, whole6, [304], 0x4D02)
    frames = [frame_of(WEB, PEER, piece) for piece in pieces]
    return capture([mirrored(frame) for frame in frames] + [mirrored(udp_frame(numbered(6)))])


@case("inner-non-ip.pcap")
def inner_non_ip() -> bytes:
    gateway = Host(GATEWAY_MAC_1, "10.0.1.1")
    unknown = ethernet(PEER.mac, WEB.mac, ETHERTYPE_EXPERIMENT, b"no such protocol".ljust(46, b"."))
    frames = [
        arp_request(WEB, gateway.ip),
        arp_reply(gateway, WEB),
        lldp_frame(),
        stp_frame(),
        unknown,
    ]
    return capture([mirrored(frame) for frame in frames])


@case("inner-icmp.pcap")
def inner_icmp() -> bytes:
    router = behind(PEER.mac, "10.0.1.1", 64, "2001:db8:1::1")
    frames = [
        echo(WEB, PEER, reply=False, seq=1),
        echo(PEER, WEB, reply=True, seq=1),
        echo(WEB, PEER, reply=False, seq=1, v6=True),
        echo(PEER, WEB, reply=True, seq=1, v6=True),
    ]
    lost4, lost6 = udp_packet(numbered(5)), udp_packet(numbered(6), v6=True)
    expired = icmp(11, 0, b"\0\0\0\0", lost4[:28])
    closed = icmp(3, 3, b"\0\0\0\0", lost4[:28])
    expired6 = icmpv6(router.ip6, WEB.ip6, 3, 0, b"\0\0\0\0", lost6)
    closed6 = icmpv6(PEER.ip6, WEB.ip6, 1, 4, b"\0\0\0\0", lost6)
    frames += [
        frame_of(router, WEB, ipv4(router.ip, WEB.ip, PROTO_ICMP, expired)),
        frame_of(PEER, WEB, ipv4(PEER.ip, WEB.ip, PROTO_ICMP, closed)),
        frame_of(router, WEB, ipv6(router.ip6, WEB.ip6, PROTO_ICMPV6, expired6)),
        frame_of(PEER, WEB, ipv6(PEER.ip6, WEB.ip6, PROTO_ICMPV6, closed6)),
    ]
    return capture([mirrored(frame) for frame in frames])


@case("inner-sctp-gre.pcap")
def inner_sctp_gre() -> bytes:
    """Addresses of the SCTP and RSVP packets are those of the community-id test vectors."""
    init = struct.pack(">BBHIIHHI", 1, 0, 20, 0x11223344, 65_535, 10, 10, 0x55667788)
    sctp = struct.pack(">HHII", 7, 7, 0, 0) + init
    sctp = sctp[:8] + struct.pack("<I", crc32c(sctp)) + sctp[12:]
    sctp_packet = ipv4("192.168.170.8", "192.168.170.56", PROTO_SCTP, sctp)

    gre = struct.pack(">HH", 0, ETHERTYPE_IPV4) + udp_packet(numbered(2))
    gre_packet = ipv4("10.1.12.1", "10.1.12.2", PROTO_GRE, gre)

    esp = struct.pack(">II", 0xC0FFEE01, 17) + noise(80, "esp")
    esp_packet = ipv4("10.1.12.1", "10.1.12.2", PROTO_ESP, esp)

    session = struct.pack(">HBB4sBBH", 12, 1, 1, address("10.1.12.2"), 17, 0, 9_999)
    rsvp = struct.pack(">BBHBBH", 0x10, 1, 0, 64, 0, 8 + len(session)) + session
    rsvp = rsvp[:2] + struct.pack(">H", internet_checksum(rsvp)) + rsvp[4:]
    rsvp_packet = ipv4("10.1.12.1", "10.1.12.2", PROTO_RSVP, rsvp)
    packets = [sctp_packet, gre_packet, esp_packet, rsvp_packet]
    return capture([mirrored(frame_of(WEB, PEER, packet)) for packet in packets])


@case("inner-ipv6-extensions.pcap")
def inner_ipv6_extensions() -> bytes:
    src, dst = WEB.ip6, PEER.ip6

    def segment(number: int) -> bytes:
        return tcp(src, dst, 40_001, 9_998, 1_000 + 40 * number, 1, PSH | ACK, numbered(number))

    def small_datagram(number: int) -> bytes:
        return udp(src, dst, 40_000, 9_999, numbered(number))

    router_alert = bytes.fromhex("05020000")
    chain = options_header(PROTO_DESTINATION, router_alert)
    chain += options_header(PROTO_ROUTING) + routing_header(PROTO_UDP, dst)
    packets = [
        ipv6(src, dst, PROTO_HOP_BY_HOP, options_header(PROTO_TCP, router_alert) + segment(0)),
        ipv6(src, dst, PROTO_ROUTING, routing_header(PROTO_UDP, dst) + small_datagram(1)),
        ipv6(src, dst, PROTO_DESTINATION, options_header(PROTO_TCP) + segment(1)),
        ipv6(src, dst, PROTO_HOP_BY_HOP, chain + small_datagram(3)),
        ipv6(src, dst, PROTO_DESTINATION, options_header(PROTO_NONE)),
    ]
    frames = [mirrored(frame_of(WEB, PEER, packet)) for packet in packets]
    # Ethernet, IPv6 and the first two extension headers are 70 bytes: the routing header is cut.
    return capture(frames + [mirrored(frame_of(WEB, PEER, packets[3]), keep=78)])


@case("inner-ah.pcap")
def inner_ah() -> bytes:
    """Authentication headers (RFC 4302) in front of TCP: whole, cut in the header, and in two fragments."""

    def authenticated(source: str, target: str) -> bytes:
        segment = tcp(source, target, 40_001, 9_998, 1_000, 1, PSH | ACK | 0x40, numbered(1))
        return struct.pack(">BBHII", PROTO_TCP, 4, 0, 9, 1) + b"\xaa" * 12 + segment

    payload4, payload6 = authenticated(WEB.ip, PEER.ip), authenticated(WEB.ip6, PEER.ip6)
    packet4 = ipv4(WEB.ip, PEER.ip, PROTO_AUTHENTICATION, payload4)
    packet6 = ipv6(WEB.ip6, PEER.ip6, PROTO_AUTHENTICATION, payload6)
    pieces = fragments(WEB.ip, PEER.ip, PROTO_AUTHENTICATION, payload4, [64], 0x4D03)
    frames = [frame_of(WEB, PEER, packet) for packet in [packet4, packet6, *pieces]]
    return capture(
        [mirrored(frame) for frame in frames]
        + [mirrored(frames[0], keep=50), mirrored(frames[1], keep=70)]
    )


@case("inner-zero-length-snapped.pcap")
def inner_zero_length_snapped() -> bytes:
    """A packet of IP length 0 (TSO) of which the capture on the target kept 150 bytes."""
    segment = tcp(WEB.ip, PEER.ip, 40_001, 9_998, 1_000, 1, PSH | ACK, numbered(1, 2_900))
    large = ipv4(WEB.ip, PEER.ip, PROTO_TCP, segment, total_length=0)
    whole = mirrored(frame_of(WEB, PEER, large))
    return pcap([Record(START, whole[:150], orig_len=len(whole)), Record(START + 1_001_000, whole)])


@case("nested.pcap")
def nested() -> bytes:
    innermost = udp_frame(numbered(0))
    middle = mirrored(innermost, vni=20, source=STORE)
    outermost = mirrored(middle, vni=10, source=APP)
    to_middle = ETHERNET_LEN + IPV4_LEN + UDP_LEN
    return capture(
        [
            mirrored(innermost, vni=20),
            mirrored(middle, vni=10),
            mirrored(outermost, vni=5),
            mirrored(middle, vni=10, keep=to_middle + 4),  # inside the second VXLAN header
        ]
    )


# Outer packets


@case("outer-vlan.pcap")
def outer_vlan() -> bytes:
    frame = [mirrored(udp_frame(numbered(n))) for n in range(4)]
    customer = vlan_tag(30, ETHERTYPE_IPV4, b"")
    priority = vlan_tag(0, ETHERTYPE_IPV4, b"", priority=6)
    return capture(
        [
            tagged_frame(frame[0], ETHERTYPE_VLAN, vlan_tag(9, ETHERTYPE_IPV4, b"")),
            tagged_frame(frame[1], ETHERTYPE_QINQ, vlan_tag(90, ETHERTYPE_VLAN, customer)),
            tagged_frame(frame[2], ETHERTYPE_VLAN, vlan_tag(91, ETHERTYPE_VLAN, customer)),
            tagged_frame(frame[3], ETHERTYPE_VLAN, priority),
        ]
    )


@case("outer-ipv4-options.pcap")
def outer_ipv4_options() -> bytes:
    router_alert = bytes.fromhex("94040000")
    record_route = bytes([7, 11, 4]) + b"\0" * 8
    frames = []
    for number, options in enumerate([router_alert, record_route, b"\x01" * 40]):
        inner = udp_frame(numbered(number))
        payload = udp(
            WEB.ip, TARGET.ip, entropy_port(inner), PORT_VXLAN, vxlan(VNI, inner), checksum=False
        )
        frames.append(to_target(ipv4(WEB.ip, TARGET.ip, PROTO_UDP, payload, options=options)))
    return capture(frames)


@case("outer-ipv6.pcap")
def outer_ipv6() -> bytes:
    return capture(
        [
            mirrored(udp_frame(numbered(0)), v6=True),
            mirrored(udp_frame(numbered(1)), v6=True, checksum=True),
            mirrored(tcp_frame(numbered(2), v6=True), v6=True, checksum=True),
            mirrored(tcp_frame(numbered(3, 300)), v6=True, keep=96),
        ]
    )


@case("outer-ipv6-extensions.pcap")
def outer_ipv6_extensions() -> bytes:
    def outer(number: int, first: int, extensions: bytes) -> bytes:
        inner = udp_frame(numbered(number))
        payload = vxlan(VNI, inner)
        upper = udp(WEB.ip6, TARGET.ip6, entropy_port(inner), PORT_VXLAN, payload)
        return to_target(ipv6(WEB.ip6, TARGET.ip6, first, extensions + upper))

    chain = options_header(PROTO_ROUTING) + routing_header(PROTO_DESTINATION, TARGET.ip6)
    atomic = fragment_header(PROTO_UDP, 0, False, 99)  # a fragment that is the whole (RFC 6946)
    return capture(
        [
            outer(0, PROTO_HOP_BY_HOP, options_header(PROTO_UDP)),
            outer(1, PROTO_DESTINATION, options_header(PROTO_UDP)),
            outer(2, PROTO_HOP_BY_HOP, chain + options_header(PROTO_UDP)),
            outer(3, PROTO_FRAGMENT, atomic),
        ]
    )


@case("outer-fragments.pcap")
def outer_fragments() -> bytes:
    def pieces(number: int, cuts: list[int], *, v6: bool = False) -> list[bytes]:
        inner = udp_frame(numbered(number, 260))
        src, dst = (WEB.ip6, TARGET.ip6) if v6 else (WEB.ip, TARGET.ip)
        whole = udp(src, dst, entropy_port(inner), PORT_VXLAN, vxlan(VNI, inner))
        return [to_target(p) for p in fragments(src, dst, PROTO_UDP, whole, cuts, 0x7000 + number)]

    in_order = pieces(0, [160])
    shuffled = pieces(1, [104, 208])
    six = pieces(2, [160], v6=True)
    lost_last = pieces(3, [160])[0]
    lost_first = pieces(4, [160])[1]
    whole = [mirrored(udp_frame(numbered(n))) for n in (5, 6, 7)]
    return capture(
        [
            in_order[0],
            in_order[1],
            whole[0],
            shuffled[2],
            shuffled[0],
            whole[1],
            shuffled[1],
            lost_last,
            six[0],
            six[1],
            lost_first,
            whole[2],
        ]
    )


@case("outer-first-fragments.pcap")
def outer_first_fragments() -> bytes:
    """What a capture with the filter `udp port 4789` has, what overlaps, and what a snap length left."""

    def pieces(number: int, inner: bytes, cuts: list[int]) -> list[bytes]:
        whole = udp(WEB.ip, TARGET.ip, 50_000, PORT_VXLAN, vxlan(VNI, inner))
        return [
            to_target(p) for p in fragments(WEB.ip, TARGET.ip, PROTO_UDP, whole, cuts, 0x7100 + number)
        ]

    def other(number: int) -> list[bytes]:
        whole = udp(WEB.ip, TARGET.ip, 50_000, 53, noise(300, f"dns {number}"))
        return [to_target(p) for p in fragments(WEB.ip, TARGET.ip, PROTO_UDP, whole, [160], 0x7200 + number)]

    def frame(number: int) -> bytes:
        return udp_frame(numbered(number, 1400))

    records: list[Record] = []

    def add(frames: list[bytes], keep: Optional[int] = None) -> None:
        for data in frames:
            orig_len = len(data) if keep is not None and keep < len(data) else None
            records.append(Record(START + len(records) * 1_001_000, data[:keep], orig_len))

    # 1 to 3: first pieces alone; the first two of three; one that ends in the UDP header.
    add(pieces(1, frame(1), [1448])[:1])
    add(pieces(2, frame(2), [608, 1208])[:2])
    add(pieces(3, frame(3), [8, 1448])[:1])
    # 4: the first is missing.
    add(pieces(4, frame(4), [608, 1208])[1:])
    # 5: the second piece overlaps the first by 8 bytes, with other bytes; the last one comes too.
    five = pieces(5, frame(5), [608, 1208])
    whole = udp(WEB.ip, TARGET.ip, 50_000, PORT_VXLAN, vxlan(VNI, frame(5)))
    liar = ipv4(
        WEB.ip,
        TARGET.ip,
        PROTO_UDP,
        b"\xee" * 8 + whole[608:1208],
        ident=0x7105,
        df=False,
        more=True,
        offset=600,
    )
    add([five[0], to_target(liar), five[2]])
    # 6: every piece twice.
    six = pieces(6, frame(6), [608, 1208])
    add([six[0], six[0], six[1], six[1], six[2]])
    # 7 and 8: pieces cut by a snap length of 96; of the last datagram the later piece is not there.
    add(pieces(7, frame(7), [1448]), 96)
    add(pieces(8, frame(8), [1448])[:1], 96)
    # Fragments of other datagrams: whole, without the first piece's rest, cut, and of no UDP.
    add(other(0))
    add(other(1)[:1])
    add(other(2)[:1], 60)
    add([to_target(fragments(WEB.ip, TARGET.ip, PROTO_ICMP, noise(200, "icmp"), [104], 0x7300)[0])])
    # 9: whole.
    add([mirrored(frame(9))])
    return pcap(records)


@case("outer-trains.pcap")
def outer_trains() -> bytes:
    """Datagrams put together on the machine that captured them (UDP GSO or GRO)."""

    def frames(count: int, length: int, first: int) -> list[bytes]:
        return [udp_frame(numbered(first + n, length), sport=40_000 + n) for n in range(count)]

    def outer4(payload: bytes, *, udp_len: Optional[int] = None, ip_len: Optional[int] = None) -> bytes:
        whole = udp(WEB.ip, TARGET.ip, 50_000, PORT_VXLAN, payload, length=udp_len, checksum=False)
        return to_target(ipv4(WEB.ip, TARGET.ip, PROTO_UDP, whole, total_length=ip_len))

    def train(inner: list[bytes]) -> bytes:
        return b"".join(vxlan(VNI, frame) for frame in inner)

    full = frames(3, 400, 0) + [udp_frame(numbered(3, 100))]
    one_len = len(vxlan(VNI, full[0]))
    payload = train(full)
    packets = [
        # 1 to 4: lengths of the whole; of the UDP header that of one; both 0; both that of one.
        outer4(payload),
        outer4(payload, udp_len=8 + one_len),
        outer4(payload, udp_len=0, ip_len=0),
        outer4(payload, udp_len=8 + one_len, ip_len=28 + one_len),
    ]
    # 5: over IPv6, two of them.
    packets.append(datagram(train(frames(2, 1000, 10)), v6=True))
    # 6: frames filled up to 60 bytes, an ARP request among them.
    short = [padded(udp_frame(b"a")), padded(arp_request(WEB, "10.0.1.1")), padded(udp_frame(b"bcd"))]
    packets.append(outer4(train(short)))
    # 7: four frames cut to 96 bytes by the mirror source.
    packets.append(outer4(train([cut(frame, 96) for frame in frames(4, 900, 20)])))
    # 8: one datagram each. VXLAN within VXLAN of the same VNI, whole and cut; a capture of VXLAN in a TCP
    # segment, whole and cut in its middle.
    within = udp(APP.ip, STORE.ip, 51_000, PORT_VXLAN, vxlan(VNI, udp_frame(numbered(30, 30))))
    nested = frame_of(APP, STORE, ipv4(APP.ip, STORE.ip, PROTO_UDP, within))
    packets.append(outer4(vxlan(VNI, nested)))
    packets.append(outer4(vxlan(VNI, cut(nested, 92))))
    recorded = noise(54, "before") + vxlan(VNI, udp_frame(numbered(31, 100)))
    transfer = tcp_frame(recorded + noise(200, "after"))
    packets.append(outer4(vxlan(VNI, transfer)))
    packets.append(outer4(vxlan(VNI, cut(transfer, 208))))
    # 9: perhaps trains: two cut frames, and two of different VNIs.
    packets.append(outer4(train([cut(frame, 96) for frame in frames(2, 900, 40)])))
    two = frames(2, 300, 50)
    packets.append(outer4(vxlan(VNI, two[0]) + vxlan(VNI + 1, two[1])))
    records = spaced(packets)
    # 10: a train of which the capture kept one datagram and a part of the next.
    long = outer4(train(frames(4, 400, 60)))
    records.append(Record(records[-1].time_ns + 1_001_000, long[:600], len(long)))
    return pcap(records)


@case("other-port.pcap")
def other_port() -> bytes:
    frames = [udp_frame(numbered(n)) for n in range(5)]
    back = udp(WEB.ip, TARGET.ip, PORT_VXLAN, 40_000, vxlan(VNI, frames[4]), checksum=False)
    return capture(
        [mirrored(frame, dport=PORT_VXLAN_LINUX) for frame in frames[:3]]
        + [mirrored(frames[3])]
        + [to_target(ipv4(WEB.ip, TARGET.ip, PROTO_UDP, back))]
    )


# Other encapsulations


@case("gpe.pcap")
def gpe() -> bytes:
    packet4, packet6 = udp_packet(numbered(0)), udp_packet(numbered(1), v6=True)
    frame = udp_frame(numbered(2))
    payloads = [
        vxlan_gpe(VNI, 1, packet4),
        vxlan_gpe(VNI, 2, packet6),
        vxlan_gpe(VNI, 3, frame),
        vxlan_gpe(VNI, 4, nsh(1, packet4)),
        vxlan_gpe(VNI, 4, nsh(3, frame)),
        vxlan_gpe(VNI, 0x7F, b"no such protocol".ljust(40, b".")),
        vxlan_gpe(VNI, 3, frame, flags=0x0D),  # O: for the operators, not for the network
        vxlan_gpe(VNI, 0, frame, flags=0x08),  # P clear: plain VXLAN
        vxlan_gpe(VNI, 3, frame, flags=0x0E),  # B: broadcast, unknown or multicast
    ]
    return capture([datagram(payload, dport=PORT_VXLAN_GPE) for payload in payloads])


def gateway_balancer_options() -> bytes:
    """The options an AWS gateway load balancer adds: endpoint, attachment, flow cookie."""
    options = geneve_option(0x0108, 1, bytes.fromhex("0123456789abcdef"))
    options += geneve_option(0x0108, 2, bytes.fromhex("0000000000000000"))
    return options + geneve_option(0x0108, 3, bytes.fromhex("c0de0001"))


@case("geneve.pcap")
def geneve_cases() -> bytes:
    frame = [udp_frame(numbered(n)) for n in range(9)]
    options = gateway_balancer_options()
    inner4 = outer_packet(vxlan(VNI, frame[1]))
    inner6 = outer_packet(vxlan(VNI, frame[2]), v6=True, checksum=True)
    payloads = [
        geneve(ETHERTYPE_TEB, frame[0], vni=5_001),
        geneve(ETHERTYPE_IPV4, inner4, options=options),
        geneve(ETHERTYPE_IPV6, inner6, options=options),
        geneve(ETHERTYPE_TEB, mirrored(frame[3]), vni=5_001),
        geneve(ETHERTYPE_IPV4, tcp_packet(numbered(4)), options=options),
        geneve(ETHERTYPE_TEB, b"", vni=5_001, control=True),
        geneve(ETHERTYPE_TEB, frame[6], vni=5_001, version=1),
        geneve(
            ETHERTYPE_TEB,
            frame[7],
            vni=5_001,
            options=geneve_option(0xFFFF, 0x80, b"\0\0\0\1"),
            critical=True,
        ),
        geneve(ETHERTYPE_EXPERIMENT, frame[8], vni=5_001),
    ]
    return capture([datagram(payload, dport=PORT_GENEVE) for payload in payloads])


# File formats


def four_frames() -> list[bytes]:
    return [mirrored(udp_frame(numbered(n, 41 + n))) for n in range(4)]


def odd_times() -> list[Record]:
    """Times whose last digit is a nanosecond."""
    step = 100_000_001
    return [Record(START + 123_456_789 + n * step, f) for n, f in enumerate(four_frames())]


@case("us-big-endian.pcap")
def us_big_endian() -> bytes:
    return pcap(odd_times(), order=">")


@case("ns-big-endian.pcap")
def ns_big_endian() -> bytes:
    return pcap(odd_times(), order=">", nanoseconds=True)


@case("ns-little-endian.pcap")
def ns_little_endian() -> bytes:
    return pcap(odd_times(), nanoseconds=True)


def modified_pcap(order: str) -> bytes:
    """Alexey Kuznetsov's kind of pcap: another magic number, and 8 bytes more in each record header
    (interface, protocol, packet type, padding)."""
    header = struct.pack(order + "IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, SNAPLEN, LINK_ETHERNET)
    tail = struct.pack(order + "IHBB", 2, ETHERTYPE_IPV4, 0, 0)
    records = (pcap_record(r, order=order) for r in odd_times())
    return header + b"".join(record[:16] + tail + record[16:] for record in records)


@case("modified.pcap")
def modified() -> bytes:
    return modified_pcap("<")


@case("modified-big-endian.pcap")
def modified_big_endian() -> bytes:
    return modified_pcap(">")


def old_version(minor: int, swapped: list[bool]) -> bytes:
    """Before version 2.3 the original length came first, in 2.3 it is either. The second packet is cut."""
    records = odd_times()
    whole = records[1].data
    records[1] = records[1]._replace(data=whole[:100], orig_len=len(whole))
    body = b""
    for swap, record in zip(swapped, map(pcap_record, records)):
        lengths = record[12:16] + record[8:12] if swap else record[8:16]
        body += record[:8] + lengths + record[16:]
    return pcap_header(version=(2, minor)) + body


@case("version-2.2.pcap")
def version_2_2() -> bytes:
    return old_version(2, [True] * 4)


@case("version-2.3.pcap")
def version_2_3() -> bytes:
    return old_version(3, [False, True, False, True])


def many_interfaces(order: str, *, with_length: bool) -> bytes:
    """Five ways to write a time, three kinds of packet block, and blocks to step over."""
    frame = [mirrored(udp_frame(numbered(n, 40 + n))) for n in range(9)]
    section = PcapngSection(order, with_length=with_length)
    section.interface(Interface())
    section.interface(Interface(tsresol=9))
    section.interface(Interface(tsresol=3))
    section.interface(Interface(tsresol=0x94))  # 2^-20 s
    section.enhanced(0, Record(START + 1_000, frame[0]))
    section.enhanced(
        1, Record(START + 100_000_002, frame[1]), section.option(1, b"a comment"),
        section.option(2, section.pack("I", 1)),
    )
    section.block(0x80000001, b"a block type for local use")
    section.enhanced(2, Record(START + 200_000_000, frame[2]))
    section.custom(PcapngSection.CUSTOM, b"a custom block")
    section.enhanced(3, Record(START + 251_953_125, frame[3]))
    # 2026-01-01 00:00:00 UTC: the times of this interface count from there.
    section.interface(Interface(tsresol=9, tsoffset=1_767_225_600))
    section.enhanced(4, Record(START + 300_000_004, frame[4]))
    section.simple(frame[5])
    section.name(WEB.ip, b"web")
    section.obsolete(0, Record(START + 400_000_000, frame[6]))
    section.custom(PcapngSection.CUSTOM_DO_NOT_COPY, b"another one")
    section.obsolete(1, Record(START + 500_000_001, frame[7][:100], len(frame[7])))
    section.enhanced(2, Record(START + 600_000_000, frame[8]))
    section.statistics(0, START + NANOSECONDS, 9)
    return section.to_bytes()


@case("pcapng-le.pcapng")
def pcapng_le() -> bytes:
    return many_interfaces("<", with_length=False)


@case("pcapng-be.pcapng")
def pcapng_be() -> bytes:
    return many_interfaces(">", with_length=True)


@case("pcapng-mixed.pcapng")
def pcapng_mixed() -> bytes:
    """Two sections; the second one is big-endian and counts its interfaces from zero again."""
    frame = [mirrored(udp_frame(numbered(n))) for n in range(5)]
    first = PcapngSection("<", with_length=True)
    first.interface(Interface()).interface(Interface(tsresol=9))
    first.enhanced(0, Record(START, frame[0]))
    first.enhanced(1, Record(START + 100_000_001, frame[1]))
    second = PcapngSection(">")
    second.interface(Interface(tsresol=9))
    second.enhanced(0, Record(START + 200_000_002, frame[2]))
    second.interface(Interface(tsoffset=-3_600))
    second.enhanced(1, Record(START + 300_000_000, frame[3]))
    second.enhanced(0, Record(START + 400_000_003, frame[4]))
    return first.to_bytes() + second.to_bytes()


@case("pcapng-link-types.pcapng")
def pcapng_link_types() -> bytes:
    """A radio interface with radiotap headers (127) and a USB one (249) beside Ethernet and raw IP."""
    section = PcapngSection("<")
    for link in (LINK_RADIOTAP, LINK_ETHERNET, LINK_RAW, LINK_USBPCAP):
        section.interface(Interface(tsresol=9), link=link)
    frames = four_frames()
    beacon = struct.pack("<BBHI", 0, 0, 8, 0) + b"\x80" + noise(63, "beacon")
    contents = [(1, frames[0]), (0, beacon), (1, frames[1]), (2, frames[2][ETHERNET_LEN:])]
    contents += [(3, noise(40, "usb")), (0, beacon), (1, frames[3])]
    for at, (number, data) in enumerate(contents):
        section.enhanced(number, Record(START + at * 1_000_000, data))
    return section.to_bytes()


@case("compressed.pcap.gz")
def compressed() -> bytes:
    return gzip_member(pcap(spaced(four_frames())))


@case("compressed-members.pcap.gz")
def compressed_members() -> bytes:
    """Two gzip members, split inside a record; together they are one file (RFC 1952 §2.2)."""
    whole = pcap(spaced(four_frames()))
    return gzip_member(whole[:300]) + gzip_member(whole[300:])


# Link types


@case("sll.pcap")
def sll_case() -> bytes:
    packet = [outer_packet(vxlan(VNI, udp_frame(numbered(n)))) for n in range(3)]
    packet6 = outer_packet(vxlan(VNI, udp_frame(numbered(3))), v6=True, checksum=True)
    request = arp_request(TARGET, "10.0.9.1")[ETHERNET_LEN:]
    return capture(
        [
            sll(ETHERTYPE_IPV4, packet[0]),
            sll(ETHERTYPE_IPV6, packet6),
            sll(ETHERTYPE_VLAN, vlan_tag(9, ETHERTYPE_IPV4, packet[1])),
            sll(ETHERTYPE_IPV4, packet[2], kind=4, sender=WEB.mac),
            sll(ETHERTYPE_ARP, request, kind=4, sender=TARGET.mac),
        ],
        link=LINK_SLL,
    )


@case("sll2.pcap")
def sll2_case() -> bytes:
    packet = [outer_packet(vxlan(VNI, udp_frame(numbered(n)))) for n in range(3)]
    packet6 = outer_packet(vxlan(VNI, udp_frame(numbered(3))), v6=True, checksum=True)
    request = arp_request(TARGET, "10.0.9.1")[ETHERNET_LEN:]
    return capture(
        [
            sll2(ETHERTYPE_IPV4, packet[0]),
            sll2(ETHERTYPE_IPV6, packet6),
            sll2(ETHERTYPE_VLAN, vlan_tag(9, ETHERTYPE_IPV4, packet[1])),
            sll2(ETHERTYPE_IPV4, packet[2], kind=4, sender=WEB.mac),
            sll2(ETHERTYPE_ARP, request, kind=4, sender=TARGET.mac),
        ],
        link=LINK_SLL2,
    )


def ip_packets(count: int, *, v6: bool) -> list[bytes]:
    payloads = [vxlan(VNI, udp_frame(numbered(n))) for n in range(count)]
    return [outer_packet(payload, v6=v6, checksum=v6) for payload in payloads]


@case("raw-ip.pcap")
def raw_ip() -> bytes:
    return capture(ip_packets(2, v6=False) + ip_packets(2, v6=True), link=LINK_RAW)


@case("ipv4-link.pcap")
def ipv4_link() -> bytes:
    return capture(ip_packets(2, v6=False), link=LINK_IPV4)


@case("ipv6-link.pcap")
def ipv6_link() -> bytes:
    return capture(ip_packets(2, v6=True), link=LINK_IPV6)


@case("null.pcap")
def null() -> bytes:
    """The family is in the byte order of the machine that captured. IPv6 is 24 on NetBSD and
    OpenBSD, 28 on FreeBSD, 30 on macOS; the last packet comes from a big-endian machine."""
    packet4, packet6 = ip_packets(2, v6=False), ip_packets(3, v6=True)
    return capture(
        [
            address_family(2, packet4[0], order="<"),
            address_family(24, packet6[0], order="<"),
            address_family(28, packet6[1], order="<"),
            address_family(30, packet6[2], order="<"),
            address_family(2, packet4[1], order=">"),
        ],
        link=LINK_NULL,
    )


@case("loop.pcap")
def loop() -> bytes:
    """As NULL, but always in network byte order."""
    packet4, packet6 = ip_packets(1, v6=False), ip_packets(3, v6=True)
    return capture(
        [address_family(2, packet4[0], order=">")]
        + [address_family(n, packet, order=">") for n, packet in zip((24, 28, 30), packet6)],
        link=LINK_LOOP,
    )


@case("unsupported-link.pcap")
def unsupported_link() -> bytes:
    return capture([mirrored(udp_frame(numbered(n))) for n in range(2)], link=LINK_IEEE802_15_4)


# Captures without encapsulation


@case("plain.pcap")
def plain() -> bytes:
    gateway = Host(GATEWAY_MAC_1, "10.0.1.1")
    resolver = behind(GATEWAY_MAC_1, "10.0.0.2", 64)
    visitor = behind(GATEWAY_MAC_1, "203.0.113.45", 51, "2001:db8:feed::45")
    frames = [(0, arp_request(WEB, gateway.ip)), (180, arp_reply(gateway, WEB))]
    frames += dns_exchange(
        WEB,
        resolver,
        1_000,
        0x3C01,
        "www.example.com",
        DNS_A,
        [(DNS_CNAME, dns_name("web.example.com")), (DNS_A, address(WEB.ip))],
    )
    talk = Conversation(visitor, WEB, 52_200, 80, local="server", at_us=5_000, mss=1_460)
    talk.open().send("client", http_get("www.example.com", "/"))
    talk.send("server", http_page(4_100)).close("server")
    talk6 = Conversation(visitor, WEB, 52_201, 80, local="server", at_us=200_000, v6=True)
    talk6.open().send("client", http_get("www.example.com", "/status"))
    talk6.send("server", http_page(60)).close("client")
    tagged = tagged_frame(udp_frame(numbered(1)), ETHERTYPE_VLAN, vlan_tag(44, ETHERTYPE_IPV4, b""))
    frames += talk.frames + talk6.frames + [(400_000, tagged)] + ping(WEB, gateway, 500_000, 1)
    return pcap([Record(START + at_us * 1_000, f) for at_us, f in sorted(frames)])


@case("app-names.pcap")
def app_names() -> bytes:
    def over_udp(payload: bytes, sport: int, dport: int, *, back: bool = False) -> bytes:
        src, dst, ports = (PEER, WEB, (dport, sport)) if back else (WEB, PEER, (sport, dport))
        return frame_of(src, dst, ip(src.ip, dst.ip, PROTO_UDP, udp(src.ip, dst.ip, *ports, payload)))

    def over_tcp(payload: bytes, sport: int, dport: int, *, back: bool = False) -> bytes:
        src, dst, ports = (PEER, WEB, (dport, sport)) if back else (WEB, PEER, (sport, dport))
        segment = tcp(src.ip, dst.ip, *ports, 1_000, 1, PSH | ACK, payload)
        return frame_of(src, dst, ip(src.ip, dst.ip, PROTO_TCP, segment))

    def ends_with(frame: bytes, last: bytes) -> bytes:
        """Cut by the mirror source behind the first `last`."""
        return cut(frame, frame.index(last) + len(last))

    query = dns_query(1, "WWW.Example.com", DNS_A)
    strange = b"\x03a.b\x06\"q\\\xff,%\x07example\0"
    hello = tls_client_hello("Shop.example")
    get = b"GET /a HTTP/1.1\r\nUser-Agent: curl/8.5.0\r\nHost: Files.Example.com:8080\r\n\r\n"
    frames = [
        over_udp(query, 41_001, 53),
        over_udp(dns_answer(1, "www.example.com", DNS_A, [], nxdomain=True), 41_001, 53, back=True),
        ends_with(over_udp(query, 41_002, 53), b"Example"),
        over_udp(struct.pack(">HHHHHH", 3, 0x0100, 1, 0, 0, 0) + strange + b"\0\x01\0\x01", 41_003, 53),
        over_udp(dns_query(0, "_ipp._tcp.local", 12), 5_353, 5_353),
        over_tcp(struct.pack(">H", len(query)) + query, 41_004, 53),
        over_udp(noise(60, "no dns"), 41_005, 53),
        over_tcp(hello, 41_006, 443),
        over_tcp(tls_server_hello("Shop.example"), 41_006, 443, back=True),
        ends_with(over_tcp(hello, 41_007, 443), b"Shop.example"),
        ends_with(over_tcp(hello, 41_008, 443), b"Shop.exampl"),
        over_tcp(tls_application(100, "no hello"), 41_009, 443),
        over_tcp(get, 41_010, 3_128),
        over_tcp(http_page(100), 41_010, 3_128, back=True),
        over_tcp(http_page(100), 41_011, 80, back=True),
        ends_with(over_tcp(get, 41_012, 80), b"Files.Example.com"),
        over_tcp(b"OPTIONS rtsp://cam.example/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n", 41_013, 554),
    ]
    return capture([mirrored(frame) for frame in frames])


@case("plain-sll.pcap")
def plain_sll() -> bytes:
    resolver = behind(GATEWAY_MAC_1, "10.0.0.2", 64)
    exchange = dns_exchange(
        WEB, resolver, 0, 0x3C02, "www.example.com", DNS_A, [(DNS_A, address("192.0.2.80"))]
    )
    frames = [arp_request(WEB, "10.0.1.1")] + [frame for _, frame in exchange]
    frames += [tcp_frame(numbered(1)), tcp_frame(numbered(2), v6=True)]
    records = []
    for frame in frames:
        outbound = frame[6:12] == mac(WEB.mac)
        (ethertype,) = struct.unpack(">H", frame[12:14])
        sender = frame[6:12].hex()
        records.append(sll(ethertype, frame[14:], kind=4 if outbound else 0, sender=sender))
    return capture(records, link=LINK_SLL)


# Broken files


@case("malformed/cut-record.pcap")
def cut_record() -> bytes:
    return capture(four_frames())[:-30]


@case("malformed/cut-header.pcap")
def cut_header() -> bytes:
    return capture(four_frames()[:2]) + pcap_record(spaced(four_frames())[2])[:7]


@case("malformed/huge-caplen.pcap")
def huge_caplen() -> bytes:
    records = spaced(four_frames())
    huge = records[2]._replace(orig_len=0x7FFFFFFF)
    return pcap(records[:2]) + pcap_record(huge, captured_len=0x7FFFFFFF)


@case("malformed/caplen-over-len.pcap")
def caplen_over_len() -> bytes:
    records = spaced(four_frames()[:3])
    return pcap([records[0], records[1]._replace(orig_len=60), records[2]])


@case("malformed/short-file.pcap")
def short_file() -> bytes:
    return pcap_header()[:10]


@case("malformed/not-a-capture.pcap")
def not_a_capture() -> bytes:
    return b"This is a text file. Its name says pcap, its bytes do not.\n"


@case("malformed/bad-version.pcap")
def bad_version() -> bytes:
    return pcap(spaced(four_frames()[:2]), version=(9, 9))


@case("malformed/empty.pcap")
def empty() -> bytes:
    return b""


@case("malformed/header-only.pcap")
def header_only() -> bytes:
    return pcap_header()


def two_good_packets() -> PcapngSection:
    section = PcapngSection("<").interface(Interface(tsresol=9))
    for record in odd_times()[:2]:
        section.enhanced(0, record)
    return section


@case("malformed/cut-block.pcapng")
def cut_block() -> bytes:
    return two_good_packets().enhanced(0, odd_times()[2]).to_bytes()[:-30]


@case("malformed/bad-trailer.pcapng")
def bad_trailer() -> bytes:
    section = two_good_packets().enhanced(0, odd_times()[2], trailer=44)
    return section.enhanced(0, odd_times()[3]).to_bytes()


@case("malformed/huge-block.pcapng")
def huge_block() -> bytes:
    section = two_good_packets()
    return section.block(PcapngSection.EPB, noise(64, "huge"), length=0x7FFFFFF0).to_bytes()


@case("malformed/zero-block.pcapng")
def zero_block() -> bytes:
    section = two_good_packets()
    return section.block(PcapngSection.EPB, noise(64, "zero"), length=0).to_bytes()


@case("malformed/epb-caplen-over.pcapng")
def epb_caplen_over() -> bytes:
    section = two_good_packets().enhanced(0, odd_times()[2], captured_len=5_000)
    return section.enhanced(0, odd_times()[3]).to_bytes()


@case("malformed/epb-no-interface.pcapng")
def epb_no_interface() -> bytes:
    section = two_good_packets()
    section.enhanced(3, Record(START + 400_000_000, four_frames()[2]))
    return section.enhanced(0, odd_times()[3]).to_bytes()


@case("malformed/cut.pcap.gz")
def cut_gzip() -> bytes:
    whole = compressed()
    return whole[: len(whole) * 3 // 4]


@case("malformed/geneve-cut.pcap")
def geneve_cut() -> bytes:
    """Every outer length agrees with what is there; it is the Geneve header that wants more."""
    frame = udp_frame(numbered(0))
    inner = outer_packet(vxlan(VNI, frame))
    options = gateway_balancer_options()
    whole = geneve(ETHERTYPE_IPV4, inner, options=options)
    headers = 8 + len(options)
    too_long = geneve_option(0x0108, 1, b"\0\0\0\0", words=31)
    payloads = [
        b"",
        whole[:4],  # inside the base header
        whole[:20],  # inside the options
        geneve(ETHERTYPE_IPV4, b"", options=b"\0" * 8, option_words=63),
        geneve(ETHERTYPE_IPV4, inner, options=too_long),  # an option longer than all options
        whole[:headers],  # no payload
        whole[: headers + 10],  # inside the IPv4 header
        whole[: headers + IPV4_LEN + 4],  # inside the UDP header
        whole[: headers + IPV4_LEN + UDP_LEN + 5],  # inside the VXLAN header
        geneve(ETHERTYPE_TEB, frame[:9], vni=5_001),  # inside the Ethernet header
        whole,
    ]
    return capture([datagram(payload, dport=PORT_GENEVE) for payload in payloads])


@case("malformed/gpe-cut.pcap")
def gpe_cut() -> bytes:
    packet = udp_packet(numbered(0))
    payloads = [
        vxlan_gpe(VNI, 1, packet)[:3],  # inside the header
        vxlan_gpe(VNI, 1, b""),  # no payload
        vxlan_gpe(VNI, 1, packet[:11]),  # inside the IPv4 header
        vxlan_gpe(VNI, 4, nsh(1, b"")[:5]),  # inside the NSH
        vxlan_gpe(VNI, 4, nsh(1, packet, words=63)),  # an NSH longer than the packet
        vxlan_gpe(VNI, 4, nsh(1, packet, words=0)),  # an NSH shorter than its own fixed part
        vxlan_gpe(VNI, 2, udp_packet(numbered(1), v6=True)[:30]),  # inside the IPv6 header
        vxlan_gpe(VNI, 1, packet),
    ]
    return capture([datagram(payload, dport=PORT_VXLAN_GPE) for payload in payloads])


# ---------------------------------------------------------------------------------------------
# Command line


def write_all(directory: pathlib.Path) -> None:
    for name, build in CASES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(build())


def differences(directory: pathlib.Path) -> list[str]:
    """One line for each file that is missing, differs, or is not described in the README."""
    readme = directory / "README.md"
    described = readme.read_text(encoding="utf-8") if readme.exists() else None
    found = []
    for name, build in CASES.items():
        path = directory / name
        if not path.exists():
            found.append(f"{path}: missing")
        elif path.read_bytes() != build():
            found.append(f"{path}: differs")
        if described is not None and f"| `{name}` |" not in described:
            found.append(f"{readme}: no row for {name}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the captures in testdata/.")
    default = pathlib.Path(__file__).resolve().parent.parent / "testdata"
    parser.add_argument("outdir", nargs="?", type=pathlib.Path, default=default, metavar="OUTDIR")
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    args = parser.parse_args()
    if not args.check:
        write_all(args.outdir)
        return 0
    found = differences(args.outdir)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
