//! How long packets took and how large they were: histograms of fixed size, one set a worker, added up at
//! the end. Pure: times are given.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::{ClockSteps, ClockWatch, Step};

/// Longest latency told apart, in nanoseconds; longer ones count as this.
const MAX_LATENCY_NS: u64 = 60_000_000_000;
/// Most datagrams of a batch told apart.
const MAX_BATCH: u64 = 1 << 16;
/// Frames of fewer bytes are each told apart, as three digits do.
const SMALL_FRAME: usize = 2048;
/// Largest frame told apart, in bytes.
const MAX_FRAME: u64 = 1 << 18;

/// How often each value came, in memory that does not grow.
#[derive(Clone, Debug)]
pub struct Distribution {
    unit: &'static str,
    /// Always there: the bounds below are good.
    counts: Option<Histogram<u64>>,
    /// Values below its length are counted here, at a fraction of the time; [`Self::all`] puts them in.
    small: Vec<u64>,
}

/// A distribution in ten numbers. Values are right to one part in a hundred (latencies, batches) or in a
/// thousand (frames).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Facts {
    /// Of all values but `count`.
    pub unit: &'static str,
    /// Values.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Half of them are no larger.
    pub p50: u64,
    /// Nine in ten are no larger.
    pub p90: u64,
    /// 99 in 100 are no larger.
    pub p99: u64,
    /// 999 in 1000 are no larger.
    pub p999: u64,
    /// Largest.
    pub max: u64,
    /// Their mean, to a tenth.
    pub mean: f64,
}

impl Distribution {
    fn new(unit: &'static str, most: u64, digits: u8) -> Self {
        let counts = Histogram::new_with_bounds(1, most, digits).ok();
        Self {
            unit,
            counts,
            small: Vec::new(),
        }
    }

    /// Of latencies, in nanoseconds.
    pub fn of_latencies() -> Self {
        Self::new("ns", MAX_LATENCY_NS, 2)
    }

    /// Of batches, in datagrams.
    pub fn of_batches() -> Self {
        Self::new("datagrams", MAX_BATCH, 2)
    }

    /// Of frames, in bytes; to the byte below 2048.
    pub fn of_frames() -> Self {
        Self {
            small: vec![0; SMALL_FRAME],
            ..Self::new("bytes", MAX_FRAME, 3)
        }
    }

