//! Requests that write, by verb and resource, from the text of a program's metrics.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Sub,
};

const WRITES: [&str; 6] = ["create", "update", "apply", "patch", "delete", "deletecollection"];

/// Counted writes by resource and verb.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts(BTreeMap<(String, String), u64>);

impl Counts {
    /// The writes in a counter with the labels `verb` and `resource`. Kubernetes' own has a label `subresource` beside it.
    pub fn read(metrics: &str, counter: &str) -> Self {
        let mut counts = Self::default();
        for (labels, value) in series(metrics, counter) {
            let verb = match labels.get("verb").copied().unwrap_or_default() {
                // As the API server calls them.
                "POST" => "create".to_owned(),
                "PUT" => "update".to_owned(),
                verb => verb.to_lowercase(),
            };
            if !WRITES.contains(&verb.as_str()) {
                continue;
            }
            let mut resource = labels.get("resource").copied().unwrap_or_default().to_owned();
            if let Some(part) = labels.get("subresource").filter(|part| !part.is_empty()) {
                resource = format!("{resource}/{part}");
            }
            *counts.0.entry((resource, verb)).or_default() += value as u64;
        }
        counts
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Writes of these resources.
    pub fn of(&self, resources: &[&str]) -> u64 {
        self.0.iter().filter(|((resource, _), _)| resources.contains(&resource.as_str())).map(|(_, count)| count).sum()
    }

    /// Without these resources.
    pub fn without(&self, resources: &[&str]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|((resource, _), _)| !resources.contains(&resource.as_str()))
                .map(|(key, count)| (key.clone(), *count))
                .collect(),
        )
    }

    /// One line a resource and verb, the most first.
    pub fn print(&self, per: f64, unit: &str) {
        let mut lines: Vec<_> = self.0.iter().filter(|(_, count)| **count > 0).collect();
        lines.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for ((resource, verb), count) in lines.iter().take(14) {
            println!("    {verb:<7} {resource:<28} {count:>8} {:>9.2} {unit}", **count as f64 / per);
        }
    }
}

impl Sub for &Counts {
    type Output = Counts;

    fn sub(self, before: Self) -> Counts {
        let less = |(key, count): (&(String, String), &u64)| (key.clone(), count - before.0.get(key).copied().unwrap_or(0).min(*count));
        Counts(self.0.iter().map(less).collect())
    }
}

/// Labels and value of each series of this name.
pub fn series<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (HashMap<&'a str, &'a str>, f64)> {
    metrics.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let labels =
            labels.split(',').filter_map(|label| label.split_once('=')).map(|(key, value)| (key, value.trim_matches('"'))).collect();
        Some((labels, value.parse().ok()?))
    })
}

/// The sum of the series of this name that have these labels.
pub fn sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |found: &HashMap<&str, &str>| labels.iter().all(|(key, value)| found.get(key) == Some(value));
    series(metrics, name).filter(|(found, _)| has(found)).map(|(_, value)| value).sum()
}
