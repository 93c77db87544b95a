//! How long a flow lives: the silence that ends it, and the time after which a record of one that goes on is
//! handed out. Pure: told from the flow's own packets alone, so that the answer does not depend on who asks.

use super::ended::EndReason;
use super::tcp::Side;
use crate::wire::numbers::protocol;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;

/// Time is looked at in steps of so many nanoseconds, as a power of two: about 268 ms.
pub const STEP_BITS: u32 = 28;

/// The step that a time is in.
#[inline]
pub const fn step(ts_ns: u64) -> u64 {
    ts_ns >> STEP_BITS
}

/// After how much silence flows end, and after which time their records are handed out although they go on. In
/// nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// TCP.
    pub tcp_ns: u64,
    /// TCP where somebody asked and nobody answered.
    pub tcp_new_ns: u64,
    /// TCP after the FIN of each side that was heard.
    pub fin_ns: u64,
    /// TCP after an RST.
    pub rst_ns: u64,
    /// UDP.
    pub udp_ns: u64,
    /// ICMP and ICMPv6.
    pub icmp_ns: u64,
    /// Everything else, later fragments included.
    pub other_ns: u64,
    /// Most time from the first packet of a record to its last; 0 for no limit.
    pub active_ns: u64,
    /// Records end at every multiple of it since 1970, whether their flows do or not; 0 for never.
    pub interval_ns: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self::USUAL
    }
}

/// What a flow is doing, as far as it decides how long silence may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A SYN that nobody has answered.
    TcpNew,
    /// A connection.
    Tcp,
    /// One that each side heard has closed.
    TcpFin,
    /// One that was reset.
    TcpRst,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Anything else.
    Other,
}

impl State {
    /// Of a flow of `protocol` whose sides have sent so much.
    pub fn of(protocol: Option<u8>, a: Side, b: Side) -> Self {
        match protocol {
            Some(protocol::TCP) => Self::of_tcp(a, b),
            Some(protocol::UDP) => Self::Udp,
            Some(protocol::ICMP | protocol::ICMPV6) => Self::Icmp,
            _ => Self::Other,
        }
    }

    fn of_tcp(a: Side, b: Side) -> Self {
        let flags = a.flags | b.flags;
        let done = |side: Side| !side.seen || side.flags & FIN != 0;
        if flags & RST != 0 {
            Self::TcpRst
        } else if flags & FIN != 0 && done(a) && done(b) {
            Self::TcpFin
        } else if flags & SYN != 0 && flags & ACK == 0 && !(a.seen && b.seen) {
            Self::TcpNew
        } else {
            Self::Tcp
        }
    }

    /// Why silence ends a flow that is doing this.
    pub const fn reason(self) -> EndReason {
        match self {
            Self::TcpFin | Self::TcpRst => EndReason::EndOfFlow,
            Self::TcpNew | Self::Tcp | Self::Udp | Self::Icmp | Self::Other => EndReason::Idle,
        }
    }
}

impl Lifetimes {
    /// What applies where nothing else is asked for.
    pub const USUAL: Self = Self {
        tcp_ns: 300 * SECOND_NS,
        tcp_new_ns: 30 * SECOND_NS,
        fin_ns: 10 * SECOND_NS,
        rst_ns: 5 * SECOND_NS,
        udp_ns: 60 * SECOND_NS,
        icmp_ns: 30 * SECOND_NS,
        other_ns: 60 * SECOND_NS,
        active_ns: 300 * SECOND_NS,
        interval_ns: 0,
    };

    /// The silence that ends a flow in `state`.
    pub const fn idle_ns(&self, state: State) -> u64 {
        match state {
            State::TcpNew => self.tcp_new_ns,
            State::Tcp => self.tcp_ns,
            State::TcpFin => self.fin_ns,
            State::TcpRst => self.rst_ns,
            State::Udp => self.udp_ns,
            State::Icmp => self.icmp_ns,
            State::Other => self.other_ns,
        }
    }

    /// The shortest of them all: less silence than that ends nothing.
    pub fn shortest_ns(&self) -> u64 {
        let Self {
            tcp_ns,
            tcp_new_ns,
            fin_ns,
            rst_ns,
            udp_ns,
            icmp_ns,
            other_ns,
            active_ns: _,
            interval_ns: _,
        } = *self;
        [
            tcp_ns, tcp_new_ns, fin_ns, rst_ns, udp_ns, icmp_ns, other_ns,
        ]
        .into_iter()
        .min()
        .unwrap_or_default()
    }

    /// The first step in which a flow in `state`, last heard at `last_ns`, is known to be over without a packet of
    /// its own: a little behind the end, since packets come a little out of order.
    pub const fn over_at(&self, state: State, last_ns: u64) -> u64 {
        step(last_ns.saturating_add(self.idle_ns(state))).saturating_add(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sent(flags: u16) -> Side {
        Side {
            seen: true,
            flags,
            syn: 0,
        }
    }

    const SILENT: Side = Side {
        seen: false,
        flags: 0,
        syn: 0,
    };

    #[test]
    fn what_tcp_is_doing() {
        for (a, b, state) in [
            (sent(SYN), SILENT, State::TcpNew),
            (SILENT, sent(SYN), State::TcpNew),
            (sent(SYN), sent(SYN | ACK), State::Tcp),
            // One direction only, and it was answered.
            (SILENT, sent(SYN | ACK), State::Tcp),
            (sent(SYN | ACK), SILENT, State::Tcp),
            // In the middle, or cut before its flags.
            (sent(ACK), SILENT, State::Tcp),
            (sent(0), SILENT, State::Tcp),
            (sent(SYN | ACK | FIN), sent(ACK), State::Tcp),
            (sent(ACK | FIN), sent(ACK | FIN), State::TcpFin),
            (sent(ACK | FIN), SILENT, State::TcpFin),
            (sent(SYN), sent(RST | ACK), State::TcpRst),
        ] {
            assert_eq!(State::of(Some(6), a, b), state, "{a:?} {b:?}");
        }
        assert_eq!(State::of(Some(17), sent(0), SILENT), State::Udp);
        assert_eq!(State::of(Some(58), sent(0), SILENT), State::Icmp);
        assert_eq!(State::of(Some(132), sent(0), SILENT), State::Other);
        assert_eq!(State::of(None, sent(0), SILENT), State::Other);
    }

    #[test]
    fn over_behind_the_end() {
        let lifetimes = Lifetimes::default();
        let last = 7 * SECOND_NS;
        for state in [State::TcpRst, State::Tcp, State::Udp] {
            let end = last + lifetimes.idle_ns(state);
            let over = lifetimes.over_at(state, last) << STEP_BITS;
            // Records are out within a second of the end, with another step for who looks.
            assert!(over > end && over - end + (1 << STEP_BITS) < SECOND_NS);
        }
        assert_eq!(lifetimes.shortest_ns(), 5 * SECOND_NS);
        let _ = lifetimes.over_at(State::Tcp, u64::MAX);
    }
}
