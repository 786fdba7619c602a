//! How far links were behind over the last hours. Pure.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(15);
/// Samples that are kept of a link: six hours.
const EACH: usize = 6 * 60 * 4;
/// Samples that are kept of all links together. With more than 1,456 links the history of each becomes shorter.
const ALL: usize = 2 * 1024 * 1024;
/// Stands for a lag that is not known.
const UNKNOWN: u32 = u32::MAX;

/// The lags of all links, by UID. A sample has 4 bytes and a link's samples stand in a ring of at most 2,048: 1,000 links take some
/// 8 MiB, and however many never more than 16 MiB, beside 150 bytes for each.
#[derive(Default)]
pub struct History {
    /// When samples were taken, of all links at once: seconds since 1970.
    times: VecDeque<i64>,
    /// A link's last sample belongs to the last time, the one before to the time before.
    links: HashMap<String, VecDeque<u32>>,
}

/// The lags of one link, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lags {
    /// When: seconds since 1970.
    pub times: Vec<i64>,
    /// How far it was behind then, seconds; none where nobody knew.
    pub seconds: Vec<Option<u32>>,
}

impl History {
    /// Takes a sample of all links that there are; others are forgotten.
    pub fn sample(&mut self, now: Timestamp, lags: impl IntoIterator<Item = (String, Option<u32>)>) {
        let mut before = std::mem::take(&mut self.links);
        for (uid, lag) in lags {
            let mut samples = before.remove(&uid).unwrap_or_default();
            samples.push_back(lag.map_or(UNKNOWN, |lag| lag.min(UNKNOWN - 1)));
            self.links.insert(uid, samples);
        }
        self.times.push_back(now.as_second());
        let most = EACH.min(ALL / self.links.len().max(1));
        for samples in self.links.values_mut() {
            samples.drain(..samples.len().saturating_sub(most));
            // A ring doubles when it is full.
            samples.shrink_to(most.next_power_of_two());
        }
        self.times.drain(..self.times.len().saturating_sub(EACH));
    }

    /// The last samples of a link, at most this many.
    pub fn of(&self, uid: &str, most: usize) -> Lags {
        let Some(samples) = self.links.get(uid) else { return Lags::default() };
        let count = samples.len().min(self.times.len()).min(most);
        let seconds = samples.iter().skip(samples.len() - count).map(|&lag| (lag != UNKNOWN).then_some(lag));
        Lags { times: self.times.iter().skip(self.times.len() - count).copied().collect(), seconds: seconds.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn one(name: &str, lag: Option<u32>) -> (String, Option<u32>) {
        (name.to_owned(), lag)
    }

    #[test]
    fn samples_stand_beside_their_times_whenever_a_link_came() {
        let mut history = History::default();
        history.sample(at(0), [one("a", Some(3))]);
        history.sample(at(15), [one("a", None), one("b", Some(7))]);
        history.sample(at(31), [one("a", Some(5)), one("b", Some(8))]);
        assert_eq!(history.of("a", 99), Lags { times: vec![0, 15, 31], seconds: vec![Some(3), None, Some(5)] });
        assert_eq!(history.of("b", 99), Lags { times: vec![15, 31], seconds: vec![Some(7), Some(8)] });
        assert_eq!(history.of("a", 1), Lags { times: vec![31], seconds: vec![Some(5)] });
        assert_eq!(history.of("c", 99), Lags::default());
    }

    #[test]
    fn a_link_that_went_is_forgotten() {
        let mut history = History::default();
        history.sample(at(0), [one("a", Some(3))]);
        history.sample(at(15), []);
        history.sample(at(30), [one("a", Some(4))]);
        assert_eq!(history.of("a", 99).times, [30]);
    }

    #[test]
    fn memory_is_bounded_for_one_link_and_for_many() {
        let mut history = History::default();
        for second in 0..3000 {
            history.sample(at(second), [one("a", Some(1))]);
        }
        assert_eq!((history.of("a", usize::MAX).times.len(), history.times.len()), (EACH, EACH));
        assert!(history.links["a"].capacity() <= 2048);
        let many: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
        for second in 3000..3200 {
            history.sample(at(second), many.iter().map(|name| one(name, Some(1))).chain([one("a", Some(2))]));
        }
        let rings: usize = history.links.values().map(VecDeque::capacity).sum();
        assert!(rings <= 2 * ALL, "{rings}");
        assert!(history.of("a", usize::MAX).times.len() < 110);
    }
}
