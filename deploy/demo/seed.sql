-- The shop that the demo links.
\getenv username APP_USERNAME
-- All that a source asks for beside the ownership of its tables.
ALTER ROLE :"username" REPLICATION;
SET ROLE :"username";

CREATE TABLE customers (
  id int PRIMARY KEY,
  name text NOT NULL,
  email text,
  born date,
  note text
);
INSERT INTO customers
SELECT n, 'Customer ' || n, CASE WHEN n % 7 > 0 THEN 'c' || n || '@example.com' END, date '1940-01-01' + n * 3 % 25000, repeat('é', n % 3)
FROM generate_series(1, 10000) n;

CREATE TABLE orders (
  id bigint,
  customer_id int NOT NULL,
  placed_at timestamptz NOT NULL,
  status text NOT NULL,
  quantity smallint NOT NULL,
  price numeric(12, 2) NOT NULL,
  discount double precision,
  gift boolean NOT NULL,
  note text,
  token uuid NOT NULL
);
INSERT INTO orders
SELECT n, n % 10000 + 1, timestamptz '2020-01-01 00:00:00+00' + n * interval '97 seconds',
  (ARRAY['new', 'paid', 'sent', 'returned'])[n % 4 + 1], n % 9 + 1, n % 100000 / 100.0, CASE WHEN n % 5 = 0 THEN 1.0 / n END,
  n % 11 = 0, CASE WHEN n % 13 = 0 THEN 'Ring twice — “' || n || '”' END, md5(n::text)::uuid
FROM generate_series(1, 1000000) n;
-- Faster than row by row.
ALTER TABLE orders ADD PRIMARY KEY (id);

CREATE TABLE empty (id int PRIMARY KEY, anything text);

CREATE TYPE mood AS ENUM ('sad', 'so ''so''', 'glücklich');
CREATE DOMAIN quantity AS int CHECK (value > 0);
CREATE DOMAIN quantities AS quantity[];

