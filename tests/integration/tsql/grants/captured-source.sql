-- LinkConnection default/captured, source: SQL Server at erp:1433/erp. Run it in that database.
-- [link_reader] stands for the display name, in Entra ID, of the application 0000-2.
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = N'link_reader') CREATE USER [link_reader] FROM EXTERNAL PROVIDER;
ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON;
IF NOT EXISTS (SELECT 1 FROM sys.databases WHERE database_id = DB_ID() AND is_cdc_enabled = 1)
    EXEC sys.sp_cdc_enable_db;
IF NOT EXISTS (SELECT 1 FROM sys.tables WHERE object_id = OBJECT_ID(N'[dbo].[orders]') AND is_tracked_by_cdc = 1)
    EXEC sys.sp_cdc_enable_table @source_schema = N'dbo', @source_name = N'orders', @capture_instance = N'dbo_orders_1', @role_name = NULL;
EXEC sys.sp_cdc_change_job @job_type = N'cleanup', @retention = 10080;
GRANT SELECT, VIEW DEFINITION ON [dbo].[orders] TO [link_reader];
GRANT SELECT ON SCHEMA::[cdc] TO [link_reader];
GRANT VIEW DATABASE STATE TO [link_reader];
-- If columns are masked: GRANT UNMASK TO [link_reader];
