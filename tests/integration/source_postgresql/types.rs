//! Values of every type.

use super::{
    stream::{cut, follow, rows_until, version},
    *,
};

/// Columns of every built-in type and one row of ordinary and one of extreme values for each: (type, value, value).
const TYPES: &[(&str, &str, &str)] = &[
    ("boolean", "true", "false"),
    ("smallint", "-32768", "32767"),
    ("integer", "-2147483648", "2147483647"),
    ("bigint", "-9223372036854775808", "9223372036854775807"),
    ("real", "1.1", "'NaN'"),
    ("real", "3.4028235e38", "'-Infinity'"),
    ("double precision", "0.1", "'-0'"),
    ("double precision", "1.7976931348623157e308", "'NaN'"),
    ("double precision", "5e-324", "'inf'::float8 - 'inf'::float8"),
    ("numeric(10,2)", "-12345678.90", "'NaN'"),
    ("numeric(38,0)", "99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"),
    ("numeric(38,38)", "0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"),
    ("numeric(38,5)", "10000", "-0.00010"),
    ("numeric(3,-2)", "12345", "-100"),
    ("numeric(40,1)", "1.5", "'NaN'"),
    ("numeric", "'Infinity'", "123456789012345678901234567890123456789012345678901234567890.000100"),
    ("money", "'-12.34'", "'92233720368547758.07'"),
    ("text", "''", "E'a\\tb\\n\"\\\\''Ünïcødé 🦀'"),
    ("varchar(20)", "' padded '", "'NULL'"),
    ("char(5)", "'ab'", "'     '"),
    ("\"char\"", "'x'", "''"),
    ("name", "'a name'", "'\"'"),
    ("bytea", "'\\x'", "'\\x00ff5c27'"),
    ("date", "'2024-02-29'", "'infinity'"),
    ("date", "'4713-01-01 BC'", "'5874897-12-31'"),
    ("time", "'23:59:59.999999'", "'24:00:00'"),
    ("time(2)", "'00:00:00'", "'01:02:03.456'"),
    ("timetz", "'12:00:00+02:30'", "'24:00:00-15:59:59'"),
    ("timestamp", "'2024-02-29 12:34:56.7'", "'-infinity'"),
    ("timestamp", "'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"),
    ("timestamptz", "'2024-06-01 12:00:00+09'", "'infinity'"),
    ("timestamptz", "'0001-12-31 23:59:59.5+00 BC'", "'294247-01-10 04:00:54.775808+00'"),
    ("timestamptz", "'294247-01-10 04:00:54.775807+00'", "'9999-12-31 23:59:59+00'"),
    ("interval", "'1 year 2 months -3 days 04:05:06.789'", "'-178000000 years'"),
    ("interval day to second(3)", "'1 2:03:04.5678'", "'0'"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"),
    ("inet", "'192.168.0.1'", "'::1/64'"),
    ("cidr", "'10.0.0.0/8'", "'2001:db8::/32'"),
    ("macaddr", "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'"),
    ("macaddr8", "'08:00:2b:01:02:03:04:05'", "'08:00:2b:ff:fe:01:02:03'"),
    ("bit(3)", "B'101'", "B'000'"),
    ("varbit", "B''", "B'1011'"),
    ("json", "' {\"a\": 1,  \"a\": 2}'", "'null'"),
    ("jsonb", "'{\"b\": [1, 1.50, null], \"a\": \"ü\"}'", "'null'"),
    ("jsonpath", "'$.a[*]'", "'strict $'"),
    ("xml", "'<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>ü</a>'", "'text'"),
    ("tsvector", "'a:1A fat:2 cat''s'", "''"),
    ("tsquery", "'a & !b'", "''"),
    ("point", "'(1.5,-2)'", "'(NaN,Infinity)'"),
    ("line", "'{1,2,3}'", "'{0,-1,0}'"),
    ("lseg", "'[(0,0),(1,1)]'", "'[(0,0),(0,0)]'"),
    ("box", "'(1,1),(0,0)'", "'(0,0),(0,0)'"),
    ("path", "'((0,0),(1,1))'", "'[(0,0)]'"),
    ("polygon", "'((0,0),(1,1),(1,0))'", "'((0,0))'"),
    ("circle", "'<(0,0),1>'", "'<(1,2),0>'"),
    ("oid", "0", "4294967295"),
    ("regclass", "'pg_class'", "0"),
    ("pg_lsn", "'16/B374D848'", "'0/0'"),
    ("pg_snapshot", "'10:20:10,14'", "'1:1:'"),
    ("xid8", "'1'", "'18446744073709551615'"),
    ("int4range", "'[1,5)'", "'empty'"),
    ("numrange", "'(,1.50]'", "'(,)'"),
    ("daterange", "'[2024-01-01,infinity)'", "'empty'"),
    ("tstzrange", "'[2024-01-01 00:00+09,)'", "'empty'"),
    ("int8multirange", "'{[1,2), [5,9)}'", "'{}'"),
    ("integer[]", "'{1,NULL,3}'", "'{}'"),
    ("integer[]", "'[0:1]={1,2}'", "'{{1,2},{3,4}}'"),
    ("text[]", "ARRAY['', 'NULL', NULL, 'a,b', '\"']", "'{}'"),
    ("numeric(6,2)[]", "'{1.10,NaN}'", "'{NULL}'"),
    ("timestamptz[]", "'{2024-01-01 00:00:00+09}'", "'{infinity}'"),
    ("bytea[]", "ARRAY['\\x00'::bytea]", "'{}'"),
    ("jsonb[]", "ARRAY['{\"a\": 1}'::jsonb]", "'{}'"),
    ("public.mood", "'so so'", "'\"q\"'"),
    ("public.mood[]", "'{so so,NULL}'", "'{}'"),
    ("public.amount", "1.25", "'NaN'"),
    ("public.amount[]", "'{1.25,NULL}'", "'{}'"),
    ("public.outer_amount", "2.50", "0"),
    ("public.numbers", "'{1,2}'", "'{}'"),
    ("public.pair", "ROW(1, 'a b')", "ROW(NULL, NULL)"),
    ("public.pair[]", "ARRAY[ROW(1, 'a')::public.pair]", "'{}'"),
    ("public.lengths", "'[1.5,2]'", "'empty'"),
];

/// How the server sends values.
async fn form(database: &Database) -> &'static str {
    let sql = "SELECT query FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = current_database()";
    let query: String = database.connect().await.query_one(sql, &[]).await.unwrap().get(0);
    if query.contains("binary 'on'") { "binary" } else { "text" }
}

