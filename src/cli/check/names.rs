//! The names of collectors, looked up as `listen` would: all at once, and waited for a few seconds at the most. Nothing
//! is sent to a collector.

use std::net::IpAddr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::export::collector::target::Target;
use crate::threads;

/// How long all look-ups together may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of the addresses of a collector.
pub type Found = Result<Vec<IpAddr>, String>;

/// The addresses of each target, or why it has none.
#[allow(
    clippy::disallowed_methods,
    reason = "it waits for so long and no longer"
)]
pub fn addresses_of(targets: &[Target]) -> Vec<Found> {
    let (tell, told) = channel();
    let mut found: Vec<Found> = Vec::new();
    let mut asked = 0;
    for (at, target) in targets.iter().enumerate() {
        let (tell, of) = (tell.clone(), target.clone());
        // A thread that finds nothing in time is left to itself, and ends with the process.
        let started = threads::start("vxtap-names", move || _ = tell.send((at, look_up(&of))));
        asked += usize::from(started.is_ok());
        found.push(Err(match started {
            Ok(_) => {
                let (host, seconds) = (target.host(), PATIENCE.as_secs());
                format!("nobody has told the address of {host} within {seconds} s")
            }
            Err(error) => error.to_string(),
        }));
    }
    let end = Instant::now() + PATIENCE;
    for _ in 0..asked {
        let left = end.saturating_duration_since(Instant::now());
        let Ok((at, addresses)) = told.recv_timeout(left) else {
            break;
        };
        if let Some(place) = found.get_mut(at) {
            *place = addresses;
        }
    }
    found
}

fn look_up(target: &Target) -> Found {
    let addresses = target.addresses().map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = addresses.iter().map(|address| address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address is its own, a name has those that the system knows, and each target has its answer.
    #[test]
    fn each_target_has_its_addresses() {
        let typed = [
            "ipfix://192.0.2.1",
            "ipfix+tcp://localhost:9",
            "ipfix://[2001:db8::1]",
        ];
        let targets: Vec<Target> = typed
            .iter()
            .map(|typed| Target::read(typed).unwrap().unwrap())
            .collect();
        let found = addresses_of(&targets);
        let address = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        assert_eq!(found[0], Ok(address("192.0.2.1")));
        assert!(found[1].as_ref().unwrap().iter().all(IpAddr::is_loopback));
        assert_eq!(found[2], Ok(address("2001:db8::1")));
        assert_eq!(addresses_of(&[]), []);
    }
}
