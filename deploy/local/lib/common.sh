# shellcheck shell=bash
# Where things are, how we speak, how a process is started and stopped.

CACHE=${LINK_CACHE:-$HOME/.cache/link-operator}
DIR=${LINK_CLUSTER_DIR:-$CACHE/cluster}
BIN=$CACHE/bin
IMAGES=$CACHE/images
export KUBECONFIG=$DIR/kubeconfig
export PATH=$BIN:$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
# One command at a time changes the machine; the programs that we start do not keep the lock.
lock() {
  mkdir -p "$CACHE"
  exec 9>"$CACHE/lock"
  flock --nonblock 9 || { say "waiting for another run of this script …"; flock 9; }
}

die() { say "cluster: $*"; exit 1; }

# took START: the seconds since START, an $EPOCHREALTIME
took() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }

# until_ok SECONDS WHAT COMMAND…: asks ten times a second
until_ok() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "$what: not there in time; the logs are in $DIR/logs"
    sleep 0.1
  done
}

# A pid may be given to another process after ours has gone: its start time tells them apart.
# A zombie counts as gone.
start_time() { sed -n '/) Z /d; s/.*) //p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
export -f start_time

# start NAME COMMAND…: in a session of its own, so that it outlives the shell that asks
start() {
  local name=$1
  shift
  ! alive "$name" || return 0
  mkdir -p "$DIR/logs" "$DIR/pids"
  rm -f "$DIR/pids/$name"
  # bash -c writes what exec keeps: by it `down` finds the process, even if nobody waits here any longer
  # shellcheck disable=SC2016
  setsid --fork bash -c 'echo "$$ $(start_time $$)" >"$0"; exec "$@"' "$DIR/pids/$name" "$@" \
    </dev/null >>"$DIR/logs/$name.log" 2>&1 9>&-
  until_ok 5 "$name" test -s "$DIR/pids/$name"
}

# pid_of NAME: prints the pid if the process still is the one we started
pid_of() {
  local pid since
  read -r pid since 2>/dev/null <"$DIR/pids/$1" || return 1
  [[ -n $since && $(start_time "$pid") == "$since" ]] || return 1
  echo "$pid"
}

alive() { pid_of "$1" >/dev/null; }

# stop NAME [SIGNAL]: asks the process and its children with the signal, insists after five seconds
stop() {
  local name=$1 pid end=$((SECONDS + 5))
  if pid=$(pid_of "$name"); then
    kill "-${2:-TERM}" -- "-$pid" 2>/dev/null || true
    while alive "$name" && ((SECONDS < end)); do sleep 0.05; done
    ! alive "$name" || kill -KILL -- "-$pid" 2>/dev/null || true
  fi
  rm -f "$DIR/pids/$name"
}
