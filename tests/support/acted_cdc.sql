-- Change data capture as a Babelfish server acts it out: a trigger fills a table's change table within the transaction that changes
-- it. Writers of captured tables wait for one another, so numbers have the order of commits. Run once over the server's PostgreSQL
-- port by its owner; T-SQL then has sys.sp_cdc_enable_db, sys.sp_cdc_enable_table and the functions, which answer for the
-- database that the session is in.
SET babelfishpg_tsql.sql_dialect = 'postgres';
CREATE SEQUENCE IF NOT EXISTS sys.link_lsn START 1000;

CREATE OR REPLACE FUNCTION sys.link_lsn_of(n bigint) RETURNS sys.varbinary LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS
  $$ SELECT decode(lpad(to_hex(n), 20, '0'), 'hex')::sys.bbf_varbinary::sys.varbinary $$;

CREATE OR REPLACE FUNCTION sys.link_number_of(lsn sys.varbinary) RETURNS bigint LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS
  $$ SELECT ('x' || right(encode(lsn::sys.bbf_varbinary::bytea, 'hex'), 16))::pg_catalog.bit(64)::bigint $$;

-- The schema that holds the change tables of the session's database.
CREATE OR REPLACE FUNCTION sys.link_cdc() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$ SELECT lower(sys.db_name()::text) || '_cdc' $$;

CREATE OR REPLACE FUNCTION sys.fn_cdc_get_max_lsn() RETURNS sys.varbinary LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE newest bigint;
BEGIN
  EXECUTE format('SELECT max(sys.link_number_of(start_lsn)) FROM %I.lsn_time_mapping', sys.link_cdc()) INTO newest;
  RETURN sys.link_lsn_of(newest);
END $$;

CREATE OR REPLACE FUNCTION sys.fn_cdc_get_min_lsn(instance sys.nvarchar) RETURNS sys.varbinary LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE oldest sys.varbinary;
BEGIN
  EXECUTE format('SELECT start_lsn FROM %I.change_tables WHERE capture_instance = $1', sys.link_cdc()) USING instance INTO oldest;
  RETURN coalesce(oldest, sys.link_lsn_of(0));
END $$;

CREATE OR REPLACE FUNCTION sys.fn_cdc_increment_lsn(lsn sys.varbinary) RETURNS sys.varbinary LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS
  $$ SELECT sys.link_lsn_of(sys.link_number_of(lsn) + 1) $$;

CREATE OR REPLACE FUNCTION sys.fn_cdc_map_lsn_to_time(lsn sys.varbinary) RETURNS sys.datetime LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE at sys.datetime;
BEGIN
  EXECUTE format('SELECT tran_end_time FROM %I.lsn_time_mapping WHERE sys.link_number_of(start_lsn) = sys.link_number_of($1)', sys.link_cdc()) USING lsn INTO at;
  RETURN at;
END $$;

-- The end of the log: what was captured is all that was committed, for triggers capture it.
CREATE OR REPLACE FUNCTION sys.dm_db_log_stats(database_id int) RETURNS TABLE (log_end_lsn sys.nvarchar) LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
  SELECT (substr(hex, 1, 8) || ':' || substr(hex, 9, 8) || ':' || substr(hex, 17, 4))::sys.nvarchar
    FROM encode(sys.fn_cdc_get_max_lsn()::sys.bbf_varbinary::bytea, 'hex') AS hex $$;

CREATE OR REPLACE PROCEDURE sys.sp_cdc_enable_db() LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE cdc text := sys.link_cdc();
BEGIN
  -- The schema is made by T-SQL before: CREATE SCHEMA cdc.
  EXECUTE format('CREATE TABLE %I.lsn_time_mapping (start_lsn sys.varbinary(10) NOT NULL, tran_begin_time sys.datetime,
    tran_end_time sys.datetime, tran_id sys.varbinary(10))', cdc);
  EXECUTE format('CREATE TABLE %I.change_tables (object_id int, version int, source_object_id int, capture_instance sys.nvarchar(128),
    start_lsn sys.varbinary(10), end_lsn sys.varbinary(10), supports_net_changes sys.bit, has_drop_pending sys.bit,
    role_name sys.nvarchar(128), index_name sys.nvarchar(128), filegroup_name sys.nvarchar(128), create_date sys.datetime,
    partition_switch sys.bit)', cdc);
  EXECUTE format('CREATE TABLE %I.captured_columns (object_id int, column_name sys.nvarchar(128), column_id int, column_type sys.nvarchar(128),
    column_ordinal int, is_computed sys.bit)', cdc);
  EXECUTE format('CREATE TABLE %I.ddl_history (source_object_id int, object_id int, required_column_update sys.bit, ddl_command sys.nvarchar,
    ddl_lsn sys.varbinary(10), ddl_time sys.datetime)', cdc);
  EXECUTE format('INSERT INTO %I.lsn_time_mapping VALUES (sys.link_lsn_of(nextval(''sys.link_lsn'')), sys.getdate(), sys.getdate(), NULL)', cdc);
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO PUBLIC', cdc);
  EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %I TO PUBLIC', cdc);
