-- The shop that the demo links, in T-SQL.
IF OBJECT_ID('dbo.customers') IS NULL
CREATE TABLE dbo.customers (
  id int NOT NULL PRIMARY KEY,
  name nvarchar(50) NOT NULL,
  email varchar(100),
  born date,
  balance money,
  note nvarchar(max)
)
GO
IF OBJECT_ID('dbo.orders') IS NULL
CREATE TABLE dbo.orders (
  id bigint NOT NULL PRIMARY KEY,
  customer_id int NOT NULL,
  placed_at datetimeoffset(3) NOT NULL,
  status varchar(10) NOT NULL,
  quantity tinyint NOT NULL,
  price decimal(12, 2) NOT NULL,
  discount float,
  gift bit NOT NULL,
  note nvarchar(200),
  token uniqueidentifier NOT NULL
)
GO
IF OBJECT_ID('dbo.every_type') IS NULL
CREATE TABLE dbo.every_type (
  id int NOT NULL PRIMARY KEY,
  a_bit bit, a_tinyint tinyint, a_smallint smallint, an_int int, a_bigint bigint,
  a_decimal decimal(10, 2), a_numeric numeric(38, 10), a_money money, a_smallmoney smallmoney, a_real real, a_float float,
  a_date date, a_time time(6), a_datetime datetime, a_smalldatetime smalldatetime, a_datetime2 datetime2(6), a_long_datetime2 datetime2(7),
  a_datetimeoffset datetimeoffset(6),
  a_char char(5), a_varchar varchar(20), a_nchar nchar(5), a_nvarchar nvarchar(20), a_text nvarchar(max),
  a_binary binary(4), a_varbinary varbinary(20), some_bytes varbinary(max), a_guid uniqueidentifier, an_xml xml,
  [Mixed Case] nvarchar(10), [a "quoted" name] nvarchar(10), [select] nvarchar(10)
)
GO
IF NOT EXISTS (SELECT 1 FROM dbo.customers)
INSERT INTO dbo.customers (id, name, email, born, balance, note)
SELECT n, CONCAT(N'Customer ', n), CASE WHEN n % 7 > 0 THEN CONCAT('c', n, '@example.com') END,
  DATEADD(day, n * 3 % 25000, CAST('1940-01-01' AS date)), n / 7.0, REPLICATE(N'é', n % 3)
FROM (
  SELECT ROW_NUMBER() OVER (ORDER BY (SELECT 1)) AS n
  FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) a (x)
  CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) b (x)
  CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) c (x)
  CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) d (x)
) numbers
GO
IF NOT EXISTS (SELECT 1 FROM dbo.orders)
INSERT INTO dbo.orders
SELECT n, n % 10000 + 1, DATEADD(second, n * 97, CAST('2020-01-01 00:00:00 +02:00' AS datetimeoffset(3))),
  CASE n % 4 WHEN 0 THEN 'new' WHEN 1 THEN 'paid' WHEN 2 THEN 'sent' ELSE 'returned' END, n % 9 + 1, n % 100000 / 100.0,
  CASE WHEN n % 5 = 0 THEN 1.0 / n END, CASE WHEN n % 11 = 0 THEN 1 ELSE 0 END,
  CASE WHEN n % 13 = 0 THEN CONCAT(N'Ring twice — “', n, N'”') END, NEWID()
FROM (
  SELECT a.id + 10000 * (b.id - 1) AS n FROM dbo.customers a CROSS JOIN (SELECT id FROM dbo.customers WHERE id <= 20) b
) numbers
GO
IF NOT EXISTS (SELECT 1 FROM dbo.every_type)
INSERT INTO dbo.every_type VALUES
  (1, 1, 255, -32768, -2147483648, -9223372036854775808, 12345678.90, 1234567890123456789012345678.0123456789, 922337203685477.5807, -214748.3648,
   1.5, 2.5e-10, '9999-12-31', '23:59:59.999999', '9999-12-31 23:59:59.997', '2079-06-06 23:59', '9999-12-31 23:59:59.999999',
   '2026-11-21 12:00:00.123456', '2026-11-21 12:00:00.123456 +05:30', 'é', 'varchar', N'日本', N'a "quoted" ''text''', REPLICATE(CAST(N'long ' AS nvarchar(max)), 10000),
   0x00ff, 0x0102, 0xdeadbeef, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '<a b="c">d</a>', N'Mixed', N'bracket', N'keyword'),
  (2, 0, 0, 32767, 2147483647, 9223372036854775807, -12345678.90, -1234567890123456789012345678.0123456789, -922337203685477.5808, 214748.3647,
   -1.5, 1.7e308, '0001-01-01', '00:00:00', '1753-01-01', '1900-01-01', '0001-01-01', '0001-01-01', '0001-01-01 00:00:00 +00:00',
   '', '', N'', N'', N'', 0x, 0x, 0x, '00000000-0000-0000-0000-000000000000', '', N'', N'', N'')
GO
IF NOT EXISTS (SELECT 1 FROM dbo.every_type WHERE id = 3) INSERT INTO dbo.every_type (id) VALUES (3)
GO
