//! Runbook pages: one an alert, in `deploy/runbooks`. Conditions name the page that is about their reason.

/// Where the pages are to be read.
pub const BASE: &str = "https://github.com/link-operator/link-operator/blob/main/deploy/runbooks/";

/// Each page with the reasons that it is about. Those that heal by themselves within seconds have none.
pub const PAGES: [(&str, &[&str]); 9] = [
    (
        "LinkCheckFailing",
        &[
            "SourceUnreachable",
            "SourceAuthenticationFailed",
            "SourcePermissionDenied",
            "SourceNotPrepared",
            "SourceIdentityChanged",
            "CaptureNotRunning",
            "TooManyConnections",
            "TargetUnreachable",
            "TargetAuthenticationFailed",
            "TargetPermissionDenied",
            "TargetNotPrepared",
            "ZoneUnreachable",
            "ZoneContainerMissing",
            "ZoneNotFound",
            "ZonePermissionDenied",
            "ZoneFull",
            "ZoneNotEmpty",
            "ConditionalWritesUnsupported",
            "SecretMissing",
            "SecretKeyMissing",
        ],
    ),
    ("LinkZoneCredentialExpiring", &["CredentialExpiring", "CredentialExpired", "CredentialRejected", "CredentialMalformed"]),
    (
        "LinkSourceLogHigh",
        &["RetainedLogHigh", "RetainedLogRising", "ResumeSoon", "PositionLost", "PositionGivenUp", "ChangeVersionExpired"],
    ),
    (
        "LinkTablesFailed",
        &[
            "TablesFailed",
            "SchemaChanged",
            "NoPrimaryKey",
            "SourceTableMissing",
            "TableNotSupported",
            "TargetTableOwned",
            "TargetTableExists",
            "TargetTableDiffers",
            "TargetSchemaMissing",
            "TargetColumnExists",
            "ValueNotSupported",
        ],
    ),
    ("LinkTablesSuspended", &["TablesSuspended"]),
    ("LinkSnapshotStuck", &["SnapshotStuck"]),
    (
        "LinkWorkersMissing",
        &[
            "WorkersMissing",
            "WorkerUnreachable",
            "Unschedulable",
            "ImagePullFailed",
            "QuotaExceeded",
            "PodSecurityRefused",
            "PodRefused",
            "CannotStart",
            "CrashLoop",
        ],
    ),
    ("LinkLeftBehind", &["NotReleased"]),
    ("LinkStalled", &["DataFileUnreadable", "RecordMissing", "ZoneCorrupt"]),
];

/// The page that is about a reason.
pub fn page(reason: &str) -> Option<String> {
    let (page, _) = PAGES.iter().find(|(_, reasons)| reasons.contains(&reason))?;
    Some(format!("{BASE}{page}.md"))
}

/// A message that also names the page about its reason, if there is one.
pub fn refer(reason: &str, message: &str) -> String {
    match page(reason) {
        // A message that was a condition's before names it already.
        Some(page) if !message.is_empty() && !message.contains(BASE) => format!("{message}; see {page}"),
        _ => message.to_owned(),
    }
}

/// A message without the page that [`refer`] named at its end, and the page.
pub fn parts(message: &str) -> (&str, Option<String>) {
    let pages = PAGES.iter().map(|(page, _)| format!("{BASE}{page}.md"));
    let mut parts = pages.filter_map(|page| Some((message.strip_suffix(&page)?.strip_suffix("; see ")?, Some(page))));
    parts.next().unwrap_or((message, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_named_once_and_only_where_there_is_one() {
        let once = refer("NoPrimaryKey", "table t has no primary key; add one");
        assert_eq!(once, format!("table t has no primary key; add one; see {BASE}LinkTablesFailed.md"));
        assert_eq!(refer("NoPrimaryKey", &once), once);
        assert_eq!(refer("TablesFailed", &once), once);
        assert_eq!(refer("NoPrimaryKey", ""), "");
        assert_eq!(refer("AsRequested", "all is well"), "all is well");
    }

    #[test]
    fn a_page_is_told_apart_from_its_message_and_only_one_of_ours() {
        let page = format!("{BASE}LinkTablesFailed.md");
        assert_eq!(parts(&refer("NoPrimaryKey", "add one")), ("add one", Some(page)));
        for other in ["add one", "add one; see https://evil.example/LinkTablesFailed.md", &format!("add one; see {BASE}../../evil.md")] {
            assert_eq!(parts(other), (other, None));
        }
    }
}
