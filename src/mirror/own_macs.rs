//! Hardware addresses of a mirror source's interface, learned from packets whose IP addresses prove their direction, and
//! the direction of other packets told by them.
//!
//! A mirror source that forwards for others (containers, pods, virtual machines, a NAT) has packets in its mirror session
//! that bear none of its own IP addresses. They leave by the same interface all the same: the source MAC address of a
//! packet that the mirror source sent is the interface's, and so is the destination of one that it received.
//!
//! What is learned is a *fact*: at some place among all packets a hardware address was shown to be the interface's own,
//! or another's. A direction is told by the facts of earlier packets, wherever these were seen: so it does not depend on
//! how many workers there are. An address that was shown to be both is nobody's from then on.
//! Bounded: the first few addresses of a session count, by the places of the packets that showed them. Pure.

use super::direction::Direction;
use crate::wire::inner::Mac;

/// Most addresses of a session that are its own: one interface has one, a machine that mirrors several has more.
pub const MOST_OWN: usize = 4;
/// Most addresses of others that are kept to contradict. A cloud's interface sees one, its gateway's.
pub const MOST_OTHERS: usize = 8;
/// Addresses for which packets without a proven direction are counted apart.
const COUNTED: usize = 6;

/// Most bytes of memory that a session's addresses take beside themselves.
pub const MEMORY_BYTES: usize =
    2 * (MOST_OWN + MOST_OTHERS + 2) * size_of::<(u64, Mac)>() + size_of::<Unjudged>();

/// The first bytes of a frame: destination and source address.
pub type MacPair = [u8; 12];

/// Whose a hardware address was shown to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The mirror source's interface's.
    Own,
    /// Another's on the same link.
    Other,
}

/// What a packet showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The address.
    pub mac: Mac,
    /// Whose it is.
    pub whose: Whose,
    /// The packet's place among all: position in a file, time of arrival live.
    pub place: u64,
}

/// What a packet is, as far as it can teach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The mirror source sent it, by its address, and no router had it before.
    Sent,
    /// The mirror source received it, by its address.
    Received,
    /// It has the mirror source's address as its source and has passed a router: that one's hardware address it bears.
    Routed,
    /// Its direction is not proven.
    Nothing,
}

impl Shown {
    /// What a packet shows whose direction by IP addresses is `direction`. `None` where it neither teaches nor asks.
    ///
    /// Systems send with a time to live of 32, 64, 128 or 255. A little less says that routers had the packet; far less
    /// may have been asked for (traceroute, multicast) and says nothing.
    #[inline]
    pub const fn of(direction: Direction, ttl: u8) -> Option<Self> {
        match (direction, ttl) {
            (Direction::Unknown, _) => Some(Self::Nothing),
            (Direction::Inbound, _) => Some(Self::Received),
            (Direction::Outbound, 32 | 64 | 128 | 255) => Some(Self::Sent),
            (Direction::Outbound, 34..64 | 98..128 | 225..255) => Some(Self::Routed),
            (Direction::Outbound, _) => None,
        }
    }
}

/// The facts of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// By place, the earliest of each address.
    own: Vec<(u64, Mac)>,
    others: Vec<(u64, Mac)>,
}

impl Claims {
    /// Whether nothing can be told by them, whatever is asked.
    pub const fn is_empty(&self) -> bool {
        self.own.is_empty()
    }

    /// Takes a fact, in whatever order they come; returns whether it says something new.
    pub fn note(&mut self, fact: &Fact) -> bool {
        let (list, most) = match fact.whose {
            Whose::Own => (&mut self.own, MOST_OWN),
            Whose::Other => (&mut self.others, MOST_OTHERS),
        };
        if let Some(at) = list.iter().position(|(_, mac)| *mac == fact.mac) {
            if list.get(at).is_some_and(|(place, _)| *place <= fact.place) {
                return false;
            }
            list.remove(at);
        }
        let entry = (fact.place, fact.mac);
        let at = list.partition_point(|known| *known < entry);
        if at >= most {
            return false;
        }
        list.insert(at, entry);
        list.truncate(most);
        true
    }

