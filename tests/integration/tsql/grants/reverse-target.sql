-- LinkConnection default/reverse, target: SQL Server at dw:1433/dw. Run it in that database.
-- If there is no such login, in master: CREATE LOGIN [link_writer] WITH PASSWORD = the password of Secret dw
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = N'link_writer') CREATE USER [link_writer] FOR LOGIN [link_writer];
IF SCHEMA_ID(N'link_operator') IS NULL EXEC(N'CREATE SCHEMA [link_operator] AUTHORIZATION [link_writer]');
GRANT CREATE TABLE, CREATE VIEW TO [link_writer];
IF SCHEMA_ID(N'public') IS NULL EXEC(N'CREATE SCHEMA [public]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[public] TO [link_writer];
IF SCHEMA_ID(N'shop') IS NULL EXEC(N'CREATE SCHEMA [shop]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[shop] TO [link_writer];
-- If others have rights on single tables, which a table that is loaded anew is to pass on: GRANT CONTROL on its schema as well.