    /// Counts one value. A value too large counts as the largest.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let at = usize::try_from(value).unwrap_or(usize::MAX);
        if let Some(small) = self.small.get_mut(at) {
            *small += 1;
        } else if let Some(counts) = &mut self.counts {
            counts.saturating_record(value);
        }
    }

    /// Counts values of which neighbours are mostly close to each other.
    pub fn record_all(&mut self, values: impl Iterator<Item = u64>) {
        let Some(counts) = &mut self.counts else {
            return;
        };
        let mut values = values.peekable();
        while let Some(first) = values.next() {
            // What lies between these is counted in the same place.
            let (lowest, highest) = (
                counts.lowest_equivalent(first),
                counts.highest_equivalent(first),
            );
            let mut run = 1;
            while values
                .next_if(|value| (lowest..=highest).contains(value))
                .is_some()
            {
                run += 1;
            }
            counts.saturating_record_n(first, run);
        }
    }

    /// Adds another of the same kind.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.small.iter_mut().zip(&other.small) {
            *mine += theirs;
        }
        if let (Some(mine), Some(theirs)) = (&mut self.counts, &other.counts) {
            // Fails only where theirs holds larger values than mine can: the bounds are the same.
            let _ = mine.add(theirs);
        }
    }

    /// Its facts; `None` while it is empty.
    pub fn facts(&self) -> Option<Facts> {
        let counts = self.all().filter(|counts| !counts.is_empty())?;
        let at = |quantile| counts.value_at_quantile(quantile);
        Some(Facts {
            unit: self.unit,
            count: counts.len(),
            min: counts.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: counts.max(),
            mean: (counts.mean() * 10.0).round() / 10.0,
        })
    }

    /// How many values lie between `bounds`, which rise. Values that are counted in one place with a bound are up to it.
    pub fn steps(&self, bounds: &[u64]) -> Steps {
        let mut steps = Steps {
            up_to: vec![0; bounds.len()],
            count: 0,
            sum: 0.0,
        };
        let mut add = |lowest: u64, middle: u64, times: u64| {
            let at = bounds.partition_point(|bound| *bound < lowest);
            if let Some(step) = steps.up_to.get_mut(at) {
                *step += times;
            }
            steps.count += times;
            steps.sum += middle as f64 * times as f64;
        };
        for (value, times) in (0..).zip(&self.small).filter(|(_, times)| **times > 0) {
            add(value, value, *times);
        }
        if let Some(counts) = &self.counts {
            for recorded in counts.iter_recorded() {
                let value = recorded.value_iterated_to();
                let lowest = counts.lowest_equivalent(value);
                let middle = counts.median_equivalent(value);
                add(lowest, middle, recorded.count_at_value());
            }
        }
        steps
    }

    /// Every value.
    fn all(&self) -> Option<Histogram<u64>> {
        let mut counts = self.counts.clone()?;
        for (value, times) in (0..).zip(&self.small).filter(|(_, times)| **times > 0) {
            counts.saturating_record_n(value, *times);
        }
        Some(counts)
    }

    fn memory_bytes(&self) -> usize {
        let values = self.counts.as_ref().map_or(0, Histogram::distinct_values);
        (values + self.small.len()) * size_of::<u64>()
    }
}

/// A distribution in a few steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// For each bound, the values above the bound before it and up to this one.
    pub up_to: Vec<u64>,
    /// All values.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

/// Adds `more` to what there is.
fn merge_into(sum: &mut Option<Distribution>, more: Option<&Distribution>) {
    match (sum, more) {
        (Some(sum), Some(more)) => sum.merge(more),
        (sum @ None, more) => *sum = more.cloned(),
        (Some(_), None) => {}
    }
}

/// All that was measured. Latencies and batches are there where packets came live.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From the kernel's time of arrival until the packet's batch was worked on.
    pub arrival_to_encoded: Option<Distribution>,
    /// From the kernel's time of arrival until the record was given to the capture file.
    pub arrival_to_written: Option<Distribution>,
    /// Datagrams taken at a time.
    pub batch: Option<Distribution>,
    /// Bytes of inner frame that arrived.
    pub frame: Option<Distribution>,
    /// How often the clock was set.
    pub clock_steps: Option<ClockSteps>,
}

impl Measured {
    /// Adds what another worker measured.
    pub fn merge(&mut self, other: &Self) {
        merge_into(
            &mut self.arrival_to_encoded,
            other.arrival_to_encoded.as_ref(),
        );
        merge_into(
            &mut self.arrival_to_written,
            other.arrival_to_written.as_ref(),
        );
        merge_into(&mut self.batch, other.batch.as_ref());
        merge_into(&mut self.frame, other.frame.as_ref());
        if let Some(steps) = other.clock_steps {
            self.clock_steps.get_or_insert_default().merge(steps);
        }
    }

    /// The facts of each distribution that holds something, by name.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, Facts)> {
        let all = [
            ("arrival_to_encoded", &self.arrival_to_encoded),
            ("arrival_to_written", &self.arrival_to_written),
            ("batch", &self.batch),
            ("frame", &self.frame),
        ];
        all.into_iter()
            .filter_map(|(name, distribution)| Some((name, distribution.as_ref()?.facts()?)))
    }
}

/// Most bytes that measuring takes with so many workers, their writer and an answer under way.
pub fn memory_bytes(workers: usize) -> usize {
    let latencies = Distribution::of_latencies().memory_bytes();
    let a_worker = latencies
        + Distribution::of_batches().memory_bytes()
        + Distribution::of_frames().memory_bytes();
    2 * (workers * a_worker + latencies)
}

