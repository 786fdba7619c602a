# shellcheck shell=bash
# The start of a cluster, and whether it is ready.

up() {
  local nodes=1 since=$EPOCHREALTIME
  while (($#)); do
    case $1 in
      --nodes) nodes=${2:?how many nodes?}; shift 2 ;;
      *) die "up: what is $1?" ;;
    esac
  done
  [[ $nodes == [12] ]] || die "one or two nodes, not $nodes"
  if [[ -e $DIR/$MARK ]] && ready >/dev/null 2>&1; then
    say "The cluster is up already. KUBECONFIG=$KUBECONFIG"
    [[ $nodes == 1 ]] || node_ready 2 2>/dev/null || node_add
    return
  fi
  deps
  since=$EPOCHREALTIME
  say "Starting Kubernetes in $DIR. On this host it makes
  a bridge $BRIDGE ($NODE1_IP, pods in $POD_RANGE, services in $SERVICE_RANGE), the nft tables kube-proxy,
  iptables chains and ipsets KUBE-*, cgroups $CGROUP;
  it sets ${SYSCTLS[*]} and lets kubelet set
  ${SYSCTLS_OF_KUBELET[*]};
  it runs etcd, the Kubernetes programs, containerd and coredns as root. \`down\` takes all of it back."
  folder_make
  network_up
  certs
  runtime_up 1 &
  local runtime=$!
  control_plane_up
  wait $runtime
  # beside what follows, which waits more than it works
  load_built &
  local images=$!
  kubelet_up 1
  dns_up
  policies_up
  storage_up
  until_ok 60 "the cluster" ready
  wait $images
  say "The cluster is ready: $(took "$since"). KUBECONFIG=$KUBECONFIG"
  [[ $nodes == 1 ]] || node_add
}

# The mark says that `down` may remove the folder: one with other people's files never gets it.
folder_make() {
  mkdir -p "$DIR"
  [[ -e $DIR/$MARK || -z $(ls -A "$DIR") ]] || die "$DIR is not empty and not a cluster's"
  touch "$DIR/$MARK"
}

# API server, every node that has a kubelet, DNS, network policies, and the account that pods run under
ready() {
  api_ready >/dev/null
  local node
  for node in 1 2; do
    [[ $node == 2 ]] && ! alive kubelet2 || node_ready "$node" || { say "node $(node_name "$node") is not ready"; return 1; }
  done
  dns_ready || { say "kube-dns does not answer"; return 1; }
  policies_ready || { say "network policies are not enforced"; return 1; }
  kubectl get serviceaccount default -o name >/dev/null
}
