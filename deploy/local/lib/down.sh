# shellcheck shell=bash
# The end of a cluster, also of one that is half up: nothing of it is left.

MARK=.link-operator-cluster

down() {
  local since=$EPOCHREALTIME name
  if [[ ! -e $DIR/$MARK ]]; then
    say "There is no cluster in $DIR"
    return
  fi
  # killed, not asked: nothing that they would save is kept; first those that would start something again
  for name in volumes kubelet1 kubelet2; do stop "$name" KILL; done
  cgroup_remove
  shims_kill
  for name in containerd1 containerd2 network-policies coredns kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd; do
    stop "$name" KILL
  done
  unmount_all
  policies_down
  network_down
  fixed_places_clean
  rm -rf --one-file-system "${DIR:?}"
  say "The cluster is gone: $(took "$since")"
}

# A shim outlives its containerd; ours are those that were given the address of our socket.
shims_kill() {
  local node process
  for node in 1 2; do
    for process in /proc/[0-9]*; do
      [[ $(readlink "$process/exe" 2>/dev/null) == */containerd-shim* ]] || continue
      ! tr '\0' '\n' <"$process/cmdline" 2>/dev/null | grep -qxF "$(node_socket "$node")" || kill -KILL "${process#/proc/}"
    done
  done
}

# What containerd, the network plugins and kubelet keep at places that no setting moves.
fixed_places_clean() {
  local file id
  for file in "$DIR"/node?/containerd-state/io.containerd.runtime.v2.task/k8s.io/*/address; do
    [[ ! -e $file ]] || rm -f "$(sed 's|^unix://||' "$file")"
  done
  for file in /var/lib/cni/results/link-operator-local-*; do
    id=${file%-*}
    rm -f "$file" "/var/lib/cni/results/cni-loopback-${id##*-}-lo"
  done
  find /var/log/containers -lname "$DIR/*" -delete 2>/dev/null || true
  rm -f /var/lib/kubelet/device-plugins/{kubelet.sock,DEPRECATION,kubelet_internal_checkpoint}
  # only if empty: another cluster may live here
  rmdir /run/containerd/s /run/containerd /var/lib/cni/results /var/lib/cni /var/log/containers \
    /var/lib/kubelet/device-plugins /var/lib/kubelet 2>/dev/null || true
}

# The deepest first; a mount that is busy is let go as soon as it is not.
unmount_all() {
  local target
  while IFS= read -r target; do
    umount "$target" 2>/dev/null || umount --lazy "$target"
  done < <(findmnt -rn -o TARGET | while IFS= read -r target; do printf '%b\n' "$target"; done | grep -F "$DIR/" | sort -r)
}
