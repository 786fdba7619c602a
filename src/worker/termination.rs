//! The answer of a pod that does one thing and ends: a report in its termination message, which holds 4096 bytes.

use std::{io, path::Path};

use crate::api::{fault::Check, report::Report};

/// What the kubelet keeps of a container's termination message.
pub const LIMIT: usize = 4096;
/// Longest text of a fault before tables are left out for it, bytes.
const LONG: usize = 500;

/// Writes the report to the file, and to standard output for those who read the pod's log.
pub async fn write(report: Report, file: &Path) -> io::Result<()> {
    let answer = cut(report);
    println!("{answer}");
    tokio::fs::write(file, answer).await
}

/// The report as JSON of at most [`LIMIT`] bytes. Left out first are names of tables that are told besides, then tables that are well, then other tables from the end;
/// then texts get shorter. What is left is true, and names and reasons of failed checks are always in it.
pub fn cut(mut report: Report) -> String {
    let fits = |report: &Report| Some(json(report)).filter(|text| text.len() <= LIMIT);
    if let Some(text) = fits(&report) {
        return text;
    }
    for named in [10, 0] {
        report.discovery.iter_mut().for_each(|discovery| discovery.name_at_most(named));
        report.plan.iter_mut().for_each(|plan| plan.name_at_most(named));
        if let Some(text) = fits(&report) {
            return text;
        }
    }
    report.tables.retain(|table| table.error.is_some());
    shorten(&mut report, LONG);
    let tables = std::mem::take(&mut report.tables);
    // The most tables that fit: more tables never make a shorter text.
    let enough = |count: usize| fits(&Report { tables: tables[..count].to_vec(), ..report.clone() });
    let (mut count, mut over) = (0, tables.len() + 1);
    while count + 1 < over {
        let middle = usize::midpoint(count, over);
        if enough(middle).is_some() { count = middle } else { over = middle }
    }
    if let Some(text) = enough(count) {
        return text;
    }
    for length in [200, 100, 40, 0] {
        shorten(&mut report, length);
        if let Some(text) = fits(&report) {
            return text;
        }
    }
    report.checks.retain(|check| check.fault.is_some());
    while json(&report).len() > LIMIT && report.checks.pop().is_some() {}
    json(&report)
}

fn json(report: &Report) -> String {
    // A report is plain data with string keys: this cannot fail.
    serde_json::to_string(report).unwrap_or_default()
}

/// Cuts every text of the report to so many bytes.
fn shorten(report: &mut Report, length: usize) {
    for Check { fault, message, .. } in &mut report.checks {
        // A failed check's message says the same as its fault.
        if fault.is_some() {
            message.clear();
        } else {
            shorten_text(message, length);
        }
        if let Some(fault) = fault {
            shorten_text(&mut fault.message, length);
            shorten_text(&mut fault.remedy, length);
        }
    }
    for fault in report.tables.iter_mut().filter_map(|table| table.error.as_mut()) {
        shorten_text(&mut fault.message, length);
        shorten_text(&mut fault.remedy, length);
    }
}

fn shorten_text(text: &mut String, length: usize) {
    if text.len() > length {
        text.truncate(text.floor_char_boundary(length));
        text.push('…');
    }
}
