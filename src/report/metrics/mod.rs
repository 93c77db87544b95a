//! Metrics of a run that goes on, as Prometheus takes them: one table, from which the text and docs/METRICS.md follow.
//! Pure: a moment in, text out.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::health::Health;
use super::moment::{Moment, Shown};
use crate::mirror::session_key::SessionKey;
use crate::pipeline::answers::SessionCounts;

mod metric;
mod table;

pub use metric::{Kind, Metric};
pub use table::METRICS;

use metric::{Labelled, Scene, Values};

/// Most mirror sessions that have series of their own.
pub const MOST_SESSIONS: usize = 1000;

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
}

impl Form {
    /// The one that whoever sends such an Accept header takes.
    pub fn accepted_by(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The Content-Type header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Which mirror sessions have series of their own: the first [`MOST_SESSIONS`], those with the most packets where more
/// come at once. A session keeps its series as long as it is in the table, so that what is counted together only
/// rises while no session leaves the table.
#[derive(Debug, Default)]
pub struct Series {
    kept: HashSet<SessionKey>,
}

impl Series {
    /// Takes in the sessions of a new moment.
    pub fn update(&mut self, sessions: &[SessionCounts]) {
        let here: HashSet<SessionKey> = sessions.iter().map(|session| session.key).collect();
        self.kept.retain(|key| here.contains(key));
        let room = MOST_SESSIONS - self.kept.len();
        let mut new: Vec<&SessionCounts> = sessions
            .iter()
            .filter(|session| session.key != SessionKey::Other && !self.kept.contains(&session.key))
            .collect();
        new.sort_by_key(|session| (std::cmp::Reverse(session.packets), session.key));
        self.kept
            .extend(new.iter().take(room).map(|session| session.key));
    }

    fn of(&self, now: &Moment) -> Vec<Labelled> {
        let shown = Shown::choose(&now.glance.sessions, |session| {
            self.kept.contains(&session.key)
        });
        let labelled = |counts: &SessionCounts| {
            let (source, vni) = counts.key.mirror().unzip();
            let label = now.inventory.label(counts.key);
            Labelled {
                vni: vni.map_or_else(|| "other".to_owned(), |vni| vni.to_string()),
                source: source.map_or_else(|| "other".to_owned(), |source| source.to_string()),
                name: label.and_then(|label| label.name.clone()),
                counts: *counts,
            }
        };
        let shown_one_by_one = shown.sessions.into_iter().map(labelled);
        shown_one_by_one
            .chain(shown.others.as_ref().map(labelled))
            .collect()
    }
}

/// Words at the end of a name that are its unit.
const UNITS: [&str; 10] = [
    "bytes", "events", "files", "flows", "items", "messages", "packets", "seconds", "sessions",
    "threads",
];

impl Metric {
    /// The name without what the formats add to it, and its unit.
    fn stem(&self) -> (&'static str, Option<Unit>) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let stem = self.name.strip_suffix(suffix).unwrap_or(self.name);
        match stem.rsplit_once('_') {
            Some((before, unit)) if UNITS.contains(&unit) => {
                (before, Some(Unit::Other(unit.to_owned())))
            }
            _ => (stem, None),
        }
    }

    fn encode(&self, scene: &Scene<'_>, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (stem, unit) = self.stem();
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let out = encoder.encode_descriptor(stem, self.help, unit.as_ref(), kind)?;
        (self.values)(scene, &mut Values { out })
    }
}

/// A moment on its way to a text.
#[derive(Debug)]
struct Scraped {
    now: Arc<Moment>,
    health: Health,
    sessions: Vec<Labelled>,
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let scene = Scene {
            now: &self.now,
            health: &self.health,
            sessions: &self.sessions,
        };
        let mut metrics = METRICS.iter();
        metrics.try_for_each(|metric| metric.encode(&scene, &mut encoder))
    }
}

/// The text of all metrics. What is new is so since `earlier`, or since the run began.
pub fn text_of(now: &Arc<Moment>, earlier: Option<&Moment>, series: &Series, form: Form) -> String {
    let mut all = Registry::default();
    all.register_collector(Box::new(Scraped {
        now: Arc::clone(now),
        health: Health::of(now, earlier),
        sessions: series.of(now),
    }));
    let mut metrics = String::new();
    let written = match form {
        Form::OpenMetrics => text::encode(&mut metrics, &all),
        Form::Prometheus => prometheus_text::encode(&mut metrics, &all),
    };
    // A text takes all that is written to it.
    debug_assert!(written.is_ok(), "{written:?}");
    metrics
}

#[cfg(test)]
mod tests;
