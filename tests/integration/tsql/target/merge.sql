SELECT 1 FROM sys.foreign_keys WHERE [referenced_object_id] = OBJECT_ID(N'[dw].[or ders]') UNION ALL SELECT 1 FROM sys.tables WHERE [object_id] = OBJECT_ID(N'[dw].[or ders]') AND [is_replicated] = 1 UNION ALL SELECT 1 FROM sys.sql_expression_dependencies d JOIN sys.indexes i ON i.[object_id] = d.[referencing_id] JOIN sys.views v ON v.[object_id] = d.[referencing_id] WHERE d.[referenced_id] = OBJECT_ID(N'[dw].[or ders]');
GO
TRUNCATE TABLE [dw].[or ders];
GO
DELETE FROM [dw].[or ders];
GO
CREATE TABLE #link_upserts ([c0] int NULL, [c1] nvarchar(20) COLLATE SQL_Latin1_General_CP1_CI_AS NULL, [c2] nvarchar(50) COLLATE SQL_Latin1_General_CP1_CI_AS NULL, [c3] nvarchar(max) COLLATE DATABASE_DEFAULT NULL, [c4] nvarchar(max) COLLATE DATABASE_DEFAULT NULL, [c5] nvarchar(max) COLLATE DATABASE_DEFAULT NULL, [c6] nvarchar(max) COLLATE DATABASE_DEFAULT NULL, [c7] decimal(38,4) NULL, [c8] binary(8) NULL, [c9] nvarchar(max) COLLATE DATABASE_DEFAULT NULL, [n] int NULL);
GO
DELETE t FROM [dw].[or ders] t JOIN #link_deletes d ON t.[code] = CONVERT(varchar(20), d.[k0]) AND t.[id] = d.[k1];
GO
INSERT INTO [dw].[or ders] ([id], [code], [we ird], [doc], [node], [shape], [place], [price], [version], [added]) SELECT u.[c0], CONVERT(varchar(20), u.[c1]), u.[c2], CONVERT(xml, u.[c3], 1), hierarchyid::Parse(u.[c4]), geometry::STGeomFromText(SUBSTRING(u.[c5], CHARINDEX(N';', u.[c5]) + 1, LEN(u.[c5])), CONVERT(int, SUBSTRING(u.[c5], 6, CHARINDEX(N';', u.[c5]) - 6))), geography::STGeomFromText(SUBSTRING(u.[c6], CHARINDEX(N';', u.[c6]) + 1, LEN(u.[c6])), CONVERT(int, SUBSTRING(u.[c6], 6, CHARINDEX(N';', u.[c6]) - 6))), CONVERT(decimal(18,4), u.[c7]), u.[c8], u.[c9] FROM #link_upserts u;
GO
INSERT INTO [dw].[or ders] ([id], [code], [we ird], [doc], [node], [shape], [place], [price], [version], [added]) SELECT u.[c0], CONVERT(varchar(20), u.[c1]), u.[c2], CONVERT(xml, u.[c3], 1), hierarchyid::Parse(u.[c4]), geometry::STGeomFromText(SUBSTRING(u.[c5], CHARINDEX(N';', u.[c5]) + 1, LEN(u.[c5])), CONVERT(int, SUBSTRING(u.[c5], 6, CHARINDEX(N';', u.[c5]) - 6))), geography::STGeomFromText(SUBSTRING(u.[c6], CHARINDEX(N';', u.[c6]) + 1, LEN(u.[c6])), CONVERT(int, SUBSTRING(u.[c6], 6, CHARINDEX(N';', u.[c6]) - 6))), CONVERT(decimal(18,4), u.[c7]), u.[c8], u.[c9] FROM #link_upserts u WHERE NOT EXISTS (SELECT 1 FROM [dw].[or ders] t WHERE t.[code] = CONVERT(varchar(20), u.[c1]) AND t.[id] = u.[c0]);
GO
UPDATE t SET [code] = CONVERT(varchar(20), u.[c1]), [we ird] = u.[c2], [doc] = CONVERT(xml, u.[c3], 1), [node] = hierarchyid::Parse(u.[c4]), [shape] = geometry::STGeomFromText(SUBSTRING(u.[c5], CHARINDEX(N';', u.[c5]) + 1, LEN(u.[c5])), CONVERT(int, SUBSTRING(u.[c5], 6, CHARINDEX(N';', u.[c5]) - 6))), [place] = geography::STGeomFromText(SUBSTRING(u.[c6], CHARINDEX(N';', u.[c6]) + 1, LEN(u.[c6])), CONVERT(int, SUBSTRING(u.[c6], 6, CHARINDEX(N';', u.[c6]) - 6))), [price] = CONVERT(decimal(18,4), u.[c7]), [version] = u.[c8], [added] = u.[c9] FROM [dw].[or ders] t JOIN #link_upserts u ON t.[code] = CONVERT(varchar(20), u.[c1]) AND t.[id] = u.[c0];
GO
SELECT 1 FROM sys.foreign_keys WHERE [referenced_object_id] = OBJECT_ID(N'[dw].[or ders]') UNION ALL SELECT 1 FROM sys.tables WHERE [object_id] = OBJECT_ID(N'[dw].[or ders]') AND [is_replicated] = 1 UNION ALL SELECT 1 FROM sys.sql_expression_dependencies d JOIN sys.indexes i ON i.[object_id] = d.[referencing_id] JOIN sys.views v ON v.[object_id] = d.[referencing_id] WHERE d.[referenced_id] = OBJECT_ID(N'[dw].[or ders]');
GO
TRUNCATE TABLE [dw].[or ders];
GO
DELETE FROM [dw].[or ders];
GO
CREATE TABLE #link_upserts ([c0] uniqueidentifier NULL, [c1] nvarchar(450) COLLATE Latin1_General_100_BIN2 NULL, [c2] datetimeoffset(6) NULL, [c3] bigint NULL, [n] int NULL);
GO
DELETE t FROM [dw].[or ders] t JOIN #link_deletes d ON t.[number] = d.[k0] AND t.[id] = d.[k1] AND t.[name] = d.[k2] AND DATALENGTH(t.[name]) = DATALENGTH(d.[k2]);
GO
INSERT INTO [dw].[or ders] ([id], [name], [at], [number]) SELECT u.[c0], u.[c1], u.[c2], u.[c3] FROM #link_upserts u;
GO
INSERT INTO [dw].[or ders] ([id], [name], [at], [number]) SELECT u.[c0], u.[c1], u.[c2], u.[c3] FROM #link_upserts u WHERE NOT EXISTS (SELECT 1 FROM [dw].[or ders] t WHERE t.[number] = u.[c3] AND t.[id] = u.[c0] AND t.[name] = u.[c1] AND DATALENGTH(t.[name]) = DATALENGTH(u.[c1]));
GO
UPDATE t SET [at] = u.[c2] FROM [dw].[or ders] t JOIN #link_upserts u ON t.[number] = u.[c3] AND t.[id] = u.[c0] AND t.[name] = u.[c1] AND DATALENGTH(t.[name]) = DATALENGTH(u.[c1]);
GO
UPDATE u SET [c2] = t.[at] FROM #link_upserts u JOIN #link_origins o ON u.[n] = o.[n] AND o.[g] = 0 JOIN [dw].[or ders] t ON t.[number] = o.[k0] AND t.[id] = o.[k1] AND t.[name] = o.[k2] AND DATALENGTH(t.[name]) = DATALENGTH(o.[k2]);
GO
SELECT TOP (1) CONVERT(nvarchar(4000), o.[k0]), CONVERT(nvarchar(4000), o.[k1]), CONVERT(nvarchar(4000), o.[k2]) FROM #link_origins o WHERE o.[g] = 0 AND NOT EXISTS (SELECT 1 FROM [dw].[or ders] t WHERE t.[number] = o.[k0] AND t.[id] = o.[k1] AND t.[name] = o.[k2] AND DATALENGTH(t.[name]) = DATALENGTH(o.[k2]));
GO
