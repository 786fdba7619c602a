-- The application's user, owner of the database: what CloudNativePG makes of the Secret <cluster>-app.
\getenv username APP_USERNAME
\getenv password APP_PASSWORD
SELECT current_database() AS database \gset
CREATE ROLE :"username" LOGIN PASSWORD :'password';
ALTER DATABASE :"database" OWNER TO :"username";
