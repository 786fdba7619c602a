use super::*;

#[tokio::test]
async fn chunks_hold_every_row_once() {
    let database = Server::shared().create_database().await;
    database
            .execute("CREATE TABLE public.t (id int PRIMARY KEY, v text); INSERT INTO public.t SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g; CREATE TABLE public.e (id int PRIMARY KEY)")
            .await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let plan = source.plan_chunks(&schema, 256 << 10).await.unwrap();
    assert!(plan.chunks.len() > 5, "{plan:?}");
    let mut ids = Vec::new();
    for chunk in &plan.chunks {
        let read = source.read_chunk(&schema, chunk, keep().values).await.unwrap();
        for batch in read.rows.try_collect::<Vec<_>>().await.unwrap() {
            assert_eq!(batch.schema(), schema.arrow_rows());
            ids.extend(batch.column(0).as_primitive::<Int32Type>().values().iter().copied());
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=20000).collect::<Vec<_>>());

    let empty = source.describe(&TableName::new("public", "e")).await.unwrap();
    let plan = source.plan_chunks(&empty, 1 << 20).await.unwrap();
    assert_eq!(plan.chunks.len(), 1);
    assert!(read(&source, &empty).await.is_empty());
}

#[tokio::test]
async fn a_rewrite_or_a_changed_column_voids_the_plan() {
    let database = Server::shared().create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY, v int); INSERT INTO public.t VALUES (1, 1)").await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("public", "t")).await.unwrap();
    let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
    database.execute("VACUUM FULL public.t").await;
    let reason = async |chunk| <&str>::from(&source.read_chunk(&schema, chunk, keep().values).await.err().unwrap());
    assert_eq!(reason(&plan.chunks[0]).await, "TableRewritten");
    let plan = source.plan_chunks(&schema, 1 << 20).await.unwrap();
    database.execute("ALTER TABLE public.t ADD COLUMN w int").await;
    assert_eq!(reason(&plan.chunks[0]).await, "SchemaChanged");
}

#[tokio::test]
async fn settling_waits_for_open_and_prepared_transactions_and_says_whom() {
    let server = Server::start();
    let database = server.create_database().await;
    database.execute("CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let source = source(&database);
    source.settle(&|whom| panic!("waited for {whom:?}")).await.unwrap();

    for (begin, end, named) in [
        ("BEGIN; INSERT INTO public.t VALUES (1)", "COMMIT", "process "),
        ("BEGIN; INSERT INTO public.t VALUES (2); PREPARE TRANSACTION 'held'", "COMMIT PREPARED 'held'", "'held'"),
    ] {
        let other = database.connect().await;
        other.batch_execute(begin).await.unwrap();
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let settling = tokio::spawn({
            let source = source.clone();
            async move { source.settle(&move |whom| told.send(whom).unwrap()).await }
        });
        let whom = hears.recv().await.unwrap().unwrap();
        assert!(whom.contains(named), "{whom}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!settling.is_finished());
        other.batch_execute(end).await.unwrap();
        settling.await.unwrap().unwrap();
        assert_eq!(hears.recv().await, Some(None));
    }
}
