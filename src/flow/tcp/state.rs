//! How far each end of a connection got, and what that makes of the connection: Zeek's endpoint states
//! (`TCPSessionAdapter::UpdateStateMachine`) and `conn_state` (`scripts/base/protocols/conn/main.zeek`).

use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// How far one end got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    /// Nothing that tells.
    #[default]
    Inactive,
    /// Its SYN.
    SynSent,
    /// Its SYN with ACK, though it is the originator.
    SynAckSent,
    /// Packets, but neither SYN nor what follows one.
    Partial,
    /// The connection is open as far as it is concerned.
    Established,
    /// Its FIN.
    Closed,
    /// Its RST.
    Reset,
    /// Its RST behind its FIN.
    ResetAfterClose,
}

impl End {
    /// From three bits.
    pub(super) const fn of_bits(bits: u16) -> Self {
        match bits & 7 {
            0 => Self::Inactive,
            1 => Self::SynSent,
            2 => Self::SynAckSent,
            3 => Self::Partial,
            4 => Self::Established,
            5 => Self::Closed,
            6 => Self::Reset,
            _ => Self::ResetAfterClose,
        }
    }

    pub(super) const fn is_reset(self) -> bool {
        matches!(self, Self::Reset | Self::ResetAfterClose)
    }

    /// Whether no SYN or answer to one was seen from this end.
    const fn is_silent(self) -> bool {
        matches!(self, Self::Inactive | Self::Partial)
    }
}

/// What a packet of `own` with these flags makes of both ends. `has_data` tells whether it has payload.
pub(super) const fn follow(
    own: End,
    peer: End,
    flags: u16,
    has_data: bool,
    is_originator: bool,
) -> (End, End) {
    let (syn, ack) = (flags & SYN != 0, flags & ACK != 0);
    let (fin, rst) = (flags & FIN != 0, flags & RST != 0);
    match own {
        End::Inactive => {
            let (mut now, mut other) = (own, peer);
            if syn && is_originator {
                now = match (ack, peer) {
                    (true, _) => End::SynAckSent,
                    // The mirror swapped SYN and answer.
                    (false, End::Established) => End::Established,
                    (false, _) => End::SynSent,
                };
            } else if syn {
                if matches!(peer, End::SynSent) {
                    other = End::Established;
                }
                now = End::Established;
            }
            if fin {
                now = End::Closed;
            }
            if rst {
                now = End::Reset;
            }
            if matches!(now, End::Inactive) {
                now = match peer {
                    // Some acknowledge a SYN before they send their own.
                    End::SynSent if !is_originator && !has_data => End::Inactive,
                    End::Established if ack => End::Established,
                    _ => End::Partial,
                };
            }
            (now, other)
        }
        End::SynSent | End::SynAckSent => match (rst, fin) {
            (true, _) => (End::Reset, peer),
            (false, true) => (End::Closed, peer),
            (false, false) => (own, peer),
        },
        End::Established | End::Partial => {
            if rst {
                (End::Reset, peer)
            } else if fin {
                // A FIN that was followed by a RST is answered: an ordinary end.
                let peer = match peer {
                    End::ResetAfterClose => End::Closed,
                    other => other,
                };
                (End::Closed, peer)
            } else if syn && !ack && matches!((own, peer), (End::Partial, End::Inactive)) {
                (End::SynSent, peer)
            } else {
                (own, peer)
            }
        }
        End::Closed if rst && !matches!(peer, End::Closed) => (End::ResetAfterClose, peer),
        End::Closed | End::Reset | End::ResetAfterClose => (own, peer),
    }
}

/// What became of a connection, with Zeek's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnState {
    /// A SYN without an answer.
    S0,
    /// Open.
    S1,
    /// Opened and closed by both sides.
    Sf,
    /// A SYN that was refused.
    Rej,
    /// Open; the originator has closed its side.
    S2,
    /// Open; the responder has closed its side.
    S3,
    /// Open until the originator's RST.
    Rsto,
    /// Open until the responder's RST.
    Rstr,
    /// The originator's SYN and RST, no SYN-ACK.
    Rstos0,
    /// The responder's SYN-ACK and RST, no SYN.
    Rstrh,
    /// The originator's SYN and FIN, no SYN-ACK.
    Sh,
    /// The responder's SYN-ACK and FIN, no SYN.
    Shr,
    /// None of these: no SYN was seen.
    Oth,
}

impl ConnState {
    /// As Zeek writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S0 => "S0",
            Self::S1 => "S1",
            Self::Sf => "SF",
            Self::Rej => "REJ",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::Rsto => "RSTO",
            Self::Rstr => "RSTR",
            Self::Rstos0 => "RSTOS0",
            Self::Rstrh => "RSTRH",
            Self::Sh => "SH",
            Self::Shr => "SHR",
            Self::Oth => "OTH",
        }
    }

    /// From the states of originator and responder; whether either sent data, and the history's letters.
    pub(super) fn of(originator: End, responder: End, has_data: bool, letters: &[u8]) -> Self {
        use End::{Closed, Established, Inactive, SynAckSent, SynSent};
        match (originator, responder) {
            (SynSent | SynAckSent, end) if end.is_reset() => Self::Rej,
            (o, r) if r.is_reset() && o.is_reset() && !has_data => Self::Rej,
            (o, r) if r.is_reset() && o.is_silent() => Self::Rstrh,
            (_, r) if r.is_reset() => Self::Rstr,
            (o, r) if o.is_reset() && r.is_silent() => {
                if is_syn_and_rst(letters) {
                    Self::Rstos0
                } else {
                    Self::Oth
                }
            }
            (o, _) if o.is_reset() => Self::Rsto,
            (Closed, Closed) => Self::Sf,
            (Closed, r) if r.is_silent() => Self::Sh,
            (Closed, _) => Self::S2,
            (o, Closed) if o.is_silent() => Self::Shr,
            (_, Closed) => Self::S3,
            (SynSent, Inactive) => Self::S0,
            (Established, Established) => Self::S1,
            _ => Self::Oth,
        }
    }
}

