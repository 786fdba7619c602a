CREATE TABLE #link_upserts0 ([c0] int NULL, [c1] nvarchar(20) NULL, [c2] nvarchar(50) COLLATE Greek_CI_AS NULL, [c3] int NULL, [c4] nvarchar(50) NULL, [c5] nvarchar(50) NULL, [c6] nvarchar(50) NULL, [c7] nvarchar(50) NULL, [c8] nvarchar(50) NULL, [c9] nvarchar(50) NULL, [c10] nvarchar(3) NULL, [c11] varbinary(8) NULL, [c12] nvarchar(max) NULL, [c13] nvarchar(max) NULL, [c14] nvarchar(max) NULL) WITH (DISTRIBUTION = HASH ([c0]), HEAP);
GO
DELETE FROM [dw].[or ders];
GO
DELETE FROM [dw].[or ders] WHERE EXISTS (SELECT 1 FROM #link_deletes1 d WHERE [dw].[or ders].[code] = CONVERT(varchar(20), d.[k0]) AND [dw].[or ders].[id] = d.[k1]);
GO
INSERT INTO [dw].[or ders] ([id], [code], [we ird], [small], [price], [cost], [at], [on], [told], [uid], [code_page], [version], [doc], [node], [added]) SELECT u.[c0], CONVERT(varchar(20), u.[c1]), u.[c2], CONVERT(tinyint, u.[c3]), CONVERT(decimal(18,4), u.[c4]), CONVERT(money, u.[c5]), CONVERT(datetime2(7), u.[c6], 121), CONVERT(date, u.[c7], 121), CONVERT(datetimeoffset(7), u.[c8], 121), CONVERT(uniqueidentifier, u.[c9]), CONVERT(char(3), u.[c10]), CONVERT(binary(8), u.[c11]), u.[c12], u.[c13], u.[c14] FROM #link_upserts0 u;
GO
SELECT TOP (1) CONVERT(nvarchar(4000), t.[code]), CONVERT(nvarchar(4000), t.[id]) FROM [dw].[or ders] t GROUP BY t.[code], t.[id] HAVING COUNT(*) > 1;
GO
SELECT TOP (1) MAX(CONVERT(nvarchar(4000), u.[c1])), MAX(CONVERT(nvarchar(4000), u.[c0])) FROM #link_upserts0 u GROUP BY CONVERT(varchar(20), u.[c1]), u.[c0] HAVING COUNT(*) > 1;
GO
CREATE TABLE #link_upserts0 ([c0] nvarchar(50) NULL, [c1] nvarchar(450) COLLATE Latin1_General_100_BIN2 NULL, [c2] nvarchar(50) NULL, [c3] bigint NULL) WITH (DISTRIBUTION = ROUND_ROBIN, HEAP);
GO
DELETE FROM [dw].[or ders];
GO
DELETE FROM [dw].[or ders] WHERE EXISTS (SELECT 1 FROM #link_deletes1 d WHERE [dw].[or ders].[number] = d.[k0] AND [dw].[or ders].[id] = CONVERT(uniqueidentifier, d.[k1]) AND [dw].[or ders].[name] = d.[k2] AND DATALENGTH([dw].[or ders].[name]) = DATALENGTH(d.[k2]));
GO
INSERT INTO [dw].[or ders] ([id], [name], [at], [number]) SELECT CONVERT(uniqueidentifier, u.[c0]), u.[c1], CONVERT(datetimeoffset(6), u.[c2], 121), u.[c3] FROM #link_upserts0 u;
GO
SELECT TOP (1) CONVERT(nvarchar(4000), t.[number]), CONVERT(nvarchar(4000), t.[id]), CONVERT(nvarchar(4000), t.[name]) FROM [dw].[or ders] t GROUP BY t.[number], t.[id], t.[name] HAVING COUNT(*) > 1;
GO
UPDATE #link_upserts0 SET [c2] = CONVERT(nvarchar(50), t.[at], 121) FROM #link_upserts0 JOIN #link_origins1 AS o ON #link_upserts0.[n] = o.[n] AND o.[g] = 0 JOIN [dw].[or ders] AS t ON t.[number] = o.[k0] AND t.[id] = CONVERT(uniqueidentifier, o.[k1]) AND t.[name] = o.[k2] AND DATALENGTH(t.[name]) = DATALENGTH(o.[k2]);
GO
SELECT TOP (1) CONVERT(nvarchar(4000), o.[k0]), CONVERT(nvarchar(4000), o.[k1]), CONVERT(nvarchar(4000), o.[k2]) FROM #link_origins1 o WHERE o.[g] = 0 AND NOT EXISTS (SELECT 1 FROM [dw].[or ders] t WHERE t.[number] = o.[k0] AND t.[id] = CONVERT(uniqueidentifier, o.[k1]) AND t.[name] = o.[k2] AND DATALENGTH(t.[name]) = DATALENGTH(o.[k2]));
GO
DROP TABLE #link_upserts0;
GO
