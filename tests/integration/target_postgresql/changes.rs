//! Changes reach the table exactly once, whoever applies them.

use link_operator::{data::Unresolved, target::Untouched};

use super::*;

#[tokio::test]
async fn inserts_updates_deletes_and_key_swaps() {
    let link = Link::with(&[(1, Some("a"), None), (2, Some("b"), None), (3, Some("c"), Some("gone"))]).await;
    // 1 and 2 exchange their keys, in one transaction of the source.
    let swap = link.net(&[1, 2, 3, 99], &[(2, Some("a"), None), (1, Some("b"), None), (4, Some(""), Some("new"))]);
    assert_eq!(link.apply(at(10, 12), vec![swap]).await.unwrap(), 6);
    assert_eq!(link.rows().await, ["(1,b,)", "(2,a,)", "(4,\"\",new)"]);
    // Later changes in one call come in order; without deletes a row is updated where it is.
    let steps =
        vec![link.net(&[], &[(4, None, Some("x"))]), link.net(&[4], &[]), link.net(&[], &[(4, Some("again"), None), (1, Some("B"), None)])];
    link.apply(at(12, 13), steps).await.unwrap();
    assert_eq!(link.rows().await, ["(1,B,)", "(2,a,)", "(4,again,)"]);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 13);
}

#[tokio::test]
async fn who_is_late_changes_nothing() {
    let link = Link::with(&[(1, Some("a"), None)]).await;
    link.apply(at(10, 11), vec![link.net(&[], &[(2, Some("b"), None)])]).await.unwrap();
    let right = at(11, 12);
    let late = [
        at(10, 12),                                                                          // applied by another
        at(12, 13),                                                                          // not there yet
        Advance { incarnation: Incarnation { run: 0, ..FIRST }, ..right },                   // an older run
        Advance { incarnation: Incarnation { record: FIRST.record - 1, ..FIRST }, ..right }, // an older incarnation
        Advance { incarnation: Incarnation { record: FIRST.record + 1, ..FIRST }, ..right }, // one that nobody began
    ];
    for advance in late {
        let error = link.apply(advance, vec![link.net(&[1], &[(3, None, None)])]).await.unwrap_err();
        assert_eq!(reason(&error), "ProgressMoved", "{error}");
        // The table is in place: nothing is caught up and nothing finished.
        assert_eq!(
            reason(&link.target.catch_up(&link.table, &link.schema, advance, super::steps(vec![])).await.unwrap_err()),
            "ProgressMoved"
        );
        assert_eq!(reason(&link.target.finish_snapshot(&link.table, &link.schema, advance).await.unwrap_err()), "ProgressMoved");
    }
    assert_eq!(link.rows().await, ["(1,a,)", "(2,b,)"]);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 11);
}

#[tokio::test]
async fn many_appliers_of_one_record_apply_it_once() {
    let link = Arc::new(Link::with(&[]).await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let link = link.clone();
            tokio::spawn(async move { link.apply(at(10, 11), vec![link.net(&[], &[(1, Some("once"), None)])]).await })
        })
        .collect();
    let mut applied = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(rows) => applied += rows,
            Err(error) => assert_eq!(reason(&error), "ProgressMoved", "{error}"),
        }
    }
    assert_eq!(applied, 1);
}

#[tokio::test]
async fn open_columns_come_from_the_row_under_its_key_before() {
    let link = Link::with(&[(1, Some("a"), Some("large 1")), (2, Some("b"), Some("large 2")), (3, Some("c"), Some("large 3"))]).await;
    // 1 and 2 exchange their keys and keep their notes; 3 keeps name and note under its key.
    let mut net = link.net(&[], &[(2, Some("A"), None), (1, Some("B"), None), (3, None, None), (4, Some("d"), None)]);
    net.unresolved =
        vec![Unresolved { row: 0, columns: vec![2] }, Unresolved { row: 1, columns: vec![2] }, Unresolved { row: 2, columns: vec![1, 2] }];
    net.origins = link.keys(&[1, 2, 3]);
    link.apply(at(10, 11), vec![net]).await.unwrap();
    assert_eq!(link.rows().await, ["(1,B,\"large 2\")", "(2,A,\"large 1\")", "(3,c,\"large 3\")", "(4,d,)"]);

    let mut net = link.net(&[1], &[(7, Some("x"), None), (2, Some("y"), None)]);
    net.unresolved = vec![Unresolved { row: 0, columns: vec![2] }, Unresolved { row: 1, columns: vec![2] }];
    net.origins = link.keys(&[77, 2]);
    let error = link.apply(at(11, 12), vec![net]).await.unwrap_err();
    assert_eq!(reason(&error), "TargetInconsistent");
    assert!(error.to_string().contains("(\"id\") = (77)"), "{error}");
    assert_eq!(link.rows().await.len(), 4);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 11);
}

