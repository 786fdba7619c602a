//! Changes reach the table exactly once, whoever applies them.

use link_operator::{data::Unresolved, target::Untouched};

use super::*;

#[tokio::test]
async fn inserts_updates_deletes_and_key_swaps() {
    let Some(link) =
        Link::with("inserts updates deletes and key swaps", &[(1, Some("a"), None), (2, Some("b"), None), (3, Some("c"), Some("gone"))])
            .await
    else {
        return;
    };
    // 1 and 2 exchange their keys, in one transaction of the source.
    let swap = link.net(&[1, 2, 3, 99], &[(2, Some("a"), None), (1, Some("b"), None), (4, Some(""), Some("new"))]);
    assert_eq!(link.apply(at(10, 12), vec![swap]).await.unwrap(), 6);
    assert_eq!(link.rows().await, ["1,b,-", "2,a,-", "4,,new"]);
    // Later changes in one call come in order; without deletes a row is updated where it is.
    let steps =
        vec![link.net(&[], &[(4, None, Some("x"))]), link.net(&[4], &[]), link.net(&[], &[(4, Some("again"), None), (1, Some("B"), None)])];
    link.apply(at(12, 13), steps).await.unwrap();
    assert_eq!(link.rows().await, ["1,B,-", "2,a,-", "4,again,-"]);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 13);
}

#[tokio::test]
async fn who_is_late_changes_nothing() {
    let Some(link) = Link::with("who is late changes nothing", &[(1, Some("a"), None)]).await else { return };
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
    assert_eq!(link.rows().await, ["1,a,-", "2,b,-"]);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 11);
}

#[tokio::test]
async fn many_appliers_of_one_record_apply_it_once() {
    let Some(link) = Link::with("many appliers of one record apply it once", &[]).await else { return };
    let link = Arc::new(link);
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
    let Some(link) = Link::with(
        "open columns come from the row under its key before",
        &[(1, Some("a"), Some("large 1")), (2, Some("b"), Some("large 2")), (3, Some("c"), Some("large 3"))],
    )
    .await
    else {
        return;
    };
    // 1 and 2 exchange their keys and keep their notes; 3 keeps name and note under its key.
    let mut net = link.net(&[], &[(2, Some("A"), None), (1, Some("B"), None), (3, None, None), (4, Some("d"), None)]);
    net.unresolved =
        vec![Unresolved { row: 0, columns: vec![2] }, Unresolved { row: 1, columns: vec![2] }, Unresolved { row: 2, columns: vec![1, 2] }];
    net.origins = link.keys(&[1, 2, 3]);
    link.apply(at(10, 11), vec![net]).await.unwrap();
    assert_eq!(link.rows().await, ["1,B,large 2", "2,A,large 1", "3,c,large 3", "4,d,-"]);

    let mut net = link.net(&[1], &[(7, Some("x"), None), (2, Some("y"), None)]);
    net.unresolved = vec![Unresolved { row: 0, columns: vec![2] }, Unresolved { row: 1, columns: vec![2] }];
    net.origins = link.keys(&[77, 2]);
    let error = link.apply(at(11, 12), vec![net]).await.unwrap_err();
    assert_eq!(reason(&error), "TargetInconsistent");
    assert!(error.to_string().contains("([id]) = (77)"), "{error}");
    assert_eq!(link.rows().await.len(), 4);
    assert_eq!(link.target.progress(&link.table).await.unwrap().unwrap().record, 11);
}

#[tokio::test]
async fn truncate_keeps_its_place_between_changes() {
    let Some(link) = Link::with("truncate keeps its place between changes", &[(1, Some("old"), None)]).await else { return };
    let steps = vec![
        Step::Merge(link.net(&[], &[(2, Some("before"), None)])),
        Step::Truncate,
        Step::Merge(link.net(&[], &[(3, Some("after"), None)])),
    ];
    link.target.apply(&link.table, &link.schema, at(10, 11), super::steps(steps)).await.unwrap();
    assert_eq!(link.rows().await, ["3,after,-"]);
}

