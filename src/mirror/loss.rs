//! What a mirror session lost without cutting it, as the ends of its TCP connections tell: bytes that were acknowledged
//! and never arrived here.
//!
//! Most mirror sources do not cut what does not fit into their path, they drop it (Open vSwitch; a kernel vxlan device
//! with DF or over IPv6). No packet shows that, but the sequence numbers of those around it do. Whether it is the size
//! that is missing follows from what the ends agreed on: where no packet of full size ever arrives, and most bytes are
//! missing, the path is too small. Pure; what comes in are the sums of flow records.

use super::words::{counted, percent};

/// What a record of a TCP connection tells. Pairs are of originator and responder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Bytes that the other end acknowledged and that never arrived; `None` for an end that was never seen.
    pub gap_bytes: [Option<u64>; 2],
    /// Bytes of IP packets that arrived.
    pub ip_bytes: [u64; 2],
    /// Segments that were sent again.
    pub retransmitted: u64,
    /// Largest IP packet that the ends agreed on, as far as SYNs told the sizes of segments, in bytes.
    pub full_ip: Option<u32>,
    /// Only one end was seen, though there was another.
    pub one_sided: bool,
}

/// What a mirror session lost, as far as TCP connections tell. Counts of several workers add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorLoss {
    /// Records of TCP connections. One that is open for long has several.
    pub connections: u64,
    /// Those with bytes that were acknowledged and never arrived.
    pub with_gaps: u64,
    /// These bytes.
    pub gap_bytes: u64,
    /// Bytes of IP packets that arrived in all of them.
    pub ip_bytes: u64,
    /// Segments that were sent again: the ends lost them, not the mirror.
    pub retransmitted: u64,
    /// Those of which one end was never seen.
    pub one_sided: u64,
    /// Bytes of IP packets that arrived in directions with gaps.
    beside_gaps: u64,
    /// Smallest and largest of the packet sizes that ends with gaps may send; 0 where no SYN told any.
    full_ip: (u32, u32),
}

/// Why bytes never arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// The mirror source drops what is too large for its path: it would need this MTU, in bytes.
    TooLarge {
        /// MTU that lets the largest packets through.
        needs_mtu: u32,
    },
    /// Packets of full size arrived too: it is not their size.
    AnySize,
    /// There is too little to tell.
    Unknown,
}

impl LossCause {
    /// Its name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::AnySize => "any_size",
            Self::Unknown => "unknown",
        }
    }
}

/// What is known of a session beside its connections.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Largest inner IP packet that arrived, whole or cut, in bytes.
    pub largest_ip: u32,
    /// Most bytes of outer packet around an inner IP packet, if there is such a thing.
    pub overhead: Option<u32>,
    /// MTU of the path from the mirror source, as it was told to us, in bytes.
    pub mtu: u32,
    /// Packets that this machine lost after they had arrived.
    pub lost_here: u64,
    /// One connection in so many was looked at.
    pub one_in: u32,
}

impl MirrorLoss {
    /// Counts a record.
    pub fn add(&mut self, connection: &Connection) {
        self.connections += 1;
        self.retransmitted += connection.retransmitted;
        self.one_sided += u64::from(connection.one_sided);
        self.ip_bytes += connection.ip_bytes.iter().sum::<u64>();
        let Connection {
            gap_bytes,
            ip_bytes,
            full_ip,
            ..
        } = connection;
        let mut has_gaps = false;
        for (gap, arrived) in gap_bytes.iter().zip(ip_bytes) {
            let Some(gap @ 1..) = *gap else { continue };
            has_gaps = true;
            self.gap_bytes += gap;
            self.beside_gaps += arrived;
            self.full_ip = widest(self.full_ip, full_ip.map_or((0, 0), |full| (full, full)));
        }
        self.with_gaps += u64::from(has_gaps);
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.with_gaps += other.with_gaps;
        self.gap_bytes += other.gap_bytes;
        self.ip_bytes += other.ip_bytes;
        self.retransmitted += other.retransmitted;
        self.one_sided += other.one_sided;
        self.beside_gaps += other.beside_gaps;
        self.full_ip = widest(self.full_ip, other.full_ip);
    }

