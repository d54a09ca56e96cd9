//! Metrics in Prometheus' text format 0.0.4, which every scraper and `promtool check metrics` read. The agent and
//! care-cloud fill an [`Exposition`] for each scrape from what they know anyway, so nothing here is counted twice, and
//! nothing locks while the text is written.
//!
//! `prometheus-client` writes the text. The crate's own metric types are not used: they count under locks of their own,
//! and the firmware would link those.
#![forbid(unsafe_code)]

mod histogram;
mod process;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};

pub use histogram::Histogram;

/// The content type of [`Exposition::text`].
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// One label: its name and its value.
pub type Label<'a> = (&'static str, &'a str);

/// The metrics of one scrape, in the order in which they are added.
///
/// The caller keeps to Prometheus' rules for names: base units, `_total` for counters, one family added once.
#[derive(Debug, Default)]
pub struct Exposition {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

#[derive(Debug)]
enum Samples {
    Values(MetricType, Vec<Sample>),
    Histogram(Histogram),
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

/// Adds the samples of one family.
#[derive(Debug)]
pub struct Series<'a>(&'a mut Vec<Sample>);

impl Series<'_> {
    /// Adds a sample.
    pub fn add(&mut self, labels: &[Label<'_>], value: f64) -> &mut Self {
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.0.push(Sample { labels, value });
        self
    }

    /// Adds a sample without labels, if there is a value.
    pub fn set(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.add(&[], value);
        }
    }
}

impl Exposition {
    /// Begins a gauge. Without samples it is declared all the same, so that a reader sees what there can be.
    pub fn gauge(&mut self, name: &'static str, help: &'static str) -> Series<'_> {
        self.family(name, help, MetricType::Gauge)
    }

    /// Begins a counter; its name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str) -> Series<'_> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.family(name, help, MetricType::Counter)
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, name: &'static str, help: &'static str, histogram: &Histogram) {
        self.families.push(Family { name, help, samples: Samples::Histogram(histogram.clone()) });
    }

    /// Adds what Linux tells about this process: processor time, resident memory, open files.
    pub fn process(&mut self) {
        process::add(self);
    }

    /// The text.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: MetricType) -> Series<'_> {
        self.families.push(Family { name, help, samples: Samples::Values(kind, Vec::new()) });
        match self.families.last_mut().map(|family| &mut family.samples) {
            Some(Samples::Values(_, samples)) => Series(samples),
            _ => unreachable!("it was pushed just now"),
        }
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Family { name, help, samples } in &self.families {
            match samples {
                Samples::Values(kind, samples) => {
                    // The encoder adds the suffix again.
                    let mut encoder = encoder.encode_descriptor(name.trim_end_matches("_total"), help, None, *kind)?;
                    for Sample { labels, value } in samples {
                        let labels = labels.as_slice();
                        let mut encoder = encoder.encode_family(&labels)?;
                        match kind {
                            MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(value, None)?,
                            _ => encoder.encode_gauge(value)?,
                        }
                    }
                }
                Samples::Histogram(histogram) => {
                    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                    encoder.encode_histogram::<NoLabelSet>(histogram.sum(), histogram.count(), &histogram.buckets(), None)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_the_format_asks_for() {
        let mut exposition = Exposition::default();
        exposition.gauge("a_bytes", "Bytes.").set(Some(1.5));
        exposition.gauge("nothing", "Not known yet.").set(None);
        exposition.counter("b_total", "Things.").add(&[("kind", "x\"\\\n"), ("other", "y")], 3.0);
        let mut histogram = Histogram::new(&[0.001, 1.0]);
        histogram.observe(0.5);
        histogram.observe(2.0);
        exposition.histogram("c_seconds", "Waits.", &histogram);
        assert_eq!(
            exposition.text(),
            "# HELP a_bytes Bytes.\n# TYPE a_bytes gauge\na_bytes 1.5\n\
             # HELP nothing Not known yet.\n# TYPE nothing gauge\n\
             # HELP b_total Things.\n# TYPE b_total counter\nb_total{kind=\"x\\\"\\\\\\n\",other=\"y\"} 3.0\n\
             # HELP c_seconds Waits.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{le=\"0.001\"} 0\nc_seconds_bucket{le=\"1\"} 1\nc_seconds_bucket{le=\"+Inf\"} 2\n\
             c_seconds_sum 2.5\nc_seconds_count 2\n"
        );
    }

    #[test]
    fn linux_tells_about_this_process() {
        let mut exposition = Exposition::default();
        exposition.process();
        let text = exposition.text();
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            assert!(value.is_some_and(|value| value.parse::<f64>().is_ok_and(|value| value > 0.0)), "{name} in {text}");
        }
    }
}
