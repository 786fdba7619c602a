//! What stays of a link that is let go without a release, and what removes it. Pure.

use kube::ResourceExt;

use super::{status::RELEASED, validate::link_id};
use crate::api::{
    conditions::is_true,
    link_connection::{LinkConnection, LinkPhase, ZoneDeletion},
    report::Report,
};

/// What is left in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where.
    pub place: String,
    /// What removes it.
    pub remedy: String,
}

/// What a link leaves behind. `report`: what the last release came to, if it came to anything. `of_source`: commands that free the
/// source; none if nothing is made in one of its kind.
pub fn leftovers(link: &LinkConnection, report: Option<&Report>, of_source: &[String]) -> Vec<Leftover> {
    let freed =
        |check: &str| report.into_iter().flat_map(|report| &report.checks).any(|found| found.name == check && found.fault.is_none());
    let (id, zone) = (link_id(link), &link.spec.landing_zone_ref.name);
    let stopped = link.status.as_ref().is_some_and(|status| {
        // A stop frees the source and nothing else.
        status.phase == Some(LinkPhase::Stopped) && is_true(&status.conditions, RELEASED)
    });
    let mut left = Vec::new();
    if !of_source.is_empty() && !stopped && !freed("SourceReleased") {
        left.push(Leftover { place: "in its source".to_owned(), remedy: of_source.join(" ; ") });
    }
    if !freed("TargetReleased") {
        let quoted = id.replace('\'', "''");
        let remedy = format!("DELETE FROM link_operator.link_progress WHERE link_id = '{quoted}'");
        left.push(Leftover { place: "in its target".to_owned(), remedy });
    }
    if link.spec.deletion_policy.landing_zone != ZoneDeletion::Retain && !freed("ZoneReleased") {
        let place = format!("in LandingZone {}/{zone}", link.namespace().unwrap_or_default());
        left.push(Leftover { place, remedy: format!("delete the folder {id}") });
    }
    left
}

/// Whether something is left that makes a source keep its log.
pub fn is_in_source(left: &[Leftover]) -> bool {
    left.iter().any(|left| left.place == "in its source")
}

/// All of it in one sentence.
pub fn told(left: &[Leftover]) -> String {
    let each: Vec<String> = left.iter().map(|Leftover { place, remedy }| format!("{place}: {remedy}")).collect();
    each.join(" ; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{api::fault::Check, controller::link_connection::fixtures};

    #[test]
    fn only_what_was_not_freed_is_left() {
        let link = fixtures::link();
        let drop = ["drop slot".to_owned(), "drop publication".to_owned()];
        let places = |link: &LinkConnection, report: Option<&Report>, of_source: &[String]| {
            leftovers(link, report, of_source).into_iter().map(|left| left.place).collect::<Vec<_>>()
        };
        let everywhere = ["in its source", "in its target", "in LandingZone shops/staging"];
        assert_eq!(places(&link, None, &drop), everywhere);
        let all = leftovers(&link, None, &drop);
        assert!(is_in_source(&all) && !is_in_source(&all[1..]));
        assert_eq!(
            told(&all),
            "in its source: drop slot ; drop publication ; in its target: DELETE FROM link_operator.link_progress WHERE link_id = \
             'shops.shop' ; in LandingZone shops/staging: delete the folder shops.shop"
        );
        assert_eq!(places(&link, None, &[]), everywhere[1..], "change data capture is the administrator's");

        let fault = crate::api::fault::Fault { reason: "r".into(), message: "m".into(), remedy: "r".into(), heals: true };
        let mut report = crate::controller::link_connection::status_tests::empty();
        report.checks =
            vec![Check::passed("SourceReleased", ""), Check::failed("TargetReleased", fault), Check::passed("ZoneReleased", "")];
        assert_eq!(places(&link, Some(&report), &drop), everywhere[1..2]);

        let mut kept = link.clone();
        kept.spec.deletion_policy.landing_zone = ZoneDeletion::Retain;
        assert_eq!(places(&kept, None, &drop), everywhere[..2]);
        kept.status = serde_json::from_value(json!({"phase": "Stopped", "conditions": [{"type": RELEASED, "status": "True",
            "reason": "AsRequested", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
        .unwrap();
        assert_eq!(places(&kept, None, &drop), everywhere[1..2], "a stop freed the source");
    }
}
