#!/usr/bin/env python3
"""Writes a capture of mirrored traffic for benchmarks: IMIX frames (64, 570, 1400 bytes at 7:4:1) of
10,000 bidirectional UDP and TCP flows, 30 % of them IPv6, from 4 mirror sources. TCP segments follow each other
without a loss.

    make-bench-capture.py FILE [MEGABYTES] [FLOWS]

The same bytes every time. No two packets are alike: each has a number, in its IPv4 identification and in its TCP
sequence number or the first bytes of its UDP payload. The number of packets is left in FILE.packets.
"""
import random, struct, sys


def inner(flow, forward, size):
    """One inner frame of `size` bytes."""
    v6, proto, a, b, ports = flow
    src, dst = (a, b) if forward else (b, a)
    sport, dport = ports if forward else ports[::-1]
    header = 40 if v6 else 20
    transport = size - 14 - header
    ends = struct.pack(">HH", sport, dport)
    if proto == 6:
        l4 = ends + struct.pack(">IIBBHHH", 1, 1, 0x50, 0x10, 512, 0, 0)
    else:
        l4 = ends + struct.pack(">HH", transport, 0)
    l4 += bytes(max(0, transport - len(l4)))
    if v6:
        ip = struct.pack(">IHBB", 0x60000000, len(l4), proto, 64) + bytes(12) + src + bytes(12) + dst
        kind = 0x86DD
    else:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(l4), 1, 0x4000, 64, proto, 0) + src + dst
        kind = 0x0800
    return bytes.fromhex("020000000002" "020000000001") + struct.pack(">H", kind) + ip + l4


def number_places(frame, start):
    """Where in a packet, behind `start` bytes, the frame's number goes: the IPv4 identification or None, and four
    bytes behind the IP header."""
    v6 = frame[12] == 0x86
    proto, behind = (frame[20], 54) if v6 else (frame[23], 34)
    return (None if v6 else start + 18), start + behind + (4 if proto == 6 else 8)


def outer(source, port, vni, frame):
    udp = struct.pack(">HHHH", port, 4789, 16 + len(frame), 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 36 + len(frame), 0, 0x4000, 64, 17, 0) + source + bytes([10, 0, 9, 9])
    vxlan = struct.pack(">II", 0x08000000, vni << 8)
    return bytes.fromhex("0200000000ff" "0200000000fe" "0800") + ip + udp + vxlan + frame


def main():
    path = sys.argv[1]
    megabytes = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    flows = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    rng = random.Random(7)
    sizes = [64] * 7 + [570] * 4 + [1400]
    packets = []
    for at in range(flows):
        v6, proto = rng.random() < 0.3, rng.choice((6, 17))
        ends = struct.pack(">I", 0x0A010000 + at), struct.pack(">I", 0x0A020000 + rng.randrange(65536))
        flow = (v6, proto, *ends, (rng.randrange(1024, 65536), rng.choice((53, 80, 443, 8080))))
        source, port = bytes([10, 0, 1, 11 + at % 4]), 49152 + rng.randrange(16384)
        reached = [1, 1]
        for _ in range(3):
            forward = rng.random() < 0.5
            frame = inner(flow, forward, max(rng.choice(sizes), 84 if v6 else 64))
            packet = bytearray(outer(source, port, 100 + at % 4, frame))
            tcp_at = len(packet) - len(frame) + (54 if v6 else 34)
            follows = (reached, not forward, tcp_at + 4, len(packet) - tcp_at - 20) if proto == 6 else None
            packets.append((packet, follows, *number_places(frame, len(packet) - len(frame))))
    order = list(range(len(packets)))
    rng.shuffle(order)
    ts, written, count = 1_768_469_400_000_000_000, 24, 0
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        while written < megabytes * 1_000_000:
            chunk = []
            for at in order:
                packet, follows, identification, number = packets[at]
                if identification:
                    struct.pack_into(">H", packet, identification, (count + len(chunk) // 2) & 0xFFFF)
                if follows:
                    reached, side, offset, payload = follows
                    struct.pack_into(">II", packet, offset, reached[side], reached[not side])
                    reached[side] = (reached[side] + payload) & 0xFFFFFFFF
                else:
                    struct.pack_into(">I", packet, number, count + len(chunk) // 2)
                ts += 2_000
                chunk.append(struct.pack("<IIII", ts // 10**9, ts % 10**9, len(packet), len(packet)))
                chunk.append(bytes(packet))
            block = b"".join(chunk)
            out.write(block)
            written += len(block)
            count += len(order)
    with open(path + ".packets", "w") as out:
        out.write(str(count))


if __name__ == "__main__":
    main()