-- Every built-in type that a table's column is made of, with a value, its extremes, and NULL.
CREATE TABLE every_type (
  id int PRIMARY KEY,
  a_bool bool, an_int2 int2, an_int4 int4, an_int8 int8, a_float4 float4, a_float8 float8,
  a_numeric numeric, a_decimal numeric(10, 2), a_wide numeric(38, 38), a_money money,
  a_text text, a_varchar varchar(20), a_char char(5), a_byte "char", a_name name, a_bytea bytea,
  a_date date, a_time time, a_timetz timetz, a_timestamp timestamp, a_timestamptz timestamptz(3), an_interval interval,
  a_uuid uuid, a_json json, a_jsonb jsonb, a_jsonpath jsonpath, an_xml xml,
  an_inet inet, a_cidr cidr, a_macaddr macaddr, a_macaddr8 macaddr8, a_bit bit(3), a_varbit varbit,
  a_point point, a_line line, an_lseg lseg, a_box box, a_path path, a_polygon polygon, a_circle circle,
  a_tsvector tsvector, a_tsquery tsquery, an_oid oid, an_lsn pg_lsn, an_xid8 xid8, a_snapshot pg_snapshot,
  an_int4range int4range, an_int8range int8range, a_numrange numrange, a_daterange daterange, a_tsrange tsrange,
  a_tstzrange tstzrange, a_multirange int4multirange,
  ints int[], matrix int[][], texts text[], dates date[], numerics numeric[], jsons jsonb[],
  an_enum mood, enums mood[], a_domain quantity, domains quantities,
  "Mixed Case" text, "a ""quoted"" name" text, "größe_日本" text, "select" text
);
INSERT INTO every_type VALUES
  (1, true, -32768, -2147483648, -9223372036854775808, 1.1754944e-38, 2.2250738585072014e-308,
   123456789012345678901234567890.123456789, 12345678.90, 0.12345678901234567890123456789012345678, '$1,234.56',
   E'a tab\t, a line\nbreak, a \\, a " and a ''', 'é', 'ab', 'x', 'name', '\x00ff5c',
   '2024-02-29', '23:59:59.999999', '12:34:56.789+05:30', '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00.123+02', '1 year -2 mons 3 days -04:05:06.7',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b": 1,  "a": [null, 2.50]}', '{"b": 1, "a": [null, 2.50]}', '$.a[*] ? (@ > 1)', '<a b="c">d</a>',
   '192.168.0.1/24', '2001:db8::/32', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'101', B'10110',
   '(1,2)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(0,0),1.5>',
   'a:1A fat:2B cat', 'fat & (cat | !dog)', 4294967295, '16/B374D848', '18446744073709551615', '10:20:10,14,15',
   '[1,10)', '[1,)', '(0.5,1.5]', '[2024-01-01,2024-12-31]', '[2024-01-01 00:00,2024-01-02 00:00)',
   '[2024-01-01 00:00+02,infinity)', '{[1,3),[5,7)}',
   '{1,NULL,3}', '{{1,2},{3,4}}', '{"a,b","c\"d",NULL,"NULL",""}', '{2024-02-29,infinity,"0044-03-15 BC"}', '{NaN,1.50,NULL}', '{"{\"a\": 1}"}',
   'glücklich', '{sad,NULL,"so ''so''"}', 7, '{1,2}', 'Mixed', 'quoted', '日本', 'keyword'),
  (2, false, 32767, 2147483647, 9223372036854775807, 'NaN', 'NaN', 'NaN', 'NaN', 'NaN', '-$0.01', '', '', '', '', '', '',
   'infinity', '24:00:00', '00:00:00-15:59', 'infinity', 'infinity', '-178000000 years', '00000000-0000-0000-0000-000000000000',
   'null', 'null', '$', '', '::1', '0.0.0.0/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00', B'000', B'',
   '(NaN,Infinity)', '{0,-1,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>',
   '', '', 0, '0/0', '0', '1:1:', 'empty', '(,)', 'empty', '(,2024-01-01)', '(,)', 'empty', '{}',
   '{}', '{}', '{}', '{}', '{}', '{}', 'sad', '{}', 1, '{}', '', '', '', ''),
  (3, true, 0, 0, 0, '-Infinity', 'Infinity', 'Infinity', 0, -0.00000000000000000000000000000000000001, 0, '🐘', 'ß', '     ', '-', 'N', '\x',
   '-infinity', '00:00', '24:00:00+15:59', '-infinity', '-infinity', '0',
   'ffffffff-ffff-ffff-ffff-ffffffffffff', '"\u00e9"', '"é"', 'strict $.a', 'text only', 'fe80::1/64', '10.0.0.0/8', 'ff:ff:ff:ff:ff:ff',
   'ff:ff:ff:ff:ff:ff:ff:ff', B'111', B'1', '(-0,1e300)', '{1,0,0}', '[(-1,-1),(1,1)]', '(1,1),(-1,-1)', '((0,0),(1,1))', '((0,0),(1,1))',
   '<(1e300,-1e300),1e-300>', '''a b'':1', '''a b'':*A', 1, 'FFFFFFFF/FFFFFFFF', '1', '1:3:2',
   '(,)', 'empty', '[1.10,1.10]', 'empty', 'empty', '(,infinity]', '{(,)}',
   '[0:2]={1,2,3}', '[-1:0][2:3]={{1,2},{3,4}}', '{" a ","{b}"}', '{-infinity}', '{Infinity,-Infinity}', '{null}',
   'so ''so''', '{glücklich}', 2147483647, NULL, 'x', 'y', 'z', ' ');
INSERT INTO every_type (id) VALUES (4);
INSERT INTO every_type (id, a_date, a_timestamp, a_timestamptz, a_float8, a_numeric, a_text) VALUES
  (5, '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59+00', '-0', 1e131, repeat('long ', 100000)),
  (6, '4714-11-24 BC', '4714-11-24 00:00:00 BC', '4714-11-24 00:00:00+00 BC', '-Infinity', 1e-1000, NULL),
  (7, '0044-03-15 BC', '0044-03-15 12:00:00 BC', '0001-12-31 23:59:59.999+00 BC', 0.1, '-Infinity', NULL);

ANALYZE customers, orders, empty, every_type;
