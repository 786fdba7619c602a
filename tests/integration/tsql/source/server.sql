SELECT CAST(SERVERPROPERTY('EngineEdition') AS int), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS nvarchar(128)), snapshot_isolation_state, is_read_committed_snapshot_on, CASE WHEN SERVERPROPERTY('BabelfishVersion') IS NULL THEN 0 ELSE 1 END FROM sys.databases WHERE name = DB_NAME();
GO
SELECT is_auto_cleanup_on, retention_period, retention_period_units_desc FROM sys.change_tracking_databases WHERE database_id = DB_ID();
GO
SELECT DATEDIFF(MINUTE, MAX(tran_end_time), GETDATE()), COUNT_BIG(*) FROM cdc.lsn_time_mapping;
GO
SELECT DB_NAME(), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(SERVERPROPERTY('EngineEdition') AS int), CAST(SERVERPROPERTY('BabelfishVersion') AS nvarchar(128));
GO
SELECT CONVERT(nvarchar(36), family_guid), CONVERT(nvarchar(36), recovery_fork_guid) FROM sys.database_recovery_status WHERE database_id = DB_ID();
GO
SELECT CONVERT(nvarchar(36), service_broker_guid), CONVERT(nvarchar(30), create_date, 126) FROM sys.databases WHERE name = DB_NAME();
GO
SELECT CONVERT(nvarchar(24), log_end_lsn) FROM sys.dm_db_log_stats(DB_ID());
GO
SELECT CHANGE_TRACKING_CURRENT_VERSION();
GO
SELECT sys.fn_cdc_get_max_lsn();
GO