#[tokio::test]
async fn truncate_keeps_its_place_between_changes() {
    let link = Link::with(&[(1, Some("old"), None)]).await;
    let steps = vec![
        Step::Merge(link.net(&[], &[(2, Some("before"), None)])),
        Step::Truncate,
        Step::Merge(link.net(&[], &[(3, Some("after"), None)])),
    ];
    link.target.apply(&link.table, &link.schema, at(10, 11), super::steps(steps)).await.unwrap();
    assert_eq!(link.rows().await, ["(3,after,)"]);
}

#[tokio::test]
async fn keys_compare_by_value_in_their_own_type() {
    let link = Link::new().await;
    let schema = schema_of(
        vec![column(1, "n", "numeric", Travel::Text), column(2, "c", "character(4)", Travel::Utf8), column(3, "v", "text", Travel::Utf8)],
        vec![1, 0], // key order is not column order
    );
    let row =
        |n: &str, c: &str, v: &str| -> Vec<ArrayRef> { [n, c, v].map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef).to_vec() };
    let key = |c: &str, n: &str| with_link(schema.arrow_keys(), row(c, n, "")[..2].to_vec(), None);
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    let batches =
        vec![with_link(schema.arrow_rows(), row("1.0", "a", "one"), None), with_link(schema.arrow_rows(), row("NaN", "a", "nan"), None)];
    link.target.load_chunk(&link.table, &schema, FIRST, 0, stream_of(batches)).await.unwrap();
    link.target.finish_snapshot(&link.table, &schema, at(10, 10)).await.unwrap();

    let fields = schema.arrow_rows().fields()[..3].to_vec();
    let changes = NetChanges {
        deletes: key("a   ", "NaN"),
        upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), row("1.00", "a   ", "uno")).unwrap(),
        updates: 0,
        beside: Besides::new(),
        unresolved: Vec::new(),
        origins: RecordBatch::new_empty(schema.arrow_keys()),
    };
    assert_eq!(link.target.apply(&link.table, &schema, at(10, 11), super::steps(vec![Step::Merge(changes)])).await.unwrap(), 2);
    assert_eq!(link.column("SELECT v FROM dw.orders").await, ["uno"]);
}

#[tokio::test]
async fn a_table_of_keys_only() {
    let link = Link::new().await;
    let schema = schema_of(vec![column(1, "id", "integer", Travel::Int32)], vec![0]);
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    link.target.finish_snapshot(&link.table, &schema, at(10, 10)).await.unwrap();
    for (from, ids) in [(10, vec![1, 2]), (11, vec![2, 3])] {
        let fields = schema.arrow_rows().fields()[..1].to_vec();
        let changes = NetChanges {
            deletes: link.keys(&[]),
            upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(Int32Array::from(ids))]).unwrap(),
            updates: 0,
            beside: Besides::new(),
            unresolved: Vec::new(),
            origins: link.keys(&[]),
        };
        link.target.apply(&link.table, &schema, at(from, from + 1), super::steps(vec![Step::Merge(changes)])).await.unwrap();
    }
    assert_eq!(link.rows().await, ["(1)", "(2)", "(3)"]);
}

