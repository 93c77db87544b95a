#!/usr/bin/env python3
"""Writes a capture of mirrored traffic of many short flows, for what flow records cost.

    make-flow-capture.py FILE [FLOWS] [mixed|flood]

mixed (the default): what hosts of a private network do, 2,000 flows a second: DNS 40 %, TLS 36 %, HTTP 8 %, databases
7 %, other UDP 5 %, ping 2 %, SYNs nobody answers 2 %; 3,000 clients, 400 servers, 30,000 addresses outside, a few of
all much busier than the others; 15 % IPv6; every connection with handshake, data and FIN or RST, times to the nanosecond, and
MAC addresses, lengths, round trips and TTLs of their own. Eight mirror sessions, one of which cuts at 128 bytes.

flood: one SYN a flow from random addresses and ports to ten servers, 20,000 a second.

The same bytes every time.
"""
import heapq, random, struct, sys

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
rng = random.Random(11)


def busy(things, skew=2.5):
    """One of them; the first ones come much more often."""
    return things[int(len(things) * rng.random() ** skew)]


def words(count):
    parts = "api cdn img static auth edge data mail web app log sync cloud shop news play file node user feed".split()
    tops = "example.com example.org example.net internal.example test.example".split()
    return [f"{rng.choice(parts)}-{rng.choice(parts)}{n}.{rng.choice(parts)}.{rng.choice(tops)}" for n in range(count)]


class Host:
    """An address of each version, a MAC address, and the TTL with which its packets arrive."""

    def __init__(self, v4, inside):
        self.v4 = struct.pack(">I", v4)
        self.v6 = (b"\xfd\x00\x00\x20" if inside else b"\x20\x01\x0d\xb8") + rng.randbytes(6 if inside else 4)
        self.v6 += bytes(10 - len(self.v6)) + rng.randbytes(6)
        self.mac = b"\x02" + rng.randbytes(5) if inside else b"\x02\x00\x5e\x00\x00\x01"
        self.ttl = 64 if inside else rng.choice((64, 64, 128, 255)) - rng.randrange(5, 20)
        self.rtt = rng.lognormvariate(-7.5, 0.5) if inside else rng.lognormvariate(-3.7, 0.7)


CLIENTS = [Host(0x0A140000 + n, True) for n in range(3000)]
SERVERS = [Host(0x0A1E0000 + n, True) for n in range(400)]
OUTSIDE = [Host(rng.randrange(0x0B000000, 0xDF000000), False) for _ in range(30_000)]
RESOLVERS = SERVERS[:2]
NAMES = words(6000)


def ip(a, b, v6, proto, ident, body):
    if v6:
        head = struct.pack(">IHBB", 0x60000000, len(body), proto, a.ttl) + a.v6 + b.v6
    else:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), ident, 0x4000, a.ttl, proto, 0) + a.v4 + b.v4
    return b.mac + a.mac + (b"\x86\xdd" if v6 else b"\x08\x00") + head + body


