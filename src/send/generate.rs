//! `--generate`: synthetic traffic instead of files, onto the network or into a file.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::failure::Failure;
use crate::send::encapsulate::{Cut, FIRST_SOURCE_PORT, OuterHeaders};
use crate::send::options::Generate;
use crate::send::traffic::Generator;
use crate::send::{Output, Run};
use crate::wire::vxlan::HEADER_LEN;

/// Packets a second that written times tell, where nobody says it.
const WRITTEN_PPS: f64 = 1000.0;
/// The time of the first packet written: 2026-01-15, the same in every run.
const FIRST_TS_NS: u64 = 1_768_435_200_000_000_000;

impl Generate {
    /// Packets in all, at `pps` packets a second or as fast as can be.
    fn packets(&self, pps: Option<f64>) -> u64 {
        let by_time = self.duration.zip(pps);
        let by_time = by_time.map(|(time, pps)| (time.as_nanos() as f64 * pps / 1e9).ceil() as u64);
        [self.count, by_time]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// The part of a datagram that --packet-length and --mtu leave.
fn kept(cut: Cut, payload: &[u8], outer_ipv6: bool) -> &[u8] {
    let frame = payload.get(HEADER_LEN..).unwrap_or_default();
    let len = HEADER_LEN + cut.apply(frame, outer_ipv6).len();
    payload.get(..len).unwrap_or(payload)
}

#[cfg(target_os = "linux")]
fn pin_to_core(core: usize) -> Result<(), Failure> {
    crate::sys::pin_to_core(core)
        .map_err(|error| Failure::running(format!("--cpu {core}: {error}")))
}

#[cfg(not(target_os = "linux"))]
fn pin_to_core(_: usize) -> Result<(), Failure> {
    Err(Failure::running("--cpu needs Linux"))
}

impl Run<'_> {
    /// Sends or writes what `plan` says.
    pub fn generate(&mut self, plan: &Generate) -> Result<(), Failure> {
        if let Some(core) = plan.cpu {
            pin_to_core(core)?;
        }
        match &self.output {
            Output::Network(sockets, _) => self.generate_to_network(plan, sockets.target()),
            Output::File(_) => self.generate_to_file(plan),
        }
    }

    fn generate_to_file(&mut self, plan: &Generate) -> Result<(), Failure> {
        let pps = self.options.tempo.pps().unwrap_or(WRITTEN_PPS);
        let first_port = self.options.source_port.unwrap_or(FIRST_SOURCE_PORT);
        let mut generator = Generator::new(&plan.traffic);
        for number in 0..plan.packets(Some(pps)) {
            let datagram = generator.next_datagram();
            let payload = kept(self.cut, datagram.payload, self.ips.is_ipv6());
            let headers = OuterHeaders {
                ips: self.ips,
                src_port: first_port.saturating_add(datagram.source_port),
                dst_port: self.dst_port,
            };
            let since_first = (number as f64 * 1e9 / pps).round() as u64;
            let ts_ns = FIRST_TS_NS.saturating_add(since_first);
            let was_cut = payload.len() < datagram.payload.len();
            self.counts.read += 1;
            let Output::File(file) = &mut self.output else {
                return Ok(());
            };
            if self.stop.is_set() {
                return Ok(());
            }
            let fits = file.put_datagram(ts_ns, headers, payload, payload.len())?;
            self.counts.cut += u64::from(fits && was_cut);
            self.count(fits, payload.len());
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn generate_to_network(&mut self, plan: &Generate, target: SocketAddr) -> Result<(), Failure> {
        use crate::send::burst::{BATCH, Burst};
        use crate::send::pace::{Steady, now};

        let mut generator = Generator::new(&plan.traffic);
        let mut burst = Burst::new(
            self.options,
            plan,
            target,
            generator.longest_payload(),
            Arc::clone(self.stop),
        )?;
        let packets = plan.packets(self.options.tempo.pps());
        self.started = now();
        let end = plan
            .duration
            .and_then(|time| self.started.checked_add(time));
        let mut pace = Steady::new(self.options.tempo.pps(), Arc::clone(self.stop));
        let together = pace.together(BATCH) as u64;
        let mut made = 0;
        while made < packets && pace.wait(made, end) {
            let number = together.min(packets - made);
            for _ in 0..number {
                let datagram = generator.next_datagram();
                let payload = kept(self.cut, datagram.payload, self.ips.is_ipv6());
                let was_cut = payload.len() < datagram.payload.len();
                burst.push(payload, datagram.source_port, was_cut);
            }
            made += number;
            self.counts.read += number;
            burst.flush(end, &mut self.counts)?;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn generate_to_network(&mut self, _: &Generate, _: SocketAddr) -> Result<(), Failure> {
        Err(Failure::running(
            "--generate sends on Linux only (sendmmsg); --generate --write works here",
        ))
    }
}
