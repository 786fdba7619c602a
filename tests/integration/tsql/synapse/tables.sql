SELECT CONVERT(nvarchar(128), DATABASEPROPERTYEX(DB_NAME(), 'Collation'));
GO
CREATE TABLE [dw].[link_4342090c748112d9_1_10] ([id] int NOT NULL, [code] varchar(20) NOT NULL, [we ird] nvarchar(50) COLLATE Greek_CI_AS NULL, [small] tinyint NULL, [price] decimal(18,4) NULL, [cost] money NULL, [at] datetime2(7) NULL, [on] date NULL, [told] datetimeoffset(7) NULL, [uid] uniqueidentifier NULL, [code_page] char(3) NULL, [version] binary(8) NULL, [doc] nvarchar(max) NULL, [node] nvarchar(max) NULL, [added] nvarchar(max) NULL) WITH (DISTRIBUTION = HASH ([id]), HEAP);
GO
CREATE TABLE [dw].[link_4342090c748112d9_1_10] ([id] uniqueidentifier NOT NULL, [name] nvarchar(450) COLLATE Latin1_General_100_BIN2 NOT NULL, [at] datetimeoffset(6) NULL, [number] bigint NOT NULL) WITH (DISTRIBUTION = ROUND_ROBIN, CLUSTERED COLUMNSTORE INDEX);
GO
CREATE TABLE [dw].[link_4342090c748112d9_1_10] ([id] uniqueidentifier NOT NULL, [name] nvarchar(450) COLLATE Latin1_General_100_BIN2 NOT NULL, [at] datetimeoffset(6) NULL, [number] bigint NOT NULL) WITH (DISTRIBUTION = REPLICATE, CLUSTERED INDEX ([number], [id], [name]));
GO
CREATE TABLE [dw].[link_4342090c748112d9_1_10] ([id] uniqueidentifier NOT NULL, [name] nvarchar(450) COLLATE Latin1_General_100_BIN2 NOT NULL, [at] datetimeoffset(6) NULL, [number] bigint NOT NULL) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);
GO
ALTER TABLE [dw].[t] ADD [added] nvarchar(max) NULL;
GO
UPDATE [dw].[t] SET [added] = CONVERT(nvarchar(max), N'it''s');
GO
RENAME OBJECT [dw].[or ders] TO [link_old];
GO
DROP TABLE [dw].[link_4342090c748112d9_1_10];
GO
SELECT p.[state], p.[permission_name], u.[name], c.[name] FROM sys.database_permissions p JOIN sys.database_principals u ON u.[principal_id] = p.[grantee_principal_id] LEFT JOIN sys.columns c ON c.[object_id] = p.[major_id] AND c.[column_id] = p.[minor_id] AND p.[minor_id] > 0 WHERE p.[class] = 1 AND p.[major_id] = 42 ORDER BY p.[minor_id], u.[name], p.[permission_name];
GO
GRANT SELECT ON OBJECT::[dw].[link_4342090c748112d9_1_10] TO [ana lyst];
GO
