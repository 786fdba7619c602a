# shellcheck shell=bash
# All pods live under one cgroup of ours, in version 1 hierarchies or in version 2: so they can be counted and ended.

CGROUP=/link-operator

# The hierarchies that kubelet uses: one in version 2; in version 1 one for each group of controllers.
cgroup_hierarchies() {
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
  else
    local folder
    for folder in /sys/fs/cgroup/*/; do
      [[ -e $folder/cgroup.controllers || -L ${folder%/} ]] || echo "${folder%/}"
    done
  fi
}

cgroup_make() {
  local hierarchy folder file
  for hierarchy in $(cgroup_hierarchies); do
    for folder in "$hierarchy$CGROUP" "$hierarchy$CGROUP/node$1"; do
      mkdir -p "$folder"
      # in version 1 a new cpuset is empty, and nothing may run in it
      for file in cpuset.cpus cpuset.mems; do
        [[ $hierarchy != */cpuset ]] || cat "${folder%/*}/$file" >"$folder/$file"
      done
    done
  done
}

# Ends every process of our pods and takes the cgroups away.
cgroup_remove() {
  local top folder pid end=$((SECONDS + 10))
  for top in /sys/fs/cgroup{,/*}"$CGROUP"; do
    [[ -d $top ]] || continue
    while IFS= read -r folder; do
      until [[ ! -d $folder ]] || rmdir "$folder" 2>/dev/null; do
        ((SECONDS < end)) || die "processes stay in $folder"
        # it may be gone by now: shims take empty ones away, too
        { while read -r pid; do kill -KILL "$pid" || true; done <"$folder/cgroup.procs"; } 2>/dev/null || true
        sleep 0.02
      done
    done < <(find "$top" -depth -type d)
  done
}
