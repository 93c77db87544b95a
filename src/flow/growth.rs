//! How what stands beside the flows grows: by doubling, in steps that end with the most there may be.
//!
//! So a full table has no room to spare, and while something moves to twice the room, there is memory for both: half of
//! the flows are still missing.

/// Steps below this length are not worth it.
const LEAST: usize = 32;

/// The next length of what is `len` long and may become `most`: `most` halved as often as leaves more than `len`.
pub fn next_len(len: usize, most: usize) -> usize {
    let mut next = most;
    while next / 2 > len.max(LEAST) {
        next /= 2;
    }
    next.max(len + 1)
}

/// Adds `item` to what may become `most` long.
pub fn push<T>(items: &mut Vec<T>, item: T, most: usize) {
    if items.len() == items.capacity() {
        items.reserve_exact(next_len(items.len(), most) - items.len());
    }
    items.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_is_the_most() {
        for most in [1, 2, 31, 33, 64, 65, 1000, 1 << 20, 1_000_001] {
            let (mut len, mut before) = (0, 0);
            while len < most {
                (before, len) = (len, next_len(len, most));
                assert!(
                    len <= 2 * before.max(LEAST) + 1,
                    "{before} to {len} of {most}"
                );
            }
            assert_eq!(len, most);
            assert!(before <= most / 2, "{before} before {most}");
        }
        // More than was said are taken all the same.
        assert_eq!(next_len(7, 7), 8);
    }

    #[test]
    fn a_full_one_has_no_room_to_spare() {
        let mut items = Vec::new();
        for item in 0..1001_u32 {
            push(&mut items, item, 1001);
        }
        assert_eq!(items.capacity(), 1001);
    }
}
