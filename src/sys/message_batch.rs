//! recvmmsg(2) with its control messages (cmsg(3)): many datagrams a call, each with its time of arrival, the
//! socket's count of drops, where it was sent to, and the length of its segments.
//!
//! nix has recvmmsg(2) too. It prepares the room for control messages once: the kernel writes the length it
//! used into `msg_controllen`, and a later datagram in that slot has no more room than the one before it, so
//! that a time or a drop count would be missing. Here every header is written anew before each call.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::UDP_GRO;

/// Room for a timestamp, a drop counter and a destination address, with their headers.
const CONTROL_LEN: usize = 256;

/// Longest UDP payload there is, rounded up.
pub const MAX_PAYLOAD: usize = 65_536;

/// Slots that one recvmmsg call fills. Each has a place of its own for what is longer than a slot: most
/// datagrams are short, and short slots stay in the cache.
pub struct MessageBatch {
    slots: usize,
    slot_len: usize,
    /// Distance of slots: a little more than their length, or all of them would share cache sets.
    stride: usize,
    bytes: Vec<u8>,
    /// Behind the slots; memory that is not touched before a long datagram comes.
    rests: Vec<u8>,
    rest_len: usize,
    /// A long datagram put together.
    joined: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    iovecs: Vec<[libc::iovec; 2]>,
    headers: Vec<libc::mmsghdr>,
    received: usize,
}

/// Control messages of one datagram, aligned as the kernel's headers are.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL_LEN]);

// SAFETY: the pointers in `iovecs` and `headers` lead into this struct's own vectors, are written anew
// before each system call and are never followed by anything else; moving it to another thread moves
// the ownership of what they lead to along.
unsafe impl Send for MessageBatch {}

/// One message of a batch: a datagram, or a train of them.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The payload, the whole of it: a slot and its rest together hold [`MAX_PAYLOAD`].
    pub payload: &'a [u8],
    /// Who sent it.
    pub src: Option<SocketAddr>,
    /// Kernel time of arrival, nanoseconds since 1970.
    pub ts_ns: Option<u64>,
    /// The socket's count of drops so far; wraps.
    pub drops: Option<u32>,
    /// The address it was sent to, where the socket was asked to tell.
    pub dst: Option<IpAddr>,
    /// The payload is a train of datagrams of so many bytes, the last may be shorter (UDP_GRO).
    pub segment_len: Option<usize>,
}

