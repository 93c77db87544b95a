//! Where one TCP connection ends and the next begins on the same addresses and ports.
//!
//! A SYN with a new sequence number begins another connection when the one before is over: each side that
//! was seen has sent its FIN, or one of them an RST. (What silence ends, [`crate::flow::lifetime`] tells.) While a
//! connection is alive such a SYN changes nothing; anyone could have sent it (RFC 5961 §4). A SYN that is sent again has
//! the sequence number it had before. Pure: what is asked is told by the flow's own packets alone, so that
//! the answer does not depend on who asks.

use crate::wire::inner::TcpHead;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// Most bytes of data a SYN may carry (RFC 7413) and its answer acknowledge.
const SYN_DATA: u32 = 65_535;

/// What one side of a connection has sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    /// Anything at all.
    pub seen: bool,
    /// Every flag.
    pub flags: u16,
    /// Sequence number of its first SYN, if [`Self::flags`] has one.
    pub syn: u32,
}

/// Whether the flags are those of a segment that opens a connection or answers one that does.
#[inline]
pub const fn is_syn(flags: u16) -> bool {
    flags & (SYN | FIN | RST) == SYN
}

/// Whether `tcp` begins another connection than the one of `sender` and `receiver`, which is over: a segment of
/// `sender` with [`is_syn`] that came after all others.
pub fn is_another(tcp: &TcpHead, sender: Side, receiver: Side) -> bool {
    let sent_again = sender.flags & SYN != 0 && sender.syn == tcp.seq;
    let acknowledged = tcp.ack.wrapping_sub(receiver.syn).wrapping_sub(1);
    let answers = tcp.flags & ACK != 0 && receiver.flags & SYN != 0 && acknowledged <= SYN_DATA;
    if sent_again || answers {
        return false;
    }
    let done = |side: Side| !side.seen || side.flags & FIN != 0;
    let flags = sender.flags | receiver.flags;
    let finished = flags & FIN != 0 && done(sender) && done(receiver);
    finished || flags & RST != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn head(flags: u16, seq: u32, ack: u32) -> TcpHead {
        TcpHead {
            seq,
            ack,
            flags,
            window: None,
            header_len: 20,
            mss: None,
        }
    }

    const fn sent(flags: u16, syn: u32) -> Side {
        Side {
            seen: true,
            flags,
            syn,
        }
    }

    const SILENT: Side = Side {
        seen: false,
        flags: 0,
        syn: 0,
    };

    #[test]
    fn a_new_syn_after_the_end() {
        let syn = head(SYN, 900, 0);
        let (open, fin, rst) = (SYN | ACK, SYN | ACK | FIN, SYN | RST);
        for (sender, receiver, expected) in [
            (sent(fin, 1), sent(fin, 2), true),
            (sent(rst, 1), sent(open, 2), true),
            (sent(SYN, 1), sent(RST | ACK, 0), true),
            (sent(fin, 1), sent(open, 2), false),
            (sent(open, 1), sent(fin, 2), false),
            (sent(open, 1), sent(open, 2), false),
            (sent(SYN, 1), SILENT, false),
            // The mirror copies one direction only.
            (sent(fin, 1), SILENT, true),
            (SILENT, sent(fin, 1), true),
            // Roles change: the one that answered opens.
            (sent(fin, 900), sent(fin, 2), false),
            (sent(FIN | ACK, 900), sent(fin, 2), true),
        ] {
            assert_eq!(
                is_another(&syn, sender, receiver),
                expected,
                "{sender:?} {receiver:?}"
            );
        }
    }

    /// An answer belongs to the SYN it acknowledges, whatever else was seen in between; one whose SYN was
    /// missed begins a connection as that would have.
    #[test]
    fn answers() {
        let answer = |ack| head(SYN | ACK, 500, ack);
        let opener = sent(SYN | RST, u32::MAX);
        for ack in [0, 1000, 65_535] {
            assert!(!is_another(&answer(ack), SILENT, opener), "{ack}");
        }
        for ack in [65_536, u32::MAX, 7_000_000] {
            assert!(is_another(&answer(ack), SILENT, opener), "{ack}");
        }
        let sent_again = sent(SYN | ACK | FIN, 500);
        let closed = sent(ACK | FIN, 0);
        assert!(!is_another(&answer(7), sent_again, closed));
    }

    #[test]
    fn what_a_syn_is() {
        assert!(is_syn(SYN) && is_syn(SYN | ACK) && is_syn(SYN | 0xc0));
        assert!(!is_syn(ACK) && !is_syn(SYN | FIN) && !is_syn(SYN | RST | ACK));
    }
}