    /// The share of bytes that never arrived, of these and those that did: 0 to 1.
    pub fn share(&self) -> f64 {
        let all = self.gap_bytes + self.ip_bytes;
        if all == 0 {
            return 0.0;
        }
        self.gap_bytes as f64 / all as f64
    }

    /// Largest IP packet that an end with gaps may send, in bytes; `None` where no handshake told it.
    pub fn full_ip(&self) -> Option<u32> {
        Some(self.full_ip.1).filter(|full| *full > 0)
    }

    /// Why bytes never arrived; `None` where none are missing.
    pub fn cause(&self, around: &Surroundings) -> Option<LossCause> {
        if self.gap_bytes == 0 {
            return None;
        }
        let (smallest, largest) = self.full_ip;
        Some(match around.overhead {
            _ if smallest == 0 => LossCause::Unknown,
            _ if around.largest_ip >= smallest => LossCause::AnySize,
            // Small packets that get lost by chance look alike, but not most of the bytes.
            Some(overhead) if self.gap_bytes >= self.beside_gaps => LossCause::TooLarge {
                needs_mtu: largest.saturating_add(overhead),
            },
            _ => LossCause::Unknown,
        })
    }

    /// What is missing and what to do, in words a network engineer can act on; `None` where nothing is.
    pub fn advice(&self, around: &Surroundings) -> Option<String> {
        let mut sentences = Vec::new();
        if let Some(cause) = self.cause(around) {
            sentences.push(self.what_is_missing(around));
            if around.lost_here > 0 {
                let here = counted(around.lost_here, "packet");
                sentences.push(format!(
                    "This machine lost {here} itself: what these held is among it, and may be all of it."
                ));
            }
            // By chance it may as well be lost here.
            if around.lost_here == 0 || cause != LossCause::AnySize {
                sentences.extend(self.why(cause, around));
            }
        }
        if self.one_sided > 0 && 2 * self.one_sided > self.connections {
            sentences.push(format!(
                "{} of {} came in one direction only: the mirror session copies one direction, or the other one \
                 passes elsewhere.",
                self.one_sided,
                connections(self.connections)
            ));
        }
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }

    fn what_is_missing(&self, around: &Surroundings) -> String {
        let who = match around.lost_here {
            0 => "The mirror lost data",
            _ => "Data is missing",
        };
        let looked_at = match around.one_in {
            0 | 1 => String::new(),
            one_in => format!(" (one connection in {one_in} was looked at)"),
        };
        let all = self.gap_bytes.saturating_add(self.ip_bytes);
        format!(
            "{who}: in {} of {}{looked_at}, {} ({}) were acknowledged by their receivers and never \
             arrived here.",
            self.with_gaps,
            connections(self.connections),
            counted(self.gap_bytes, "byte"),
            percent(self.gap_bytes, all),
        )
    }

    fn why(&self, cause: LossCause, around: &Surroundings) -> Option<String> {
        let largest = around.largest_ip;
        match cause {
            LossCause::TooLarge { needs_mtu } => {
                let full = self.full_ip.1;
                let fits = around.mtu.saturating_sub(around.overhead?);
                let or_less = if (largest..self.full_ip.0).contains(&fits) {
                    format!(
                        "; with an MTU of {}, {fits} bytes are the most that fits",
                        around.mtu
                    )
                } else {
                    String::new()
                };
                Some(format!(
                    "No packet above {largest} bytes arrived, though their senders may send {full}: the mirror source \
                     drops what does not fit into its path. Raise the MTU between the mirror source and here to \
                     {needs_mtu}{or_less}."
                ))
            }
            LossCause::AnySize => Some(format!(
                "It is not their size: packets of up to {largest} bytes arrived. The mirror source is too busy, or the \
                 network from there loses packets."
            )),
            LossCause::Unknown => None,
        }
    }
}

/// The smaller and the larger of two ranges; 0 is nothing.
fn widest(one: (u32, u32), other: (u32, u32)) -> (u32, u32) {
    match (one, other) {
        ((0, _), known) | (known, (0, _)) => known,
        _ => (one.0.min(other.0), one.1.max(other.1)),
    }
}

