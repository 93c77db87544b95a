//! What flows are about, beside the flow table: by place, of flows that named something only.
//!
//! Memory is asked for once a flow, not once a packet, and all together is bounded: what finds no room is left out and
//! counted. Names go when their flow does.

use std::sync::Arc;

use hashbrown::HashMap;

use super::app::{App, NAME_BYTES, Opening};

/// Bytes that names may take for each flow that there is room for.
const BYTES_A_FLOW: u64 = 64;
/// Bytes that names may take where there is room for few flows.
const LEAST_BYTES: u64 = 64 << 10;
/// Bytes that are taken around an [`App`]: the counts of its `Arc`, what the allocator adds to three pieces of memory, and
/// its place in a map that may have just grown.
const AROUND: usize = 16 + 3 * 16 + 40;

/// Most bytes of one flow's names: two are the most.
pub const MOST_BYTES_EACH: usize = size_of::<App>() + AROUND + 2 * NAME_BYTES;

/// Most bytes that the names of a table of `max_flows` flows take together.
pub fn memory_bytes(max_flows: u32) -> u64 {
    (u64::from(max_flows) * BYTES_A_FLOW).max(LEAST_BYTES)
}

/// By the place of their flow.
pub(super) type ByPlace = HashMap<u32, Arc<App>, foldhash::fast::RandomState>;

/// The names of a table's flows.
pub(super) struct Names {
    by_place: ByPlace,
    bytes: u64,
    most_bytes: u64,
    left_out: u64,
}

impl Names {
    /// For a table of at most `max_flows` flows.
    pub(super) fn new(max_flows: u32) -> Self {
        Self {
            by_place: HashMap::default(),
            bytes: 0,
            most_bytes: memory_bytes(max_flows),
            left_out: 0,
        }
    }

    /// Whether nothing can be added to what is known of the flow at `at`.
    pub(super) fn is_complete(&self, at: u32) -> bool {
        self.by_place.get(&at).is_some_and(|app| app.is_complete())
    }

    /// Adds what a packet of the flow at `at` told.
    pub(super) fn learn(&mut self, at: u32, app: App) {
        let known = self.by_place.get_mut(&at);
        let more = match known {
            Some(_) => app.text_bytes() as u64,
            None => bytes_of(&app),
        };
        if self.bytes + more > self.most_bytes {
            self.left_out += 1;
            return;
        }
        match known {
            Some(known) => {
                let before = bytes_of(known);
                Arc::make_mut(known).learn(app);
                self.bytes = self.bytes - before + bytes_of(known);
            }
            None => {
                self.bytes += more;
                self.by_place.insert(at, Arc::new(app));
            }
        }
    }

    /// Reads a packet of the flow at `at` with which an opening may go on.
    pub(super) fn go_on(&mut self, at: u32, opening: &Opening<'_>) {
        let Some(known) = self.by_place.get_mut(&at) else {
            return;
        };
        let mut app = App::clone(known);
        app.go_on(opening);
        let bytes = self.bytes - bytes_of(known) + bytes_of(&app);
        if bytes > self.most_bytes {
            self.left_out += 1;
        } else {
            self.bytes = bytes;
            *known = Arc::new(app);
        }
    }

    /// What is known of the flow at `at`; it stays.
    pub(super) fn share(&self, at: u32) -> Option<Arc<App>> {
        self.by_place.get(&at).cloned()
    }

    /// What is known of the flow at `at`, which ends.
    pub(super) fn take(&mut self, at: u32) -> Option<Arc<App>> {
        let app = self.by_place.remove(&at)?;
        self.bytes -= bytes_of(&app);
        Some(app)
    }

    /// Packets whose names found no room since this was last asked.
    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// All of them.
    pub(super) fn into_map(self) -> ByPlace {
        self.by_place
    }
}

