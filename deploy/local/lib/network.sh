# shellcheck shell=bash
# The host's side: a bridge that nodes and pods hang off, and the kernel settings that they need, put back by `down`.

BRIDGE=lc0
POD_RANGE=10.244.0.0/16
SERVICE_RANGE=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
DNS_SERVICE_IP=10.96.0.10
DOMAIN=cluster.local
NODE1_IP=10.244.0.1

node_name() { echo "local-$1"; }
node_ip() { echo "10.244.0.$1"; }

# Ours, then those that kubelet and kube-proxy set by themselves.
SYSCTLS=(net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 fs.inotify.max_user_instances=1024)
SYSCTLS_OF_KUBELET=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys
  kernel.keys.root_maxbytes)

network_up() {
  # a module of its own on most kernels, built in on some
  modprobe -qa br_netfilter overlay 2>/dev/null || true
  if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
    ip link add "$BRIDGE" type bridge
    ip addr add "$NODE1_IP/16" dev "$BRIDGE"
    ip addr add "$(node_ip 2)/32" dev "$BRIDGE"
    ip link set "$BRIDGE" up
  fi
  local setting name
  if [[ ! -e $DIR/sysctls ]]; then
    for name in "${SYSCTLS[@]%=*}" "${SYSCTLS_OF_KUBELET[@]}"; do
      echo "$name=$(sysctl_get "$name")"
    done >"$DIR/sysctls.new"
    mv "$DIR/sysctls.new" "$DIR/sysctls"
  fi
  for setting in "${SYSCTLS[@]}"; do sysctl_set "$setting"; done
}

network_down() {
  local family setting
  for family in ip ip6; do
    nft delete table "$family" kube-proxy 2>/dev/null || true
  done
  ip link delete "$BRIDGE" 2>/dev/null || true
  # entries for addresses that are gone would catch the packets of the next cluster
  conntrack -D -s "$POD_RANGE" >/dev/null 2>&1 || true
  conntrack -D -d "$SERVICE_RANGE" >/dev/null 2>&1 || true
  [[ -e $DIR/sysctls ]] || return 0
  while read -r setting; do sysctl_set "$setting"; done <"$DIR/sysctls"
}

sysctl_get() { cat "/proc/sys/${1//.//}"; }

sysctl_set() {
  local name=${1%=*}
  echo "${1#*=}" >"/proc/sys/${name//.//}"
}
