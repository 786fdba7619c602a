# shellcheck shell=bash disable=SC2034,SC2154 # deploy/demo/demo reads the settings
# The demo from PostgreSQL to PostgreSQL, both in the cluster.

DATABASES="Two PostgreSQL databases: shop with four tables, dw without any"
MANIFEST=deploy/samples/link.yaml
LINKS=1 TABLES=4 CHANGE_BOUND=3

databases() {
  local name
  for name in shop dw; do
    secret $name-superuser postgres
    secret $name-app $name
  done
  k create configmap demo-sql --from-file="$HERE/owner.sql" --from-file="$HERE/seed.sql" --dry-run=client -o yaml | k apply -f -
  k apply -f "$HERE/databases.yaml"
}

await_databases() {
  echo "Waiting for the databases (a million orders are being made) …"
  local database
  for database in shop dw; do k rollout status statefulset/$database-db --timeout 180s >/dev/null; done
}

# sql DATABASE STATEMENT…: as the superuser in the database's own pod
sql() {
  local database=$1 arguments=()
  shift
  for statement in "$@"; do arguments+=(-c "$statement"); done
  k exec "$database-db-0" -- psql -U postgres -d "$database" -v ON_ERROR_STOP=1 -qAt "${arguments[@]}"
}

# compare [TABLE…]: counts and digests of the text of all rows, in the order of the key
compare() {
  local table statements=() source target since=$EPOCHREALTIME different=0
  (($#)) || set -- customers empty orders every_type
  for table in "$@"; do
    # sorted below the aggregate, where the key's index can do it
    statements+=("SELECT '$table', count(*), coalesce(md5(string_agg(row, '')), 'no rows')
      FROM (SELECT md5(t::text) AS row FROM public.$table t ORDER BY id) rows")
  done
  source=$(mktemp)
  target=$(mktemp)
  sql shop "${statements[@]}" >"$source" &
  local reading=$!
  sql dw "${statements[@]}" >"$target"
  wait $reading
  printf '  %-12s %9s  %-34s %s\n' TABLE ROWS "MD5 OF ALL ROWS IN THE SOURCE" "IN THE TARGET"
  local name rows digest other_rows other
  while IFS='|' read -r name rows digest _ other_rows other; do
    if [[ $rows == "$other_rows" && $digest == "$other" ]]; then
      printf '  %-12s %9s  %-34s equal\n' "$name" "$rows" "$digest"
    else
      printf '  %-12s %9s  %-34s %sDIFFERS: %s rows, %s%s\n' "$name" "$rows" "$digest" "$red" "$other_rows" "$other" "$plain"
      different=1
    fi
  done < <(paste -d '|' "$source" "$target")
  rm -f "$source" "$target"
  echo "  compared in $(since "$since")"
  return $different
}

# One row lives through all that can happen to it, and leaves the tables as they were.
changes() {
  slow=0
  change "INSERT" "INSERT INTO customers VALUES (1000001, 'Ada', 'ada@example.com', '1815-12-10', NULL)" \
    "SELECT EXISTS (SELECT FROM customers WHERE id = 1000001 AND name = 'Ada')"
  change "UPDATE" "UPDATE customers SET note = 'Countess' WHERE id = 1000001" \
    "SELECT EXISTS (SELECT FROM customers WHERE id = 1000001 AND note = 'Countess')"
  change "UPDATE of the primary key" "UPDATE customers SET id = 1000002 WHERE id = 1000001" \
    "SELECT EXISTS (SELECT FROM customers WHERE id = 1000002 AND note = 'Countess') AND NOT EXISTS (SELECT FROM customers WHERE id = 1000001)"
  change "DELETE" "DELETE FROM customers WHERE id = 1000002" \
    "SELECT NOT EXISTS (SELECT FROM customers WHERE id >= 1000001)"
  none_slow
}

# change NAME STATEMENT QUESTION: the target is asked a hundred times a second from before the change, so that only the way is
# measured; both databases read the clock of the same machine
change() {
  local answer committed
  answer=$(mktemp)
  sql dw "CREATE FUNCTION pg_temp.arrival(question text) RETURNS numeric LANGUAGE plpgsql AS \$\$
    DECLARE there bool; until timestamptz := clock_timestamp() + interval '30 s';
    BEGIN
      LOOP
        EXECUTE question INTO there;
        IF there THEN RETURN extract(epoch FROM clock_timestamp()); END IF;
        IF clock_timestamp() > until THEN RETURN NULL; END IF;
        PERFORM pg_sleep(0.01);
      END LOOP;
    END \$\$" "SELECT pg_temp.arrival(\$\$$3\$\$)" >"$answer" &
  local asking=$!
  sleep 0.4
  committed=$(sql shop "$2" "SELECT extract(epoch FROM clock_timestamp())" | tail -n 1)
  wait $asking
  arrived "$1" "$committed" "$(<"$answer")"
  rm -f "$answer"
}

next_steps() {
  cat <<END
The cluster runs on; it took $(since "$STARTED"). Try next:

  eval "\$(deploy/$CLUSTER/cluster env)"; kubectl config set-context --current --namespace $NAMESPACE
  kubectl get linkop -o wide
  kubectl describe lc shop                                    # conditions, Events
  kubectl explain linkconnection.spec                         # the manual
  kubectl exec -it shop-db-0 -- psql -U postgres shop         # change something; see it arrive in dw-db-0, database dw
  kubectl patch lc shop --type merge -p '{"spec": {"state": "Paused"}}'      # rest, keep the position; then Running again
  kubectl delete lt every-type                                # stops that table alone
  kubectl logs shop-0                                         # the worker's log
  kubectl scale lc shop --replicas 2                          # two cores, two workers; if they find none free: deploy/local/cluster node-add
  kubectl delete pod --force -l link-operator.io/link=shop    # kill the workers: nothing is lost or doubled
  make demo-down                                              # removes all of it
END
}