/// Zeek's `/\^?S[^HAFGIQ]*R.*/`.
fn is_syn_and_rst(letters: &[u8]) -> bool {
    let letters = letters.strip_prefix(b"^").unwrap_or(letters);
    let [b'S', rest @ ..] = letters else {
        return false;
    };
    let first = rest.iter().find(|letter| b"HAFGIQR".contains(letter));
    first == Some(&b'R')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = 0x1000;

    /// What becomes of packets: flags, `DATA` for payload, by the originator or not.
    fn after(packets: &[(bool, u16)]) -> (End, End) {
        let (mut originator, mut responder) = (End::default(), End::default());
        for (by_originator, flags) in packets {
            let has_data = flags & DATA != 0;
            if *by_originator {
                (originator, responder) = follow(originator, responder, *flags, has_data, true);
            } else {
                (responder, originator) = follow(responder, originator, *flags, has_data, false);
            }
        }
        (originator, responder)
    }

    #[test]
    fn names_of_zeek() {
        const O: bool = true;
        const R: bool = false;
        let open = [(O, SYN), (R, SYN | ACK), (O, ACK)];
        let with = |more: &[(bool, u16)]| [&open[..], more].concat();
        let fin = FIN | ACK;
        for (packets, letters, expected) in [
            (vec![(O, SYN), (O, SYN)], "S", "S0"),
            (vec![(O, SYN), (R, ACK)], "Sa", "S0"),
            (with(&[]), "ShA", "S1"),
            (vec![(O, SYN), (R, SYN | ACK)], "Sh", "S1"),
            (vec![(R, SYN | ACK), (O, SYN), (O, ACK)], "^hSA", "S1"),
            (vec![(R, SYN | ACK), (O, ACK)], "^hA", "S1"),
            (vec![(O, SYN), (R, SYN)], "Ss", "S1"),
            (with(&[(O, fin), (R, fin), (O, ACK)]), "ShAFf", "SF"),
            (vec![(O, SYN), (R, RST | ACK)], "Sr", "REJ"),
            (vec![(O, SYN), (R, RST | ACK), (O, RST)], "SrR", "REJ"),
            (with(&[(O, fin), (R, ACK)]), "ShAFa", "S2"),
            (with(&[(R, fin), (O, ACK)]), "ShAf", "S3"),
            (with(&[(O, RST)]), "ShAR", "RSTO"),
            (with(&[(R, RST)]), "ShAr", "RSTR"),
            (vec![(O, SYN), (O, RST)], "SR", "RSTOS0"),
            (vec![(O, SYN), (O, ACK), (O, RST)], "SAR", "OTH"),
            (vec![(R, SYN | ACK), (R, RST)], "^hr", "RSTRH"),
            (vec![(O, SYN), (O, fin)], "SF", "SH"),
            (vec![(R, SYN | ACK), (R, fin)], "^hf", "SHR"),
            (vec![(O, ACK), (R, ACK | DATA)], "Ad", "OTH"),
            (vec![(O, ACK), (R, ACK), (O, fin), (R, fin)], "AaFf", "SF"),
            // The client is in a hurry: RST behind its FIN, then the server's FIN.
            (with(&[(O, fin), (O, RST), (R, fin)]), "ShAFRf", "SF"),
            (with(&[(O, fin), (O, RST), (R, ACK)]), "ShAFRa", "RSTO"),
            (with(&[(O, fin), (R, fin), (R, RST)]), "ShAFfr", "SF"),
            (vec![(O, RST)], "R", "OTH"),
            // A half that was mirrored alone, the originator's and the responder's.
            (vec![(O, SYN), (O, ACK), (O, fin)], "SAF", "SH"),
            (vec![(O, SYN), (O, ACK)], "SA", "S0"),
        ] {
            let (originator, responder) = after(&packets);
            let has_data = packets.iter().any(|(_, flags)| flags & DATA != 0);
            let state = ConnState::of(originator, responder, has_data, letters.as_bytes());
            assert_eq!(
                state.name(),
                expected,
                "{letters}: {originator:?} {responder:?}"
            );
        }
    }

    #[test]
    fn a_syn_and_a_reset() {
        for (letters, expected) in [
            ("SR", true),
            ("^SR", true),
            ("SrTaR", true),
            ("SAR", false),
            ("SHR", false),
            ("ShADR", false),
            ("S", false),
            ("R", false),
            ("", false),
        ] {
            assert_eq!(is_syn_and_rst(letters.as_bytes()), expected, "{letters}");
        }
    }

    /// Three bits hold every state.
    #[test]
    fn states_survive_their_bits() {
        for bits in 0..8 {
            assert_eq!(End::of_bits(bits) as u16, bits);
        }
    }
}
