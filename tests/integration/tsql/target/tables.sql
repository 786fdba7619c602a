SELECT [name] FROM sys.types WHERE [name] IN (N'xml', N'hierarchyid', N'geometry', N'geography') UNION ALL SELECT N'babelfish' WHERE SERVERPROPERTY('BabelfishVersion') IS NOT NULL;
GO
CREATE TABLE [dw].[link_4342090c748112d9_1_10] ([id] int NOT NULL, [code] varchar(20) COLLATE SQL_Latin1_General_CP1_CI_AS NOT NULL, [we ird] nvarchar(50) COLLATE SQL_Latin1_General_CP1_CI_AS NULL, [doc] xml NULL, [node] hierarchyid NULL, [shape] geometry NULL, [place] geography NULL, [price] decimal(18,4) NULL, [version] binary(8) NULL, [added] nvarchar(max) NULL);
GO
ALTER TABLE [dw].[link_4342090c748112d9_1_10] ADD CONSTRAINT [pk_link_4342090c748112d9_1_10] PRIMARY KEY CLUSTERED ([code], [id]);
GO
ALTER TABLE [dw].[t] ADD [added] nvarchar(max) NULL;
GO
UPDATE [dw].[t] SET [added] = CONVERT(nvarchar(max), N'it''s');
GO
IF NOT EXISTS (SELECT 1 FROM sys.extended_properties WHERE [class] = 1 AND [major_id] = OBJECT_ID(N'[dw].[link_4342090c748112d9_1_10]') AND [minor_id] = 0 AND [name] = N'link-operator') EXEC sp_addextendedproperty @name = N'link-operator', @value = N'Copy of dbo.orders by link shop.o''neil (link-operator)', @level0type = N'SCHEMA', @level0name = N'dw', @level1type = N'TABLE', @level1name = N'link_4342090c748112d9_1_10';
GO
EXEC sp_rename N'[dw].[link_4342090c748112d9_1_10]', N'or ders', N'OBJECT';
GO
SELECT p.[state], p.[permission_name], u.[name], c.[name] FROM sys.database_permissions p JOIN sys.database_principals u ON u.[principal_id] = p.[grantee_principal_id] LEFT JOIN sys.columns c ON c.[object_id] = p.[major_id] AND c.[column_id] = p.[minor_id] AND p.[minor_id] > 0 WHERE p.[class] = 1 AND p.[major_id] = 42 ORDER BY p.[minor_id], u.[name], p.[permission_name];
GO
GRANT SELECT ON OBJECT::[dw].[link_4342090c748112d9_1_10] TO [ana lyst];
GO
GRANT SELECT ON OBJECT::[dw].[link_4342090c748112d9_1_10] ([we ird]) TO [ana lyst] WITH GRANT OPTION;
GO
DENY SELECT ON OBJECT::[dw].[link_4342090c748112d9_1_10] TO [ana lyst];
GO
SELECT 1 FROM sys.indexes WHERE [object_id] = OBJECT_ID(N'[dw].[link_4342090c748112d9_1_10]') AND [is_primary_key] = 1;
GO