impl MessageBatch {
    /// `slots` slots of `slot_len` bytes.
    pub fn new(slots: usize, slot_len: usize) -> Self {
        let slot_len = slot_len.min(MAX_PAYLOAD);
        let (stride, rest_len) = Self::layout(slot_len);
        // SAFETY: all-zero bytes are valid for these plain C structures: null pointers and no lengths.
        let (name, iovec, header) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            slots,
            slot_len,
            stride,
            bytes: vec![0; slots * stride],
            rests: vec![0; slots * rest_len],
            rest_len,
            joined: Vec::with_capacity(MAX_PAYLOAD),
            names: vec![name; slots],
            controls: vec![Control([0; CONTROL_LEN]); slots],
            iovecs: vec![iovec; slots],
            headers: vec![header; slots],
            received: 0,
        }
    }

    /// Bytes of memory it may take.
    pub const fn memory_bytes(&self) -> usize {
        Self::bytes_of(self.slots, self.slot_len)
    }

    /// Bytes of memory that `slots` slots of `slot_len` bytes may take.
    pub const fn bytes_of(slots: usize, slot_len: usize) -> usize {
        let slot_len = if slot_len < MAX_PAYLOAD {
            slot_len
        } else {
            MAX_PAYLOAD
        };
        let (stride, rest_len) = Self::layout(slot_len);
        let headers = size_of::<libc::sockaddr_storage>()
            + size_of::<Control>()
            + 2 * size_of::<libc::iovec>()
            + size_of::<libc::mmsghdr>();
        slots * (stride + rest_len + headers) + MAX_PAYLOAD
    }

    /// Bytes from one slot to the next, and bytes of a slot's place elsewhere.
    const fn layout(slot_len: usize) -> (usize, usize) {
        (slot_len.next_multiple_of(64) + 192, MAX_PAYLOAD - slot_len)
    }

    /// Takes up to `most` messages that are waiting. Without any it waits for the first one, if it is to
    /// `wait`, for as long as the socket's timeout says.
    ///
    /// # Errors
    ///
    /// As recvmmsg(2); `WouldBlock` when nothing came.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        most: usize,
        wait: bool,
    ) -> io::Result<usize> {
        let most = self.prepare(most);
        // MSG_TRUNC makes msg_len the datagram's length even where there is less room.
        let waiting = if wait {
            libc::MSG_WAITFORONE
        } else {
            libc::MSG_DONTWAIT
        };
        let flags = waiting | libc::MSG_TRUNC;
        // SAFETY: `prepare` has just pointed the first `most` headers at live, disjoint memory of the lengths they
        // state (`rests` has `rest_len` bytes for each slot), which nothing else touches during the call;
        // no timeout is passed.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                most as libc::c_uint,
                flags as _,
                std::ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// Points the headers of up to `most` slots at their memory; tells how many.
    fn prepare(&mut self, most: usize) -> usize {
        self.received = 0;
        let most = most.min(self.slots);
        let slots = self.bytes.chunks_exact_mut(self.stride);
        let parts = self
            .names
            .iter_mut()
            .zip(&mut self.controls)
            .zip(&mut self.iovecs)
            .zip(&mut self.headers);
        let rests = self.rests.as_mut_ptr();
        for (at, ((((name, control), iovecs), header), slot)) in
            parts.zip(slots).take(most).enumerate()
        {
            let [first, rest] = iovecs;
            first.iov_base = slot.as_mut_ptr().cast();
            first.iov_len = self.slot_len;
            rest.iov_base = rests.wrapping_add(at * self.rest_len).cast();
            rest.iov_len = self.rest_len;
            header.msg_len = 0;
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = iovecs.as_mut_ptr();
            header.msg_hdr.msg_iovlen = if self.rest_len == 0 { 1 } else { 2 };
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN as _;
            header.msg_hdr.msg_flags = 0;
        }
        most
    }

    /// Message number `at` of the last [`Self::receive`].
    pub fn message(&mut self, at: usize) -> Option<Message<'_>> {
        if at >= self.received {
            return None;
        }
        let header = self.headers.get(at)?;
        let len = header.msg_len as usize;
        let slot = self.bytes.get(at * self.stride..)?;
        let payload = if len <= self.slot_len {
            slot.get(..len)?
        } else {
            let rest = self.rests.get(at * self.rest_len..)?;
            let rest_len = (len - self.slot_len).min(self.rest_len);
            self.joined.clear();
            self.joined.extend_from_slice(slot.get(..self.slot_len)?);
            self.joined.extend_from_slice(rest.get(..rest_len)?);
            &self.joined
        };
        let mut message = Message {
            payload,
            src: self.names.get(at).and_then(socket_addr),
            ts_ns: None,
            drops: None,
            dst: None,
            segment_len: None,
        };
        read_controls(&header.msg_hdr, &mut message);
        Some(message)
    }
}

