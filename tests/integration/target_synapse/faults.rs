//! What breaks in between, and who is late.

use link_operator::api::fault::Explain as _;

use super::{
    pool::drops,
    zone::{Nowhere, READER, Watched},
    *,
};
use crate::support::{
    azurite::{ALL, sas},
    tds::Answer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_between_copy_and_transaction_is_done_again() {
    let zone = Watched::start().await;
    let files: Arc<dyn LoadFiles> = zone.clone();
    let link = Link::in_place(Some(files)).await;
    let before = link.pool.state();
    let change = || vec![link.net(&[1], &[(2, Some("two"))])];
    for lost_at in ["COPY INTO", "BEGIN TRANSACTION", "INSERT INTO [dw]", "COMMIT TRANSACTION"] {
        link.pool.fault(lost_at, drops());
        let lost = link.apply(at(10, 11), change()).await.unwrap_err();
        assert_eq!(reason(&lost), "TargetUnreachable", "{lost_at}: {lost}");
        assert_eq!(link.pool.state(), before, "{lost_at}");
        assert_eq!(zone.objects().await, Vec::<String>::new(), "{lost_at}");
    }
    link.apply(at(10, 11), change()).await.unwrap();
    let after = link.pool.state();
    assert_eq!((after.progress, after.moves.len() - before.moves.len()), (Some((1, 10, 11)), 3), "{:?}", after.moves);

    let link = Link::claimed(Some(zone.clone()), None).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    for lost_at in ["COPY INTO", "BEGIN TRANSACTION", "INSERT INTO [dw]", "COMMIT TRANSACTION"] {
        link.pool.fault(lost_at, drops());
        link.load(0, &[(1, None)]).await.unwrap_err();
        assert!(link.pool.state().chunks.is_empty() && link.pool.state().moves.is_empty(), "{lost_at}");
    }
    link.load(0, &[(1, None)]).await.unwrap();
    let twice = link.load(0, &[(1, None)]).await.unwrap_err();
    assert_eq!(reason(&twice), "ProgressMoved");
    let state = link.pool.state();
    assert_eq!((state.chunks.len(), state.moves.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_late_writes_nothing() {
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let (before, said) = (link.pool.state(), link.pool.said(&["COPY INTO"]).len());
    let late = link.apply(at(9, 11), vec![link.net(&[1], &[])]).await.unwrap_err();
    assert_eq!(reason(&late), "ProgressMoved");
    assert_eq!((link.pool.state(), link.pool.said(&["COPY INTO"]).len()), (before.clone(), said), "nor loaded");

    // Another is faster while this one stages.
    link.pool.meanwhile("COPY INTO", |state| state.progress = Some((1, 10, 11)));
    let late = link.apply(at(10, 11), vec![link.net(&[1], &[(2, None)])]).await.unwrap_err();
    assert_eq!(reason(&late), "ProgressMoved");
    assert_eq!(link.pool.state().moves, before.moves);
    assert_eq!(link.pool.state().progress, Some((1, 10, 11)));

    // Another loads the chunk while this one stages it.
    let link = Link::claimed(Some(Arc::new(Nowhere)), None).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    link.pool.meanwhile("COPY INTO", |state| {
        state.chunks.insert(0);
    });
    assert_eq!(reason(&link.load(0, &[(1, None)]).await.unwrap_err()), "ProgressMoved");
    link.pool.meanwhile("COPY INTO", |state| state.progress = Some((2, 1, 1)));
    assert_eq!(reason(&link.load(1, &[(1, None)]).await.unwrap_err()), "ProgressMoved");
    assert!(link.pool.state().moves.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_that_was_cut_off_goes_on() {
    let second = Incarnation { run: 1, record: 20 };
    let advance = Advance { incarnation: second, ..at(20, 20) };
    for cut_at in
        ["SET [placing] = 1", "RENAME OBJECT [dw].[orders]", "RENAME OBJECT [dw].[link_", "BEGIN TRANSACTION", "COMMIT TRANSACTION"]
    {
        let link = Link::in_place(Some(Arc::new(Nowhere))).await;
        let old = link.pool.state().tables["orders"];
        link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap();
        link.pool.fault(cut_at, drops());
        link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap_err();
        assert!(!link.pool.state().exact, "{cut_at}");
        // Whoever comes next asks first what is loaded.
        link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap();
        link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap();
        let state = link.pool.state();
        assert!(state.exact && state.progress == Some((1, 20, 20)), "{cut_at}: {state:?}");
        assert!(state.tables.len() == 1 && state.tables["orders"] != old, "{cut_at}: {state:?}");
    }
    // If the pool refuses the second name, the old table has its own again.
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let old = link.pool.state().tables["orders"];
    link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap();
    link.pool.fault("RENAME OBJECT [dw].[link_", Answer::error(15_336, "The table is in use."));
    link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap_err();
    assert_eq!(link.pool.state().tables["orders"], old);
    // And if it was cut off there, and the link is released or loaded anew.
    link.pool.fault("RENAME OBJECT [dw].[link_", drops());
    link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap_err();
    assert!(!link.pool.state().tables.contains_key("orders"));
    link.target.forget(&link.table, false).await.unwrap();
    assert_eq!(link.pool.state().tables, [("orders".to_owned(), old)].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_told_to_the_pool_alone() {
    let zone = Watched::start().await;
    let files: Arc<dyn LoadFiles> = zone.clone();
    let link = Link::claimed(Some(files.clone()), Some(&zone.token)).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    let signature = zone.token.split("sig=").nth(1).unwrap().to_owned();
    let said = format!("Not able to validate external location 'https://zone/?{}' near '{signature}'.", zone.token);
    link.pool.fault("COPY INTO", Answer::error(105_215, said));
    let error = link.load(0, &[(1, None)]).await.unwrap_err();
    assert!(reason(&error) == "TargetError" && error.to_string().contains("Not able to validate"), "{error}");
    assert!(!format!("{error} {error:?} {}", error.remedy()).contains(&signature), "{error}");
    link.load(0, &[(1, None)]).await.unwrap();

    let hour = jiff::SignedDuration::from_hours(1);
    for (token, what) in [
        (sas("zone", ALL, hour), "more rights than a reader needs: acwd"),
        (sas("zone", "r", hour), "lacks the right l"),
        (sas("zone", READER, jiff::SignedDuration::from_mins(-1)), "expired"),
        ("hunter2".to_owned(), "no signature"),
    ] {
        let link = Link::claimed(Some(files.clone()), Some(&token)).await;
        link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
        let error = link.load(0, &[(1, None)]).await.unwrap_err();
        assert!(reason(&error) == "TargetNotPrepared" && error.to_string().contains(what), "{error}");
        assert!(!error.to_string().contains(&token) && link.pool.said(&["COPY INTO"]).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflight_has_the_pool_load_a_file() {
    let zone = Watched::start().await;
    let link = Link::new(Some(zone.clone()), None);
    let failed = |checks: &[link_operator::api::fault::Check]| -> Vec<(String, String)> {
        checks.iter().filter_map(|check| Some((check.name.clone(), check.fault.as_ref()?.remedy.clone()))).collect()
    };
    link.pool.fault("COPY INTO", Answer::error(105_215, "Access is denied."));
    let found = failed(&link.target.preflight().await);
    assert!(found.len() == 1 && found[0].0 == "TargetReadsZone" && found[0].1.contains("az role assignment create"), "{found:?}");
    let checks = link.target.preflight().await;
    assert_eq!((failed(&checks).len(), checks.len()), (0, 3), "{checks:?}");
    let asked = link.pool.said(&["COPY INTO"]).len();
    link.target.preflight().await;
    assert_eq!(link.pool.said(&["COPY INTO"]).len(), asked, "what is known is not asked again");
    assert_eq!(zone.rows(), ["1", "1"]);
    assert_eq!(zone.objects().await, Vec::<String>::new());
    // A probe, which has no zone, asks for what it can.
    assert_eq!(Link::new(None, None).target.preflight().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_began_without_its_table_gets_one() {
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let second = Incarnation { run: 1, record: 20 };
    link.pool.fault("CREATE TABLE [dw].[link_", drops());
    link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap_err();
    assert_eq!(link.pool.state().progress, Some((1, 20, 20)), "it has begun");
    link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap();
    assert_eq!(link.pool.state().tables.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_came_in_between_is_not_replaced() {
    let link = Link::claimed(Some(Arc::new(Nowhere)), None).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    link.pool.change(|state| {
        state.tables.insert("orders".to_owned(), 7);
    });
    let refused = link.target.finish_snapshot(&link.table, &link.schema, at(10, 10)).await.unwrap_err();
    assert_eq!(reason(&refused), "TargetTableExists");
    assert_eq!(link.pool.state().tables["orders"], 7);
}