def tcp(a, b, v6, ports, flags, seq, ack, data=b""):
    options = struct.pack(">BBHBBBBBBBB", 2, 4, 1440 if v6 else 1460, 1, 3, 3, 7, 1, 1, 4, 2) if flags & SYN else b""
    offset = (20 + len(options)) << 2
    head = struct.pack(">HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset, flags, 502, 0, 0)
    return ip(a, b, v6, 6, rng.randrange(65536), head + options + data)


def udp(a, b, v6, ports, data):
    return ip(a, b, v6, 17, rng.randrange(65536), struct.pack(">HHHH", *ports, 8 + len(data), 0) + data)


def client_hello(name):
    """RFC 8446 §4.1.2, with the extensions server_name and ALPN among others."""
    name = name.encode()
    sni = struct.pack(">HBH", len(name) + 3, 0, len(name)) + name
    alpn = b"\x00\x0c\x02h2\x08http/1.1" if rng.random() < 0.8 else b"\x00\x09\x08http/1.1"
    extensions = b"".join(struct.pack(">HH", number, len(data)) + data for number, data in (
        (0, sni), (16, alpn), (43, b"\x04\x03\x04\x03\x03"), (51, b"\x00\x24\x00\x1d\x00\x20" + rng.randbytes(32))))
    body = b"\x03\x03" + rng.randbytes(32) + b"\x20" + rng.randbytes(32) + b"\x00\x04\x13\x01\x13\x02\x01\x00"
    body += struct.pack(">H", len(extensions)) + extensions
    shake = b"\x01" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\x03\x01" + struct.pack(">H", len(shake)) + shake


def connection(a, b, v6, port, first, scale):
    """A TCP connection: after its handshake the data `first`, and an answer of some length. Yields (seconds since the
    frame before, frame)."""
    ports = rng.randrange(32768, 61000), port
    back = ports[::-1]
    rtt = (a.rtt + b.rtt) * rng.uniform(0.9, 1.3)
    seq, ack = rng.getrandbits(32), rng.getrandbits(32)
    yield 0, tcp(a, b, v6, ports, SYN, seq, 0)
    yield rtt, tcp(b, a, v6, back, SYN | ACK, ack, seq + 1)
    seq, ack = seq + 1, ack + 1
    yield rng.expovariate(20_000), tcp(a, b, v6, ports, ACK, seq, ack)
    yield rng.expovariate(3_000), tcp(a, b, v6, ports, PSH | ACK, seq, ack, first)
    seq += len(first)
    left, gap = min(int(rng.lognormvariate(scale, 1.3)), 40_000), rtt
    while left > 0:
        data = bytes(min(left, 1400))
        yield gap + rng.expovariate(1_000), tcp(b, a, v6, back, (PSH if left <= 1400 else 0) | ACK, ack, seq, data)
        left, ack, gap = left - len(data), ack + len(data), 0
        if rng.random() < 0.5 or left <= 0:
            yield rng.expovariate(20_000), tcp(a, b, v6, ports, ACK, seq, ack)
    if rng.random() < 0.1:
        yield rng.expovariate(2), tcp(a, b, v6, ports, RST | ACK, seq, ack)
        return
    yield rng.expovariate(2), tcp(a, b, v6, ports, FIN | ACK, seq, ack)
    yield rtt, tcp(b, a, v6, back, FIN | ACK, ack, seq + 1)
    yield rng.expovariate(20_000), tcp(a, b, v6, ports, ACK, seq + 1, ack + 1)


def lookup(a, v6):
    b, name, kind = busy(RESOLVERS), busy(NAMES), rng.choice((1, 1, 28))
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    question, ident = labels + struct.pack(">HH", kind, 1), rng.randbytes(2)
    ports = rng.randrange(1024, 65536), 53
    yield 0, udp(a, b, v6, ports, ident + bytes.fromhex("0100" "0001" "0000" "0000" "0000") + question)
    found = rng.random() < 0.93
    answer = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, 4 if kind == 1 else 16) + rng.randbytes(4 if kind == 1 else 16)
    head = bytes.fromhex("8180" "0001" "0001" "0000" "0000" if found else "8183" "0001" "0000" "0000" "0000")
    yield a.rtt + rng.expovariate(500), udp(b, a, v6, ports[::-1], ident + head + question + (answer if found else b""))


def exchange(a, v6):
    """UDP of other kinds: NTP, SNMP, QUIC."""
    port, most, many = rng.choice(((123, 48, 1), (161, 120, 2), (443, 1200, 12)))
    b = busy(OUTSIDE if port != 161 else SERVERS)
    ports = rng.randrange(32768, 61000), port
    for _ in range(rng.randint(1, many)):
        yield rng.expovariate(20), udp(a, b, v6, ports, bytes(most if port == 123 else rng.randint(30, most)))
        yield a.rtt + b.rtt, udp(b, a, v6, ports[::-1], bytes(most if port == 123 else rng.randint(30, most)))