#[allow(clippy::unnecessary_cast, reason = "cmsg_len is narrower with musl")]
fn read_controls(header: &libc::msghdr, message: &mut Message<'_>) {
    // SAFETY: the kernel filled `msg_control` with `msg_controllen` bytes of control messages; both still
    // describe a live slot of `MessageBatch::controls`, which is aligned for them. CMSG_FIRSTHDR and
    // CMSG_NXTHDR return only headers that lie within those bytes, and no more is read of a message than
    // is left of them, whatever its length says.
    unsafe {
        let end = header
            .msg_control
            .cast::<u8>()
            .wrapping_add(header.msg_controllen as usize);
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(head) = control.as_ref() {
            let data = libc::CMSG_DATA(control);
            let len = (head.cmsg_len as usize)
                .saturating_sub(data.addr() - control.addr())
                .min(end.addr().saturating_sub(data.addr()));
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if len >= size_of::<libc::timespec>() => {
                    let time = data.cast::<libc::timespec>().read_unaligned();
                    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
                    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
                    message.ts_ns = seconds
                        .checked_mul(1_000_000_000)
                        .and_then(|ns| ns.checked_add(nanoseconds));
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if len >= size_of::<u32>() => {
                    message.drops = Some(data.cast::<u32>().read_unaligned());
                }
                (libc::SOL_UDP, UDP_GRO) if len >= size_of::<libc::c_int>() => {
                    let segment_len = data.cast::<libc::c_int>().read_unaligned();
                    message.segment_len = usize::try_from(segment_len).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if len >= size_of::<libc::in_pktinfo>() => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    message.dst = Some(IpAddr::V4(Ipv4Addr::from(
                        info.ipi_addr.s_addr.to_ne_bytes(),
                    )));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO)
                    if len >= size_of::<libc::in6_pktinfo>() =>
                {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    message.dst = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)));
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
}

fn socket_addr(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel stored a sockaddr_in here, and sockaddr_storage is
            // large enough and aligned for every address structure.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(
                address,
                u16::from_be(v4.sin_port),
            )))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(
                address,
                u16::from_be(v6.sin6_port),
                0,
                v6.sin6_scope_id,
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(
    clippy::unnecessary_cast,
    reason = "some lengths are narrower with musl"
)]
mod tests {
    use super::*;

    /// A control message, padded as the kernel does, that says it is `len` bytes long.
    fn control(level: libc::c_int, kind: libc::c_int, len: usize, data: &[u8]) -> Vec<u8> {
        // SAFETY: only arithmetic.
        let (head_len, space) = unsafe {
            (
                libc::CMSG_LEN(0) as usize,
                libc::CMSG_SPACE(data.len() as u32) as usize,
            )
        };
        let mut bytes = (head_len + len).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(head_len, 0);
        bytes.extend(data);
        bytes.resize(space, 0);
        bytes
    }

    fn whole(level: libc::c_int, kind: libc::c_int, data: &[u8]) -> Vec<u8> {
        control(level, kind, data.len(), data)
    }

    /// Time, drops, segment length and both kinds of destination.
    fn all_controls() -> Vec<Vec<u8>> {
        let time = [7i64, 9].map(i64::to_ne_bytes).concat();
        let v4 = [[1, 0, 0, 0], [10, 0, 0, 9], [10, 0, 0, 5]].concat();
        let v6 = [&[0xfd; 16][..], &[1, 0, 0, 0]].concat();
        vec![
            whole(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &time),
            whole(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &3u32.to_ne_bytes()),
            whole(libc::SOL_UDP, UDP_GRO, &1400i32.to_ne_bytes()),
            whole(libc::IPPROTO_IP, libc::IP_PKTINFO, &v4),
            whole(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &v6),
        ]
    }