fn connections(number: u64) -> String {
    counted(number, "TCP connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Surroundings = Surroundings {
        largest_ip: 256,
        overhead: Some(50),
        mtu: 1500,
        lost_here: 0,
        one_in: 1,
    };

    /// A download of which the packets of full size never arrived.
    fn download() -> Connection {
        Connection {
            gap_bytes: [Some(0), Some(299_300)],
            ip_bytes: [5_000, 420],
            full_ip: Some(1500),
            ..Connection::default()
        }
    }

    fn loss(connections: impl IntoIterator<Item = Connection>) -> MirrorLoss {
        let mut loss = MirrorLoss::default();
        connections.into_iter().for_each(|one| loss.add(&one));
        loss
    }

    #[test]
    fn what_does_not_fit() {
        let loss = loss([download()]);
        let cause = loss.cause(&AROUND);
        assert_eq!(cause, Some(LossCause::TooLarge { needs_mtu: 1550 }));
        let advice = loss.advice(&AROUND).unwrap();
        for part in [
            "in 1 of 1 TCP connection,",
            "No packet above 256 bytes arrived",
            "to 1550; with an MTU of 1500, 1450 bytes are the most that fits",
        ] {
            assert!(advice.contains(part), "{part:?} in {advice}");
        }
        // Over IPv6, and on a path that is larger than we were told.
        let larger = Surroundings {
            overhead: Some(70),
            mtu: 9000,
            ..AROUND
        };
        let advice = loss.advice(&larger).unwrap();
        assert!(advice.contains("and here to 1570."), "{advice}");
    }

    #[test]
    fn what_packets_contradict() {
        // One of full size arrived.
        let one = loss([download()]);
        let around = Surroundings {
            largest_ip: 1500,
            ..AROUND
        };
        assert_eq!(one.cause(&around), Some(LossCause::AnySize));
        // Few of many small ones are missing.
        let small = Connection {
            gap_bytes: [Some(1000), Some(0)],
            ip_bytes: [90_000, 4_000],
            ..download()
        };
        let few = loss([small]);
        assert_eq!(few.cause(&AROUND), Some(LossCause::Unknown));
        assert!(few.advice(&AROUND).unwrap().ends_with("arrived here."));
        // No handshake was seen.
        let open = Connection {
            full_ip: None,
            ..download()
        };
        assert_eq!(loss([open]).cause(&AROUND), Some(LossCause::Unknown));
        // A sender of full size that is known and one that is not.
        let both = loss([open, download()]);
        assert_eq!(both.full_ip(), Some(1500));
        assert_eq!(loss([]).cause(&AROUND), None);
    }

    #[test]
    fn one_direction() {
        let half = Connection {
            gap_bytes: [Some(0), None],
            ip_bytes: [40, 0],
            one_sided: true,
            ..Connection::default()
        };
        let advice = loss([half, half]).advice(&AROUND).unwrap();
        assert!(
            advice.starts_with("2 of 2 TCP connections came in one direction only"),
            "{advice}"
        );
        let whole = Connection {
            one_sided: false,
            ..half
        };
        assert_eq!(loss([half, whole]).advice(&AROUND), None);
    }

    #[test]
    fn workers_add_up() {
        let (one, other) = (
            download(),
            Connection {
                full_ip: Some(1400),
                retransmitted: 3,
                ..download()
            },
        );
        let mut sum = loss([one]);
        sum.merge(&loss([other]));
        assert_eq!(sum, loss([one, other]));
        assert_eq!(sum.full_ip, (1400, 1500));
        assert_eq!(
            (sum.connections, sum.with_gaps, sum.retransmitted),
            (2, 2, 3)
        );
        assert!((sum.share() - 598_600.0 / 609_440.0).abs() < 1e-9);
    }

    #[test]
    fn a_share_looked_at_and_loss_here() {
        let around = Surroundings {
            one_in: 4,
            lost_here: 7,
            ..AROUND
        };
        let advice = loss([download()]).advice(&around).unwrap();
        assert!(
            advice.contains("(one connection in 4 was looked at)"),
            "{advice}"
        );
        assert!(advice.starts_with("Data is missing: in 1 of 1"), "{advice}");
        assert!(advice.contains("lost 7 packets itself"), "{advice}");
        // Nobody else is blamed for what may have been lost here.
        let full = Surroundings {
            largest_ip: 1500,
            ..around
        };
        let advice = loss([download()]).advice(&full).unwrap();
        assert!(!advice.contains("mirror"), "{advice}");
    }
}