#[tokio::test]
async fn values_come_in_binary_until_a_table_has_some_that_cannot() {
    let database = Server::shared().create_database().await;
    let has_binary = |name: &str| {
        let starts = [
            "bool", "smallint", "int", "bigint", "real", "double", "numeric(", "text", "varchar", "char(", "bytea", "date", "time", "uuid",
            "json",
        ];
        !name.ends_with("[]")
            && !["interval", "timetz", "daterange", "jsonpath", "int4range", "int8multirange"].contains(&name)
            && starts.iter().any(|start| name.starts_with(start))
    };
    let types: Vec<_> = TYPES.iter().filter(|(name, ..)| has_binary(name)).collect();
    let columns: Vec<String> = types.iter().enumerate().map(|(index, (name, ..))| format!("c{index} {name}")).collect();
    database.execute(&format!("CREATE TABLE native (id int PRIMARY KEY, {})", columns.join(", "))).await;
    let source = source(&database);
    // Of numeric some have no native form.
    let name = TableName::new("public", "native");
    for column in source.describe(&name).await.unwrap().columns {
        if column.travel == Travel::Text && !column.source_type.starts_with("json") {
            database.execute(&format!("ALTER TABLE native DROP {}", column.name)).await;
        }
    }
    let schema = source.describe(&name).await.unwrap();
    assert!(schema.columns.len() > 20, "{}", schema.columns.len());
    let mut capture = follow(&source, &[&schema]).await;
    let kept: Vec<usize> = schema.columns[1..].iter().map(|column| column.name[1..].parse().unwrap()).collect();
    let values = |of: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        kept.iter().map(|index| of(types[*index])).collect::<Vec<_>>().join(", ")
    };
    let nulls = vec!["NULL"; kept.len()].join(", ");
    let rows = format!("(0, {}), (1, {}), (2, {nulls})", values(|(_, one, _)| one), values(|(.., other)| other));
    database.execute(&format!("INSERT INTO native VALUES {rows}")).await;
    let snapshot = read(&source, &schema).await;
    let changes = cut(&mut capture).await;
    assert_eq!(form(&database).await, "binary");
    let [Segment::Rows(changes)] = changes.tables[0].segments.as_slice() else { panic!("{changes:?}") };
    for (index, column) in schema.columns.iter().enumerate() {
        assert_eq!(snapshot[0].column(index).to_data(), changes.column(index).to_data(), "{} {}", column.name, column.source_type);
    }
    let count = schema.columns.len();
    assert_eq!(snapshot[0].column(count).to_data(), changes.column(count + 1).to_data());

    // Those of an interval cannot be read so.
    database.execute("CREATE TABLE joins (id int PRIMARY KEY, takes interval)").await;
    let joins = source.describe(&TableName::new("public", "joins")).await.unwrap();
    let mut followed = Vec::new();
    for (table, id) in [&schema, &joins].into_iter().zip(1..) {
        followed.push(CapturedTable { id, version: version(&source, table).await, from: Position::default() });
    }
    capture.follow(followed);
    database.execute("INSERT INTO native (id) VALUES (3); INSERT INTO joins VALUES (1, '1 day 02:03')").await;
    let batches = rows_until(&mut capture, 2).await;
    assert_eq!(form(&database).await, "text");
    let takes = batches.iter().find(|batch| batch.num_columns() == 4).unwrap();
    assert_eq!(takes.column(1).as_string::<i32>().value(0), "1 day 02:03:00");
}

