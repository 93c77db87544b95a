//! Which keys lie in which blocks: a sorted set of numbers, Golomb-Rice coded, with places to enter it. Pure.
//!
//! A key of 32 bits is scaled to `range`; `key * blocks + block` is a member. With `bits` bits of remainder a key that
//! is not there is found in one of `2^bits` blocks at the most, whatever the size of a block is.

/// Members between two places to enter.
const STRIDE: usize = 256;
/// Bytes of a place: the member there, and the bit behind it.
const PLACE_LEN: usize = 8;
const HEADER_LEN: usize = 16;
/// Bits of a digit when numbers are sorted. What is counted for one stays in the first-level cache.
const DIGIT_BITS: u32 = 9;
const DIGITS: usize = 1 << DIGIT_BITS;

/// Bits that `pairs` pairs of so many blocks take at the most with so many bits of remainder.
pub const fn most_bits(pairs: usize, blocks: u32, bits: u32) -> usize {
    let places = pairs.div_ceil(STRIDE) * PLACE_LEN * 8;
    // Each member ends its quotient with a bit; all quotients together are hardly above the number of pairs.
    pairs * (bits as usize + 2) + (blocks as usize >> bits) + places + (HEADER_LEN + 8) * 8
}

/// Appends the set of `pairs`, each a key above 32 bits of block, of so many `blocks`. `None` for `bits` says that
/// nothing is told: every block may hold every key.
pub fn put(pairs: &[u64], blocks: u32, bits: Option<u32>, out: &mut Vec<u8>) {
    let Some(bits) = bits else {
        out.extend_from_slice(&[0; HEADER_LEN]);
        return;
    };
    let blocks = blocks.max(1);
    let range = (pairs.len() as u64) << bits;
    let range = range.div_ceil(blocks.into());
    let range = range.clamp(1, u64::from(u32::MAX / blocks)) as u32;
    let value = |pair: &u64| scaled((pair >> 32) as u32, range) * blocks + *pair as u32;
    let mut values: Vec<u32> = pairs.iter().map(value).collect();
    sort(&mut values);
    values.dedup();
    let mut places = Vec::with_capacity(values.len().div_ceil(STRIDE) * PLACE_LEN);
    let mut writer = BitWriter::default();
    for group in values.chunks(STRIDE) {
        let mut before: Option<u32> = None;
        for value in group {
            match before {
                None => {
                    places.extend_from_slice(&value.to_le_bytes());
                    places.extend_from_slice(&writer.len().to_le_bytes());
                }
                Some(before) => writer.put(value - before - 1, bits),
            }
            before = Some(*value);
        }
    }
    let coded = writer.end();
    let words = [values.len() as u32, range, bits, coded.len() as u32];
    out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
    out.extend_from_slice(&places);
    out.extend_from_slice(&coded);
}

/// Sorts numbers digit by digit from the lowest: for tens of thousands of them that takes a fraction of what comparing
/// them does.
fn sort(values: &mut Vec<u32>) {
    let mut from = std::mem::take(values);
    let mut to = vec![0; from.len()];
    let most = from.iter().max().copied().unwrap_or_default();
    let digits = (u32::BITS - most.leading_zeros()).div_ceil(DIGIT_BITS);
    for shift in (0..digits).map(|digit| digit * DIGIT_BITS) {
        let digit = |value: u32| (value >> shift) as usize % DIGITS;
        let mut places = [0_u32; DIGITS];
        for value in &from {
            if let Some(count) = places.get_mut(digit(*value)) {
                *count += 1;
            }
        }
        let mut sum = 0;
        for place in &mut places {
            sum += std::mem::replace(place, sum);
        }
        for value in &from {
            if let Some(place) = places.get_mut(digit(*value)) {
                if let Some(to) = to.get_mut(*place as usize) {
                    *to = *value;
                }
                *place += 1;
            }
        }
        std::mem::swap(&mut from, &mut to);
    }
    *values = from;
}

/// A key from 0 to `range`, in the order of what it was.
const fn scaled(key: u32, range: u32) -> u32 {
    ((key as u64 * range as u64) >> 32) as u32
}

