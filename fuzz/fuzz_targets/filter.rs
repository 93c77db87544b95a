//! Filter expressions, and the packets they are asked about.
//!
//! The input up to its first NUL is the expression, as far as it is UTF-8; what follows is a frame. What is held true:
//!
//! - a mistake has its column within the text, and says something;
//! - what was understood is printed so that it is understood as the same, and asks the same of the frame;
//! - `not (…)` wants the frame where the expression does not, and the other way round.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vxtap::filter::{Filter, Packet};
use vxtap::mirror::direction::Direction;
use vxtap::wire::Vni;
use vxtap::wire::inner::Inner;
use vxtap::wire::ip::Address;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == 0);
    let (text, frame) = data.split_at(end.unwrap_or(data.len()));
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    let frame = frame.get(1..).unwrap_or_default();
    let filter = match text.parse::<Filter>() {
        Ok(filter) => filter,
        Err(mistake) => {
            assert!(mistake.column >= 1 && mistake.column <= text.chars().count() + 1, "{mistake:?}");
            assert!(!mistake.to_string().is_empty());
            return;
        }
    };
    let printed = filter.to_string();
    let again: Filter = printed.parse().unwrap_or_else(|mistake| panic!("{text:?} {printed:?}: {mistake}"));
    assert!(filter == again, "{text:?} {printed:?} {again}");
    let inner = Inner::read(frame);
    let ways = [Direction::Unknown, Direction::Inbound, Direction::Outbound];
    for (direction, is_truncated) in ways.into_iter().zip([false, true, false]) {
        let packet = Packet {
            frame,
            inner: &inner,
            orig_len: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            is_truncated,
            mirror: Vni::new(77).map(|vni| (Address::from(std::net::IpAddr::from([10, 0, 0, 1])), vni)),
            direction,
        };
        let is_wanted = filter.matches(&packet);
        assert_eq!(again.matches(&packet), is_wanted, "{printed}");
        let Ok(opposite) = format!("not ({printed})").parse::<Filter>() else {
            // One more pair of parentheses may be one too many.
            continue;
        };
        assert_eq!(opposite.matches(&packet), !is_wanted, "{printed}");
    }
});
