# shellcheck shell=bash
# etcd, API server, controller manager, scheduler, kube-proxy and DNS, as plain processes on the host.

control_plane_up() {
  # --unsafe-no-fsync: a cluster for a demo may lose its state with the machine's power
  start etcd etcd --name local --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls https://127.0.0.1:2379 --advertise-client-urls https://127.0.0.1:2379 \
    --cert-file "$CERTS/etcd.crt" --key-file "$CERTS/etcd.key" --client-cert-auth --trusted-ca-file "$CERTS/ca.crt" \
    --listen-peer-urls https://127.0.0.1:2380 --initial-advertise-peer-urls https://127.0.0.1:2380 \
    --initial-cluster local=https://127.0.0.1:2380 --peer-cert-file "$CERTS/etcd.crt" --peer-key-file "$CERTS/etcd.key" \
    --peer-client-cert-auth --peer-trusted-ca-file "$CERTS/ca.crt"

  api_up

  start kube-controller-manager kube-controller-manager --kubeconfig "$CERTS/controller-manager.kubeconfig" \
    --leader-elect=false --use-service-account-credentials --root-ca-file "$CERTS/ca.crt" \
    --service-account-private-key-file "$CERTS/service-accounts.key" \
    --cluster-signing-cert-file "$CERTS/ca.crt" --cluster-signing-key-file "$CERTS/ca.key" \
    --bind-address 127.0.0.1 --node-monitor-grace-period 20s --flex-volume-plugin-dir "$DIR/volume-plugins"
  start kube-scheduler kube-scheduler --kubeconfig "$CERTS/scheduler.kubeconfig" --leader-elect=false --bind-address 127.0.0.1

  # One kube-proxy serves both nodes: they share the host's network. Its conntrack limits are left to the host.
  start kube-proxy kube-proxy --config "$(kube_proxy_config)" --hostname-override "$(node_name 1)"
}

api_up() {
  # It advertises the bridge's address, because pods cannot reach loopback.
  # InternalIP, because nothing resolves the nodes' names and logs, exec and port-forward would look for them.
  start kube-apiserver kube-apiserver --bind-address "$NODE1_IP" --advertise-address "$NODE1_IP" --secure-port 6443 \
    --etcd-servers https://127.0.0.1:2379 --etcd-cafile "$CERTS/ca.crt" \
    --etcd-certfile "$CERTS/etcd.crt" --etcd-keyfile "$CERTS/etcd.key" \
    --tls-cert-file "$CERTS/apiserver.crt" --tls-private-key-file "$CERTS/apiserver.key" --client-ca-file "$CERTS/ca.crt" \
    --kubelet-certificate-authority "$CERTS/ca.crt" --kubelet-client-certificate "$CERTS/apiserver-kubelet-client.crt" \
    --kubelet-client-key "$CERTS/apiserver-kubelet-client.key" --kubelet-preferred-address-types InternalIP \
    --service-account-issuer "https://kubernetes.default.svc.$DOMAIN" \
    --service-account-key-file "$CERTS/service-accounts.pub" \
    --service-account-signing-key-file "$CERTS/service-accounts.key" \
    --service-cluster-ip-range "$SERVICE_RANGE" --authorization-mode Node,RBAC \
    --enable-admission-plugins NodeRestriction --allow-privileged
  until_ok 60 "the API server" api_ready
}

# As if its machine were gone; etcd, kubelets and pods run on.
api_down() {
  alive kube-apiserver || die "the cluster is not up"
  stop kube-apiserver KILL
}

api_ready() { kubectl get --raw /readyz; }

kube_proxy_config() {
  local file=$DIR/kube-proxy.yaml
  # it ends when its file is written
  alive kube-proxy || cat >"$file" <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $POD_RANGE
clientConnection: {kubeconfig: $CERTS/kube-proxy.kubeconfig}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 0s}
END
  echo "$file"
}

# DNS listens on the bridge; a Service without a selector leads there.
dns_up() {
  cat >"$DIR/Corefile" <<END
$DOMAIN in-addr.arpa ip6.arpa {
  bind $NODE1_IP
  errors
  kubernetes {
    kubeconfig $CERTS/coredns.kubeconfig
    pods insecure
    ttl 5
  }
}
# Pods have no route beyond this machine, so no other name is worth asking for.
. {
  bind $NODE1_IP
  template ANY ANY {
    rcode NXDOMAIN
  }
}
END
  kubectl apply -f - >/dev/null <<END
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "local:coredns"}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces, endpoints], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "local:coredns"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "local:coredns"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:coredns"}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $DNS_SERVICE_IP
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53, protocol: TCP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-host, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$NODE1_IP]}]
ports:
- {name: dns, port: 53, protocol: UDP}
- {name: dns-tcp, port: 53, protocol: TCP}
END
  start coredns coredns -conf "$DIR/Corefile"
}

dns_ready() { [[ $(dig +short +timeout=1 +tries=1 "@$DNS_SERVICE_IP" "kubernetes.default.svc.$DOMAIN") == "$API_SERVICE_IP" ]]; }