/// What a live worker measures beside its packets, a batch at a time.
pub struct LiveMeasures {
    /// Times of arrival in the batch being taken.
    arrivals: Vec<u64>,
    arrival_to_encoded: Distribution,
    batch: Distribution,
    /// One worker watches the clock for all.
    clock: Option<(ClockWatch, ClockSteps)>,
}

impl LiveMeasures {
    /// With nothing measured yet.
    pub fn new(watches_clock: bool) -> Self {
        Self {
            arrivals: Vec::new(),
            arrival_to_encoded: Distribution::of_latencies(),
            batch: Distribution::of_batches(),
            clock: watches_clock.then(Default::default),
        }
    }

    /// Takes note of a packet of the present batch by its time of arrival.
    pub fn arrived(&mut self, ts_ns: u64) {
        self.arrivals.push(ts_ns);
    }

    /// The batch, empty or not, has been worked on: it is `wall_ns`, and `monotonic` since any fixed moment.
    pub fn end_batch(&mut self, wall_ns: u64, monotonic: Duration) -> Option<Step> {
        if !self.arrivals.is_empty() {
            self.batch.record(self.arrivals.len() as u64);
        }
        let took = |ts_ns| wall_ns.saturating_sub(ts_ns);
        self.arrival_to_encoded
            .record_all(self.arrivals.drain(..).map(took));
        let (watch, steps) = self.clock.as_mut()?;
        let step = watch.look(wall_ns, monotonic);
        if let Some(step) = step {
            steps.count(step);
        }
        step
    }

    /// Adds what was measured to `sum`.
    pub fn add_to(&self, sum: &mut Measured) {
        merge_into(&mut sum.arrival_to_encoded, Some(&self.arrival_to_encoded));
        merge_into(&mut sum.batch, Some(&self.batch));
        if let Some((_, steps)) = self.clock {
            sum.clock_steps.get_or_insert_default().merge(steps);
        }
    }
}

/// Times of arrival put aside by the writer before they are settled with one look at the clock.
const SETTLE_AT: usize = 4096;

/// What the writer measures.
pub struct WriterMeasures {
    arrivals: Vec<u64>,
    arrival_to_written: Distribution,
}

impl Default for WriterMeasures {
    fn default() -> Self {
        Self {
            arrivals: Vec::with_capacity(SETTLE_AT),
            arrival_to_written: Distribution::of_latencies(),
        }
    }
}

impl WriterMeasures {
    /// Takes note of records given to the file by their times of arrival; `true` when it is time to settle.
    pub fn gave(&mut self, arrivals: impl Iterator<Item = u64>) -> bool {
        self.arrivals.extend(arrivals);
        self.arrivals.len() >= SETTLE_AT
    }

