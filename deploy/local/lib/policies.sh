# shellcheck shell=bash
# Network policies: kube-router's controller makes them iptables chains and ipsets, which packets on the bridge have to pass.

policies_up() {
  kubectl apply -f - >/dev/null <<END
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "local:network-policies"}
rules:
- {apiGroups: [""], resources: [pods, namespaces], verbs: [list, watch]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "local:network-policies"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "local:network-policies"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:network-policies"}]
END
  start network-policies network-policies "$CERTS/network-policies.kubeconfig"
}

policies_ready() { alive network-policies && iptables -n -L KUBE-NWPLCY-DEFAULT >/dev/null 2>&1; }

policies_down() {
  local ours='KUBE-(ROUTER|NWPLCY|POD-FW)-[A-Z0-9]+' set
  # All at once: the rules that lead to our chains, those in them, the chains.
  {
    echo '*filter'
    iptables-save -t filter | sed -nE "s/^-A ([A-Z]+ .* -j $ours)$/-D \1/p; s/^:($ours) .*/-F \1/p"
    iptables-save -t filter | sed -nE "s/^:($ours) .*/-X \1/p"
    echo COMMIT
  } | iptables-restore --noflush
  # The table that iptables makes if there is none: nothing but empty chains that let all pass.
  ! nft -j list table ip filter 2>/dev/null | jq -e 'all(.nftables[]; .metainfo or .table or .chain.policy == "accept")' >/dev/null ||
    nft delete table ip filter
  for set in $(ipset list -n | grep -E '^(KUBE-(SRC|DST)|TMP)-[A-Z2-7]{16}$'); do ipset destroy "$set"; done
}
