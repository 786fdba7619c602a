CREATE SCHEMA [link_operator];
GO
CREATE TABLE [link_operator].[link_progress] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [target_schema] nvarchar(128) NOT NULL, [target_table] nvarchar(128) NOT NULL,
        [run] bigint NULL, [incarnation] bigint NULL, [record] bigint NULL,
        [exact] bit NOT NULL DEFAULT 0, [group_revision] bigint NULL,
        [as_of] datetimeoffset(6) NULL, [rows] bigint NOT NULL DEFAULT 0, [placing] int NULL, [placed] int NULL,
        [updated_at] datetimeoffset(6) NULL, [last_verified] datetimeoffset(6) NULL
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]));
GO
CREATE TABLE [link_operator].[link_chunks] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [run] bigint NOT NULL, [incarnation] bigint NOT NULL, [chunk] bigint NOT NULL, [rows] bigint NOT NULL DEFAULT 0
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]));
GO
CREATE TABLE [link_operator].[link_columns] (
        [link_id] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_schema] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [source_table] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL,
        [run] bigint NOT NULL, [incarnation] bigint NOT NULL,
        [column_name] nvarchar(128) COLLATE Latin1_General_100_BIN2 NOT NULL
    ) WITH (DISTRIBUTION = HASH ([link_id]), CLUSTERED INDEX ([link_id], [source_schema], [source_table]));
GO
CREATE TABLE [link_operator].[link_made] ([object_id] int NOT NULL, [mark] nvarchar(1000) COLLATE Latin1_General_100_BIN2 NOT NULL)
        WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);
GO
CREATE TABLE [link_operator].[link_lock] WITH (DISTRIBUTION = ROUND_ROBIN, HEAP) AS SELECT CONVERT(bigint, 0) AS [turn];
GO
CREATE VIEW [link_operator].[link_status] AS
        SELECT [link_id], [source_schema], [source_table], [target_schema], [target_table], [exact],
            CASE WHEN [exact] = 1 THEN [as_of] END AS [consistent_as_of],
            CONVERT(bit, CASE WHEN [group_revision] IS NOT NULL THEN 1 ELSE 0 END) AS [grouped], [last_verified]
        FROM [link_operator].[link_progress];
