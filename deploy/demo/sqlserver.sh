# shellcheck shell=bash disable=SC2034,SC2154 # deploy/demo/demo reads the settings
# The demo from SQL Server: the database shop of a server that is given is linked to a database dw of the same server, and to a
# PostgreSQL in the cluster. The server must be reachable from pods:
#   make demo SOURCE=sqlserver SQLSERVER='host=…;port=1433;user=sa;password=…'
# Changes are found by Change Tracking, or by change data capture where the server has only that.

DATABASES="SQL Server: database shop with three tables, and dw; PostgreSQL: dw"
MANIFEST=$CACHE/demo-link-sqlserver.yaml
LINKS=2 TABLES=6 CHANGE_BOUND=3

field() { tr ';' '\n' <<<"${SQLSERVER:-}" | sed -n "s/^ *$1=//p"; }

databases() {
  local missing
  for missing in host user password; do
    [[ -n $(field $missing) ]] || { echo "SQLSERVER has no $missing: make demo SOURCE=sqlserver SQLSERVER='host=…;port=1433;user=…;password=…'" >&2; return 1; }
  done
  command -v tsql >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends freetds-bin; }
  # Each link's worker asks for a core.
  [[ $CLUSTER != local ]] || deploy/local/cluster node-add
  address=$(getent ahostsv4 "$(field host)" | awk 'NR == 1 { print $1 }')
  port=$(field port)
  port=${port:-1433}
  t master <<<"IF DB_ID('shop') IS NULL CREATE DATABASE shop"
  t master <<<"IF DB_ID('dw') IS NULL CREATE DATABASE dw"
  t shop <"$HERE/sqlserver.sql"
  local mode=ChangeTracking
  if t shop <<<"SELECT CHANGE_TRACKING_CURRENT_VERSION()" >/dev/null 2>&1; then
    t shop <"$HERE/sqlserver-change-tracking.sql"
  else
    # SQL Server Agent looks at the log every five seconds.
    mode=ChangeDataCapture CHANGE_BOUND=10
    t shop <"$HERE/sqlserver-change-data-capture.sql"
  fi
  echo "The tables are there; changes are found by $mode."
  sed "s/captureMode: .*/captureMode: $mode/" deploy/samples/link-sqlserver.yaml >"$MANIFEST"

  secret dw-superuser postgres
  secret dw-app dw
  k create secret generic sqlserver --from-literal=username="$(field user)" --from-literal=password="$(field password)" --dry-run=client -o yaml |
    k apply -f - >/dev/null
  k create configmap demo-sql --from-file="$HERE/owner.sql" --dry-run=client -o yaml | k apply -f -
  k apply -l app=dw-db -f "$HERE/databases.yaml"
  k apply -f - <<END
# The server under a name of the cluster's.
apiVersion: v1
kind: Service
metadata: {name: sqlserver}
spec: {ports: [{name: tds, port: 1433, targetPort: $port}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sqlserver, labels: {kubernetes.io/service-name: sqlserver}}
addressType: IPv4
ports: [{name: tds, port: $port}]
endpoints: [{addresses: ["$address"]}]
END
}

await_databases() {
  k rollout status statefulset/dw-db --timeout 180s >/dev/null
  sql "CREATE SCHEMA IF NOT EXISTS dbo AUTHORIZATION dw"
}

# t DATABASE: the statements of its input, parted by GO; prints the rows. An error is one of the function too.
t() {
  local said
  said=$(mktemp)
  { printf 'USE %s\nGO\n' "$1"; cat; printf '\nGO\n'; } |
    tsql -H "$address" -p "$port" -U "$(field user)" -P "$(field password)" -J UTF-8 -o fhq 2>"$said" || { cat "$said" >&2; rm -f "$said"; return 1; }
  if grep -q '^Msg' "$said"; then
    grep -v '^Changed database context' "$said" >&2
    rm -f "$said"
    return 1
  fi
  rm -f "$said"
}

# As the superuser in the pod of dw.
sql() { k exec dw-db-0 -- psql -U postgres -d dw -v ON_ERROR_STOP=1 -qAt -c "$1"; }

# compare: asks the links to compare all tables, row by row, and shows what they found
compare() {
  local token since=$EPOCHREALTIME
  token=$(date -u +%FT%TZ-%N)
  k annotate linkconnections --all --overwrite link-operator.io/verify-requested-at="$token" >/dev/null
  await 120 "the comparison" compared "$(date -u -d '-1 second' +%FT%TZ)"
  printf '  %-44s %12s %12s  %s\n' "LINKTABLE" "SOURCE ROWS" "TARGET ROWS" RESULT
  k get linktables -o 'jsonpath={range .items[*]}{.metadata.name} {.status.verification.sourceRows} {.status.verification.targetRows} {.status.verification.result}{"\n"}{end}' |
    while read -r name source target result; do printf '  %-44s %12s %12s  %s\n' "$name" "$source" "$target" "$result"; done
  echo "  compared in $(since "$since")"
  [[ $(k get linktables -o 'jsonpath={range .items[*]}{.status.verification.result}{"\n"}{end}' | grep -cx Equal) == "$TABLES" ]]
}

# Whether all tables were compared since then.
compared() {
  [[ $(k get linktables -o 'jsonpath={range .items[*]}{.status.verification.time}{"\n"}{end}' | awk -v since="$1" '$0 >= since' | wc -l) == "$TABLES" ]]
}

# One row lives through all that can happen to it, and leaves the tables as they were.
changes() {
  slow=0
  change "INSERT" "INSERT INTO dbo.customers (id, name, born) VALUES (1000001, N'Ada', '1815-12-10')" "id = 1000001 AND name = 'Ada'" 1
  change "UPDATE" "UPDATE dbo.customers SET note = N'Countess' WHERE id = 1000001" "id = 1000001 AND note = 'Countess'" 1
  change "UPDATE of the primary key" "UPDATE dbo.customers SET id = 1000002 WHERE id = 1000001" "id >= 1000001 AND NOT (id = 1000002 AND note = 'Countess')" 0
  change "DELETE" "DELETE FROM dbo.customers WHERE id = 1000002" "id >= 1000001" 0
  none_slow
}

# change NAME STATEMENT CONDITION COUNT: until both targets have so many rows of that condition
change() {
  local committed target
  t shop <<<"$2"
  committed=$EPOCHREALTIME
  for target in sqlserver postgresql; do
    arrived "$1, to $target" "$committed" "$(seen_by $target "SELECT count(*) FROM dbo.customers WHERE $3" "$4")"
  done
}

# seen_by TARGET QUESTION ANSWER: when the target gave that answer
seen_by() {
  local end=$((SECONDS + 30)) answer
  while ((SECONDS < end)); do
    case $1 in
      sqlserver) answer=$(t dw <<<"$2") ;;
      postgresql) answer=$(sql "$2") ;;
    esac
    if [[ $answer == "$3" ]]; then
      echo "$EPOCHREALTIME"
      return
    fi
  done
}

next_steps() {
  cat <<END
The cluster runs on; it took $(since "$STARTED"). Try next:

  eval "\$(deploy/$CLUSTER/cluster env)"; kubectl config set-context --current --namespace $NAMESPACE
  kubectl get linkop -o wide
  kubectl describe lc shop-to-sqlserver                       # conditions, Events
  kubectl explain linkconnection.spec.source.sqlServer        # the manual
  kubectl exec -it dw-db-0 -- psql -U postgres dw             # the PostgreSQL target
  kubectl logs shop-to-sqlserver-0                            # the worker's log
  make demo-down                                              # removes all of it but the databases of the SQL Server
END
}
