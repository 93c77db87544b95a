//! The heartbeat of a run: it tells "alive, no traffic" from "dead", in the log and to systemd.
//!
//! It looks at the run every few seconds. The watchdog of systemd is fed only when all threads answered.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::look::{Look, Looker};
use crate::mirror::words::counted;
use crate::report::status_page::span;

/// How often it beats, unless the watchdog wants it more often.
const BEAT: Duration = Duration::from_secs(5);
/// How often it says so.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Beats for as long as the process lives.
pub async fn beat(looker: Arc<Looker>) {
    let watchdog = sd_notify::watchdog_enabled();
    // A watchdog that is fed once in its time is late by a hair.
    let every = watchdog.map_or(BEAT, |time| (time / 2).min(BEAT));
    let mut beats = interval(every.max(Duration::from_millis(100)));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut say_at = Instant::now() + SAY_EVERY;
    let (mut is_ready_said, mut is_end_said) = (false, false);
    loop {
        beats.tick().await;
        let look = looker.look().await;
        let is_ending = looker.is_ending();
        let answered = look.now.glance.silent.is_empty();
        let line = line(&look);
        let mut news = vec![NotifyState::Status(&line)];
        if answered && !is_ready_said {
            is_ready_said = true;
            news.push(NotifyState::Ready);
        }
        if is_ending && !is_end_said {
            is_end_said = true;
            news.push(NotifyState::Stopping);
        }
        // A run that ends has fewer and fewer threads; how long it may take is another limit of the service.
        if answered || is_ending {
            news.push(NotifyState::Watchdog);
        }
        // Nothing is sent where systemd does not wait for it.
        if let Err(error) = sd_notify::notify(&news) {
            tracing::debug!(%error, "cannot tell systemd");
        }
        if Instant::now() >= say_at && !is_ending {
            say_at += SAY_EVERY;
            tell(&look, &line);
        }
    }
}

/// Says how the run is.
fn tell(look: &Look, line: &str) {
    tracing::info!("{line}");
    for problem in look.health().problems {
        tracing::warn!("{}: {}", problem.what, problem.remedy);
    }
}

/// The run in a line: "alive, no traffic for 5 min 0 s".
fn line(look: &Look) -> String {
    let (now, status) = (&look.now, look.status());
    let silent = &now.glance.silent;
    if !silent.is_empty() && !now.is_ending {
        let names: Vec<String> = silent.iter().map(|silent| silent.name()).collect();
        return format!("no answer from {}", names.join(", "));
    }
    let lately = &status.lately;
    let lost = match lately.lost {
        0 => "nothing lost".to_owned(),
        lost => format!("{lost} lost"),
    };
    let over = span(lately.seconds);
    match now.glance.latest_ns {
        0 => format!("alive, no traffic yet, {lost}"),
        latest_ns if lately.packets_per_second == 0.0 => {
            let silence = now.at_ns.saturating_sub(latest_ns) as f64 / 1e9;
            format!(
                "alive, no traffic for {}, {lost} in the last {over}",
                span(silence)
            )
        }
        _ => format!(
            "alive, {:.0} packets/s of {}, {lost} in the last {over}",
            lately.packets_per_second,
            counted(now.glance.sessions.len() as u64, "mirror session")
        ),
    }
}
