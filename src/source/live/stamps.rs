//! Times of arrival from the first packet on.
//!
//! The kernel stamps packets as they arrive only while some socket on the machine wants it, and begins up to some
//! milliseconds after the first one does (net_enable_timestamp, net/core/dev.c). Until then a datagram's time is
//! the one at which it is read: too late, and behind the end of a run that ends meanwhile.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::sockets::{Gro, UdpSource};
use crate::source::Source;
use crate::stop::wall_clock_ns;

/// How often it is looked whether the kernel stamps, and how long is waited for it each time.
const LOOKS: u32 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Wants stamps: as long as this lives the kernel does not stop to make them.
pub struct Stamps {
    _socket: Option<UdpSource>,
}

impl Stamps {
    /// Waits until packets are stamped as they arrive. Where that cannot be found out, on a machine without a
    /// loopback address, it is not waited for.
    pub fn begin() -> Self {
        let mut socket = UdpSource::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], 1, Gro::Off).ok();
        for _ in 0..LOOKS {
            if socket.as_mut().and_then(is_stamped) != Some(false) {
                break;
            }
        }
        Self { _socket: socket }
    }
}

/// Whether a datagram that waits in the socket has the time at which it was sent.
fn is_stamped(socket: &mut UdpSource) -> Option<bool> {
    let address = *socket.addresses().first()?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    sender.send_to(&[0], address).ok()?;
    let sent_ns = wall_clock_ns();
    std::thread::sleep(LOOK_EVERY);
    let mut is_stamped = None;
    let read = socket.next_batch(1, |arrival| is_stamped = Some(arrival.ts_ns() <= sent_ns));
    read.ok().and(is_stamped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_its_time_of_arrival() {
        let _stamps = Stamps::begin();
        for _ in 0..3 {
            let mut socket =
                UdpSource::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], 1, Gro::Off).unwrap();
            assert_eq!(is_stamped(&mut socket), Some(true));
        }
    }
}
