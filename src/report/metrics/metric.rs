//! What a metric is, and how its values get into the text.

use std::fmt;

use prometheus_client::encoding::MetricEncoder;
use prometheus_client::metrics::exemplar::Exemplar;

use crate::pipeline::answers::SessionCounts;
use crate::pipeline::measure::Distribution;
use crate::report::health::Health;
use crate::report::moment::Moment;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts of values in steps.
    Histogram,
    /// Always 1: its labels tell something.
    Info,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// One metric: a line of the table.
pub struct Metric {
    /// Its name as it is queried; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Puts out its values.
    pub(super) values: fn(&Scene<'_>, &mut Values<'_>) -> fmt::Result,
}

/// A moment, with what several metrics need of it.
pub(super) struct Scene<'a> {
    pub(super) now: &'a Moment,
    pub(super) health: &'a Health,
    pub(super) sessions: &'a [Labelled],
}

/// A session with the texts of its labels.
#[derive(Debug)]
pub(super) struct Labelled {
    pub(super) vni: String,
    pub(super) source: String,
    pub(super) name: Option<String>,
    pub(super) counts: SessionCounts,
}

impl Labelled {
    pub(super) fn labels(&self) -> Vec<(&str, &str)> {
        let mut labels = vec![("vni", self.vni.as_str()), ("source", self.source.as_str())];
        labels.extend(self.name.as_deref().map(|name| ("name", name)));
        labels
    }
}

/// Puts out the values of one metric.
pub(super) struct Values<'a> {
    pub(super) out: MetricEncoder<'a>,
}

impl Values<'_> {
    pub(super) fn counter(&mut self, labels: &[(&str, &str)], count: u64) -> fmt::Result {
        let none = None::<&Exemplar<[(&str, &str); 0], u64>>;
        match labels {
            [] => self.out.encode_counter(&count, none),
            labels => self
                .out
                .encode_family(&labels)?
                .encode_counter(&count, none),
        }
    }

    pub(super) fn seconds_counter(&mut self, seconds: f64) -> fmt::Result {
        let none = None::<&Exemplar<[(&str, &str); 0], f64>>;
        self.out.encode_counter(&seconds, none)
    }

    pub(super) fn gauge(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        match labels {
            [] => self.out.encode_gauge(&value),
            labels => self.out.encode_family(&labels)?.encode_gauge(&value),
        }
    }

    /// A limit, where there is one.
    pub(super) fn limit(&mut self, labels: &[(&str, &str)], limit: Option<u64>) -> fmt::Result {
        limit.map_or(Ok(()), |limit| self.gauge(labels, limit as f64))
    }

    pub(super) fn reasons(
        &mut self,
        counters: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> fmt::Result {
        let mut counters = counters.into_iter();
        counters.try_for_each(|(reason, count)| self.counter(&[("reason", reason)], count))
    }

    /// The steps of `values` up to each of `bounds`; what is shown is `unit` times what was counted.
    pub(super) fn histogram(
        &mut self,
        values: Option<&Distribution>,
        bounds: &[u64],
        unit: f64,
    ) -> fmt::Result {
        let Some(values) = values else {
            return Ok(());
        };
        let steps = values.steps(bounds);
        let shown = bounds.iter().map(|bound| *bound as f64 * unit);
        let mut buckets: Vec<(f64, u64)> = shown.zip(steps.up_to.iter().copied()).collect();
        let below: u64 = steps.up_to.iter().sum();
        buckets.push((f64::INFINITY, steps.count - below));
        let none = None::<&std::collections::HashMap<usize, Exemplar<[(&str, &str); 0], f64>>>;
        self.out
            .encode_histogram(steps.sum * unit, steps.count, &buckets, none)
    }
}
