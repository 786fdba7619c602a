//! What the terminal shows: a bar a table where there is a terminal, else a line for each change of phase; at the end, a
//! table of all.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

use crate::{
    api::{
        plan::{Plan, PlannedTable},
        report::{TablePhase, TableReport},
        verification::{Verification, VerificationResult},
    },
    controller::explain,
    replication::EngineReport,
    text::printable,
};

/// How often a bar is drawn while nothing changes.
const TICK: Duration = Duration::from_millis(200);

/// How often a line tells of a first load's progress, where there are no bars.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Shows links and tables.
pub struct Display {
    began: Instant,
    bars: MultiProgress,
    style: ProgressStyle,
    /// By the link's id and the table's.
    tables: Mutex<BTreeMap<(String, String), Shown>>,
    /// By the link's id: the faults that were last told.
    faults: Mutex<BTreeMap<String, Vec<String>>>,
}

struct Shown {
    name: String,
    bar: ProgressBar,
    report: Option<TableReport>,
    verification: Option<Verification>,
    /// When its last line was printed.
    line_at: Instant,
}

impl Display {
    /// A bar for each table.
    pub fn new<'a>(plans: impl Iterator<Item = &'a Plan>) -> Self {
        let bars = MultiProgress::new();
        let style = "{prefix:32!} {bar:30} {pos:>11} {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let display = Self { began: Instant::now(), bars, style, tables: Mutex::default(), faults: Mutex::default() };
        plans.for_each(|plan| display.add(&plan.link.link_id, &plan.tables));
        display
    }

    /// A bar for each of these tables of a link.
    pub fn add(&self, link: &str, tables: &[PlannedTable]) {
        for table in tables {
            let name = table.source.to_string();
            let bar = self.bars.add(ProgressBar::no_length().with_style(self.style.clone()).with_prefix(printable(&name).into_owned()));
            bar.enable_steady_tick(TICK);
            let shown = Shown { name, bar, report: None, verification: None, line_at: Instant::now() };
            self.lock().insert((link.to_owned(), table.uid.clone()), shown);
        }
    }

    /// A link has told something new.
    pub fn show(&self, link: &str, report: &EngineReport) {
        let faults: Vec<String> = report.checks.iter().filter_map(|check| check.fault.as_ref()).map(explain).collect();
        let before = self.faults.lock().unwrap_or_else(PoisonError::into_inner).insert(link.to_owned(), faults.clone());
        for fault in faults.iter().filter(|fault| !before.iter().flatten().any(|told| told == *fault)) {
            self.line(&format!("link {link}: {fault}"));
        }
        for verification in &report.verifications {
            let mut tables = self.lock();
            let Some(shown) = tables.get_mut(&(link.to_owned(), verification.uid.clone())) else { continue };
            if shown.verification.replace(verification.found.clone()).as_ref() != Some(&verification.found) {
                let text = format!("{}  {}: {}", shown.name, verification.found.result, verification.found.summary());
                drop(tables);
                self.line(&text);
            }
        }
        for table in &report.tables {
            let mut tables = self.lock();
            let Some(shown) = tables.get_mut(&(link.to_owned(), table.uid.clone())) else { continue };
            shown.bar(table);
            let before = shown.report.replace(table.clone());
            let told = |report: &TableReport| (report.phase, problem(report));
            let changed = before.as_ref().map(told) != Some(told(table));
            let still = table.phase == TablePhase::Snapshotting && shown.line_at.elapsed() > PROGRESS_EVERY;
            let news = (changed || still).then(|| {
                shown.line_at = Instant::now();
                shown.line(before.as_ref(), table)
            });
            drop(tables);
            // Bars show the phases; a line is for trouble, and for logs.
            if let Some(text) = news.filter(|_| self.bars.is_hidden() || problem(table).is_some()) {
                self.line(&text);
            }
        }
    }

    /// Prints a line of its own.
    pub fn line(&self, text: &str) {
        let text = format!("{:8.1} s  {}", self.began.elapsed().as_secs_f64(), printable(text));
        if self.bars.is_hidden() || self.bars.println(&text).is_err() {
            eprintln!("{text}");
        }
    }

    /// The end: one line a table.
    pub fn summary(&self) {
        let tables = self.lock();
        tables.values().for_each(|shown| shown.bar.finish_and_clear());
        let mut text = format!("{:<40} {:<13} {:>12} {:>14}  {}\n", "TABLE", "PHASE", "ROWS", "BYTES", "UP-TO");
        for shown in tables.values() {
            let (phase, rows, bytes) =
                shown.report.as_ref().map_or((TablePhase::Waiting, 0, 0), |table| (table.phase, table.rows, table.bytes));
            let upto = shown.report.as_ref().and_then(|table| table.as_of).map(|time| format!("{time:.0}")).unwrap_or_default();
            let _ = writeln!(text, "{:<40} {:<13} {rows:>12} {bytes:>14}  {upto}", shown.name, phase.to_string());
            if let Some(problem) = shown.report.as_ref().and_then(problem) {
                let _ = writeln!(text, "    {problem}");
            }
            if let Some(found) = &shown.verification {
                let _ = writeln!(text, "    {}: {}", found.result, found.summary());
            }
        }
        // Whoever reads it may have had enough.
        let _ = std::io::stdout().write_all(printable(&text).as_bytes());
    }

    /// Whether every table was compared with its source and found equal.
    pub fn all_equal(&self) -> bool {
        self.lock().values().all(|shown| shown.verification.as_ref().is_some_and(|found| found.result == VerificationResult::Equal))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Shown>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shown {
    fn bar(&self, table: &TableReport) {
        let progress = table.snapshot.as_ref().filter(|_| table.phase == TablePhase::Snapshotting);
        if let Some(rows) = progress.and_then(|progress| progress.rows_estimated) {
            self.bar.set_length(rows.max(0).unsigned_abs());
        } else {
            self.bar.set_length(table.rows);
        }
        self.bar.set_position(table.rows);
        self.bar.set_message(printable(&format!("{} {}", table.phase, problem(table).unwrap_or_default())).into_owned());
    }

    fn line(&self, before: Option<&TableReport>, table: &TableReport) -> String {
        let mut line = format!("{}  ", self.name);
        if let Some(before) = before.filter(|before| before.phase != table.phase) {
            let _ = write!(line, "{} → ", before.phase);
        }
        let _ = write!(line, "{}  {} rows", table.phase, table.rows);
        if let Some(snapshot) = table.snapshot.as_ref().filter(|_| table.phase == TablePhase::Snapshotting) {
            let _ = write!(line, ", {} of {} chunks", snapshot.chunks_done, snapshot.chunks_total);
        }
        if let Some(problem) = problem(table) {
            let _ = write!(line, "  {problem}");
        }
        line
    }
}

/// What is wrong with a table, or what it waits for.
fn problem(table: &TableReport) -> Option<String> {
    table.error.as_ref().or(table.waiting.as_ref()).map(explain)
}
