//! Numbers, times and addresses as text, on the stack and without formatting machinery: a flow record
//! holds dozens of them, and where flows are short there is a record every few packets.

use std::net::{IpAddr, Ipv6Addr};

use crate::wire::inner::Mac;

/// A short text.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; 48],
    len: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 48],
            len: 0,
        }
    }

    /// Its bytes, all ASCII.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The text as a string.
    pub fn to_owned(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// What finds no room is left out; nothing here is that long.
    #[inline]
    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
            self.len += 1;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
    }

    /// `number` with at least `digits` digits.
    fn decimal(&mut self, mut number: u64, digits: usize) {
        let digits = digits.max(number.checked_ilog10().map_or(1, |log| log as usize + 1));
        if let Some(free) = self.bytes.get_mut(self.len..self.len + digits) {
            for two in free.rchunks_mut(2) {
                let [tens, ones] = pair(number % 100);
                match two {
                    [first, second] => (*first, *second) = (tens, ones),
                    [only] => *only = ones,
                    _ => {}
                }
                number /= 100;
            }
            self.len += digits;
        }
    }

    /// `number` in hexadecimal with at least `digits` digits.
    fn hex(&mut self, number: u64, digits: u32) {
        let used = (67 - (number | 1).leading_zeros()) / 4;
        for at in (0..used.max(digits)).rev() {
            let nibble = (number >> (4 * at)) as u8 & 0x0f;
            self.push(if nibble < 10 {
                b'0' + nibble
            } else {
                b'a' + nibble - 10
            });
        }
    }

    fn v4(&mut self, octets: [u8; 4]) {
        for (at, octet) in octets.into_iter().enumerate() {
            if at > 0 {
                self.push(b'.');
            }
            self.decimal(octet.into(), 1);
        }
    }

    /// RFC 5952: the first of the longest runs of two or more zero groups becomes `::`.
    fn v6(&mut self, address: Ipv6Addr) {
        if let Some(v4) = address.to_ipv4_mapped() {
            self.extend(b"::ffff:");
            return self.v4(v4.octets());
        }
        let groups = address.segments();
        let (mut run, mut longest) = (0..0, 0..0);
        for (at, group) in groups.into_iter().enumerate() {
            run = if group == 0 {
                run.start..at + 1
            } else {
                at + 1..at + 1
            };
            if run.len() > longest.len() {
                longest = run.clone();
            }
        }
        if longest.len() < 2 {
            longest = 8..8;
        }
        for (at, group) in groups.into_iter().enumerate() {
            if longest.contains(&at) {
                if at == longest.start {
                    self.extend(b"::");
                }
                continue;
            }
            if at > 0 && at != longest.end {
                self.push(b':');
            }
            self.hex(group.into(), 1);
        }
    }
}

/// A number.
pub fn decimal(number: u64) -> Text {
    let mut text = Text::new();
    text.decimal(number, 1);
    text
}

/// Sixteen hexadecimal digits.
pub fn hex(number: u64) -> Text {
    let mut text = Text::new();
    text.hex(number, 16);
    text
}

/// A hardware address: `02:00:00:00:00:01`.
pub fn mac(mac: Mac) -> Text {
    let mut text = Text::new();
    for (at, byte) in mac.into_iter().enumerate() {
        if at > 0 {
            text.push(b':');
        }
        text.hex(byte.into(), 2);
    }
    text
}

/// An address, as the standard library writes it.
pub fn ip(address: IpAddr) -> Text {
    let mut text = Text::new();
    match address {
        IpAddr::V4(v4) => text.v4(v4.octets()),
        IpAddr::V6(v6) => text.v6(v6),
    }
    text
}

/// Nanoseconds since 1970 as RFC 3339 with nine decimals, UTC.
pub fn rfc3339(ts_ns: u64) -> Text {
    let (seconds, ns) = (ts_ns / 1_000_000_000, ts_ns % 1_000_000_000);
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the leap day is their last; days count from 0000-03-01.
    // After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let january = u64::from(month >= 10);
    let (year, month) = (era * 400 + year + january, month + 3 - 12 * january);
    let mut text = Text::new();
    text.extend(b"0000-00-00T00:00:00.000000000Z");
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, second / 3600),
        (14, second / 60 % 60),
        (17, second % 60),
        (20, ns / 10_000_000),
        (22, ns / 100_000 % 100),
        (24, ns / 1000 % 100),
        (26, ns / 10 % 100),
    ];
    for (at, number) in pairs {
        if let Some(two) = text.bytes.get_mut(at..at + 2) {
            two.copy_from_slice(&pair(number));
        }
    }
    let [.., last] = pair(ns % 10);
    if let Some(byte) = text.bytes.get_mut(28) {
        *byte = last;
    }
    text
}

/// The two digits of a number below 100.
#[inline]
const fn pair(number: u64) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_read_as_the_standard_library_writes_them(
            groups in proptest::collection::vec(prop_oneof![Just(0u16), Just(0xffff), any::<u16>()], 8),
            v4 in any::<u32>(),
        ) {
            let groups: [u16; 8] = groups.try_into().unwrap();
            for address in [IpAddr::from(groups), IpAddr::from(v4.to_be_bytes())] {
                prop_assert_eq!(ip(address).to_owned(), address.to_string());
            }
        }

        #[test]
        fn times_and_numbers_read_as_others_write_them(ts_ns in any::<u64>(), bytes in any::<[u8; 6]>()) {
            let time = jiff::Timestamp::from_nanosecond(i128::from(ts_ns)).unwrap();
            prop_assert_eq!(rfc3339(ts_ns).to_owned(), format!("{time:.9}"));
            prop_assert_eq!(decimal(ts_ns).to_owned(), ts_ns.to_string());
            prop_assert_eq!(hex(ts_ns).to_owned(), format!("{ts_ns:016x}"));
            let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(mac(bytes).to_owned(), parts.join(":"));
        }
    }

    #[test]
    fn addresses_at_the_edges() {
        for text in [
            "::",
            "::1",
            "1::",
            "::ffff:1.2.3.4",
            "0:1::",
            "1:0:0:2::3",
            "1::2:0:0:3:4",
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(ip(address).to_owned(), address.to_string());
        }
    }

    #[test]
    fn times_have_nine_decimals() {
        assert_eq!(rfc3339(0).to_owned(), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            rfc3339(1_768_435_200_000_000_001).to_owned(),
            "2026-01-15T00:00:00.000000001Z"
        );
        // Leap day, and the days around it.
        for (seconds, day) in [
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000).to_owned()[..10], *day);
        }
        assert_eq!(
            rfc3339(u64::MAX).to_owned(),
            "2554-07-21T23:34:33.709551615Z"
        );
    }
}
