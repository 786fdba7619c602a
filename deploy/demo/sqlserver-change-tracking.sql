-- What `link-operator sql grants` prints of this database's settings.
IF NOT EXISTS (SELECT 1 FROM sys.databases WHERE database_id = DB_ID() AND snapshot_isolation_state = 1)
  ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON
GO
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_databases WHERE database_id = DB_ID())
  ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)
GO
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID('dbo.customers'))
  ALTER TABLE dbo.customers ENABLE CHANGE_TRACKING
GO
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID('dbo.orders'))
  ALTER TABLE dbo.orders ENABLE CHANGE_TRACKING
GO
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID('dbo.every_type'))
  ALTER TABLE dbo.every_type ENABLE CHANGE_TRACKING
GO
