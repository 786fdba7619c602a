//! Whose the link's folder is, and in which run its owner works (DESIGN 3.2).
//!
//! The folder outlives the LinkConnection: one that was made anew from the same manifests finds it, and its policy says what
//! then. Owners follow each other by create-if-absent, and nobody becomes one a second time: of two live links with one id
//! the later goes on, and the other does nothing any more.

use std::time::Duration;

use super::{Context, Setup, error::Error};
use crate::{
    api::{link_connection::RelinkPolicy, plan::Plan},
    landing::{
        log::{self, Outcome},
        record::{Owner, RECORD_FORMAT, Run},
    },
};

/// How often is looked whether the folder is still ours.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Makes sure that the folder is this link's, and that its run has begun. Returns the run to work in.
pub async fn open_run(setup: &Setup, plan: &Plan) -> Result<u32, Error> {
    let newest = log::newest_run(&setup.zone).await?;
    let owner = loop {
        let owners = log::owners(&setup.zone).await?;
        if let Some(owner) = judge(&owners, plan)? {
            break owner.clone();
        }
        let us = next(&owners, plan, newest);
        // Another worker of the same link may have been faster, or another link: that is judged again.
        if let Outcome::Ours = log::own(&setup.zone, owners.len() + 1, &us).await? {
            if let Some(former) = owners.last() {
                tracing::info!(%former, policy = ?plan.relink_policy, "the folder of a former link is this link's now");
            }
            break us;
        }
    };
    let run = newest.max(plan.run).max(owner.run);
    if newest < run {
        log::begin_run(&setup.zone, &Run { run, format_version: RECORD_FORMAT }).await?;
    }
    Ok(run)
}

/// The present owner if that is the plan's link; none if the link is to become it.
fn judge<'a>(owners: &'a [Owner], plan: &Plan) -> Result<Option<&'a Owner>, Error> {
    let Some(owner) = owners.last() else { return Ok(None) };
    if owner.uid == plan.link.uid {
        return Ok(Some(owner));
    }
    if owners.iter().any(|former| former.uid == plan.link.uid) {
        return Err(Error::LinkTakenOver { by: owner.to_string() });
    }
    match plan.relink_policy {
        RelinkPolicy::Refuse => Err(Error::ZoneNotEmpty { owner: owner.to_string() }),
        RelinkPolicy::Adopt | RelinkPolicy::Purge => Ok(None),
    }
}

/// The plan's link as the next owner; `newest` is the newest run.
fn next(owners: &[Owner], plan: &Plan, newest: u32) -> Owner {
    let starts_over = !owners.is_empty() && plan.relink_policy == RelinkPolicy::Purge;
    let link = &plan.link;
    Owner {
        uid: link.uid.clone(),
        namespace: link.namespace.clone(),
        name: link.name.clone(),
        run: if starts_over { newest + 1 } else { 0 },
    }
}

/// Fails if the folder is another link's by now.
pub async fn check(context: &Context) -> Result<(), Error> {
    let owner = log::owner(&context.setup.zone).await?;
    match owner.filter(|owner| owner.uid != context.plan.borrow().link.uid) {
        Some(owner) => Err(Error::LinkTakenOver { by: owner.to_string() }),
        None => Ok(()),
    }
}

/// Looks at intervals whether the folder is another link's by now: ends only then, or if the zone does not answer.
pub async fn watch(context: &Context) -> Result<(), Error> {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        check(context).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(uid: &str) -> Owner {
        Owner { uid: uid.into(), namespace: "shops".into(), name: "shop".into(), run: 0 }
    }

    fn plan(policy: RelinkPolicy) -> Plan {
        let plan = serde_json::json!({
            "formatVersion": 1, "revision": 1, "run": 1, "intent": "Run", "workers": 1, "coresPerWorker": 1, "flushIntervalMs": 1000,
            "link": {"namespace": "shops", "name": "shop", "uid": "us", "linkId": "shops.shop"},
            "source": {}, "target": {}, "zone": {}, "tables": [],
        });
        Plan { relink_policy: policy, ..serde_json::from_value(plan).unwrap() }
    }

    #[test]
    fn a_folder_goes_to_the_next_link_only_if_its_policy_says_so_and_never_back() {
        use RelinkPolicy::{Adopt, Purge, Refuse};
        let judged = |owners: &[&str], policy| {
            let owners: Vec<Owner> = owners.iter().map(|uid| owner(uid)).collect();
            judge(&owners, &plan(policy)).map(|owner| owner.is_some()).map_err(|error| <&'static str>::from(&error))
        };
        for policy in [Refuse, Adopt, Purge] {
            assert_eq!(judged(&[], policy), Ok(false), "{policy:?}");
            assert_eq!(judged(&["former", "us"], policy), Ok(true), "{policy:?}");
            assert_eq!(judged(&["us", "later"], policy), Err("LinkTakenOver"), "{policy:?}");
        }
        assert_eq!(judged(&["former"], Refuse), Err("ZoneNotEmpty"));
        assert_eq!((judged(&["former"], Adopt), judged(&["former"], Purge)), (Ok(false), Ok(false)));
    }

    #[test]
    fn who_starts_over_begins_a_run_that_was_not_there() {
        let run = |owners: &[Owner], policy| next(owners, &plan(policy), 3).run;
        assert_eq!(run(&[owner("former")], RelinkPolicy::Purge), 4);
        assert_eq!((run(&[owner("former")], RelinkPolicy::Adopt), run(&[], RelinkPolicy::Purge)), (0, 0));
    }
}