/// A set in the bytes of an index.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    range: u32,
    bits: u32,
    places: &'a [u8],
    coded: &'a [u8],
    members: usize,
}

impl<'a> Set<'a> {
    /// Takes the set that `bytes` begin with, and what is behind it; `None` when that is none.
    pub fn take(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let members = word(bytes, 0)? as usize;
        let (range, bits) = (word(bytes, 4)?, word(bytes, 8)?);
        let coded_len = word(bytes, 12)? as usize;
        if bits > 31 {
            return None;
        }
        let rest = bytes.get(HEADER_LEN..)?;
        let places_len = members.div_ceil(STRIDE).checked_mul(PLACE_LEN)?;
        let (places, rest) = rest.split_at_checked(places_len)?;
        let (coded, rest) = rest.split_at_checked(coded_len)?;
        let set = Self {
            range,
            bits,
            places,
            coded,
            members,
        };
        Some((set, rest))
    }

    /// Whether it tells anything.
    pub const fn tells(&self) -> bool {
        self.range > 0
    }

    /// Hands the blocks, of so many, that may hold `key` to `each`. `None` when the set does not hold together.
    pub fn find(&self, key: u32, blocks: u32, mut each: impl FnMut(u32)) -> Option<()> {
        if !self.tells() {
            (0..blocks).for_each(each);
            return Some(());
        }
        let low = scaled(key, self.range).checked_mul(blocks)?;
        let high = low.checked_add(blocks)?;
        let groups = self.places.len() / PLACE_LEN;
        let mut below = (0, groups);
        // The last group that begins at or below.
        while below.0 < below.1 {
            let middle = (below.0 + below.1) / 2;
            match word(self.places, middle * PLACE_LEN)? <= low {
                true => below.0 = middle + 1,
                false => below.1 = middle,
            }
        }
        for group in below.0.saturating_sub(1)..groups {
            let mut value = word(self.places, group * PLACE_LEN)?;
            let mut reader = BitReader {
                bytes: self.coded,
                at: word(self.places, group * PLACE_LEN + 4)? as usize,
            };
            let mut left = (self.members - group * STRIDE).min(STRIDE);
            loop {
                if value >= high {
                    return Some(());
                }
                if value >= low {
                    each(value - low);
                }
                left -= 1;
                if left == 0 {
                    break;
                }
                let step = reader.take(self.bits)?.checked_add(1)?;
                value = value.checked_add(step)?;
            }
        }
        Some(())
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*word))
}

/// Bits, the lowest of each byte first.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    word: u64,
    used: u32,
}

impl BitWriter {
    fn len(&self) -> u32 {
        (self.bytes.len() as u32) * 8 + self.used
    }

    /// A number: its quotient in zeros up to a one, then its remainder.
    fn put(&mut self, number: u32, bits: u32) {
        let mut quotient = number >> bits;
        while quotient >= 32 {
            self.push(0, 32);
            quotient -= 32;
        }
        self.push(1 << quotient, quotient + 1);
        self.push(u64::from(number) & ((1 << bits) - 1), bits);
    }

    fn push(&mut self, value: u64, bits: u32) {
        // At most 31 bits wait, and at most 32 come.
        self.word |= value << self.used;
        self.used += bits;
        while self.used >= 32 {
            self.bytes
                .extend_from_slice(&(self.word as u32).to_le_bytes());
            self.word >>= 32;
            self.used -= 32;
        }
    }