fn bytes_of(app: &App) -> u64 {
    (size_of::<App>() + AROUND + app.text_bytes()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::app::{Awaited, Guess};
    use crate::flow::counts::{Flow, FlowPacket};
    use crate::flow::key::FlowKey;
    use crate::flow::lifetime::{Lifetimes, step};
    use crate::flow::remaining::Remaining;
    use crate::flow::table::FlowTable;
    use crate::mirror::session::SessionId;
    use crate::wire::inner::Inner;
    use crate::wire::length::{FrameLen, Verdict};
    use crate::wire::numbers::tcp_flag::{ACK, RST, SYN};

    const SECOND: u64 = 1_000_000_000;

    /// Has `table` count a packet from 10.0.0.`client` to port 80, looked into as the pipeline does; returns what that
    /// ended.
    fn packet(
        table: &mut FlowTable,
        client: u8,
        at_ns: u64,
        flags: u16,
        payload: &str,
    ) -> Option<Flow> {
        let mut frame = vec![2; 54];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6]);
        frame[16..18].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        frame[26..34].copy_from_slice(&[10, 0, 0, client, 10, 0, 0, 200]);
        frame[34..38].copy_from_slice(&[9, 9, 0, 80]);
        frame[38..42].copy_from_slice(&(at_ns as u32).to_be_bytes());
        frame[46..48].copy_from_slice(&[0x50, flags as u8]);
        frame.extend(payload.bytes());
        let inner = Inner::read(&frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: frame.len() as u32,
            orig: frame.len() as u32,
        };
        let packet = FlowPacket::of(at_ns, lengths, Verdict::Whole, inner.ip_len, &inner).unwrap();
        let hash = table.hash(&key);
        let ended = table.update(hash, u32::MAX, &key, way, &packet);
        if let Some(opening) = Opening::of(&inner, &frame, &mut Awaited::default()) {
            table.look_inside(hash, &key, way, &opening);
        }
        ended.map(|ended| ended.flow)
    }

    fn host(flow: &Flow) -> Option<&str> {
        flow.app.as_ref()?.http_host()
    }

    const GET_A: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const GET_B: &str = "GET / HTTP/1.1\r\nHost: b\r\n\r\n";

    /// A record that follows has the names of the one before; another connection on the same ports its own.
    #[test]
    fn names_go_with_their_flow() {
        let lifetimes = Lifetimes {
            active_ns: 2 * SECOND,
            ..Lifetimes::default()
        };
        let mut table = FlowTable::new(9, lifetimes);
        assert!(packet(&mut table, 1, 0, SYN, "").is_none());
        assert!(packet(&mut table, 1, 1, ACK, GET_A).is_none());
        let first = packet(&mut table, 1, 3 * SECOND, ACK | RST, GET_B).unwrap();
        assert_eq!((host(&first), first.records), (Some("a"), 0));
        let second = packet(&mut table, 1, 3 * SECOND + 1, SYN, "").unwrap();
        assert_eq!((host(&second), second.records), (Some("a"), 1));
        packet(&mut table, 1, 3 * SECOND + 2, ACK, GET_B);
        // One that ends by itself leaves nothing for the next in its place.
        let mut ended = Vec::new();
        table.expire(step(900 * SECOND), usize::MAX, |flow| ended.push(flow.flow));
        assert_eq!(ended.iter().map(host).collect::<Vec<_>>(), [Some("b")]);
        packet(&mut table, 2, 900 * SECOND, ACK, "");
        let left: Vec<Flow> = table.end().iter().collect();
        assert_eq!(left.iter().map(host).collect::<Vec<_>>(), [None]);
    }

    /// What comes late is data, not an opening; in a record that follows too.
    #[test]
    fn only_the_first_packets_are_read() {
        let lifetimes = Lifetimes {
            active_ns: SECOND,
            ..Lifetimes::default()
        };
        let named = |packets: u64, gap_ns| {
            let mut table = FlowTable::new(9, lifetimes);
            for number in 0..packets {
                packet(&mut table, 1, number, ACK, "data");
            }
            packet(&mut table, 1, packets + gap_ns, ACK, GET_A);
            let left: Vec<Flow> = table.end().iter().collect();
            left[0].app.is_some()
        };
        assert!(named(0, 0) && named(7, 0));
        assert!(!named(8, 0));
        assert!(!named(1, SECOND));
    }

    /// Parts of one flow on two tables come to what one would have, and names stay with their flows.
    #[test]
    fn joined() {
        let mut tables = [(); 2].map(|()| FlowTable::new(9, Lifetimes::default()));
        packet(&mut tables[0], 1, 1, ACK, "HTTP/1.1 200 OK\r\n\r\n");
        packet(&mut tables[1], 2, 2, ACK, GET_B);
        packet(&mut tables[1], 1, 3, ACK, GET_A);
        packet(&mut tables[1], 3, 4, ACK, "");
        let (all, joined) = Remaining::join(tables.map(FlowTable::end));
        assert_eq!(joined, 1);
        let left: Vec<Flow> = all.by_first_packet().collect();
        assert_eq!(
            left.iter().map(host).collect::<Vec<_>>(),
            [Some("a"), Some("b"), None]
        );
    }

    fn request(host: &str) -> App {
        let payload = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let opening = Opening {
            guess: Guess::Stream,
            payload: payload.as_bytes(),
            missing: 0,
            seq: 0,
        };
        App::read(&opening).unwrap()
    }

    /// As many as there is room for, by their size; when some go others find room.
    #[test]
    fn bounded() {
        let mut names = Names::new(1);
        let host = "h".repeat(200);
        for at in 0..1000 {
            names.learn(at, request(&host));
        }
        let kept = names.by_place.len() as u64;
        assert!((100..600).contains(&kept), "{kept}");
        assert_eq!(
            (names.take_left_out(), names.take_left_out()),
            (1000 - kept, 0)
        );
        assert!(names.bytes <= LEAST_BYTES);
        assert!(names.take(999).is_none());
        assert_eq!(names.take(0).unwrap().http_host(), Some(&host[..]));
        names.learn(999, request(&host));
        assert_eq!(names.share(999).unwrap().http_host(), Some(&host[..]));
        for at in 0..1000 {
            names.take(at);
        }
        assert_eq!((names.bytes, names.take_left_out()), (0, 0));
    }

    /// What a record that was handed out tells does not change any more.
    #[test]
    fn shared_ones_stay_as_they_are() {
        let mut names = Names::new(1000);
        let answer = Opening {
            guess: Guess::Stream,
            payload: b"HTTP/1.1 200 OK\r\n",
            missing: 0,
            seq: 0,
        };
        names.learn(7, App::read(&answer).unwrap());
        assert!(!names.is_complete(7) && !names.is_complete(8));
        let handed_out = names.share(7).unwrap();
        names.learn(7, request("a"));
        assert!(names.is_complete(7));
        assert_eq!(
            (handed_out.http_host(), names.share(7).unwrap().http_host()),
            (None, Some("a"))
        );
        assert_eq!(names.bytes, bytes_of(&request("a")));
    }
}