#[tokio::test]
async fn texts_of_another_system_are_one_key_only_if_they_are_the_same() {
    let Some(link) = Link::new("keys that end in blanks").await else { return };
    let columns = vec![column(1, "v", "integer", Travel::Int32), column(2, "k", "text", Travel::Utf8)];
    let schema = schema_of("postgresql", columns, vec![1]);
    let arrays = |rows: &[(i32, &str)]| -> Vec<ArrayRef> {
        vec![
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>()),
        ]
    };
    link.target.begin_snapshot(&link.table, &schema, FIRST).await.unwrap();
    let batch = with_link(schema.arrow_rows(), arrays(&[(1, "a"), (2, "a "), (3, "A"), (4, "é")]), None);
    link.target.load_chunk(&link.table, &schema, FIRST, 0, stream_of(vec![batch])).await.unwrap();
    let fields = schema.arrow_rows().fields()[..2].to_vec();
    let changes = NetChanges {
        deletes: with_link(schema.arrow_keys(), vec![Arc::new(StringArray::from(vec!["e", "A", "a "]))], None),
        upserts: RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays(&[(5, "é"), (6, "É")])).unwrap(),
        updates: 0,
        beside: Besides::new(),
        unresolved: Vec::new(),
        origins: RecordBatch::new_empty(schema.arrow_keys()),
    };
    link.target.catch_up(&link.table, &schema, at(10, 11), super::steps(vec![Step::Merge(changes)])).await.unwrap();
    link.target.finish_snapshot(&link.table, &schema, at(11, 11)).await.unwrap();
    let found = link.column("SELECT CONCAT([k], N'|', [v]) FROM [dw].[orders] ORDER BY [v]").await;
    assert_eq!(found, ["a|1", "é|5", "É|6"]);
}