    /// Adds what another worker was shown.
    pub fn merge(&mut self, other: &Self) {
        for (list, whose) in [(&other.own, Whose::Own), (&other.others, Whose::Other)] {
            for (place, mac) in list {
                let (place, mac) = (*place, *mac);
                self.note(&Fact { mac, whose, place });
            }
        }
    }

    /// The direction of a frame from `src` to `dst`, by what earlier packets than that at `place` showed.
    pub fn direction(&self, dst: Mac, src: Mac, place: u64) -> Direction {
        match (self.is_own(src, place), self.is_own(dst, place)) {
            (true, false) => Direction::Outbound,
            (false, true) => Direction::Inbound,
            _ => Direction::Unknown,
        }
    }

    fn is_own(&self, mac: Mac, place: u64) -> bool {
        let is_in = |list: &[(u64, Mac)]| {
            let mut earlier = list.iter().take_while(|(shown, _)| *shown < place);
            earlier.any(|(_, known)| *known == mac)
        };
        is_in(&self.own) && !is_in(&self.others)
    }
}

/// The addresses of a session as one worker counts them.
#[derive(Clone, Debug, Default)]
pub struct OwnMacs {
    claims: Claims,
    /// The addresses of the packet taken last of each kind of [`Shown`]: most are like it.
    lately: [MacPair; 4],
    unjudged: Option<Box<Unjudged>>,
}

/// Frames without a proven direction, by address.
#[derive(Clone, Debug, Default)]
struct Unjudged {
    /// The first to be seen.
    macs: [Mac; COUNTED],
    known: usize,
    /// By the places of source and destination in `macs`; all others stand behind these.
    frames: [[u64; COUNTED + 1]; COUNTED + 1],
    /// Where the last one was counted.
    last: (usize, usize),
}

impl OwnMacs {
    /// Takes the addresses of a frame at `place`, which has `shown` so much. Calls `tell` for what is new.
    #[inline]
    pub fn add(&mut self, macs: &MacPair, shown: Shown, place: u64, tell: impl FnMut(Fact)) {
        let lately = self.lately.get(shown as usize);
        if lately != Some(macs) {
            self.add_other(macs, shown, place, tell);
        } else if shown == Shown::Nothing
            && let Some(unjudged) = &mut self.unjudged
        {
            unjudged.count_again();
        }
    }

    #[inline(never)]
    fn add_other(&mut self, macs: &MacPair, shown: Shown, place: u64, mut tell: impl FnMut(Fact)) {
        if let Some(lately) = self.lately.get_mut(shown as usize) {
            *lately = *macs;
        }
        let (dst, src) = split(macs);
        let taught = match shown {
            Shown::Sent => [Some((src, Whose::Own)), Some((dst, Whose::Other))],
            Shown::Received => [Some((dst, Whose::Own)), Some((src, Whose::Other))],
            Shown::Routed => [Some((src, Whose::Other)), None],
            Shown::Nothing => {
                let unjudged = self.unjudged.get_or_insert_default();
                return unjudged.count(dst, src);
            }
        };
        for (mac, whose) in taught.into_iter().flatten() {
            let fact = Fact { mac, whose, place };
            if is_one_station(mac) && self.claims.note(&fact) {
                tell(fact);
            }
        }
    }

    /// Adds what another worker counted of the same session.
    pub fn merge(&mut self, other: &Self) {
        self.claims.merge(&other.claims);
        if let Some(others) = &other.unjudged {
            self.unjudged.get_or_insert_default().merge(others);
        }
    }

