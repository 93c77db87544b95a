//! Datagrams on their way out, many with one system call: sendmmsg(2).

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Datagrams that one sendmmsg call hands to the system.
pub struct SendBatch {
    slots: usize,
    slot_len: usize,
    /// Distance of slots, as for received messages.
    stride: usize,
    bytes: Vec<u8>,
    /// Bytes in each slot that is filled.
    lens: Vec<usize>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers lead into this struct's own vectors and are written anew
// before each system call.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Room for `slots` datagrams of at most `slot_len` bytes.
    pub fn new(slots: usize, slot_len: usize) -> Self {
        let stride = slot_len.next_multiple_of(64) + 192;
        // SAFETY: all-zero bytes are valid for these plain C structures: null pointers and no lengths.
        let (iovec, header) = unsafe { (zeroed(), zeroed()) };
        Self {
            slots,
            slot_len,
            stride,
            bytes: vec![0; slots * stride],
            lens: Vec::with_capacity(slots),
            iovecs: vec![iovec; slots],
            headers: vec![header; slots],
        }
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.lens.clear();
    }

    /// Bytes of the datagram at `slot`; 0 where there is none.
    pub fn payload_len(&self, slot: usize) -> usize {
        self.lens.get(slot).copied().unwrap_or_default()
    }

    /// Copies a payload into the next slot; `false` when it is too long or every slot is filled.
    pub fn push(&mut self, payload: &[u8]) -> bool {
        let at = self.lens.len();
        let slot = self.bytes.chunks_exact_mut(self.stride).nth(at);
        let place = slot.and_then(|slot| slot.get_mut(..payload.len()));
        match place {
            Some(place) if at < self.slots && payload.len() <= self.slot_len => {
                place.copy_from_slice(payload);
                self.lens.push(payload.len());
                true
            }
            _ => false,
        }
    }

    /// Sends the datagrams in these slots from a connected socket, in this order; waits while the
    /// socket's buffer is full. Tells how many the system has taken: fewer when it refused the next one,
    /// which the next call will say why.
    ///
    /// # Errors
    ///
    /// As sendmmsg(2), when the first was refused; `InvalidInput` for a slot that is not filled.
    pub fn send(&mut self, socket: BorrowedFd<'_>, slots: &[usize]) -> io::Result<usize> {
        let slots = slots.get(..self.slots).unwrap_or(slots);
        let parts = self.iovecs.iter_mut().zip(&mut self.headers);
        for ((iovec, header), slot) in parts.zip(slots) {
            let from = slot * self.stride;
            let payload = self.lens.get(*slot).and_then(|len| {
                let rest = self.bytes.get_mut(from..)?;
                rest.get_mut(..*len)
            });
            let payload = payload.ok_or(io::ErrorKind::InvalidInput)?;
            iovec.iov_base = payload.as_mut_ptr().cast();
            iovec.iov_len = payload.len();
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `slots.len()` headers, no more than there are, were just pointed at live memory
        // of the lengths they state, which sendmmsg only reads; name and control pointers have been null
        // since the headers were made.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                slots.len() as libc::c_uint,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::super::{Flag, enable};
    use super::*;

    #[test]
    fn a_batch_sends_the_slots_it_is_told_to_in_that_order() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_nonblocking(true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut batch = SendBatch::new(3, 100);
        assert!(!batch.push(&[0; 101]), "longer than a slot");
        for payload in [&b"zero"[..], &[1; 100], b""] {
            assert!(batch.push(payload));
        }
        assert!(!batch.push(b"one more"), "every slot is filled");
        assert_eq!(
            [0, 1, 2, 3].map(|slot| batch.payload_len(slot)),
            [4, 100, 0, 0]
        );

        let mut received = |slots: &[usize]| {
            let sent = batch.send(sender.as_fd(), slots).unwrap();
            assert_eq!(sent, slots.len());
            let mut buffer = [9; 200];
            let mut payloads = Vec::new();
            while let Ok(len) = receiver.recv(&mut buffer) {
                payloads.push(buffer[..len].to_vec());
            }
            payloads
        };
        assert_eq!(
            received(&[1, 2, 0]),
            [vec![1; 100], vec![], b"zero".to_vec()]
        );
        assert_eq!(received(&[2]), [Vec::<u8>::new()]);

        batch.clear();
        assert!(batch.push(b"new"));
        let error = batch.send(sender.as_fd(), &[1]).unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::InvalidInput,
            "a slot of the batch before"
        );
    }

    #[test]
    fn checksums_can_be_left_out() {
        use Flag::{SendNoChecksumV4, SendNoChecksumV6, TellErrorsV4, TellErrorsV6};

        for (local, flags) in [
            ("127.0.0.1:0", [SendNoChecksumV4, TellErrorsV4]),
            ("[::1]:0", [SendNoChecksumV6, TellErrorsV6]),
        ] {
            let Ok(socket) = UdpSocket::bind(local) else {
                eprintln!("skipped: this machine has no IPv6");
                continue;
            };
            for flag in flags {
                enable(socket.as_fd(), flag).unwrap();
            }
        }
    }
}
