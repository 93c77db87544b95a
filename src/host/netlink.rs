//! What the kernel itself says of routes and interfaces: rtnetlink(7), asked over a socket that needs no
//! privilege. Nothing is changed.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// `RTMGRP_LINK` of linux/rtnetlink.h: interfaces that come, go and change.
const GROUP_LINK: u32 = 1;
/// `RTM_NEWROUTE` and `RTM_GETROUTE` of the same.
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
/// `NLM_F_REQUEST` of linux/netlink.h.
const REQUEST: u16 = 1;
/// `RTA_DST` of linux/rtnetlink.h.
const DESTINATION: u16 = 1;
/// Bytes of `struct nlmsghdr` and of `struct rtmsg`.
const HEADER_LEN: usize = 16;
const ROUTE_LEN: usize = 12;
/// Route types whose packets a socket bound to any address takes: `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`.
const OURS: [u8; 3] = [2, 3, 4];

fn open(groups: u32) -> io::Result<OwnedFd> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(netlink)
}

/// Tells that interfaces came, went or changed.
pub struct LinkWatch(OwnedFd);

impl LinkWatch {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// As socket(2) and bind(2).
    pub fn start() -> io::Result<Self> {
        open(GROUP_LINK).map(Self)
    }

    /// Whether something has changed since this was last asked.
    pub fn has_changed(&mut self) -> bool {
        let mut has_changed = false;
        let mut message = [0; 4096];
        loop {
            match recv(self.0.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(_) => has_changed = true,
                // There were more than the kernel kept for us.
                Err(Errno::ENOBUFS) => has_changed = true,
                Err(Errno::EINTR) => {}
                Err(_) => return has_changed,
            }
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks where packets go.
pub struct Routes {
    netlink: OwnedFd,
    number: u32,
}

impl Routes {
    /// Ready to be asked.
    ///
    /// # Errors
    ///
    /// As socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            netlink: open(0)?,
            number: 0,
        })
    }

    /// Whether packets to `ip` are for this machine, so that a socket bound to any address takes them: its
    /// own addresses, those of a local route (`ip route add local`), broadcast. `false` where the kernel does
    /// not say.
    pub fn is_ours(&mut self, ip: IpAddr) -> bool {
        self.number = self.number.wrapping_add(1);
        let fd = self.netlink.as_raw_fd();
        let request = request(ip, self.number);
        if send(fd, &request, MsgFlags::empty()) != Ok(request.len()) {
            return false;
        }
        let mut answer = [0; 4096];
        // The kernel answers before the call that asks returns. Older answers may lie in front.
        while let Ok(len) = recv(fd, &mut answer, MsgFlags::MSG_DONTWAIT) {
            let answer = answer.get(..len).unwrap_or_default();
            if let Some(kind) = route_type(answer, self.number) {
                return OURS.contains(&kind);
            }
        }
        false
    }
}

/// The question for the route to `ip`, with a number that the answer repeats. Pure.
fn request(ip: IpAddr, number: u32) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(v4) => (AddressFamily::Inet, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::Inet6, v6.octets().to_vec()),
    };
    let attribute_len = 4 + address.len();
    let len = HEADER_LEN + ROUTE_LEN + attribute_len;
    let half = |number: usize| u16::try_from(number).unwrap_or(u16::MAX).to_ne_bytes();
    let mut message = u32::try_from(len)
        .unwrap_or(u32::MAX)
        .to_ne_bytes()
        .to_vec();
    message.extend([GET_ROUTE.to_ne_bytes(), REQUEST.to_ne_bytes()].concat());
    message.extend([number.to_ne_bytes(), [0; 4]].concat());
    let prefix_len = u8::try_from(8 * address.len()).unwrap_or(u8::MAX);
    message.extend([family as i32 as u8, prefix_len]);
    message.resize(HEADER_LEN + ROUTE_LEN, 0);
    message.extend([half(attribute_len), DESTINATION.to_ne_bytes()].concat());
    message.extend(address);
    message
}

/// `rtm_type` of the answer to question `number`; an error has none, which is 0. `None` when this is the
/// answer to another question. Pure.
fn route_type(answer: &[u8], number: u32) -> Option<u8> {
    let (kind, rest) = answer.get(4..)?.split_first_chunk::<2>()?;
    let asked = rest.get(2..)?.first_chunk::<4>()?;
    if u32::from_ne_bytes(*asked) != number {
        return None;
    }
    if u16::from_ne_bytes(*kind) != NEW_ROUTE {
        return Some(0);
    }
    answer.get(HEADER_LEN + 7).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_what_is_ours() {
        let mut routes = Routes::open().unwrap();
        let cases = [
            ("127.0.0.1", true),
            // Listed nowhere, but of this machine: 127.0.0.0/8 is a local route.
            ("127.3.4.5", true),
            // Documentation (RFC 5737, RFC 3849).
            ("203.0.113.77", false),
            ("2001:db8::77", false),
        ];
        for _ in 0..2 {
            for (ip, is_ours) in cases {
                assert_eq!(routes.is_ours(ip.parse().unwrap()), is_ours, "{ip}");
            }
        }
        assert!(!LinkWatch::start().unwrap().has_changed());
    }

    /// Answers that are cut or of another kind say nothing, or no.
    #[test]
    fn answers_are_read_with_care() {
        let mut answer = request("10.0.0.1".parse().unwrap(), 7);
        assert_eq!(answer.len(), 36);
        assert_eq!(route_type(&answer, 7), Some(0), "a question is no answer");
        answer[4..6].copy_from_slice(&NEW_ROUTE.to_ne_bytes());
        answer[HEADER_LEN + 7] = 2;
        assert_eq!(route_type(&answer, 7), Some(2));
        assert_eq!(route_type(&answer, 8), None, "another question's");
        for len in 0..answer.len() {
            let kind = route_type(&answer[..len], 7);
            assert_eq!(kind.is_some(), len > HEADER_LEN + 7, "{len} bytes");
        }
    }
}
