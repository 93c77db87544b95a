//! How long flows live, as it was meant.

use std::time::Duration;

use super::layers::Layers;
use super::mistakes::Mistakes;
use super::typed;
use crate::cli::values;
use crate::flow::lifetime::Lifetimes;

/// What `--idle-timeout` names.
const KINDS: &str = "tcp, tcp-new, fin, rst, udp, icmp and other";

/// Reads `--idle-timeout` and `--active-timeout`.
pub fn read(typed: &Layers<&typed::FlowLifetimes>, mistakes: &mut Mistakes) -> Option<Lifetimes> {
    let (_, lists) = mistakes.many(typed, "--idle-timeout", |t| &t.idle_timeout, idle);
    let active = mistakes.one(typed, "--active-timeout", |t| &t.active_timeout, active);
    let mut lifetimes = Lifetimes {
        active_ns: active?,
        ..Lifetimes::default()
    };
    for (kind, ns) in lists.into_iter().flatten() {
        *place(&mut lifetimes, &kind)? = ns;
    }
    Some(lifetimes)
}

/// `KIND=TIME` and more of these behind commas, in nanoseconds.
fn idle(text: &str) -> Result<Vec<(String, u64)>, String> {
    let one = |part: &str| {
        let Some((kind, time)) = part.split_once('=') else {
            return Err("KIND=TIME is needed, as udp=2m or tcp=10m,udp=2m".to_owned());
        };
        if place(&mut Lifetimes::default(), kind).is_none() {
            return Err(format!(
                "no kind of flow is called '{kind}'; there are {KINDS}"
            ));
        }
        Ok((kind.to_owned(), nanoseconds(values::time(time)?)))
    };
    text.split(',').map(str::trim).map(one).collect()
}

fn active(text: &str) -> Result<u64, String> {
    match text {
        "off" => Ok(0),
        _ => values::time(text).map(nanoseconds),
    }
}

fn place<'a>(lifetimes: &'a mut Lifetimes, kind: &str) -> Option<&'a mut u64> {
    Some(match kind {
        "tcp" => &mut lifetimes.tcp_ns,
        "tcp-new" => &mut lifetimes.tcp_new_ns,
        "fin" => &mut lifetimes.fin_ns,
        "rst" => &mut lifetimes.rst_ns,
        "udp" => &mut lifetimes.udp_ns,
        "icmp" => &mut lifetimes.icmp_ns,
        "other" => &mut lifetimes.other_ns,
        _ => return None,
    })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_times() {
        let two = vec![
            ("tcp".to_owned(), 600_000_000_000),
            ("rst".to_owned(), 1_500_000_000),
        ];
        assert_eq!(idle("tcp=10m, rst=1.5s"), Ok(two));
        for (wrong, names) in [
            ("", "KIND=TIME"),
            ("tcp", "KIND=TIME"),
            ("tcp=10m,", "KIND=TIME"),
            ("sctp=5s", "'sctp'"),
            ("udp=0", "above zero"),
            ("udp=5y", "unknown unit"),
        ] {
            let error = idle(wrong).unwrap_err();
            assert!(error.contains(names), "{wrong}: {error}");
        }
        assert_eq!((active("off"), active("2s")), (Ok(0), Ok(2_000_000_000)));
    }
}
