//! Making metrics: in one registry a process, each described so that the manual can be held against what there is.

use std::collections::HashMap;

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, core::Collector, proto::MetricFamily};

/// Upper ends of the buckets of what takes milliseconds to minutes, seconds.
pub const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// The metrics of one process. Names begin with `link_operator_`; names and labels are constants of the program, and their values
/// are words of the program, names of tables, or numbers: never anything of a row or a Secret.
pub struct Meters {
    registry: Registry,
    described: Vec<Described>,
}

/// What a metric is, for the manual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts or measures.
    pub help: &'static str,
}

impl Meters {
    /// No metrics yet. All of them will bear these labels.
    ///
    /// # Panics
    /// On labels that are no labels.
    #[expect(clippy::expect_used, reason = "only an invalid name of a label fails, and names are constants")]
    pub fn new(labels: &[(&str, &str)]) -> Self {
        let labels: HashMap<String, String> = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { registry: Registry::new_custom(None, Some(labels)).expect("valid labels"), described: Vec::new() }
    }

    /// What only rises.
    pub fn counter(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> IntCounterVec {
        self.register("counter", name, labels, help, IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// What only rises, by fractions.
    pub fn fractions(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> CounterVec {
        self.register("counter", name, labels, help, CounterVec::new(Opts::new(name, help), labels))
    }

    /// What rises and falls.
    pub fn gauge(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> GaugeVec {
        self.register("gauge", name, labels, help, GaugeVec::new(Opts::new(name, help), labels))
    }

    /// How long things take, seconds.
    pub fn seconds(&mut self, name: &'static str, labels: &'static [&'static str], help: &'static str) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        self.register("histogram", name, labels, help, HistogramVec::new(options, labels))
    }

    #[expect(clippy::expect_used, reason = "only a constant name that is invalid or taken fails: every test that makes them shows it")]
    fn register<M: Collector + Clone + 'static>(
        &mut self,
        kind: &'static str,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
        made: prometheus::Result<M>,
    ) -> M {
        let metric = made.expect("a valid name and labels");
        self.registry.register(Box::new(metric.clone())).expect("a name of its own");
        self.described.push(Described { name, kind, labels, help });
        metric
    }

    /// All metrics with their values.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// What metrics there are, in the order in which they were made.
    pub fn described(&self) -> &[Described] {
        &self.described
    }
}

impl Default for Meters {
    /// For who counts where nobody looks.
    fn default() -> Self {
        Self::new(&[])
    }
}

/// Forgets all series of a counter in which the label has a value that is not to be kept.
pub fn retain(counter: &IntCounterVec, label: &str, keep: impl Fn(&str) -> bool) {
    for family in counter.collect() {
        for series in family.get_metric() {
            let labels: HashMap<&str, &str> = series.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label).is_some_and(|value| !keep(value)) {
                // Gone already is gone as well.
                let _ = counter.remove(&labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn series_of_what_is_gone_are_forgotten_and_common_labels_are_on_all() {
        let mut meters = Meters::new(&[("link", "shop")]);
        let rows = meters.counter("link_operator_rows_total", &["table", "kind"], "Rows.");
        for (table, kind) in [("a", "snapshot"), ("a", "changes"), ("b", "changes")] {
            rows.with_label_values(&[table, kind]).inc();
        }
        retain(&rows, "table", |table| table == "b");
        let text = TextEncoder::new().encode_to_string(&meters.gather()).unwrap();
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(series, [r#"link_operator_rows_total{kind="changes",table="b",link="shop"} 1"#]);
        assert_eq!(meters.described()[0].labels, ["table", "kind"]);
    }
}
