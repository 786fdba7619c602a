# shellcheck shell=bash
# The end of a cluster, also of one that is half up: nothing of it is left.

MARK=.link-operator-cluster

down() {
  local since=$EPOCHREALTIME name
  if [[ ! -e $DIR/$MARK ]]; then
    say "There is no cluster in $DIR"
    return
  fi
  # first those that would start something again
  for name in volumes kubelet1 kubelet2; do stop "$name" KILL; done
  cgroup_remove
  shims_kill
  for name in containerd1 containerd2 coredns kube-proxy kube-scheduler kube-controller-manager; do stop "$name"; done
  for name in kube-apiserver etcd; do stop "$name" KILL; done
  unmount_all
  network_down
  # what kubelet and the network plugins keep at fixed places
  find /var/log/containers -lname "$DIR/*" -delete 2>/dev/null || true
  rm -f /var/lib/cni/results/link-operator-local-*
  rmdir /var/lib/cni/results /var/lib/cni /var/log/containers 2>/dev/null || true
  rm -f /var/lib/kubelet/device-plugins/{kubelet.sock,DEPRECATION,kubelet_internal_checkpoint}
  rmdir /var/lib/kubelet/device-plugins /var/lib/kubelet 2>/dev/null || true
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

# The deepest first; a mount that is busy is let go as soon as it is not.
unmount_all() {
  local target
  while IFS= read -r target; do
    umount "$target" 2>/dev/null || umount --lazy "$target"
  done < <(findmnt -rn -o TARGET | while IFS= read -r target; do printf '%b\n' "$target"; done | grep -F "$DIR/" | sort -r)
}
