# shellcheck shell=bash
# One certificate authority, a certificate for each program, and the kubeconfigs that use them.

CERTS=$DIR/certs

certs() {
  [[ ! -e $CERTS/complete ]] || return 0
  mkdir -p "$CERTS"
  chmod 0700 "$CERTS"
  printf '[req]\ndistinguished_name = name\n[name]\n' >"$CERTS/openssl.conf"
  openssl req -x509 -config "$CERTS/openssl.conf" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365 \
    -subj "/CN=link-operator local cluster" -addext basicConstraints=critical,CA:TRUE \
    -keyout "$CERTS/ca.key" -out "$CERTS/ca.crt" 2>/dev/null
  openssl ecparam -name prime256v1 -genkey -noout -out "$CERTS/service-accounts.key"
  openssl ec -in "$CERTS/service-accounts.key" -pubout -out "$CERTS/service-accounts.pub" 2>/dev/null

  certificate apiserver /CN=kube-apiserver \
    "IP:$NODE1_IP,IP:$API_SERVICE_IP,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$DOMAIN"
  certificate etcd /CN=etcd IP:127.0.0.1
  certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate admin /O=system:masters/CN=admin
  certificate controller-manager /CN=system:kube-controller-manager
  certificate scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  certificate coredns /CN=system:coredns
  certificate network-policies /CN=system:network-policies
  local node
  for node in 1 2; do
    certificate "node$node" "/O=system:nodes/CN=system:node:$(node_name "$node")" "IP:$(node_ip "$node"),DNS:$(node_name "$node")"
  done

  kubeconfig admin "$KUBECONFIG"
  local name
  for name in controller-manager scheduler kube-proxy coredns network-policies node1 node2; do
    kubeconfig "$name" "$CERTS/$name.kubeconfig"
  done
  touch "$CERTS/complete"
}

# certificate NAME SUBJECT [SUBJECT ALTERNATIVE NAMES]
certificate() {
  local names=()
  [[ -z ${3:-} ]] || names=(-addext "subjectAltName=$3")
  openssl req -x509 -config "$CERTS/openssl.conf" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365 \
    -CA "$CERTS/ca.crt" -CAkey "$CERTS/ca.key" -subj "$2" "${names[@]}" \
    -addext basicConstraints=critical,CA:FALSE -addext keyUsage=critical,digitalSignature \
    -addext extendedKeyUsage=serverAuth,clientAuth -keyout "$CERTS/$1.key" -out "$CERTS/$1.crt" 2>/dev/null
}

# kubeconfig NAME FILE: everything inside, so that the file can be copied
kubeconfig() {
  (umask 077 && cat >"$2") <<END
apiVersion: v1
kind: Config
current-context: local
contexts:
- name: local
  context: {cluster: local, user: $1}
clusters:
- name: local
  cluster:
    server: https://$NODE1_IP:6443
    certificate-authority-data: $(base64 -w0 "$CERTS/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$CERTS/$1.crt")
    client-key-data: $(base64 -w0 "$CERTS/$1.key")
END
}
