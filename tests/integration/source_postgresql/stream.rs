//! The stream of changes.

use super::*;

#[tokio::test]
async fn key_changes_unchanged_values_and_truncation_keep_their_order() {
    let database = Server::shared().create_database().await;
    database
        .execute(
            "CREATE TABLE public.t (id int PRIMARY KEY, n int, big text); ALTER TABLE public.t ALTER big SET STORAGE EXTERNAL; \
                 CREATE TABLE public.other (id int PRIMARY KEY)",
        )
        .await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let mut capture = follow(&source, &[&schema]).await;
    database
        .execute(
            "BEGIN; INSERT INTO public.t VALUES (1, 1, repeat('x', 10000)); INSERT INTO public.other VALUES (1); \
                 UPDATE public.t SET n = 2; UPDATE public.t SET id = 5; COMMIT; \
                 BEGIN; TRUNCATE public.t; INSERT INTO public.t VALUES (7, NULL, ''); DELETE FROM public.t; COMMIT",
        )
        .await;
    let mut cut = cut(&mut capture).await;
    assert!(cut.time.is_some() && cut.broken.is_empty());
    // The truncation gave the table another file, which the catalog shows before the stream comes to it.
    assert!(matches!(cut.tables[0].segments.remove(0), Segment::Version(version) if version.schema == schema));
    let [Segment::Rows(first), Segment::Truncate, Segment::Rows(second)] = cut.tables[0].segments.as_slice() else { panic!("{cut:?}") };
    assert_eq!(ops(first), [1, 2, 4, 2]);
    assert_eq!(ids(first), [Some(1), Some(1), Some(1), Some(5)]);
    assert_eq!(links(first), [None, Some("{\"u\":[2]}".to_owned()), None, Some("{\"u\":[2]}".to_owned())]);
    assert_eq!(ops(second), [1, 3]);
    assert_eq!(ids(second), [Some(7), Some(7)]);

    // With the whole old row in the stream nothing is left open.
    database.execute("ALTER TABLE public.t REPLICA IDENTITY FULL; INSERT INTO public.t VALUES (1, 1, repeat('y', 10000))").await;
    database.execute("UPDATE public.t SET n = 2; UPDATE public.t SET id = 2; DELETE FROM public.t").await;
    let rows = rows_until(&mut capture, 5).await;
    assert_eq!(rows.iter().flat_map(ops).collect::<Vec<_>>(), [1, 2, 4, 2, 3]);
    assert!(rows.iter().flat_map(links).all(|link| link.is_none()));
    assert_eq!(rows.iter().flat_map(ids).collect::<Vec<_>>(), [Some(1), Some(1), Some(1), Some(2), Some(2)]);
}

#[tokio::test]
async fn a_restart_goes_on_after_the_cut_and_an_idle_database_moves_on() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = source(&database);
    let identity = source.identity().await.unwrap();
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let mut capture = follow(&source, &[&schema]).await;
    database.execute("INSERT INTO public.t VALUES (1)").await;
    let first = cut(&mut capture).await;
    database.execute("INSERT INTO public.t VALUES (2)").await;
    let second = cut(&mut capture).await;
    assert!(first.to < second.to);

    // Nothing was acknowledged: all of it comes again from wherever we like.
    let in_use = source.capture(&first.to, false, vec![], keep()).await.err().unwrap();
    assert_eq!(<&str>::from(&in_use), "SlotInUse");
    let mut again = source.capture(&first.to, true, vec![], keep()).await.unwrap();
    again.follow(vec![CapturedTable { id: 1, version: version(&source, &schema).await, from: Position::default() }]);
    let repeated = cut(&mut again).await;
    assert_eq!(rows_of(&repeated).iter().flat_map(ids).collect::<Vec<_>>(), [Some(2)]);
    assert!(cut_or_error(&mut capture).await.is_err(), "the former reader was ended");

    // Acknowledged is acknowledged: going back is refused by name.
    source.check_continuity(&first.to, &identity).await.unwrap();
    again.acknowledge(&repeated.to).await.unwrap();
    let lost = async || loop {
        match source.check_continuity(&first.to, &identity).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return error,
        }
    };
    let lost = tokio::time::timeout(Duration::from_secs(10), lost()).await.unwrap();
    assert_eq!(<&str>::from(&lost), "PositionLost");
    source.check_continuity(&repeated.to, &identity).await.unwrap();

    let beat = source.heartbeat().await.unwrap();
    let moved = async {
        loop {
            let cut = again.next_cut(limits(Duration::from_millis(100))).await.unwrap();
            assert!(cut.tables.is_empty());
            if cut.to >= beat {
                return cut;
            }
        }
    };
    let moved = tokio::time::timeout(Duration::from_secs(20), moved).await.unwrap();
    assert!(moved.time.is_some());
}

