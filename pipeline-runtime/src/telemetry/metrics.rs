//! What a process counts and measures. There is one set of instruments; whoever asks (`/metrics`, OTLP) reads the same ones.
//!
//! An instrument is a few atomic numbers in the room that it belongs to. Nothing here takes a lock while something is counted.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets of every histogram of durations, in seconds: from what an order takes when all is well to what one takes
/// that had to wait.
pub const BOUNDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];
const BUCKETS: usize = BOUNDS.len() + 1;

#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one of several contributes to a gauge that they have in common.
#[derive(Debug, Default)]
pub struct Share(AtomicU64);

impl Share {
    pub fn set(&self, gauge: &Count, value: u64) {
        let before = self.0.swap(value, Ordering::Relaxed);
        // Wraps around where it is less than before, and so does the sum.
        gauge.0.fetch_add(value.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [Count; BUCKETS],
    sum_us: Count,
}

impl Durations {
    pub fn took(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].add(1);
        self.sum_us.add(duration.as_micros() as u64);
    }

    pub fn read(&self) -> Spread {
        Spread { buckets: std::array::from_fn(|bucket| self.buckets[bucket].get()), seconds: self.sum_us.get() as f64 / 1e6 }
    }
}

/// A histogram of durations as it was read: how many lie in each bucket, and their sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    pub buckets: [u64; BUCKETS],
    pub seconds: f64,
}

impl Spread {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl std::iter::Sum for Spread {
    fn sum<I: Iterator<Item = Spread>>(spreads: I) -> Spread {
        spreads.fold(Spread::default(), |mut sum, next| {
            sum.buckets.iter_mut().zip(next.buckets).for_each(|(sum, next)| *sum += next);
            sum.seconds += next.seconds;
            sum
        })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Since the process began; never falls.
    Total(u64),
    /// As it is now.
    Level(u64),
    Durations(Spread),
}

/// The labels of a point, in the order in which they are written. Each has a few known values: a point costs memory for ever.
pub type Labels = Vec<(&'static str, String)>;

/// One instrument as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub points: Vec<(Labels, Value)>,
}

impl Metric {
    pub fn new(name: &'static str, help: &'static str, points: Vec<(Labels, Value)>) -> Metric {
        Metric { name, help, points }
    }
    pub fn total(name: &'static str, help: &'static str, count: &Count) -> Metric {
        Metric::new(name, help, vec![(Labels::new(), Value::Total(count.get()))])
    }
    pub fn level(name: &'static str, help: &'static str, value: u64) -> Metric {
        Metric::new(name, help, vec![(Labels::new(), Value::Level(value))])
    }
}

/// Whatever has instruments and is read as a whole.
pub trait Instruments: Send + Sync {
    fn read(&self) -> Vec<Metric>;
}

/// All instruments of a process.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Vec<Arc<dyn Instruments>>>>);

impl Metrics {
    pub fn add(&self, instruments: Arc<dyn Instruments>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(instruments);
    }

    pub fn read(&self) -> Vec<Metric> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.iter().flat_map(|instruments| instruments.read()).collect()
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let metrics = self.read();
        let mut text = String::with_capacity(4096);
        metrics.iter().for_each(|metric| write(&mut text, metric));
        text
    }
}

fn write(text: &mut String, Metric { name, help, points }: &Metric) {
    let kind = match points.first() {
        None => return,
        Some((_, Value::Total(_))) => "counter",
        Some((_, Value::Level(_))) => "gauge",
        Some((_, Value::Durations(_))) => "histogram",
    };
    // Writing to a String does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in points {
        match value {
            Value::Total(value) | Value::Level(value) => {
                let _ = writeln!(text, "{name}{} {value}", written(labels, None));
            }
            Value::Durations(spread) => {
                let mut count = 0;
                let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                for (bucket, bound) in spread.buckets.iter().zip(bounds) {
                    count += bucket;
                    let _ = writeln!(text, "{name}_bucket{} {count}", written(labels, Some(&bound)));
                }
                let labels = written(labels, None);
                let _ = writeln!(text, "{name}_sum{labels} {}\n{name}_count{labels} {count}", spread.seconds);
            }
        }
    }
}

fn written(labels: &Labels, bound: Option<&str>) -> String {
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(bound.map(|bound| ("le", bound)));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Metric>);

    impl Instruments for Fixed {
        fn read(&self) -> Vec<Metric> {
            self.0.clone()
        }
    }

    #[test]
    fn the_text_for_prometheus_adds_up_and_quotes_what_a_label_may_hold() {
        let durations = Durations::default();
        for ms in [0, 1, 3, 400_000] {
            durations.took(Duration::from_millis(ms));
        }
        let labels = vec![("topic", "a\"b\\".to_owned()), ("status", "success".to_owned())];
        let metrics = Metrics::default();
        metrics.add(Arc::new(Fixed(vec![
            Metric::new("took", "How long it took.", vec![(labels, Value::Durations(durations.read()))]),
            Metric::level("depth", "How deep it is.", 7),
            Metric::new("nothing", "Of which nothing is known.", vec![]),
        ])));
        let text = metrics.text();
        let lines: Vec<&str> = text.lines().collect();
        let label = r#"topic="a\"b\\",status="success""#;
        assert_eq!(lines[..2], ["# HELP took How long it took.", "# TYPE took histogram"]);
        for line in [
            format!("took_bucket{{{label},le=\"0.001\"}} 2"),
            format!("took_bucket{{{label},le=\"0.005\"}} 3"),
            format!("took_bucket{{{label},le=\"300\"}} 3"),
            format!("took_bucket{{{label},le=\"+Inf\"}} 4"),
            format!("took_sum{{{label}}} 400.004"),
            format!("took_count{{{label}}} 4"),
            "# TYPE depth gauge".to_owned(),
            "depth 7".to_owned(),
        ] {
            assert!(lines.contains(&&*line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("nothing"), "{text}");
    }

    #[test]
    fn a_gauge_is_the_sum_of_what_several_contribute() {
        let (gauge, kafka, azure) = (Count::default(), Share::default(), Share::default());
        kafka.set(&gauge, 10);
        azure.set(&gauge, 5);
        kafka.set(&gauge, 3);
        assert_eq!(gauge.get(), 8);
    }

    #[test]
    fn spreads_add_up() {
        let (one, other) = (Durations::default(), Durations::default());
        one.took(Duration::from_millis(4));
        other.took(Duration::from_millis(4));
        other.took(Duration::from_secs(2));
        let sum: Spread = [one.read(), other.read()].into_iter().sum();
        assert_eq!((sum.count(), sum.seconds, sum.buckets[2]), (3, 2.008, 2));
    }
}
