-- LinkConnection default/tracking, target: SQL Server at dw.database.windows.net:1433/dw. Run it in that database.
-- [link_writer] stands for the display name, in Entra ID, of the application or managed identity 0000-1.
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = N'link_writer') CREATE USER [link_writer] FROM EXTERNAL PROVIDER;
IF SCHEMA_ID(N'link_operator') IS NULL EXEC(N'CREATE SCHEMA [link_operator] AUTHORIZATION [link_writer]');
GRANT CREATE TABLE, CREATE VIEW TO [link_writer];
IF SCHEMA_ID(N'dbo') IS NULL EXEC(N'CREATE SCHEMA [dbo]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[dbo] TO [link_writer];
IF SCHEMA_ID(N'erp') IS NULL EXEC(N'CREATE SCHEMA [erp]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[erp] TO [link_writer];
IF SCHEMA_ID(N'sales') IS NULL EXEC(N'CREATE SCHEMA [sales]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[sales] TO [link_writer];
-- If others have rights on single tables, which a table that is loaded anew is to pass on: GRANT CONTROL on its schema as well.
