-- LinkConnection default/pool, target: Synapse dedicated SQL pool at contoso.sql.azuresynapse.net:1433/pool 1. Run it in that database.
-- [link_writer] stands for the display name, in Entra ID, of the identity of the machine.
IF NOT EXISTS (SELECT 1 FROM sys.database_principals WHERE [name] = N'link_writer') CREATE USER [link_writer] FROM EXTERNAL PROVIDER;
IF SCHEMA_ID(N'link_operator') IS NULL EXEC(N'CREATE SCHEMA [link_operator] AUTHORIZATION [link_writer]');
GRANT CREATE TABLE, CREATE VIEW TO [link_writer];
GRANT ADMINISTER DATABASE BULK OPERATIONS TO [link_writer];
IF SCHEMA_ID(N'shop') IS NULL EXEC(N'CREATE SCHEMA [shop]');
GRANT SELECT, INSERT, UPDATE, DELETE, ALTER ON SCHEMA::[shop] TO [link_writer];
-- If others have rights on single tables, which a table that is loaded anew is to pass on: GRANT CONTROL on its schema as well.
-- So that readers see each batch whole, connected to master: ALTER DATABASE [pool 1] SET READ_COMMITTED_SNAPSHOT ON
-- For copyAuth.sasToken, on the landing zone's container: az storage container generate-sas --permissions rl --expiry <time>