#[tokio::test]
async fn as_of_stands_beside_the_rows_and_never_goes_back_to_nothing() {
    let link = Link::with(&[]).await;
    let as_of = "2024-02-29T12:00:00.000001Z".parse().unwrap();
    link.target.apply(&link.table, &link.schema, Advance { as_of: Some(as_of), ..at(10, 11) }, super::steps(vec![])).await.unwrap();
    link.target.apply(&link.table, &link.schema, at(11, 12), super::steps(vec![])).await.unwrap();
    let sql = "SELECT format('%s %s', record, as_of) FROM link_operator.link_progress";
    assert_eq!(link.column(sql).await, ["12 2024-02-29 12:00:00.000001+00"]);
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_nothing() {
    let link = Arc::new(Link::with(&[(1, Some("a"), None)]).await);
    // A reader holds the table, so that the truncation waits after changes were made.
    let mut reader = link.database.connect().await;
    let reading = reader.transaction().await.unwrap();
    reading.query("SELECT FROM dw.orders", &[]).await.unwrap();
    let (background, steps) = (link.clone(), vec![Step::Merge(link.net(&[], &[(2, Some("half"), None)])), Step::Truncate]);
    let call =
        tokio::spawn(async move { background.target.apply(&background.table, &background.schema, at(10, 11), super::steps(steps)).await });
    let waiting = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while link.column(waiting).await != ["1"] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    reading.commit().await.unwrap();
    assert_eq!(link.apply(at(10, 11), vec![link.net(&[], &[(3, Some("whole"), None)])]).await.unwrap(), 1);
    assert_eq!(link.rows().await, ["(1,a,)", "(3,whole,)"]);
}

#[tokio::test]
async fn the_view_says_as_of_when_a_table_is_exact_also_while_nothing_changes() {
    let link = Link::with(&[(1, Some("a"), None)]).await;
    let status = "SELECT format('%s.%s %s %s', target_schema, target_table, exact, consistent_as_of) FROM link_operator.link_status";
    let touch = |record: u64, as_of: &str| {
        let incarnation = FIRST;
        vec![Untouched { source: link.table.source.clone(), incarnation, record, as_of: as_of.parse().unwrap() }]
    };
    assert_eq!(link.column(status).await, ["dw.orders t "]);
    link.target.touch(&link.table.link_id, &touch(10, "2024-02-29T12:00:00Z")).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders t 2024-02-29 12:00:00+00"]);
    // Never back, and not by somebody who does not know of newer changes.
    link.target.touch(&link.table.link_id, &touch(10, "2024-02-28T12:00:00Z")).await.unwrap();
    link.target.touch(&link.table.link_id, &touch(9, "2024-03-01T12:00:00Z")).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders t 2024-02-29 12:00:00+00"]);
    // A table that is being loaded is not exact as of any time.
    link.target.begin_snapshot(&link.table, &link.schema, Incarnation { record: 20, ..FIRST }).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders f "]);
}

#[tokio::test]
async fn the_view_says_when_a_table_was_verified_also_in_a_database_of_a_former_version() {
    let link = Link::with(&[(1, Some("a"), None)]).await;
    let former =
        "DROP VIEW link_operator.link_status; ALTER TABLE link_operator.link_progress DROP COLUMN last_verified, DROP COLUMN group_revision;
        CREATE VIEW link_operator.link_status AS
        SELECT link_id, source_schema, source_table, target_schema, target_table, exact, CASE WHEN exact THEN as_of END AS consistent_as_of
        FROM link_operator.link_progress; CREATE VIEW dw.theirs AS SELECT * FROM link_operator.link_status";
    link.database.execute(former).await;
    // Whoever begins to work asks how far it is.
    assert!(link.target.progress(&link.table).await.unwrap().unwrap().exact);
    link.apply(at(10, 11), vec![link.net(&[], &[(2, Some("b"), None)])]).await.unwrap();
    let time = |second| jiff::Timestamp::from_second(second).unwrap();
    link.target.verified(&link.table, FIRST, time(1_700_000_000)).await.unwrap();
    let status = "SELECT format('%s %s', target_table, last_verified) FROM link_operator.link_status";
    assert_eq!(link.column(status).await, ["orders 2023-11-14 22:13:20+00"]);
    link.target.verified(&link.table, FIRST, time(1_700_000_001)).await.unwrap();
    assert_eq!(link.column(status).await, ["orders 2023-11-14 22:13:21+00"]);
    // What was compared is no longer there.
    link.target.verified(&link.table, Incarnation { record: 20, ..FIRST }, time(1_800_000_000)).await.unwrap();
    assert_eq!(link.column(status).await, ["orders 2023-11-14 22:13:21+00"]);
}
