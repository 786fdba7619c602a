#!/bin/sh
# Starts PostgreSQL; the first time, on an empty PGDATA, makes the cluster, the database and what the *.sql files say.
#   POSTGRES_USER (postgres)  POSTGRES_PASSWORD (required at first)  POSTGRES_DB (the user's name)
#   arguments                 go to postgres: -c name=value
set -eu

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
settings="-c listen_addresses=* -c wal_level=logical -c max_wal_senders=20 -c max_replication_slots=20"

initialise() {
  : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD: the database is not to be open to all}"
  # Made beside PGDATA and moved there at the end, so that a container killed halfway starts afresh.
  new=$PGDATA.new
  rm -rf "$new"
  (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/pwfile)
  initdb -D "$new" -U "$user" --pwfile=/tmp/pwfile --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --no-sync
  rm /tmp/pwfile
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  echo 'host replication all all scram-sha-256' >>"$new/pg_hba.conf"

  # Only on the socket: nobody connects before all is there.
  pg_ctl -D "$new" -w -o "-c listen_addresses='' -c wal_level=logical" start
  if [ "$database" != postgres ]; then
    createdb -U "$user" "$database"
  fi
  for file in /docker-entrypoint-initdb.d/*.sql; do
    [ -e "$file" ] || continue
    echo "entrypoint: $file"
    psql -v ON_ERROR_STOP=1 -U "$user" -d "$database" -f "$file"
  done
  pg_ctl -D "$new" -w -m fast stop
  mv "$new" "$PGDATA"
}

[ -s "$PGDATA/PG_VERSION" ] || initialise
# shellcheck disable=SC2086 # a list of words
exec postgres -D "$PGDATA" $settings "$@"