#[tokio::test]
async fn a_changed_table_is_broken_alone() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY, v int); CREATE TABLE public.u (id int PRIMARY KEY, v int)").await;
    let source = source(&database);
    let t = source.describe(&TableName::new("public", "t")).await.unwrap();
    let u = source.describe(&TableName::new("public", "u")).await.unwrap();
    let mut capture = follow(&source, &[&t, &u]).await;
    database
        .execute(
            "BEGIN; INSERT INTO public.t VALUES (1, 1); ALTER TABLE public.t ALTER v TYPE bigint; INSERT INTO public.t VALUES (2, 2); \
                 INSERT INTO public.u VALUES (1, 1); COMMIT",
        )
        .await;
    let cut = cut(&mut capture).await;
    let [(1, error)] = cut.broken.as_slice() else { panic!("{cut:?}") };
    assert_eq!(<&str>::from(error), "SchemaChanged");
    assert!(error.to_string().contains("from integer to bigint"), "{error}");
    let rows = |id| cut.tables.iter().filter(move |table| table.id == id).flat_map(|table| &table.segments).count();
    // The catalog shows all that the transaction did when the stream comes to its first change.
    assert_eq!((rows(1), rows(2)), (0, 1));
    // Described anew, it goes on.
    let t = source.describe(&t.name).await.unwrap();
    capture.follow(vec![CapturedTable { id: 1, version: version(&source, &t).await, from: Position::default() }]);
    database.execute("INSERT INTO public.t VALUES (3, 3); INSERT INTO public.u VALUES (3, 3)").await;
    let rows = rows_until(&mut capture, 1).await;
    assert_eq!(rows.iter().flat_map(ids).collect::<Vec<_>>(), [Some(3)]);
}

#[tokio::test]
async fn a_table_that_left_and_joined_again_is_delivered_from_its_joining_on() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let begin = source.begin_run("test").await.unwrap();
    source.admit(&schema).await.unwrap();
    // Row 2 comes into the stream and its deletion does not: what is there of the time before would leave it for ever.
    database.execute("INSERT INTO public.t VALUES (1), (2)").await;
    source.expel(&schema.name).await.unwrap();
    assert_eq!(source.silent(std::slice::from_ref(&schema)).await.unwrap(), std::slice::from_ref(&schema.name));
    database.execute("DELETE FROM public.t WHERE id = 2").await;
    let from = source.admit(&schema).await.unwrap().from;
    assert_eq!(source.silent(std::slice::from_ref(&schema)).await.unwrap(), []);
    database.execute("INSERT INTO public.t VALUES (3)").await;

    let mut all = source.capture(&begin, true, vec![], keep()).await.unwrap();
    all.follow(vec![CapturedTable { id: 1, version: version(&source, &schema).await, from: Position::default() }]);
    assert_eq!(rows_until(&mut all, 3).await.iter().flat_map(ids).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let mut joined = source.capture(&begin, true, vec![], keep()).await.unwrap();
    joined.follow(vec![CapturedTable { id: 1, version: version(&source, &schema).await, from }]);
    assert_eq!(rows_until(&mut joined, 1).await.iter().flat_map(ids).collect::<Vec<_>>(), [Some(3)]);
}

// The server waits for those who read its log when it ends: they must be able to go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_commit_is_not_visible_yet_is_waited_for() {
    // A standby that never answers: commits are in the log, and nobody sees them.
    let server = Server::start();
    let database = server.create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let mut capture = follow(&source, &[&schema]).await;
    // When the stream describes the table, its change must be visible: that is behind us.
    database.execute("INSERT INTO public.t VALUES (6)").await;
    assert_eq!(rows_of(&cut(&mut capture).await).iter().flat_map(ids).collect::<Vec<_>>(), [Some(6)]);
    for statement in ["ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"] {
        database.execute(statement).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let writer = database.connect().await;
    let writing = tokio::spawn(async move { writer.batch_execute("INSERT INTO public.t VALUES (7)").await });
    let cut = cut(&mut capture).await;
    assert_eq!(rows_of(&cut).iter().flat_map(ids).collect::<Vec<_>>(), [Some(7)]);

    let keys: Vec<ArrayRef> = vec![Arc::new(Int32Array::from(vec![7])), Arc::new(StringArray::from(vec![None::<String>]))];
    let keys = RecordBatch::try_new(schema.arrow_keys(), keys).unwrap();
    assert_eq!(source.fetch(&schema, &keys, &[], keep().values).await.unwrap().rows.num_rows(), 0, "it is not visible");
    let fetch = source.fetch(&schema, &keys, &cut.transactions, keep().values);
    tokio::pin!(fetch);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut fetch).await.is_err(), "it is waited for");
    // Settings are files: to change them writes nothing that a standby must confirm.
    for statement in ["ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"] {
        database.execute(statement).await;
    }
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), fetch).await.unwrap().unwrap().rows.num_rows(), 1);
    writing.await.unwrap().unwrap();
    drop(capture);
}

