SELECT CONVERT(int, SERVERPROPERTY('EngineEdition')), USER_NAME(), DB_NAME(),
    CASE WHEN SCHEMA_ID(N'link_operator') IS NULL THEN 0 ELSE 1 END,
    (SELECT CONVERT(int, [is_read_committed_snapshot_on]) FROM sys.databases WHERE [name] = DB_NAME());
GO
SELECT [permission_name] FROM sys.fn_my_permissions(NULL, 'DATABASE');
GO
SELECT [permission_name] FROM sys.fn_my_permissions(N'[d''w]]]', 'SCHEMA');
GO
SELECT USER_NAME() FROM sys.schemas WHERE [name] = N'd''w]';
GO