GO
BEGIN TRANSACTION;
GO
COMMIT TRANSACTION;
GO
SELECT CASE WHEN SCHEMA_ID(N'link_operator') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_progress]') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_chunks]') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_columns]') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_made]') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_lock]') IS NULL THEN 0 ELSE 1 END, CASE WHEN OBJECT_ID(N'[link_operator].[link_status]') IS NULL THEN 0 ELSE 1 END;
GO
UPDATE [link_operator].[link_lock] SET [turn] = [turn] + 1;
GO
INSERT INTO [link_operator].[link_progress] ([link_id], [source_schema], [source_table], [target_schema], [target_table]) SELECT N'shop.o''neil', N'dbo', N'orders', N'dw', N'or ders' WHERE NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders') AND NOT EXISTS (SELECT 1 FROM [link_operator].[link_progress] WHERE [target_schema] = N'dw' AND [target_table] = N'or ders');
GO
SELECT [link_id], [source_schema], [source_table], [placed] FROM [link_operator].[link_progress] WHERE [target_schema] = N'dw' AND [target_table] = N'or ders';
GO
SELECT [target_schema], [target_table] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
UPDATE [link_operator].[link_progress] SET [target_schema] = N'dw', [target_table] = N'or ders' WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
SELECT o.[object_id], CASE WHEN o.[type] = 'U' AND t.[is_external] = 0 THEN 1 ELSE 0 END FROM sys.objects o JOIN sys.schemas s ON s.[schema_id] = o.[schema_id] LEFT JOIN sys.tables t ON t.[object_id] = o.[object_id] WHERE s.[name] = N'dw' AND o.[name] = N'or ders';
GO
SELECT [mark] FROM [link_operator].[link_made] WHERE [object_id] = 42;
GO
UPDATE [link_operator].[link_progress] SET [updated_at] = [updated_at] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
SELECT [target_schema], [target_table], [placed], [run], [incarnation], [record], [exact], [rows], [group_revision] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
IF OBJECT_ID(N'[link_operator].[link_progress]') IS NOT NULL SELECT [run], [incarnation], [record], [exact], [rows], [group_revision] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
IF OBJECT_ID(N'[link_operator].[link_progress]') IS NOT NULL SELECT [source_schema], [source_table], [run], [incarnation], [record], [exact], [rows], [group_revision] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil';
GO
IF OBJECT_ID(N'[link_operator].[link_progress]') IS NOT NULL SELECT [source_schema], [source_table], [target_schema], [target_table] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil';
GO
SELECT [placing] FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
UPDATE [link_operator].[link_progress] SET [placing] = 42 WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [record] = 10 AND [exact] = 0;
GO
UPDATE [link_operator].[link_progress] SET [placing] = NULL WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
DELETE FROM [link_operator].[link_chunks] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders'; UPDATE [link_operator].[link_progress] SET [run] = 1, [incarnation] = 10, [record] = 10, [exact] = 0, [group_revision] = NULL, [as_of] = NULL, [rows] = 0, [last_verified] = NULL, [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
SELECT [chunk] FROM [link_operator].[link_chunks] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10;
GO
SELECT 1 FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [exact] = 0;
GO
UPDATE [link_operator].[link_progress] SET [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [exact] = 0;
GO
SELECT 1 FROM [link_operator].[link_chunks] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [chunk] = 4;
GO
INSERT INTO [link_operator].[link_chunks] ([link_id], [source_schema], [source_table], [run], [incarnation], [chunk]) VALUES (N'shop.o''neil', N'dbo', N'orders', 1, 10, 4);
GO
UPDATE [link_operator].[link_chunks] SET [rows] = 100 WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [chunk] = 4;
GO
UPDATE [link_operator].[link_progress] SET [rows] = [rows] + 100 WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
UPDATE [link_operator].[link_progress] SET [rows] = [rows] + (SELECT COALESCE(SUM([rows]), 0) FROM [link_operator].[link_chunks] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10) WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
INSERT INTO [link_operator].[link_columns] ([link_id], [source_schema], [source_table], [run], [incarnation], [column_name]) VALUES (N'shop.o''neil', N'dbo', N'orders', 1, 10, N'we ird');
GO
SELECT TOP (1) 1 FROM [link_operator].[link_columns] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [column_name] = N'we ird';
GO
SELECT 1 FROM sys.columns WHERE [object_id] = OBJECT_ID(N'[dw].[or ders]') AND [name] = N'we ird';
GO
DELETE FROM [link_operator].[link_columns] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
UPDATE [link_operator].[link_progress] SET [record] = 12, [as_of] = COALESCE(CONVERT(datetimeoffset(6), N'2024-02-29 12:00:00.123456 +00:00'), [as_of]), [group_revision] = NULL, [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [record] = 10 AND [exact] = 1 AND ([group_revision] IS NULL OR [group_revision] <= 3);
GO
UPDATE [link_operator].[link_progress] SET [record] = 12, [as_of] = COALESCE(CONVERT(datetimeoffset(6), N'2024-02-29 12:00:00.123456 +00:00'), [as_of]), [exact] = 1, [group_revision] = NULL, [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [record] = 10 AND [exact] = 0 AND ([group_revision] IS NULL OR [group_revision] <= 3);
GO
UPDATE [link_operator].[link_progress] SET [last_verified] = CONVERT(datetimeoffset(6), N'2024-02-29 12:00:00.123456 +00:00') WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10;
GO
UPDATE [link_operator].[link_progress] SET [placed] = 42 WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
INSERT INTO [link_operator].[link_made] ([object_id], [mark]) VALUES (42, N'Copy of dbo.orders by link shop.o''neil (link-operator)');
GO
DELETE FROM [link_operator].[link_made] WHERE [object_id] = 42;
GO
DELETE FROM [link_operator].[link_chunks] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders'; DELETE FROM [link_operator].[link_progress] WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders';
GO
SELECT s.[name], t.[name] FROM sys.tables t JOIN sys.schemas s ON s.[schema_id] = t.[schema_id] WHERE t.[name] LIKE N'link[_]4342090c748112d9[_]%';
GO
UPDATE [link_operator].[link_progress] SET [record] = 12, [as_of] = COALESCE(NULL, [as_of]), [group_revision] = 3, [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [record] = 10 AND [exact] = 1 AND ([group_revision] IS NULL OR [group_revision] <= 3);
GO
UPDATE [link_operator].[link_progress] SET [group_revision] = NULL WHERE [link_id] = N'shop.o''neil' AND [group_revision] <= 3 AND NOT ([source_schema] = N'dbo' AND [source_table] = N'orders');
GO
UPDATE [link_operator].[link_progress] SET [as_of] = CONVERT(datetimeoffset(6), N'2024-02-29 12:00:00.123456 +00:00'), [updated_at] = SYSDATETIMEOFFSET() WHERE [link_id] = N'shop.o''neil' AND [source_schema] = N'dbo' AND [source_table] = N'orders' AND [run] = 1 AND [incarnation] = 10 AND [record] = 10 AND [exact] = 1 AND ([as_of] IS NULL OR [as_of] < CONVERT(datetimeoffset(6), N'2024-02-29 12:00:00.123456 +00:00'));
GO