    /// Frames that the mirror source received and sent, of those whose IP addresses do not say so: by all that was shown
    /// until now.
    pub fn received_and_sent(&self) -> [u64; 2] {
        let mut frames = [0; 2];
        let unjudged = self.unjudged.iter();
        for (dst, src, count) in unjudged.flat_map(|unjudged| unjudged.list()) {
            match self.claims.direction(dst, src, u64::MAX) {
                Direction::Inbound => frames[0] += count,
                Direction::Outbound => frames[1] += count,
                Direction::Unknown => {}
            }
        }
        frames
    }
}

impl Unjudged {
    fn count(&mut self, dst: Mac, src: Mac) {
        self.last = (self.place_of(src), self.place_of(dst));
        self.count_again();
    }

    #[inline]
    fn count_again(&mut self) {
        self.count_at(self.last, 1);
    }

    #[inline]
    fn count_at(&mut self, (src, dst): (usize, usize), frames: u64) {
        let of_source = self.frames.get_mut(src);
        if let Some(count) = of_source.and_then(|of_source| of_source.get_mut(dst)) {
            *count += frames;
        }
    }

    /// The place of an address, which is given one if there is room and it may be somebody's own.
    fn place_of(&mut self, mac: Mac) -> usize {
        if let Some(at) = self.macs.iter().position(|known| *known == mac)
            && at < self.known
        {
            return at;
        }
        if !is_one_station(mac) {
            return COUNTED;
        }
        match self.macs.get_mut(self.known) {
            Some(place) => {
                *place = mac;
                self.known += 1;
                self.known - 1
            }
            None => COUNTED,
        }
    }

    /// Destination, source and frames. Addresses that are not told apart are nobody's.
    fn list(&self) -> impl Iterator<Item = (Mac, Mac, u64)> {
        let mac_at = |at: usize| self.macs.get(at).copied().unwrap_or_default();
        self.frames.iter().enumerate().flat_map(move |(src, of)| {
            let of = of.iter().enumerate();
            of.map(move |(dst, frames)| (mac_at(dst), mac_at(src), *frames))
        })
    }

    fn merge(&mut self, other: &Self) {
        for (dst, src, frames) in other.list().filter(|(_, _, frames)| *frames > 0) {
            let at = (self.place_of(src), self.place_of(dst));
            self.count_at(at, frames);
        }
    }
}

/// Destination and source.
pub fn split(macs: &MacPair) -> (Mac, Mac) {
    let [a, b, c, d, e, f, src @ ..] = *macs;
    ([a, b, c, d, e, f], src)
}