#[tokio::test]
async fn every_type_is_the_same_by_snapshot_and_by_stream() {
    let database = Server::shared().create_database().await;
    let columns: Vec<String> = TYPES.iter().enumerate().map(|(index, (name, ..))| format!("c{index} {name}")).collect();
    let rows: Vec<String> = [
        TYPES.iter().map(|(_, value, _)| *value).collect::<Vec<_>>(),
        TYPES.iter().map(|(_, _, value)| *value).collect(),
        TYPES.iter().map(|_| "NULL").collect(),
    ]
    .iter()
    .enumerate()
    .map(|(id, values)| format!("({id}, {})", values.join(", ")))
    .collect();
    database
        .execute(&format!(
            "CREATE TYPE public.mood AS ENUM ('so so', '\"q\"'); CREATE DOMAIN public.amount AS numeric(6,2); \
                 CREATE DOMAIN public.outer_amount AS public.amount CHECK (VALUE >= 0); CREATE DOMAIN public.numbers AS int[]; \
                 CREATE TYPE public.pair AS (a int, b text); CREATE TYPE public.lengths AS RANGE (subtype = float8); \
                 CREATE SCHEMA \"Schéma \"\"x\"; \
                 CREATE TABLE \"Schéma \"\"x\".\"Täble.q\" (\"the \"\"id\" int PRIMARY KEY, {}, \
                   generated text GENERATED ALWAYS AS ('x') STORED, dropped int); \
                 ALTER TABLE \"Schéma \"\"x\".\"Täble.q\" DROP COLUMN dropped",
            columns.join(", ")
        ))
        .await;
    let source = source(&database);
    let schema = source.describe(&TableName::new("Schéma \"x", "Täble.q")).await.unwrap();
    assert_eq!(schema.columns.len(), TYPES.len() + 1);
    let mut capture = follow(&source, &[&schema]).await;
    database.execute(&format!("INSERT INTO \"Schéma \"\"x\".\"Täble.q\" VALUES {}", rows.join(", "))).await;

    let snapshot = read(&source, &schema).await;
    let cut = cut(&mut capture).await;
    let [Segment::Rows(changes)] = cut.tables[0].segments.as_slice() else { panic!("{cut:?}") };
    assert_eq!(changes.schema(), schema.arrow_changes());
    let count = schema.columns.len();
    for (index, column) in schema.columns.iter().enumerate() {
        assert_eq!(
            snapshot[0].column(index).to_data(),
            changes.column(index).to_data(),
            "{} {}: {:?}",
            column.name,
            column.source_type,
            column.travel
        );
    }
    assert_eq!(snapshot[0].column(count).to_data(), changes.column(count + 1).to_data());

    // And they are what PostgreSQL itself prints.
    let session = database.connect().await;
    let texts: Vec<usize> = (0..count).filter(|&index| schema.columns[index].travel == Travel::Text).collect();
    for row in 0..3 {
        let exact: LinkCell = match snapshot[0].column(count).as_string::<i32>() {
            link if link.is_null(row) => LinkCell::default(),
            link => serde_json::from_str(link.value(row)).unwrap(),
        };
        let printed = session
            .simple_query(&format!("SELECT * FROM \"Schéma \"\"x\".\"Täble.q\" WHERE \"the \"\"id\" = {row}"))
            .await
            .unwrap()
            .into_iter()
            .find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .unwrap();
        for &index in &texts {
            let column = snapshot[0].column(index).as_string::<i32>();
            let value = (!column.is_null(row)).then(|| column.value(row));
            assert_eq!(value, printed.get(index), "{}", schema.columns[index].source_type);
        }
        assert_eq!(exact.beside.len(), [0, 8, 0][row], "{exact:?}");
        for (index, value) in exact.beside {
            assert_eq!(Some(value.text()), printed.get(usize::from(index)));
            assert!(snapshot[0].column(usize::from(index)).is_null(row));
        }
    }

    let types: Vec<&str> = schema.columns.iter().map(|column| column.source_type.as_str()).collect();
    let type_of = |name: &str| types[1 + TYPES.iter().position(|(type_name, ..)| *type_name == name).unwrap()];
    for (name, made) in [
        ("public.mood", "text"),
        ("public.mood[]", "text[]"),
        ("public.amount", "numeric(6,2)"),
        ("public.amount[]", "numeric(6,2)[]"),
        ("public.outer_amount", "numeric(6,2)"),
        ("public.numbers", "integer[]"),
        ("public.pair", "text"),
        ("public.pair[]", "text[]"),
        ("public.lengths", "text"),
        ("regclass", "text"),
        ("char(5)", "character(5)"),
        ("int8multirange", "int8multirange"),
    ] {
        assert_eq!(type_of(name), made, "{name}");
    }
}