    /// Whether there is nothing to settle.
    pub const fn is_settled(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// What was given is with the file, and it is `wall_ns`.
    pub fn settle(&mut self, wall_ns: u64) {
        let took = |ts_ns| wall_ns.saturating_sub(ts_ns);
        self.arrival_to_written
            .record_all(self.arrivals.drain(..).map(took));
    }

    /// What was measured.
    pub const fn arrival_to_written(&self) -> &Distribution {
        &self.arrival_to_written
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_of_known_values() {
        let mut frames = Distribution::of_frames();
        assert_eq!(frames.facts(), None);
        for len in 1..=1000 {
            frames.record(len);
        }
        let expected = Facts {
            unit: "bytes",
            count: 1000,
            min: 1,
            p50: 500,
            p90: 900,
            p99: 990,
            p999: 999,
            max: 1000,
            mean: 500.5,
        };
        assert_eq!(frames.facts(), Some(expected));
    }

    #[test]
    fn steps_hold_every_value_once() {
        let mut frames = Distribution::of_frames();
        let values = [0, 1, 64, 65, 2047, 2048, 100_000];
        values.into_iter().for_each(|value| frames.record(value));
        let steps = frames.steps(&[1, 64, 2048, 9000]);
        assert_eq!(steps.up_to, [2, 1, 3, 0], "the largest is above all bounds");
        assert_eq!(steps.count, 7);
        let sum: u64 = values.iter().sum();
        assert!((steps.sum - sum as f64).abs() < 100.0, "{}", steps.sum);
        assert_eq!(Distribution::of_latencies().steps(&[5]).count, 0);
    }

    #[test]
    fn values_out_of_range_count_at_the_ends() {
        let mut latencies = Distribution::of_latencies();
        latencies.record(0);
        latencies.record(u64::MAX);
        let facts = latencies.facts().unwrap();
        assert_eq!((facts.count, facts.min), (2, 0));
        let off = facts.max.abs_diff(MAX_LATENCY_NS);
        assert!(off <= MAX_LATENCY_NS / 50, "{}", facts.max);
        assert!(facts.p50 <= facts.p99 && facts.p99 <= facts.max);
    }

    proptest! {
        /// One by one or in runs: the same counts.
        #[test]
        fn runs_count_as_often_as_their_values(
            runs in proptest::collection::vec((0u64..1 << 40, 1usize..20, 0u64..200), 0..20),
        ) {
            let values = runs.iter().flat_map(|&(first, len, step)| {
                (0..len as u64).map(move |at| first + at * step)
            });
            let (mut at_once, mut singly) = (Distribution::of_latencies(), Distribution::of_latencies());
            at_once.record_all(values.clone());
            values.for_each(|value| singly.record(value));
            let counts = |distribution: &Distribution| -> Vec<(u64, u64)> {
                let counts = distribution.counts.as_ref().unwrap();
                let recorded = counts.iter_recorded();
                recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
            };
            prop_assert_eq!(counts(&at_once), counts(&singly));
        }
    }

    #[test]
    fn workers_add_up() {
        let mut sum = Measured::default();
        let steps = |wall: &[u64]| {
            let mut measures = LiveMeasures::new(true);
            for wall_ns in wall {
                measures.arrived(wall_ns - 100);
                measures.arrived(wall_ns - 50);
                measures.end_batch(*wall_ns, Duration::ZERO);
            }
            // Nothing came: no batch.
            measures.end_batch(wall.last().copied().unwrap(), Duration::ZERO);
            measures
        };
        let second = 1_000_000_000;
        steps(&[second, 5 * second, 5 * second]).add_to(&mut sum);
        let mut other = Measured::default();
        steps(&[second]).add_to(&mut other);
        sum.merge(&other);
        let facts: Vec<_> = sum
            .facts()
            .map(|(name, facts)| (name, facts.count))
            .collect();
        assert_eq!(facts, [("arrival_to_encoded", 8), ("batch", 4)]);
        let latency = sum.facts().next().unwrap().1;
        assert_eq!((latency.min, latency.p50, latency.max), (50, 50, 100));
        let clock_steps = ClockSteps {
            back: 0,
            forward: 1,
        };
        assert_eq!(sum.clock_steps, Some(clock_steps));
    }

    #[test]
    fn the_writer_settles_what_it_gave() {
        let mut measures = WriterMeasures::default();
        assert!(!measures.gave([100, 200].into_iter()));
        measures.settle(250);
        assert!(measures.is_settled());
        let facts = measures.arrival_to_written().facts().unwrap();
        assert_eq!((facts.count, facts.min, facts.max), (2, 50, 150));
        assert!(measures.gave(std::iter::repeat_n(1, SETTLE_AT)));
    }

    #[test]
    fn memory_is_bounded_and_small() {
        assert!(memory_bytes(1) < 512 << 10, "{}", memory_bytes(1));
        let mut latencies = Distribution::of_latencies();
        let before = latencies.memory_bytes();
        latencies.record(u64::MAX);
        assert_eq!(latencies.memory_bytes(), before);
    }
}