    fn v4_name() -> libc::sockaddr_in {
        libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 50_000u16.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes([10, 0, 0, 1]),
            },
            sin_zero: [0; 8],
        }
    }

    impl MessageBatch {
        /// Does to slot `at`, which is prepared, what recvmmsg does, through the pointers it is handed.
        fn arrive<N: Copy>(&mut self, at: usize, payload: &[u8], name: &N, controls: &[u8]) {
            let header = &mut self.headers[at];
            header.msg_len = payload.len() as u32;
            let message = &mut header.msg_hdr;
            assert!(controls.len() <= message.msg_controllen as usize);
            assert!(size_of::<N>() <= message.msg_namelen as usize);
            message.msg_controllen = controls.len() as _;
            let mut left = payload;
            // SAFETY: as the kernel would: within the lengths stated in the header.
            unsafe {
                message.msg_name.cast::<N>().write(*name);
                let to = message.msg_control.cast::<u8>();
                to.copy_from(controls.as_ptr(), controls.len());
                for part in 0..message.msg_iovlen as usize {
                    let iovec = *message.msg_iov.add(part);
                    let (now, later) = left.split_at(left.len().min(iovec.iov_len));
                    let to = iovec.iov_base.cast::<u8>();
                    to.copy_from(now.as_ptr(), now.len());
                    left = later;
                }
            }
            self.received = self.received.max(at + 1);
        }
    }

    #[test]
    fn what_arrives_is_read_back() {
        let mut batch = MessageBatch::new(3, 100);
        let long: Vec<u8> = (0..1000u32).map(|at| at as u8).collect();
        let v6 = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 4789u16.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr {
                s6_addr: [0xfd; 16],
            },
            sin6_scope_id: 4,
        };
        // Twice: the slots are used again.
        for _ in 0..2 {
            assert_eq!(batch.prepare(9), 3, "as many as there are");
            assert!(batch.message(0).is_none(), "nothing came yet");
            batch.arrive(0, b"short", &v4_name(), &all_controls().concat());
            batch.arrive(1, &long, &v6, &[]);
            // No address that is known here.
            batch.arrive(2, &[], &(libc::AF_UNIX as libc::sa_family_t), &[]);
            let first = batch.message(0).unwrap();
            assert_eq!(first.payload, b"short");
            assert_eq!(first.src, "10.0.0.1:50000".parse().ok());
            assert_eq!((first.ts_ns, first.drops), (Some(7_000_000_009), Some(3)));
            assert_eq!(first.segment_len, Some(1400));
            // The last one counts.
            assert_eq!(first.dst, Some(IpAddr::from([0xfd; 16])));
            let second = batch.message(1).unwrap();
            assert_eq!(second.payload, long);
            let scoped = SocketAddrV6::new([0xfd; 16].into(), 4789, 0, 4);
            assert_eq!(second.src, Some(SocketAddr::V6(scoped)));
            assert_eq!((second.ts_ns, second.drops, second.dst), (None, None, None));
            let third = batch.message(2).unwrap();
            assert_eq!((third.payload.len(), third.src), (0, None));
            assert!(batch.message(3).is_none());
        }
    }

    #[test]
    fn a_slot_for_the_longest_has_no_second_part() {
        let mut batch = MessageBatch::new(1, MAX_PAYLOAD);
        assert_eq!(batch.prepare(1), 1);
        let payload = vec![5; MAX_PAYLOAD];
        batch.arrive(0, &payload, &v4_name(), &[]);
        assert!(batch.message(0).unwrap().payload == payload);
    }

    /// The room for control messages may be too small for them: what is whole is read, nothing beyond.
    #[test]
    fn control_messages_that_are_cut() {
        let mut batch = MessageBatch::new(1, 100);
        for control in all_controls() {
            for len in 0..=control.len() {
                batch.prepare(1);
                batch.arrive(0, b"x", &v4_name(), &control[..len]);
                let message = batch.message(0).unwrap();
                let found = message.ts_ns.is_some()
                    || message.drops.is_some()
                    || message.segment_len.is_some()
                    || message.dst.is_some();
                let data_len = usize::from_ne_bytes(*control.first_chunk().unwrap());
                assert_eq!(found, len >= data_len, "{len} of {data_len} bytes");
            }
        }
        // At the very end of the room, with lengths that lie.
        for lie in [0, 4, 16, 20, 200, usize::MAX / 2] {
            let timestamp = control(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, lie, &[]);
            let mut controls = whole(0, 0, &vec![0; CONTROL_LEN - 2 * timestamp.len()]);
            controls.extend(timestamp);
            assert_eq!(controls.len(), CONTROL_LEN);
            batch.prepare(1);
            batch.arrive(0, b"x", &v4_name(), &controls);
            assert_eq!(batch.message(0).unwrap().ts_ns, None, "{lie}");
        }
    }

    /// Times that no clock shows are no times.
    #[test]
    fn times_out_of_range() {
        let mut batch = MessageBatch::new(1, 100);
        let limits = [
            (i64::MAX, 0, None),
            (-1, -1, Some(0)),
            (0, i64::MAX, Some(i64::MAX as u64)),
        ];
        for (seconds, nanoseconds, expected) in limits {
            let time = [seconds, nanoseconds].map(i64::to_ne_bytes).concat();
            let control = whole(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &time);
            batch.prepare(1);
            batch.arrive(0, b"x", &v4_name(), &control);
            assert_eq!(batch.message(0).unwrap().ts_ns, expected);
        }
    }
}