#[tokio::test]
async fn a_table_of_keys_only() {
    let Some(link) = Link::new("a table of keys only").await else { return };
    let schema = small();
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
    assert_eq!(link.column("SELECT [id] FROM [dw].[orders] ORDER BY 1").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn as_of_stands_beside_the_rows_and_never_goes_back_to_nothing() {
    let Some(link) = Link::with("as of stands beside the rows and never goes back to nothing", &[]).await else { return };
    let as_of = "2024-02-29T12:00:00.000001Z".parse().unwrap();
    link.target.apply(&link.table, &link.schema, Advance { as_of: Some(as_of), ..at(10, 11) }, super::steps(vec![])).await.unwrap();
    link.target.apply(&link.table, &link.schema, at(11, 12), super::steps(vec![])).await.unwrap();
    let sql = "SELECT CONCAT([record], N' ', CONVERT(nvarchar(40), [as_of], 121)) FROM [link_operator].[link_progress]";
    assert_eq!(link.column(sql).await, ["12 2024-02-29 12:00:00.000001 +00:00"]);
}

#[tokio::test]
async fn a_call_that_is_dropped_midway_leaves_nothing() {
    let Some(link) = Link::with("a call that is dropped midway leaves nothing", &[(1, Some("a"), None)]).await else { return };
    let link = Arc::new(link);
    // A reader holds a row, so that the truncation waits after changes were made.
    let mut reader = link.database.session().await;
    reader.run("BEGIN TRANSACTION").await.unwrap();
    reader.query("SELECT [id] FROM [dw].[orders] WITH (REPEATABLEREAD, ROWLOCK) WHERE [id] = 1").await.unwrap();
    let (background, steps) = (link.clone(), vec![Step::Merge(link.net(&[], &[(2, Some("half"), None)])), Step::Truncate]);
    let call =
        tokio::spawn(async move { background.target.apply(&background.table, &background.schema, at(10, 11), super::steps(steps)).await });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(!call.is_finished());
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    reader.run("COMMIT TRANSACTION").await.unwrap();
    assert_eq!(link.apply(at(10, 11), vec![link.net(&[], &[(3, Some("whole"), None)])]).await.unwrap(), 1);
    assert_eq!(link.rows().await, ["1,a,-", "3,whole,-"]);
}

#[tokio::test]
async fn the_view_says_as_of_when_a_table_is_exact_also_while_nothing_changes() {
    let Some(link) = Link::with("the view says as of when a table is exact also while nothing changes", &[(1, Some("a"), None)]).await
    else {
        return;
    };
    let status = "SELECT CONCAT([target_schema], N'.', [target_table], N' ', [exact], N' ', CONVERT(nvarchar(19), [consistent_as_of], 121))
                  FROM [link_operator].[link_status]";
    let touch = |record: u64, as_of: &str| {
        let incarnation = FIRST;
        vec![Untouched { source: link.table.source.clone(), incarnation, record, as_of: as_of.parse().unwrap() }]
    };
    assert_eq!(link.column(status).await, ["dw.orders 1 "]);
    link.target.touch(&link.table.link_id, &touch(10, "2024-02-29T12:00:00Z")).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders 1 2024-02-29 12:00:00"]);
    // Never back, and not by somebody who does not know of newer changes.
    link.target.touch(&link.table.link_id, &touch(10, "2024-02-28T12:00:00Z")).await.unwrap();
    link.target.touch(&link.table.link_id, &touch(9, "2024-03-01T12:00:00Z")).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders 1 2024-02-29 12:00:00"]);
    // A table that is being loaded is not exact as of any time.
    link.target.begin_snapshot(&link.table, &link.schema, Incarnation { record: 20, ..FIRST }).await.unwrap();
    assert_eq!(link.column(status).await, ["dw.orders 0 "]);
}

#[tokio::test]
async fn the_view_says_when_a_table_was_verified() {
    let Some(link) = Link::with("the view and verification", &[(1, Some("a"), None)]).await else { return };
    let time = |second| jiff::Timestamp::from_second(second).unwrap();
    link.target.verified(&link.table, FIRST, time(1_700_000_000)).await.unwrap();
    let status = "SELECT CONCAT([target_table], N' ', CONVERT(nvarchar(19), [last_verified], 121)) FROM [link_operator].[link_status]";
    assert_eq!(link.column(status).await, ["orders 2023-11-14 22:13:20"]);
    // What was compared is no longer there.
    link.target.verified(&link.table, Incarnation { record: 20, ..FIRST }, time(1_800_000_000)).await.unwrap();
    assert_eq!(link.column(status).await, ["orders 2023-11-14 22:13:20"]);
}

#[tokio::test]
async fn columns_are_added_with_what_older_rows_read() {
    let Some(link) = Link::with("added columns", &[(1, Some("a"), None)]).await else { return };
    let mut wider = link.schema.clone();
    let initial = |text: &str| Some(text.to_owned());
    wider.columns.extend([
        Column { initial: initial("it's"), ..column(5, "word", "text", Travel::Utf8) },
        Column { initial: initial("t"), ..column(6, "yes", "boolean", Travel::Bool) },
        Column { initial: initial("2024-02-29 12:00:00+00"), ..column(7, "at", "timestamp with time zone", Travel::TimestampTz) },
        Column { initial: initial("\\x00ff"), ..column(8, "bytes", "bytea", Travel::Binary) },
        column(9, "none", "integer", Travel::Int32),
    ]);
    link.target.apply(&link.table, &link.schema, at(10, 11), super::steps(vec![Step::Version(wider.clone())])).await.unwrap();
    let sql = "SELECT CONCAT([word], N' ', [yes], N' ', LEFT(CONVERT(nvarchar(40), [at], 121), 19), N' ', CASE WHEN [bytes] = 0x00FF THEN N'bytes' END, N' ',
                             COALESCE([none], -1)) FROM [dw].[orders]";
    assert_eq!(link.column(sql).await, ["it's 1 2024-02-29 12:00:00 bytes -1"]);
    // A row that comes brings its own.
    let mut arrays = arrays(&[(2, Some("b"), None)]);
    arrays.extend(wider.columns[3..].iter().map(|column| new_null_array(&column.travel.arrow(), 1)));
    let fields = wider.arrow_rows().fields()[..8].to_vec();
    let upserts = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let changes = NetChanges { upserts, ..link.net(&[], &[]) };
    link.target.apply(&link.table, &wider, at(11, 12), super::steps(vec![Step::Merge(changes)])).await.unwrap();
    assert_eq!(link.column("SELECT COUNT(*) FROM [dw].[orders] WHERE [word] IS NULL AND [yes] IS NULL AND [at] IS NULL").await, ["1"]);
    // Somebody made a column of that name.
    link.database.run("ALTER TABLE [dw].[orders] ADD [theirs] int NULL").await;
    let mut clash = wider.clone();
    clash.columns.push(column(10, "theirs", "integer", Travel::Int32));
    let error = link.target.apply(&link.table, &wider, at(12, 13), super::steps(vec![Step::Version(clash)])).await.unwrap_err();
    // Babelfish has no number of its own for that.
    assert!(reason(&error) == "TargetColumnExists" || error.to_string().contains("(error 33557097)"), "{error}");
}
