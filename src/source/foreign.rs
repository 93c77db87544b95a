//! Files that are no capture that can be read: what they are, and what to do with them. Pure.

/// Bytes of a file that have to be there to know every kind: a tar archive tells itself late.
pub const NEEDED_LEN: usize = 512;

/// Where the name of its format stands in a tar archive (POSIX ustar).
const TAR_MAGIC_AT: usize = 257;

/// First bytes, what has them, and the command that unpacks it.
const PACKED: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "zip", "unzip FILE"),
    (b"PK\x05\x06", "zip", "unzip FILE"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "7z x FILE"),
    (b"LZIP", "lzip", "lzip -d FILE"),
    (b"Rar!\x1a\x07", "rar", "unrar x FILE"),
    (b"\x1f\x9d", "compress", "gzip -d FILE"),
    (b"\x1f\xa0", "compress", "gzip -d FILE"),
    (b"\x1f\x1e", "pack", "gzip -d FILE"),
    (b"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzop", "lzop -d FILE"),
    (b"\x5d\x00\x00", "lzma", "xz -d FILE"),
    (
        b"\x02\x21\x4c\x18",
        "lz4 in its legacy format",
        "lz4 -d FILE",
    ),
    (b"\xff\x06\x00\x00sNaPpY", "snappy", "snzip -d FILE"),
    // Inside another packing; alone, these are unpacked on the way.
    (b"\x1f\x8b", "gzip", "gzip -d FILE"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d FILE"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d FILE"),
    (b"BZh", "bzip2", "bzip2 -d FILE"),
    (b"\xfd7zXZ\x00", "xz", "xz -d FILE"),
];

/// First bytes and names of other capture formats, which Wireshark's editcap reads.
const CAPTURES: &[(&[u8], &str)] = &[
    (b"snoop\0\0\0", "snoop"),
    (b"btsnoop\0", "btsnoop"),
    (b"GMBU", "Microsoft Network Monitor"),
    (b"RTSS", "Microsoft Network Monitor"),
    (b"TRSNIFF data", "DOS Sniffer"),
    (b"XCP\0", "Windows Sniffer"),
    (b"\x7fver\0", "OmniPeek"),
    (b"iptrace ", "AIX iptrace"),
    (b"\x1c\x00\x01\xac", "Ixia"),
    (b"\xac\x01\x00\x1c", "Ixia"),
    (b"\x1c\x00\x01\xab", "Ixia"),
    (b"\xab\x01\x00\x1c", "Ixia"),
];

/// What a file is that starts with `ahead`, [`NEEDED_LEN`] bytes unless it is shorter, and what to do with
/// it; the end of a sentence. `unpacked` names the packing that was undone to get there.
pub fn describe(ahead: &[u8], unpacked: Option<&str>) -> String {
    let inside = unpacked.map_or(String::new(), |how| format!(" inside {how}"));
    let starts_with = |magic: &[u8]| ahead.starts_with(magic);
    if let Some((_, name, command)) = PACKED.iter().find(|(magic, ..)| starts_with(magic)) {
        let twice = unpacked.map_or(String::new(), |how| format!(", and that with {how}"));
        return format!("packed with {name}{twice}: unpack it first with '{command}'");
    }
    if let Some((_, name)) = CAPTURES.iter().find(|(magic, _)| starts_with(magic)) {
        return format!(
            "a capture in {name} format{inside}: convert it first with 'editcap FILE FILE.pcapng'"
        );
    }
    let tar = ahead.get(TAR_MAGIC_AT..);
    if tar.is_some_and(|behind| behind.starts_with(b"ustar")) {
        return format!("a tar archive{inside}: take the captures out first with 'tar -xf FILE'");
    }
    let magic: Vec<String> = ahead
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "not a capture file: it starts with {}{inside}, neither pcap nor pcapng \
         (packed with gzip, zstd, lz4, bzip2 or xz would do too)",
        magic.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packers_formats_and_the_rest() {
        let cases: [(&[u8], Option<&str>, &str); 8] = [
            (
                b"PK\x03\x04rest",
                None,
                "packed with zip: unpack it first with 'unzip FILE'",
            ),
            (
                b"7z\xbc\xaf\x27\x1c",
                None,
                "packed with 7z: unpack it first with '7z x FILE'",
            ),
            (
                b"BZh91AY",
                Some("xz"),
                "packed with bzip2, and that with xz: unpack it first with 'bzip2 -d FILE'",
            ),
            (
                b"snoop\0\0\0\0\0\0\x02",
                None,
                "a capture in snoop format: convert it first with 'editcap FILE FILE.pcapng'",
            ),
            (
                b"GMBU",
                Some("gzip"),
                "a capture in Microsoft Network Monitor format inside gzip: ",
            ),
            (
                b"text",
                None,
                "not a capture file: it starts with 74 65 78 74, neither",
            ),
            (
                b"t",
                Some("zstd"),
                "not a capture file: it starts with 74 inside zstd, neither",
            ),
            (&[], None, "not a capture file: it starts with , neither"),
        ];
        for (ahead, unpacked, expected) in cases {
            let is = describe(ahead, unpacked);
            assert!(is.starts_with(expected), "{is}");
        }
        let mut tar = vec![b'a'; NEEDED_LEN];
        tar[TAR_MAGIC_AT..TAR_MAGIC_AT + 5].copy_from_slice(b"ustar");
        let is = describe(&tar, Some("gzip"));
        assert!(is.starts_with("a tar archive inside gzip: "), "{is}");
    }
}
