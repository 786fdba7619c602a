-- LinkConnection default/captured, target: PostgreSQL at dw:5432/dw. Run it in that database.
-- If there is no such user: CREATE ROLE "link_writer" LOGIN; and \password "link_writer", the password of Secret dw
GRANT TEMPORARY ON DATABASE "dw" TO "link_writer";
CREATE SCHEMA IF NOT EXISTS link_operator AUTHORIZATION "link_writer";
CREATE SCHEMA IF NOT EXISTS "erp";
GRANT USAGE, CREATE ON SCHEMA "erp" TO "link_writer";

-- LinkConnection default/pool, source: PostgreSQL at shop-rw:5432/shop. Run it in that database.
-- If there is no such user: CREATE ROLE "reader" LOGIN; and \password "reader", the password of Secret shop
-- SHOW wal_level must say logical, else: ALTER SYSTEM SET wal_level = 'logical'; and restart the server
ALTER ROLE "reader" REPLICATION; -- Amazon RDS: GRANT rds_replication TO "reader"
GRANT CREATE ON DATABASE "shop" TO "reader";
GRANT USAGE ON SCHEMA "public" TO "reader";
GRANT SELECT ON "public"."orders" TO "reader";
-- Only the owner of a table may publish it.
DO $grants$
DECLARE owner name;
BEGIN
  FOR owner IN SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid IN ('"public"."orders"'::regclass) LOOP
    IF NOT pg_has_role('reader', owner, 'MEMBER') THEN EXECUTE format('GRANT %I TO %I', owner, 'reader'); END IF;
  END LOOP;
END $grants$;

-- LinkConnection default/reverse, source: PostgreSQL at shop-rw:5432/shop. Run it in that database.
-- If there is no such user: CREATE ROLE "reader" LOGIN; and \password "reader", the password of Secret shop
-- SHOW wal_level must say logical, else: ALTER SYSTEM SET wal_level = 'logical'; and restart the server
ALTER ROLE "reader" REPLICATION; -- Amazon RDS: GRANT rds_replication TO "reader"
GRANT CREATE ON DATABASE "shop" TO "reader";
GRANT USAGE ON SCHEMA "public" TO "reader";
GRANT SELECT ON "public"."it's ""quoted""" TO "reader";
GRANT SELECT ON "public"."orders" TO "reader";
-- Only the owner of a table may publish it.
DO $grants$
DECLARE owner name;
BEGIN
  FOR owner IN SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid IN ('"public"."it''s ""quoted"""'::regclass, '"public"."orders"'::regclass) LOOP
    IF NOT pg_has_role('reader', owner, 'MEMBER') THEN EXECUTE format('GRANT %I TO %I', owner, 'reader'); END IF;
  END LOOP;
END $grants$;