def ping(a, v6):
    b, ident = busy(SERVERS), rng.randbytes(2)
    for number in range(rng.randint(1, 4)):
        data = ident + struct.pack(">H", number) + bytes(56)
        for at, (one, other, kind) in enumerate(((a, b, 128 if v6 else 8), (b, a, 129 if v6 else 0))):
            yield (a.rtt if at else 1.0), ip(one, other, v6, 58 if v6 else 1, number, bytes([kind, 0, 0, 0]) + data)


def mixed_flow():
    """Which mirror session, and the frames."""
    at = int(len(CLIENTS) * rng.random() ** 1.5)
    a, v6, which = CLIENTS[at], rng.random() < 0.15, rng.random()
    session = at % 8
    if which < 0.40:
        return session, lookup(a, v6)
    if which < 0.76:
        return session, connection(a, busy(OUTSIDE), v6, 443, client_hello(busy(NAMES)), 7.5)
    if which < 0.84:
        host = busy(NAMES)
        request = f"{rng.choice(('GET', 'GET', 'POST'))} /{rng.getrandbits(40):x} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        return session, connection(a, busy(OUTSIDE), v6, 80, request.encode(), 7)
    if which < 0.91:
        return session, connection(a, busy(SERVERS), v6, rng.choice((5432, 6379, 9092, 3306)), rng.randbytes(60), 6)
    if which < 0.96:
        return session, exchange(a, v6)
    if which < 0.98:
        return session, ping(a, v6)
    return session, iter([(0, tcp(busy(OUTSIDE), a, v6, (rng.randrange(1024, 65536), rng.randrange(1, 10000)), SYN, 1, 0))])


def flood_flow():
    a = Host(rng.randrange(0x01000000, 0xDF000000), False)
    ports = rng.randrange(1024, 65536), rng.choice((80, 443))
    return 0, iter([(0, tcp(a, rng.choice(SERVERS[:10]), False, ports, SYN, rng.getrandbits(32), 0))])


def mirrored(session, frame):
    """The frame as its session's datagram; cut at 128 bytes in the last one."""
    if session == 7:
        frame = frame[:128]
    head = struct.pack(">HHHH", 49152 + session, 4789, 16 + len(frame), 0) + struct.pack(">II", 0x08000000, (100 + session) << 8)
    outer = struct.pack(">BBHHHBBH", 0x45, 0, 28 + 8 + len(frame), 0, 0x4000, 64, 17, 0)
    outer += bytes([10, 9, 0, 11 + session]) + bytes([10, 9, 0, 200])
    return bytes.fromhex("0200000000ff" "0200000000fe" "0800") + outer + head + frame


def main():
    path = sys.argv[1]
    flows = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    make, rate = {"mixed": (mixed_flow, 2_000), "flood": (flood_flow, 20_000)}[(sys.argv + ["mixed"] * 3)[3]]
    begun, waiting, number, start = 1_768_469_400_000_000_000, [], 0, 0.0
    with open(path, "wb", 1 << 20) as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        for at in range(flows + 1):
            # The frames that come before the next flow begins; behind the last one, all.
            start += rng.expovariate(rate) if at < flows else 1e9
            while waiting and waiting[0][0] < start:
                time, _, session, frame, rest = heapq.heappop(waiting)
                packet = mirrored(session, frame)
                ns = begun + int(time * 1e9)
                out.write(struct.pack("<IIII", ns // 10**9, ns % 10**9, len(packet), len(packet)) + packet)
                for wait, frame in rest:
                    number += 1
                    heapq.heappush(waiting, (time + wait, number, session, frame, rest))
                    break
            if at < flows:
                session, rest = make()
                wait, frame = next(rest)
                number += 1
                heapq.heappush(waiting, (start + wait, number, session, frame, rest))


if __name__ == "__main__":
    main()
