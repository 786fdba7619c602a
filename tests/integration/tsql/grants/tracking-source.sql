-- LinkConnection default/tracking, source: SQL Server at erp:1433/erp 2. Run it in that database.
-- If there is no such login, in master: CREATE LOGIN [reader] WITH PASSWORD = the password of Secret shop
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = N'reader') CREATE USER [reader] FOR LOGIN [reader];
ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON;
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_databases WHERE database_id = DB_ID())
    ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON);
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID(N'[dbo].[it''s]'))
    ALTER TABLE [dbo].[it's] ENABLE CHANGE_TRACKING;
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID(N'[dbo].[orders]'))
    ALTER TABLE [dbo].[orders] ENABLE CHANGE_TRACKING;
IF NOT EXISTS (SELECT 1 FROM sys.change_tracking_tables WHERE object_id = OBJECT_ID(N'[sales].[items]'))
    ALTER TABLE [sales].[items] ENABLE CHANGE_TRACKING;
GRANT SELECT, VIEW DEFINITION ON [dbo].[it's] TO [reader];
GRANT SELECT, VIEW DEFINITION ON [dbo].[orders] TO [reader];
GRANT SELECT, VIEW DEFINITION ON [sales].[items] TO [reader];
GRANT VIEW CHANGE TRACKING ON [dbo].[it's] TO [reader];
GRANT VIEW CHANGE TRACKING ON [dbo].[orders] TO [reader];
GRANT VIEW CHANGE TRACKING ON [sales].[items] TO [reader];
GRANT VIEW DATABASE STATE TO [reader];
-- If columns are masked: GRANT UNMASK TO [reader];
