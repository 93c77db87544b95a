//! Messages to a collector over UDP: a datagram each (RFC 7011 §10.3). Nobody confirms them; what is known is that the
//! kernel took them, or that the collector's machine refused one.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::Sent;
use crate::export::ipfix::{Message, Session};

/// Messages a second: some 40,000 records. A collector's socket holds some hundred messages, and what comes while
/// it is full is lost without a word.
const MOST_A_SECOND: u32 = 10_000;
/// Messages between two looks at the clock.
const PACE_EVERY: u32 = 32;

/// The way to a collector over UDP.
pub struct Udp {
    socket: UdpSocket,
    session: Session,
    sent: Sent,
    /// Flow records of the last message: whether it was refused shows with the next one.
    in_doubt: u64,
    /// Messages that were refused.
    refused: u64,
    /// Why the last one that failed did.
    fault: Option<io::Error>,
    /// The last thing that is known of one is that it failed.
    was_refused: bool,
    pace: Pace,
}

impl Udp {
    /// Sends to the first of `addresses` from a port that the system chooses.
    ///
    /// # Errors
    ///
    /// As the system says: there may be no way to it.
    pub fn open(addresses: &[SocketAddr], domain: u32) -> io::Result<Self> {
        let Some(address) = addresses.first() else {
            return Err(ErrorKind::NotFound.into());
        };
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        Ok(Self {
            socket,
            session: Session::new(domain),
            sent: Sent::default(),
            in_doubt: 0,
            refused: 0,
            fault: None,
            was_refused: false,
            pace: Pace::default(),
        })
    }

    /// Sends a message, at `export_s` seconds since 1970.
    pub fn send(&mut self, mut message: Message, export_s: u32) {
        self.pace.step();
        self.settle();
        self.session.stamp(&mut message, export_s);
        let mut sent = self.socket.send(message.bytes());
        if let Err(error) = &sent
            && error.kind() == ErrorKind::ConnectionRefused
        {
            // That was told of an earlier message, and this one did not go out.
            self.refuse(ErrorKind::ConnectionRefused.into());
            sent = self.socket.send(message.bytes());
        }
        match sent {
            Ok(_) => {
                self.in_doubt = message.flows();
                self.sent.messages += 1;
                self.sent.bytes += message.bytes().len() as u64;
            }
            Err(error) => {
                self.in_doubt = message.flows();
                self.refuse(error);
            }
        }
    }

    /// Looks what became of the last message, if nothing was heard of it for a while.
    pub fn settle(&mut self) {
        match self.socket.take_error() {
            Ok(Some(error)) => self.refuse(error),
            _ if self.in_doubt > 0 => {
                self.sent.flows += std::mem::take(&mut self.in_doubt);
                self.was_refused = false;
            }
            _ => {}
        }
    }

    fn refuse(&mut self, error: io::Error) {
        self.sent.lost += std::mem::take(&mut self.in_doubt);
        self.refused += 1;
        self.fault = Some(error);
        self.was_refused = true;
    }

    /// Counts flow records that no message holds.
    pub const fn lose(&mut self, flows: u64) {
        self.sent.lost += flows;
    }

    /// Whether the last message that something is known of was refused.
    pub const fn was_refused(&self) -> bool {
        self.was_refused
    }

    /// Messages that were refused, as far as that is known.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// What went wrong with a message, once.
    pub const fn take_fault(&mut self) -> Option<io::Error> {
        self.fault.take()
    }

    /// What became of messages so far.
    pub const fn sent(&self) -> Sent {
        self.sent
    }
}

/// Keeps messages from following each other too fast.
#[derive(Default)]
struct Pace {
    messages: u32,
    since: Option<std::time::Instant>,
}

impl Pace {
    #[allow(
        clippy::disallowed_methods,
        reason = "once in so many messages, to send no faster"
    )]
    fn step(&mut self) {
        self.messages += 1;
        if self.messages < PACE_EVERY {
            return;
        }
        self.messages = 0;
        let takes = Duration::from_secs(1) * PACE_EVERY / MOST_A_SECOND;
        if let Some(since) = self.since
            && let Some(left) = takes.checked_sub(since.elapsed())
        {
            std::thread::sleep(left);
        }
        self.since = Some(std::time::Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ipfix::Encoder;
    use crate::flow::record::FlowRecord;

    fn message(records: u64) -> Message {
        let mut encoder = Encoder::new(1, 16 << 10);
        let mut messages = Vec::new();
        for n in 0..records {
            let record = FlowRecord::sample(n * 3);
            encoder
                .add(&record, &mut |message| messages.push(message))
                .unwrap();
        }
        encoder.flush(&mut |message| messages.push(message));
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }

    /// On one machine the refusal is there before the next message: each is counted for what it was.
    #[test]
    fn refusals_are_counted_with_their_messages() {
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = there.local_addr().unwrap();
        let mut udp = Udp::open(&[address], 1).unwrap();
        udp.send(message(1), 0);
        assert_eq!(udp.sent().flows, 0);
        udp.settle();
        assert_eq!((udp.sent().flows, udp.sent().lost), (1, 0));
        drop(there);
        udp.send(message(2), 0);
        udp.send(message(4), 0);
        assert_eq!((udp.sent().flows, udp.sent().lost), (1, 2));
        // The refusal of the first shows with the second, whose own does not.
        assert_eq!(udp.refused(), 1);
        assert!(udp.take_fault().is_some() && udp.take_fault().is_none());
        let _there = UdpSocket::bind(address).unwrap();
        udp.send(message(8), 0);
        udp.settle();
        assert_eq!((udp.sent().flows, udp.sent().lost), (9, 6));
    }
}