#[tokio::test]
async fn a_slot_of_another_database_is_left_alone() {
    let (here, there) = (Server::shared().create_database().await, Server::shared().create_database().await);
    let ours = source(&here);
    let twin = Postgresql::new(there.spec.clone(), there.secrets.clone(), &here.spec.database);
    ours.begin_run("test").await.unwrap();
    let error = twin.begin_run("test").await.unwrap_err();
    assert_eq!(<&str>::from(&error), "SourceNotPrepared");
    twin.release().await.unwrap();
    assert!(ours.retained_log("test").await.unwrap().is_some());
    ours.release().await.unwrap();
}

#[tokio::test]
async fn rows_are_found_by_keys_of_every_sort() {
    let database = Server::shared().create_database().await;
    database
            .execute(
                "CREATE TYPE public.mood AS ENUM ('ok'); CREATE DOMAIN public.code AS char(3); SET search_path = public; \
                 CREATE TABLE t (b bool, i int8, f float8, n numeric(6,2), d date, h time, s timestamp, z timestamptz, x text, c code, \
                   y bytea, u uuid, m mood, r int4range, v text, PRIMARY KEY (u, b, i, f, n, d, h, s, z, x, c, y, m, r)); \
                 INSERT INTO t VALUES \
                   (true, -1, 'NaN', 'NaN', 'infinity', '24:00', '-infinity', '294276-12-31 23:59:59', '', 'a', '', gen_random_uuid(), 'ok', 'empty', 'far'), \
                   (false, 9, 0.1, -1.10, '0044-03-15 BC', '01:02:03.45', '0044-03-15 12:00:00.000001 BC', '1969-12-31 23:59:59.9+00', 'é\"{,}', \
                    'abc', '\\x00ff', gen_random_uuid(), 'ok', '[1,2)', 'near'), \
                   (false, 9, 0.1, 1.10, '2024-02-29', '23:00', '2024-02-29', '2024-02-29', 'x', 'b', '\\x01', gen_random_uuid(), 'ok', '[1,)', 'other')",
            )
            .await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let rows = read(&source, &schema).await.remove(0);
    // Keys as the engine makes them: the key's columns in its order, exact texts renumbered.
    let mut columns: Vec<_> = schema.key.iter().map(|&column| rows.column(column).clone()).collect();
    let links = rows.column(rows.num_columns() - 1).as_string::<i32>();
    let links: StringArray = links
        .iter()
        .map(|link| {
            let cell: LinkCell = serde_json::from_str(link?).unwrap();
            let place = |column: u16| schema.key.iter().position(|&key| key == usize::from(column)).unwrap() as u16;
            let beside = cell.beside.into_iter().map(|(column, text)| (place(column), text)).collect();
            Some(serde_json::to_string(&LinkCell { unchanged: vec![], beside }).unwrap())
        })
        .collect();
    columns.push(Arc::new(links));
    let keys = RecordBatch::try_new(schema.arrow_keys(), columns).unwrap().slice(0, 2);
    let filled = source.fetch(&schema, &keys, &[], keep().values).await.unwrap();
    let mut found: Vec<_> = filled.rows.column_by_name("v").unwrap().as_string::<i32>().iter().flatten().collect();
    found.sort_unstable();
    assert_eq!(found, ["far", "near"]);
    assert_eq!(filled.rows.schema(), schema.arrow_rows());
    let none = source.fetch(&schema, &keys.slice(0, 0), &[], keep().values).await.unwrap();
    assert_eq!(none.rows.num_rows(), 0);
    assert!(none.read_at >= filled.read_at);
}