/// Whether an address is that of one station: not of a group or of all (IEEE 802 §8.2.2), and not missing.
fn is_one_station(mac: Mac) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac != [0; 6]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::direction::Direction::{Inbound, Outbound, Unknown};

    const OURS: Mac = [2, 0, 0, 0, 0, 0x0a];
    const GATEWAY: Mac = [2, 0, 0, 0, 0, 0xfe];
    const ALL: Mac = [0xff; 6];

    fn pair(dst: Mac, src: Mac) -> MacPair {
        let mut pair = [0; 12];
        pair[..6].copy_from_slice(&dst);
        pair[6..].copy_from_slice(&src);
        pair
    }

    fn taught(packets: &[(Mac, Mac, Shown)]) -> OwnMacs {
        let mut macs = OwnMacs::default();
        for (place, (dst, src, shown)) in (0..).zip(packets) {
            macs.add(&pair(*dst, *src), *shown, place, |_| {});
        }
        macs
    }

    #[test]
    fn what_packets_show() {
        for (direction, ttl, shown) in [
            (Unknown, 64, Some(Shown::Nothing)),
            (Inbound, 50, Some(Shown::Received)),
            (Outbound, 64, Some(Shown::Sent)),
            (Outbound, 255, Some(Shown::Sent)),
            (Outbound, 63, Some(Shown::Routed)),
            (Outbound, 120, Some(Shown::Routed)),
            // Traceroute, and what nobody sends with.
            (Outbound, 1, None),
            (Outbound, 200, None),
        ] {
            assert_eq!(Shown::of(direction, ttl), shown, "{direction:?} {ttl}");
        }
    }

    /// One packet each way of the source's own, or one of them, is enough for those of its containers.
    #[test]
    fn the_interface_tells_directions() {
        let sent = (GATEWAY, OURS, Shown::Sent);
        let received = (OURS, GATEWAY, Shown::Received);
        for packets in [&[sent][..], &[received], &[sent, received]] {
            let claims = taught(packets).claims;
            assert_eq!(claims.direction(GATEWAY, OURS, 9), Outbound);
            assert_eq!(claims.direction(OURS, GATEWAY, 9), Inbound);
            assert_eq!(claims.direction(ALL, OURS, 9), Outbound);
            // Others that talk to each other, and what cannot be.
            assert_eq!(claims.direction(GATEWAY, [2, 0, 0, 0, 0, 7], 9), Unknown);
            assert_eq!(claims.direction(OURS, OURS, 9), Unknown);
            // The packet that shows it, and those before it, do not know yet.
            assert_eq!(claims.direction(GATEWAY, OURS, 0), Unknown);
        }
    }

    /// Whichever comes first, what shows that the address is another's ends the claim for good.
    #[test]
    fn contradictions_end_a_claim() {
        let own = (GATEWAY, OURS, Shown::Sent);
        let of_another = (GATEWAY, OURS, Shown::Received);
        let routed = (GATEWAY, OURS, Shown::Routed);
        for refutation in [of_another, routed] {
            let claims = taught(&[own, refutation, own]).claims;
            assert_eq!(claims.direction(GATEWAY, OURS, 1), Outbound);
            assert_eq!(claims.direction(GATEWAY, OURS, 2), Unknown);
            assert_eq!(claims.direction(GATEWAY, OURS, 99), Unknown);
            let claims = taught(&[refutation, own, own]).claims;
            assert_eq!(claims.direction(GATEWAY, OURS, 99), Unknown);
        }
    }

    #[test]
    fn groups_and_missing_addresses_teach_nothing() {
        let group = [1, 0, 0x5e, 0, 0, 1];
        let claims = taught(&[
            (ALL, GATEWAY, Shown::Received),
            (group, GATEWAY, Shown::Received),
            ([0; 6], [0; 6], Shown::Sent),
        ])
        .claims;
        assert!(claims.is_empty());
        assert_eq!(claims.direction(ALL, OURS, 99), Unknown);
    }

    /// The earliest count, in whatever order they are told, and each only once.
    #[test]
    fn only_so_many_are_kept() {
        let mac = |n: u8| [2, 0, 0, 0, 1, n];
        let fact = |n: u8, whose| Fact {
            mac: mac(n),
            whose,
            place: u64::from(n),
        };
        let mut claims = Claims::default();
        for n in (0..40).rev() {
            claims.note(&fact(n, Whose::Own));
            claims.note(&fact(n + 100, Whose::Other));
            assert!(!claims.note(&fact(n, Whose::Own)));
        }
        assert_eq!(
            (claims.own.len(), claims.others.len()),
            (MOST_OWN, MOST_OTHERS)
        );
        assert_eq!(claims.direction(GATEWAY, mac(3), 99), Outbound);
        assert_eq!(claims.direction(GATEWAY, mac(4), 99), Unknown);
    }

    #[test]
    fn frames_are_counted_until_it_is_known() {
        let mut macs = taught(&[
            (GATEWAY, OURS, Shown::Nothing),
            (GATEWAY, OURS, Shown::Nothing),
            (OURS, GATEWAY, Shown::Nothing),
            (ALL, OURS, Shown::Nothing),
            (ALL, GATEWAY, Shown::Nothing),
        ]);
        assert_eq!(macs.received_and_sent(), [0, 0]);
        // More addresses than are told apart: all that matters is the interface's.
        for n in 0..50 {
            macs.add(&pair([2, 0, 0, 0, 3, n], OURS), Shown::Nothing, 5, |_| {});
        }
        let known = taught(&[(GATEWAY, OURS, Shown::Sent)]);
        macs.merge(&known);
        assert_eq!(macs.received_and_sent(), [1, 53]);
        macs.merge(&taught(&[(GATEWAY, OURS, Shown::Routed)]));
        assert_eq!(macs.received_and_sent(), [0, 0]);
    }

    fn some_mac() -> impl Strategy<Value = Mac> {
        prop_oneof![
            8 => (0u8..8).prop_map(|n| [2, 0, 0, 0, 0, n]),
            1 => Just(ALL),
            1 => (0u8..40).prop_map(|n| [2, 0, 0, 0, 1, n]),
        ]
    }

    fn some_shown() -> impl Strategy<Value = Shown> {
        prop_oneof![
            Just(Shown::Sent),
            Just(Shown::Received),
            Just(Shown::Routed),
            Just(Shown::Nothing),
        ]
    }

    proptest! {
        /// Whichever worker takes which packet, whatever it tells comes to the same for every later packet, in whatever
        /// order it is heard of; and what is told is what the earlier packets alone say.
        #[test]
        fn shared_out_or_not_it_is_the_same(
            packets in proptest::collection::vec(
                ((some_mac(), some_mac()), some_shown(), 0usize..3, any::<u8>()), 0..60,
            ),
        ) {
            let mut one = OwnMacs::default();
            let mut workers = [const { None }; 3].map(|_: Option<()>| OwnMacs::default());
            let mut told = Vec::new();
            for (place, ((dst, src), shown, worker, turn)) in (0..).zip(&packets) {
                let macs = pair(*dst, *src);
                one.add(&macs, *shown, place, |_| {});
                workers[*worker].add(&macs, *shown, place, |fact| told.push((*turn, fact)));
            }
            let mut merged = OwnMacs::default();
            for worker in &workers {
                merged.merge(worker);
            }
            prop_assert_eq!(&merged.claims, &one.claims);
            told.sort_by_key(|(turn, _)| *turn);
            let mut heard = Claims::default();
            for (_, fact) in &told {
                heard.note(fact);
            }
            prop_assert_eq!(&heard, &one.claims);
            // What was told before a place is all that counts there.
            for (place, ((dst, src), ..)) in (0..).zip(&packets) {
                let mut so_far = Claims::default();
                told.iter()
                    .filter(|(_, fact)| fact.place < place)
                    .for_each(|(_, fact)| _ = so_far.note(fact));
                prop_assert_eq!(
                    so_far.direction(*dst, *src, u64::MAX),
                    heard.direction(*dst, *src, place)
                );
            }
        }

        /// Frames are counted once, whoever had them, as long as the addresses can be told apart.
        #[test]
        fn counts_add_up(
            packets in proptest::collection::vec(((0u8..5, 0u8..5), some_shown(), 0usize..2), 0..60),
        ) {
            let mut one = OwnMacs::default();
            let mut workers = [OwnMacs::default(), OwnMacs::default()];
            let mut unjudged = 0;
            for (place, ((dst, src), shown, worker)) in (0..).zip(packets) {
                let mac = |n: u8| [2, 0, 0, 0, 0, n];
                let macs = pair(mac(dst), mac(src));
                one.add(&macs, shown, place, |_| {});
                workers[worker].add(&macs, shown, place, |_| {});
                unjudged += u64::from(shown == Shown::Nothing);
            }
            let [mut merged, other] = workers;
            merged.merge(&other);
            prop_assert_eq!(merged.received_and_sent(), one.received_and_sent());
            let counted: u64 = one.unjudged.iter().flat_map(|of| of.list()).map(|of| of.2).sum();
            prop_assert_eq!(counted, unjudged);
        }
    }
}
