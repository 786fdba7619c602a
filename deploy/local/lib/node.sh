# shellcheck shell=bash
# A node: its own containerd and its own kubelet, with folders, address and cgroup of their own. Two fit on one machine.

node_dir() { echo "$DIR/node$1"; }
node_socket() { echo "$(node_dir "$1")/containerd.sock"; }
node_ctr() { ctr -a "$(node_socket "$1")" -n k8s.io "${@:2}"; }

# runtime_up N: containerd and the image that every pod needs
runtime_up() {
  mkdir -p "$(node_dir "$1")"
  containerd_config "$1"
  start "containerd$1" containerd --config "$(node_dir "$1")/containerd.toml"
  until_ok 20 "containerd of node $1" node_ctr "$1" version
  node_ctr "$1" images import "$IMAGES/pause.tar" >/dev/null
}

# kubelet_up N
kubelet_up() {
  local node=$1
  cgroup_make "$node"
  kubelet_config "$node"
  start "kubelet$node" kubelet --config "$(node_dir "$node")/kubelet.yaml" --kubeconfig "$CERTS/node$node.kubeconfig" \
    --root-dir "$(node_dir "$node")/kubelet" --cert-dir "$(node_dir "$node")/kubelet/pki" \
    --hostname-override "$(node_name "$node")" --node-ip "$(node_ip "$node")"
}

node_ready() {
  [[ $(kubectl get node "$(node_name "$1")" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') == True ]]
}

node_add() {
  local since=$EPOCHREALTIME
  api_ready >/dev/null 2>&1 || die "the cluster is not up"
  runtime_up 2
  kubelet_up 2
  until_ok 60 "node $(node_name 2)" node_ready 2
  say "Node $(node_name 2) is ready: $(took "$since")"
  load_known 2
}

# The kubelet is killed, its containerd and its pods run on: what the control plane sees when a node is cut off.
node_kill() {
  alive kubelet2 || die "there is no second node; node-add makes one"
  stop kubelet2 KILL
  say "The kubelet of $(node_name 2) is dead, its pods run on. The node is NotReady in about 20 to 30 s; node-add brings it back."
}

# load_image [FILE]: into every node, now and when a node is added; the operator's if none is named
load_image() {
  local file node
  file=$(realpath "${1:-$IMAGES/link-operator.tar}")
  [[ -f $file ]] || die "no such file: $file"
  alive containerd1 || die "the cluster is not up"
  grep -qxF "$file" "$DIR/loaded" 2>/dev/null || echo "$file" >>"$DIR/loaded"
  for node in 1 2; do
    ! alive "containerd$node" || import_image "$node" "$file"
  done
}

# what demo and tests run, as far as it was built
load_built() {
  local name
  for name in postgres link-operator; do
    [[ ! -f $IMAGES/$name.tar ]] || load_image "$IMAGES/$name.tar"
  done
}

load_known() {
  local file
  [[ -e $DIR/loaded ]] || return 0
  while read -r file; do
    [[ ! -f $file ]] || import_image "$1" "$file"
  done <"$DIR/loaded"
}

# import_image NODE FILE: unless the node holds this very file
import_image() {
  local since=$EPOCHREALTIME stamp
  stamp=$(node_dir "$1")/imported-${2##*/}
  ! cmp -s <(stat -c '%n %Y %i' "$2") "$stamp" || return 0
  node_ctr "$1" images import "$2" >/dev/null </dev/null
  stat -c '%n %Y %i' "$2" >"$stamp"
  say "  ${2##*/} is on $(node_name "$1"): $(took "$since")"
}

containerd_config() {
  local dir
  dir=$(node_dir "$1")
  mkdir -p "$dir/cni"
  cat >"$dir/cni/10-local.conf" <<END
{
  "cniVersion": "1.0.0",
  "name": "link-operator-local-$1",
  "type": "bridge",
  "bridge": "$BRIDGE",
  "hairpinMode": true,
  "ipam": {
    "type": "host-local",
    "dataDir": "$dir/addresses",
    "routes": [{"dst": "0.0.0.0/0"}],
    "ranges": [[{"subnet": "$POD_RANGE", "rangeStart": "10.244.$1.10", "rangeEnd": "10.244.$1.250", "gateway": "$NODE1_IP"}]]
  }
}
END
  # All that containerd keeps elsewhere by default is led into the node's folder.
  # disable_apparmor, restrict_oom_score_adj: machines that are containers themselves allow neither.
  cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "$dir/containerd-state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
address = "$dir/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
netns_mounts_under_state_dir = true
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$dir/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "$dir/runc"
SystemdCgroup = false
END
}

# Images are never collected and pods hardly ever evicted: the machine's disk and memory are somebody else's concern too.
# syncFrequency is a sixth of the default, so that tests see a changed Secret or ConfigMap sooner.
kubelet_config() {
  local dir
  dir=$(node_dir "$1")
  echo "nameserver $NODE1_IP" >"$dir/resolv.conf"
  cat >"$dir/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_ip "$1")
healthzBindAddress: $(node_ip "$1")
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $CERTS/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $CERTS/node$1.crt
tlsPrivateKeyFile: $CERTS/node$1.key
containerRuntimeEndpoint: unix://$(node_socket "$1")
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP/node$1
enforceNodeAllocatable: [pods]
failSwapOn: false
clusterDNS: [$DNS_SERVICE_IP]
clusterDomain: $DOMAIN
resolvConf: $dir/resolv.conf
podLogsDir: $dir/pod-logs
volumePluginDir: $dir/volume-plugins
makeIPTablesUtilChains: false
syncFrequency: 10s
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%, imagefs.inodesFree: 1%}
END
}