END $$;

-- One number a transaction, taken behind a lock that lasts until its commit can be seen.
CREATE OR REPLACE FUNCTION sys.link_capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  cdc text := TG_ARGV[0]; changes text := TG_ARGV[1]; columns text := TG_ARGV[2];
  lsn sys.varbinary;
  transaction bigint := txid_current();
  number bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext(cdc));
  EXECUTE format('SELECT start_lsn FROM %I.lsn_time_mapping WHERE sys.link_number_of(tran_id) = $1', cdc) USING transaction INTO lsn;
  IF lsn IS NULL THEN
    lsn := sys.link_lsn_of(nextval('sys.link_lsn'));
    EXECUTE format('INSERT INTO %I.lsn_time_mapping VALUES ($1, sys.getdate(), sys.getdate(), sys.link_lsn_of($2))', cdc)
      USING lsn, transaction;
  END IF;
  number := nextval('sys.link_lsn');
  IF TG_OP = 'INSERT' THEN
    EXECUTE format('INSERT INTO %I.%I SELECT $1, NULL, $2, 2, NULL, %s, 1 FROM (SELECT ($3).*) r', cdc, changes, columns)
      USING lsn, sys.link_lsn_of(number), NEW;
  ELSIF TG_OP = 'DELETE' THEN
    EXECUTE format('INSERT INTO %I.%I SELECT $1, NULL, $2, 1, NULL, %s, 1 FROM (SELECT ($3).*) r', cdc, changes, columns)
      USING lsn, sys.link_lsn_of(number), OLD;
  ELSE
    EXECUTE format('INSERT INTO %I.%I SELECT $1, NULL, $2, 3, NULL, %s, 1 FROM (SELECT ($3).*) r', cdc, changes, columns)
      USING lsn, sys.link_lsn_of(number), OLD;
    EXECUTE format('INSERT INTO %I.%I SELECT $1, NULL, $2, 4, NULL, %s, 1 FROM (SELECT ($3).*) r', cdc, changes, columns)
      USING lsn, sys.link_lsn_of(number), NEW;
  END IF;
  RETURN NULL;
END $$;

CREATE OR REPLACE PROCEDURE sys.sp_cdc_enable_table("@source_schema" sys.nvarchar, "@source_name" sys.nvarchar,
  "@capture_instance" sys.nvarchar DEFAULT NULL, "@role_name" sys.nvarchar DEFAULT NULL, "@supports_net_changes" int DEFAULT 0)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  cdc text := sys.link_cdc();
  source_schema text := lower(sys.db_name()::text) || '_' || lower("@source_schema"::text);
  instance text := lower(coalesce("@capture_instance"::text, "@source_schema"::text || '_' || "@source_name"::text));
  changes text := instance || '_ct';
  source regclass := format('%I.%I', source_schema, lower("@source_name"::text))::regclass;
  columns text := (SELECT string_agg(format('r.%I', attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = source AND attnum > 0 AND NOT attisdropped AND attgenerated = '');
BEGIN
  EXECUTE format('CREATE TABLE %I.%I AS SELECT NULL::sys.varbinary(10) AS "__$start_lsn", NULL::sys.varbinary(10) AS "__$end_lsn",
    NULL::sys.varbinary(10) AS "__$seqval", 0 AS "__$operation", NULL::sys.varbinary(128) AS "__$update_mask", %s, 0 AS "__$command_id"
    FROM %s r WHERE false', cdc, changes, columns, source);
  EXECUTE format('GRANT ALL ON %I.%I TO PUBLIC', cdc, changes);
  EXECUTE format('INSERT INTO %I.change_tables VALUES ($1, 0, $2, $3, sys.link_lsn_of(nextval(''sys.link_lsn'')), NULL, 0, 0, NULL, NULL, NULL,
    sys.getdate(), 1)', cdc) USING format('%I.%I', cdc, changes)::regclass::oid::int, source::oid::int, instance::sys.nvarchar;
  EXECUTE format('INSERT INTO %I.captured_columns SELECT $1, attname::text, attnum, '''', row_number() OVER (ORDER BY attnum), 0
    FROM pg_attribute WHERE attrelid = $2 AND attnum > 0 AND NOT attisdropped', cdc)
    USING format('%I.%I', cdc, changes)::regclass::oid::int, source;
  EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION sys.link_capture(%L, %L, %L)',
    'link_' || instance, source, cdc, changes, columns);
END $$;