    fn end(mut self) -> Vec<u8> {
        let left = self.used.div_ceil(8) as usize;
        let word = self.word.to_le_bytes();
        self.bytes
            .extend_from_slice(word.get(..left).unwrap_or_default());
        self.bytes
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    /// The next number; `None` behind the end.
    fn take(&mut self, bits: u32) -> Option<u32> {
        let mut quotient = 0_u32;
        loop {
            let ahead = self.ahead()?;
            match ahead.trailing_zeros() {
                // 57 bits at least are here.
                zeros @ 0..=56 => {
                    quotient = quotient.checked_add(zeros)?;
                    self.at += zeros as usize + 1;
                    break;
                }
                _ => {
                    quotient = quotient.checked_add(57)?;
                    self.at += 57;
                }
            }
        }
        let remainder = match bits {
            0 => 0,
            bits => self.ahead()? as u32 & (u32::MAX >> (32 - bits)),
        };
        self.at += bits as usize;
        let high = u64::from(quotient) << bits;
        u32::try_from(high | u64::from(remainder)).ok()
    }

    fn ahead(&self) -> Option<u64> {
        let rest = self
            .bytes
            .get(self.at / 8..)
            .filter(|rest| !rest.is_empty())?;
        let word = match rest.first_chunk::<8>() {
            Some(word) => u64::from_le_bytes(*word),
            None => {
                let mut word = [0; 8];
                for (to, from) in word.iter_mut().zip(rest) {
                    *to = *from;
                }
                u64::from_le_bytes(word)
            }
        };
        Some(word >> (self.at % 8))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn found(bytes: &[u8], key: u32, blocks: u32) -> BTreeSet<u32> {
        let (set, rest) = Set::take(bytes).unwrap();
        assert!(rest.is_empty());
        let mut found = BTreeSet::new();
        set.find(key, blocks, |block| assert!(found.insert(block)))
            .unwrap();
        found
    }

    #[test]
    fn keys_that_are_not_there_are_hardly_found() {
        let blocks = 512;
        let key = |number: u32| number.wrapping_mul(0x9e37_79b9);
        let pairs: Vec<u64> = (0..30_000_u32)
            .map(|number| u64::from(key(number)) << 32 | u64::from(number % blocks))
            .collect();
        let mut bytes = Vec::new();
        put(&pairs, blocks, Some(8), &mut bytes);
        assert!(bytes.len() * 8 <= most_bits(pairs.len(), blocks, 8));
        assert!(bytes.len() * 8 < pairs.len() * 10, "{} bytes", bytes.len());
        let others = (30_000..31_000).map(|number| found(&bytes, key(number), blocks).len());
        let most = 1000 * blocks as usize / 256;
        assert!(others.sum::<usize>() < 2 * most);
    }

    #[test]
    fn a_set_that_tells_nothing_names_every_block() {
        let mut bytes = Vec::new();
        put(&[7 << 32], 3, None, &mut bytes);
        assert_eq!(found(&bytes, 99, 3), (0..3).collect());
    }

    proptest! {
        #[test]
        fn what_is_there_is_found(
            pairs in prop::collection::vec((any::<u32>(), 0..700_u32), 0..600),
            bits in 0..12_u32,
            blocks in 700..5000_u32,
        ) {
            let as_pairs: Vec<u64> = pairs
                .iter()
                .map(|(key, block)| u64::from(*key) << 32 | u64::from(*block))
                .collect();
            let mut bytes = Vec::new();
            put(&as_pairs, blocks, Some(bits), &mut bytes);
            for (key, block) in &pairs {
                prop_assert!(found(&bytes, *key, blocks).contains(block));
            }
        }

        #[test]
        fn numbers_get_into_order(
            numbers in prop::collection::vec(any::<u32>(), 0..2000),
            shift in 0..32_u32,
        ) {
            let mut numbers: Vec<u32> = numbers.into_iter().map(|number| number >> shift).collect();
            let mut right = numbers.clone();
            right.sort_unstable();
            sort(&mut numbers);
            prop_assert_eq!(numbers, right);
        }

        #[test]
        fn any_bytes_have_an_answer(
            mut bytes in prop::collection::vec(any::<u8>(), 0..600),
            members in 0..1000_u32,
            bits in 0..40_u32,
            key in any::<u32>(),
            blocks in any::<u32>(),
        ) {
            if let Some(head) = bytes.first_chunk_mut::<HEADER_LEN>() {
                let words = [members, u32::MAX / blocks.max(1), bits, 0];
                let coded = words[0].div_ceil(256) * 8;
                head.copy_from_slice(words.map(u32::to_le_bytes).as_flattened());
                let len = (bytes.len() as u32).saturating_sub(16 + coded);
                bytes[12..16].copy_from_slice(&len.to_le_bytes());
            }
            if let Some((set, _)) = Set::take(&bytes) {
                let mut times = 0_u32;
                let _ = set.find(key, blocks % 10_000, |_| times += 1);
            }
        }
    }
}
