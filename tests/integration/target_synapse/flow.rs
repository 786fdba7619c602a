//! A table from its claim to its end.

use link_operator::{
    data::Unresolved,
    target::{Claim, Fit, Stride, Together},
};

use super::{
    zone::{Nowhere, Watched},
    *,
};
use crate::support::tds::{Answer, Type, row};

const BUILD: &str = "link_";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_loaded_swapped_changed_and_forgotten() {
    let zone = Watched::start().await;
    let files: Arc<dyn LoadFiles> = zone.clone();
    let link = Link::new(Some(files), Some(&zone.token));
    assert_eq!(link.target.claim(&link.table, &link.schema).await.unwrap(), Claim::Load);
    assert_eq!(link.target.progress(&link.table).await.unwrap(), None);
    assert!(link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap().is_empty());

    assert_eq!(link.load(0, &[(i32::MIN, Some("漢🚀 'x'")), (2, None), (3, Some(""))]).await.unwrap(), 3);
    assert_eq!(zone.rows(), [format!("{},漢🚀 'x'", i32::MIN), "2,-".to_owned(), "3,".to_owned()]);
    link.load(1, &[(4, Some("four"))]).await.unwrap();
    let loaded = link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    assert_eq!(loaded.into_iter().collect::<Vec<_>>(), [0, 1]);
    zone.rows();
    let steps = stream::iter([Ok(link.net(&[2], &[(5, Some("five"))]))]).boxed();
    assert_eq!(link.target.catch_up(&link.table, &link.schema, at(10, 12), steps).await.unwrap(), 2);
    assert_eq!(zone.rows(), ["5,five", "2"]);

    link.target.finish_snapshot(&link.table, &link.schema, at(12, 12)).await.unwrap();
    let state = link.pool.state();
    assert_eq!((state.progress, state.exact, state.tables.len()), (Some((1, 10, 12)), true, 1), "{state:?}");
    assert_eq!((state.placed, state.tables.get("orders").copied()), (state.placing, state.placed), "{state:?}");
    assert_eq!(state.marks.values().collect::<Vec<_>>(), ["Copy of public.orders by link ns.shop (link-operator)"]);
    let progress = link.target.progress(&link.table).await.unwrap().unwrap();
    assert!(progress.exact && progress.record == 12 && progress.incarnation == FIRST, "{progress:?}");

    // Truncated, then both changed and deleted: what is moved, in this order, after the progress.
    let before = link.pool.server.statements().len();
    assert_eq!(link.apply(at(12, 13), vec![Step::Truncate, link.net(&[4], &[(6, Some("six"))])]).await.unwrap(), 2);
    let said = link.pool.server.statements().split_off(before);
    let begin = said.iter().position(|statement| statement == "BEGIN TRANSACTION").unwrap();
    let within: Vec<&str> =
        said[begin + 1..].iter().take_while(|s| *s != "COMMIT TRANSACTION").map(|s| s.split(" WHERE").next().unwrap()).collect();
    assert!(within[0].starts_with("UPDATE [link_operator].[link_progress] SET [record] = 13"), "{within:#?}");
    assert_eq!(within[1..4], ["DELETE FROM [dw].[orders]"; 3], "{within:#?}");
    assert!(within[4].starts_with("INSERT INTO [dw].[orders] ([id], [name]) SELECT u.[c0], u.[c1] FROM #link_upserts0"), "{within:#?}");
    let copied: Vec<&String> = said[..begin].iter().filter(|statement| statement.starts_with("COPY INTO #")).collect();
    assert!(copied.len() == 2 && copied[0].contains(&format!("SECRET = '{}'", zone.token)), "{copied:?}");
    let read = std::mem::take(&mut *zone.read.lock().unwrap());
    for ((url, _), statement) in read.iter().zip(&copied) {
        assert!(statement.contains(&format!("FROM '{url}'")) && url.contains("/zone/links/ns.shop/_link/load/"), "{statement} {url}");
    }
    assert_eq!(zone.objects().await, Vec::<String>::new(), "load files are gone once they are loaded");

    // A reseed: the old table stays under its name until the new one takes it, with its readers' rights.
    let second = Incarnation { run: 1, record: 20 };
    link.target.begin_snapshot(&link.table, &link.schema, second).await.unwrap();
    let old = link.pool.state().tables["orders"];
    let advance = Advance { incarnation: second, ..at(20, 20) };
    link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap();
    let state = link.pool.state();
    assert!(state.tables.len() == 1 && state.tables["orders"] != old && state.exact, "{state:?}");
    assert_eq!(link.pool.said(&["GRANT SELECT ON OBJECT::[dw].[link_"]).len(), 1);
    assert_eq!(state.marks.len(), 1);

    link.target.forget(&link.table, true).await.unwrap();
    let state = link.pool.state();
    assert!(state.claim.is_none() && state.tables.is_empty() && state.marks.is_empty(), "{state:?}");
    link.target.forget(&link.table, true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_others_made_are_left_alone() {
    let link = Link::new(Some(Arc::new(Nowhere)), None);
    link.pool.change(|state| {
        state.tables.insert("orders".to_owned(), 7);
    });
    let refused = link.target.claim(&link.table, &link.schema).await.unwrap_err();
    assert_eq!(reason(&refused), "TargetTableExists");
    assert_eq!(link.pool.state().tables["orders"], 7);
    // The claim itself was rolled back.
    assert_eq!(link.pool.state().claim, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_pool_cannot_hold_is_refused_before_anything_is_made() {
    let mut link = Link::new(Some(Arc::new(Nowhere)), None);
    link.table.options = TableOptions::default();
    let refused = link.target.claim(&link.table, &link.schema).await.unwrap_err();
    assert_eq!(reason(&refused), "TargetOptionsUnfit", "{refused}");
    assert_eq!(link.pool.state().own, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_is_added_before_the_transaction_and_filled_in_it() {
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let mut wider = link.schema.clone();
    wider.columns.push(Column { initial: Some("7".to_owned()), ..column(3, "added", "integer", Travel::Int32) });
    link.pool.fault("BEGIN TRANSACTION", pool::drops());
    let lost = link.apply(at(10, 11), vec![Step::Version(wider.clone())]).await.unwrap_err();
    assert_eq!(reason(&lost), "TargetUnreachable", "{lost}");
    assert!(link.pool.state().columns.contains("added"), "it is there early");

    link.apply(at(10, 11), vec![Step::Version(wider.clone())]).await.unwrap();
    assert_eq!(link.pool.said(&["ALTER TABLE [dw].[orders] ADD [added] int NULL"]).len(), 1, "the second attempt knows it for its own");
    assert_eq!(link.pool.state().moves.last().unwrap(), "UPDATE [dw].[orders] SET [added] = CONVERT(int, N'7')");

    // One that somebody else added is not taken over.
    link.pool.change(|state| {
        state.columns.insert("theirs".to_owned());
    });
    wider.columns.push(column(4, "theirs", "integer", Travel::Int32));
    let refused = link.apply(at(11, 12), vec![Step::Version(wider.clone())]).await.unwrap_err();
    assert_eq!(reason(&refused), "TargetColumnExists");
    assert_eq!(link.pool.state().progress, Some((1, 10, 11)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_move_together_in_one_transaction() {
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let stride = Stride { link_id: "ns.shop", to: 11, as_of: None, plan_revision: 1 };
    let part = |from| {
        let steps = stream::iter([Ok(link.net(&[], &[(2, None)]))]).boxed();
        vec![Together { table: &link.table, schema: &link.schema, incarnation: FIRST, from, steps: Some(steps) }]
    };
    assert_eq!(link.target.apply_together(stride, part(10)).await.unwrap(), [1]);
    let state = link.pool.state();
    assert_eq!(state.progress, Some((1, 10, 11)));
    let apart = link.target.apply_together(stride, part(10)).await.unwrap_err();
    assert_eq!((apart.table, reason(&apart.error)), (None, "ProgressMoved"));
    assert_eq!(link.pool.state(), state);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_aside_are_the_links_own() {
    let link = Link::claimed(Some(Arc::new(Nowhere)), None).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    let aside: Vec<String> = link.pool.state().tables.into_keys().collect();
    assert!(aside.len() == 1 && aside[0].starts_with(BUILD) && aside[0].ends_with("_1_10"), "{aside:?}");
    let higher = Incarnation { run: 2, record: 3 };
    link.target.begin_snapshot(&link.table, &link.schema, higher).await.unwrap();
    assert_eq!(link.pool.state().tables.into_keys().map(|name| name.ends_with("_2_3")).collect::<Vec<_>>(), [true]);
    let late = link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap_err();
    assert_eq!(reason(&late), "ProgressMoved");
    assert_eq!(link.pool.state().progress, Some((2, 3, 3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_table_has_is_taken_from_it_before_it_goes() {
    let link = Link::in_place(Some(Arc::new(Nowhere))).await;
    let open = || match link.net(&[], &[(7, None)]) {
        Step::Merge(changes) => {
            let (unresolved, origins) = (vec![Unresolved { row: 0, columns: vec![1] }], link.keys(&[7]));
            Step::Merge(NetChanges { unresolved, origins, ..changes })
        }
        other => other,
    };
    let before = link.pool.state().moves.len();
    link.apply(at(10, 11), vec![open()]).await.unwrap();
    let moves = link.pool.state().moves.split_off(before);
    let words: Vec<&str> = moves.iter().map(|statement| statement.split_once(' ').unwrap().0).collect();
    assert_eq!(words, ["UPDATE", "DELETE", "INSERT"], "{moves:#?}");
    assert!(moves[0].contains("SET [c1] = t.[name] FROM #link_upserts0 JOIN #link_origins1 AS o"), "{}", moves[0]);

    // A row that is not there is no row to take it from.
    link.pool.fault("UPDATE #link_upserts", Answer::count(0));
    let lacking = link.apply(at(11, 12), vec![open()]).await.unwrap_err();
    assert!(reason(&lacking) == "TargetInconsistent" && lacking.to_string().contains("([id]) = (7)"), "{lacking}");
    assert_eq!(link.pool.state().progress, Some((1, 10, 11)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_two_rows_have_is_found_before_the_swap() {
    let link = Link::claimed(Some(Arc::new(Nowhere)), None).await;
    link.target.begin_snapshot(&link.table, &link.schema, FIRST).await.unwrap();
    link.pool.fault("HAVING COUNT(*) > 1", Answer::rows([("key", Type::NVarChar(9))], [row!["7"]]));
    let twice = link.target.finish_snapshot(&link.table, &link.schema, at(10, 10)).await.unwrap_err();
    assert!(reason(&twice) == "TargetInconsistent" && twice.to_string().contains('7'), "{twice}");
    assert!(!link.pool.state().tables.contains_key("orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_made_is_told_and_nothing_is() {
    let link = Link::new(Some(Arc::new(Nowhere)), None);
    let outline = link.target.outline(&link.table, &link.schema).await.unwrap();
    let made = "CREATE TABLE [dw].[orders] ([id] int NOT NULL, [name] nvarchar(max) NULL) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP)";
    assert_eq!(outline.statements, [made]);
    let fits: Vec<Fit> = outline.columns.into_iter().map(|column| column.fit).collect();
    assert_eq!(fits, [Fit::Whole, Fit::Refuses("values that are too large for memory".to_owned())]);

    let theirs = |state: &mut pool::State| {
        state.tables.insert("orders".to_owned(), 7);
    };
    assert_eq!(link.target.try_claim(&link.table, &link.schema).await.unwrap(), Claim::Load);
    link.pool.change(theirs);
    let refused = link.target.try_claim(&link.table, &link.schema).await.unwrap_err();
    assert_eq!((reason(&refused), link.pool.state().own), ("TargetTableExists", 0));

    let link = Link::claimed(Some(Arc::new(Nowhere)), None).await;
    link.target.forget(&link.table, false).await.unwrap();
    let before = link.pool.state();
    assert_eq!(link.target.try_claim(&link.table, &link.schema).await.unwrap(), Claim::Load);
    assert_eq!(link.pool.state(), before, "nobody has claimed it");
    link.pool.change(theirs);
    let refused = link.target.try_claim(&link.table, &link.schema).await.unwrap_err();
    assert_eq!((reason(&refused), link.pool.state().claim), ("TargetTableExists", None));
}
