//! What a comparison of a table with its source found, in a worker's report and in status.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::time;

/// A request to compare a link's tables with their source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyRequest {
    /// Value of the annotation `link-operator.io/verify-requested-at`.
    pub requested_at: String,
    /// Whether rows that differ are made as they are in the source.
    #[serde(default)]
    pub repair: bool,
}

/// Outcome of a comparison. Equal: every row of the target is as it is in the source. Different: rows differ, and `repaired`
/// did not mend them. Unsettled: every row that stood still is equal, others changed whenever they were looked at, or `message`
/// says what kept them from being judged. Failed: the table could not be compared, `message` says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, strum::Display, strum::IntoStaticStr)]
pub enum VerificationResult {
    /// Every row of the target is as it is in the source.
    Equal,
    /// Every row that stood still is; others could not be judged.
    Unsettled,
    /// Rows differ.
    Different,
    /// The table could not be compared.
    Failed,
}

/// What a comparison of a table with its source found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// When it ended.
    #[schemars(schema_with = "time")]
    pub time: Timestamp,
    /// Position in the source's log that the target had passed when the last rows were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// Equal, Different, Unsettled (rows that could not be judged, all others are equal) or Failed.
    pub result: VerificationResult,
    /// Rows of the source, counted while others may have written.
    pub source_rows: i64,
    /// Rows of the target at the same moment of the source.
    pub target_rows: i64,
    /// Rows that differed, were missing or were too many, before any repair.
    pub differing_rows: i64,
    /// Rows of them that were made as they are in the source.
    pub repaired: i64,
    /// Rows that could not be judged: they changed whenever they were looked at, or `message` says why.
    pub unsettled_rows: i64,
    /// Ranges of the key that had such differing rows, at most 20, in the key's order.
    #[schemars(length(max = 20))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differing_ranges: Vec<DifferingRange>,
    /// Why it could not be compared, or not all of it judged or repaired, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A range of a table's key in which rows differed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferingRange {
    /// The last key before the range (its columns that are ordered alike in every database); none: from the first row on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The last key of the range; none: to the last row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<String>,
    /// Rows in it that differed, were missing or were too many.
    pub rows: i64,
    /// Keys of at most five of them.
    #[schemars(length(max = 5))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// What the comparison of all tables of a link found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LinkVerification {
    /// When the last table's ended.
    #[schemars(schema_with = "time")]
    pub time: Timestamp,
    /// The worst of all tables: Failed, Different, Unsettled, Equal.
    pub result: VerificationResult,
    /// Tables that were compared.
    pub tables: i64,
    /// Tables that are Equal.
    pub equal: i64,
    /// Rows of all sources.
    pub source_rows: i64,
    /// Rows of all targets.
    pub target_rows: i64,
    /// Rows that differed, were missing or were too many, before any repair.
    pub differing_rows: i64,
    /// Rows of them that were made as they are in the source.
    pub repaired: i64,
}

/// What a worker knows of a table's comparison that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableVerification {
    /// UID of the LinkTable.
    pub uid: String,
    /// The requests that it answers, by their value.
    pub requests: Vec<String>,
    /// What it found.
    pub found: Verification,
}

impl Verification {
    /// One sentence for a person.
    pub fn summary(&self) -> String {
        let Self { source_rows, target_rows, differing_rows, repaired, unsettled_rows, .. } = self;
        match self.result {
            VerificationResult::Failed => self.message.clone().unwrap_or_default(),
            VerificationResult::Equal if *repaired > 0 => {
                format!("{source_rows} rows are equal to the source's after {repaired} were repaired")
            }
            VerificationResult::Equal => format!("{source_rows} rows are equal to the source's"),
            VerificationResult::Unsettled => {
                let why = self.message.as_deref().unwrap_or("they changed whenever they were looked at");
                format!("{unsettled_rows} of {source_rows} rows could not be judged, all others are equal to the source's; {why}")
            }
            VerificationResult::Different => {
                let mut more: Vec<String> = self.differing_ranges.iter().take(3).map(DifferingRange::to_string).collect();
                more.extend(self.message.clone());
                format!(
                    "{differing_rows} rows differ: {source_rows} in the source, {target_rows} in the target, {repaired} repaired; {}",
                    more.join("; ")
                )
            }
        }
    }
}

impl std::fmt::Display for DifferingRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { after, up_to, rows, keys } = self;
        match (after, up_to) {
            (None, None) => write!(f, "{rows} in the whole table")?,
            (Some(after), None) => write!(f, "{rows} after key {after}")?,
            (None, Some(up_to)) => write!(f, "{rows} up to key {up_to}")?,
            (Some(after), Some(up_to)) => write!(f, "{rows} after key {after} up to {up_to}")?,
        }
        write!(f, ", among them {}", keys.join(", "))
    }
}

/// What the comparison of all these tables found that `request` asked for; none before it is complete.
pub fn roll_up<'a>(request: &str, tables: impl Iterator<Item = &'a str>, found: &[&TableVerification]) -> Option<LinkVerification> {
    let mut all: Option<LinkVerification> = None;
    for uid in tables {
        let answers = |known: &&&TableVerification| known.uid == uid && known.requests.iter().any(|answered| answered == request);
        let Verification { time, result, source_rows, target_rows, differing_rows, repaired, .. } = found.iter().find(answers)?.found;
        let sum = all.get_or_insert(LinkVerification {
            time,
            result,
            tables: 0,
            equal: 0,
            source_rows: 0,
            target_rows: 0,
            differing_rows: 0,
            repaired: 0,
        });
        sum.time = sum.time.max(time);
        sum.result = sum.result.max(result);
        sum.tables += 1;
        sum.equal += i64::from(result == VerificationResult::Equal);
        sum.source_rows += source_rows;
        sum.target_rows += target_rows;
        sum.differing_rows += differing_rows;
        sum.repaired += repaired;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(uid: &str, request: &str, result: VerificationResult, rows: i64) -> TableVerification {
        let found = Verification {
            time: Timestamp::from_second(rows).unwrap(),
            position: None,
            result,
            source_rows: rows,
            target_rows: rows,
            differing_rows: 0,
            repaired: 0,
            unsettled_rows: 0,
            differing_ranges: vec![],
            message: None,
        };
        TableVerification { uid: uid.into(), requests: vec![request.into()], found }
    }

    #[test]
    fn a_link_is_verified_once_all_its_tables_are_and_is_what_the_worst_is() {
        let (a, b) = (table("a", "now", VerificationResult::Equal, 5), table("b", "now", VerificationResult::Different, 7));
        let old = table("b", "before", VerificationResult::Equal, 9);
        let of = |found: &[&TableVerification]| roll_up("now", ["a", "b"].into_iter(), found);
        assert_eq!(of(&[&a]), None);
        assert_eq!(of(&[&a, &old]), None);
        let all = of(&[&a, &old, &b]).unwrap();
        assert_eq!((all.result, all.tables, all.equal, all.source_rows), (VerificationResult::Different, 2, 1, 12));
        assert_eq!(all.time, b.found.time);
    }

    #[test]
    fn ranges_are_named_by_their_keys() {
        let range = |after: Option<&str>, up_to: Option<&str>| {
            DifferingRange { after: after.map(Into::into), up_to: up_to.map(Into::into), rows: 2, keys: vec!["(7)".into(), "(9)".into()] }
                .to_string()
        };
        assert_eq!(range(None, None), "2 in the whole table, among them (7), (9)");
        assert_eq!(range(Some("(5)"), Some("(10)")), "2 after key (5) up to (10), among them (7), (9)");
    }
}
