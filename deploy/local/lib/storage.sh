# shellcheck shell=bash
# Volumes: a StorageClass `local` without a provisioner, and a stock of folders under the cluster's own that wait to be claimed.

VOLUMES=40

volume_names() { seq -f 'local-%02g' 1 "$VOLUMES"; }

# Bound by the scheduler: a pod that comes before its claim is bound is else looked at again only after minutes.
storage_up() {
  {
    cat <<END
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
END
    local name
    for name in $(volume_names); do volume "$name"; done
  } | kubectl apply -f - >/dev/null
  start volumes "$HERE/cluster" pvs --watch
}

# Open to all, because pods run under any number and a hostPath is given to none.
volume() {
  local folder=$DIR/volumes/$1
  mkdir -p "$folder"
  chmod 0777 "$folder"
  cat <<END
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: $1}
spec:
  storageClassName: local
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce, ReadWriteMany, ReadOnlyMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $folder, type: Directory}
END
}

# pvs [--watch]: a volume whose claim is gone stays Released for ever; it is emptied and offered again
pvs() {
  local columns='{.metadata.name} {.status.phase}{"\n"}'
  if [[ ${1:-} != --watch ]]; then
    kubectl get pv -o "jsonpath={range .items[*]}$columns{end}" | free_released
    return
  fi
  while true; do
    kubectl get pv --watch -o "jsonpath=$columns" | free_released || true
    sleep 1
  done
}

# What was read may be old by now, and the volume somebody else's: it is asked again, and one at a time looks.
free_released() {
  local name phase
  while read -r name phase; do
    [[ $phase == Released && $name == local-* ]] || continue
    (
      flock 8
      [[ $(kubectl get pv "$name" -o 'jsonpath={.status.phase}') == Released ]] || exit 0
      find "${DIR:?}/volumes/$name" -mindepth 1 -delete
      kubectl patch pv "$name" --type merge -p '{"spec":{"claimRef":null}}' >/dev/null
      kubectl wait pv "$name" --for 'jsonpath={.status.phase}=Available' --timeout 10s >/dev/null
      say "volume $name is free again"
    ) 8>"$DIR/volumes/.lock" </dev/null
  done
}