#[tokio::test]
async fn continuity_names_what_was_lost_and_release_leaves_nothing() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = source(&database);
    source.release().await.unwrap();
    let from = source.begin_run("test").await.unwrap();
    let identity = source.identity().await.unwrap();
    source.check_continuity(&from, &identity).await.unwrap();
    assert!(source.retained_log("test").await.unwrap().is_some());
    let lost = async |identity: &Identity| match source.check_continuity(&from, identity).await {
        Err(Error::PositionLost(why)) => why,
        other => panic!("{other:?}"),
    };
    let restored = Identity { system: "1/1".to_owned(), ..identity.clone() };
    assert!(lost(&restored).await.contains("another database"));
    // Somebody made the slot again, later in the log.
    let name = source.release_commands()[1].rsplit(' ').next().unwrap().trim_end_matches('\'').to_owned();
    for statement in [
        format!("SELECT pg_drop_replication_slot('{name}')"),
        "INSERT INTO public.t VALUES (1)".to_owned(),
        format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"),
    ] {
        database.execute(&statement).await;
    }
    assert!(lost(&identity).await.contains("after"));
    assert!(matches!(source.capture(&from, true, vec![], keep()).await.err(), Some(Error::PositionLost(_))));

    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    source.admit(&schema).await.unwrap();
    source.admit(&schema).await.unwrap();
    source.expel(&schema.name).await.unwrap();
    source.expel(&schema.name).await.unwrap();
    source.expel(&TableName::new("public", "absent")).await.unwrap();
    let now = source.begin_run("test").await.unwrap();
    let reader = source.capture(&now, false, vec![], keep()).await.unwrap();
    source.release().await.unwrap();
    source.release().await.unwrap();
    drop(reader);
    assert!(lost(&identity).await.contains("gone"));
    let left =
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()) + (SELECT count(*) FROM pg_publication)";
    assert_eq!(database.connect().await.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Begins a run with these tables, numbered from 1, and follows them.
pub async fn follow(source: &Postgresql, tables: &[&TableSchema]) -> Box<dyn Capture> {
    let from = source.begin_run("test").await.unwrap();
    let mut followed = Vec::new();
    for (&table, id) in tables.iter().zip(1..) {
        followed.push(CapturedTable { id, version: version(source, table).await, from: Position::default() });
    }
    let mut capture = source.capture(&from, false, vec![], keep()).await.unwrap();
    capture.follow(followed);
    capture
}

/// Lets a table into the stream.
pub async fn version(source: &Postgresql, schema: &TableSchema) -> TableVersion {
    TableVersion { schema: schema.clone(), parts: source.admit(schema).await.unwrap().parts }
}

fn limits(idle: Duration) -> Limits {
    // Long enough for a few transactions to be in one cut.
    Limits { not_before: tokio::time::Instant::now() + Duration::from_millis(300), idle, bytes: 64 << 20 }
}

async fn cut_or_error(capture: &mut Box<dyn Capture>) -> Result<Cut, Error> {
    loop {
        let cut = capture.next_cut(limits(Duration::from_secs(10))).await?;
        if !cut.tables.is_empty() || !cut.broken.is_empty() {
            return Ok(cut);
        }
    }
}

/// The next cut with changes.
pub async fn cut(capture: &mut Box<dyn Capture>) -> Cut {
    tokio::time::timeout(Duration::from_secs(20), cut_or_error(capture)).await.unwrap().unwrap()
}

fn rows_of(cut: &Cut) -> Vec<RecordBatch> {
    let rows = |segment: &Segment| if let Segment::Rows(batch) = segment { Some(batch.clone()) } else { None };
    cut.tables.iter().flat_map(|table| &table.segments).filter_map(rows).collect()
}

pub async fn rows_until(capture: &mut Box<dyn Capture>, count: usize) -> Vec<RecordBatch> {
    let mut batches = Vec::new();
    while batches.iter().map(RecordBatch::num_rows).sum::<usize>() < count {
        batches.extend(rows_of(&cut(capture).await));
    }
    batches
}

fn ops(batch: &RecordBatch) -> Vec<u8> {
    batch.column(batch.num_columns() - 2).as_primitive::<UInt8Type>().values().to_vec()
}

fn ids(batch: &RecordBatch) -> Vec<Option<i32>> {
    batch.column(0).as_primitive::<Int32Type>().iter().collect()
}

fn links(batch: &RecordBatch) -> Vec<Option<String>> {
    batch.column(batch.num_columns() - 1).as_string::<i32>().iter().map(|link| link.map(str::to_owned)).collect()
}
