//! Who is kept out by the network policies of links and of the operator. Of those who may come in, the controller does: its links are
//! Ready; and the kubelet: its pods are.

use crate::{
    cluster::{Place, SERVERS, apply, kubectl, until},
    installation::{OPERATOR, helm},
};

/// A pod that tries doors.
struct Visitor {
    namespace: String,
    name: &'static str,
}

impl Visitor {
    fn new(namespace: &str, name: &'static str) -> Self {
        let visitor = Self { namespace: namespace.to_owned(), name };
        visitor.leave();
        apply(
            namespace,
            &format!(
                "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{visitor: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: node
      image: localhost/link-operator/azurite:3.37
      imagePullPolicy: Never
      command: [node, -e, 'setInterval(() => {{}}, 1e9)']
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
            ),
        );
        kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "pod", name, "--timeout=60s"]);
        visitor
    }

    fn gets_in(&self, address: &str, port: u16) -> bool {
        let knock = format!(
            "const end = told => {{ console.log(told); process.exit() }};
             require('net').connect({port}, '{address}').on('connect', () => end('in')).on('error', () => end('out'));
             setTimeout(() => end('out'), 3000)"
        );
        match kubectl(&["exec", "-n", &self.namespace, self.name, "--", "node", "-e", &knock]).trim() {
            "in" => true,
            "out" => false,
            told => panic!("{told}"),
        }
    }

    /// Policies follow after pods, in a moment.
    async fn is_let_in(&self, address: &str, port: u16) {
        let what = format!("{} gets to {address}:{port}", self.name);
        until(&self.namespace, &what, || self.gets_in(address, port).then_some(())).await;
    }

    fn leave(&self) {
        kubectl(&["delete", "pod", "-n", &self.namespace, self.name, "--ignore-not-found"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_namespace_alone_gets_to_a_workers_api() {
    let place = Place::new("policies").await;
    place.source.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    place.link(&["t"]);
    place.link_is("Running", "True", "Replicating").await;
    let worker = kubectl(&["get", "pod", "link-0", "-n", &place.namespace, "-o", "jsonpath={.status.podIP}"]);

    let (api, health) = (8443, 8080);
    let visitors = [OPERATOR, SERVERS, &place.namespace].map(|namespace| Visitor::new(namespace, "visitor"));
    visitors[0].is_let_in(&worker, api).await;
    for visitor in &visitors {
        visitor.is_let_in(&worker, health).await;
    }
    for stranger in &visitors[1..] {
        assert!(!stranger.gets_in(&worker, api), "from {}", stranger.namespace);
    }
    place.link_is("Running", "True", "Replicating").await;
    visitors.iter().for_each(Visitor::leave);
    place.done();
}

#[tokio::test]
async fn a_page_at_the_pods_address_is_closed_but_to_whom_the_values_name() {
    // A second operator, of this namespace alone.
    let namespace = "e2e-page";
    kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=180s"]);
    kubectl(&["create", "namespace", namespace]);
    kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    let image = ["get", "deployment", OPERATOR, "-n", OPERATOR, "-o", "jsonpath={.spec.template.spec.containers[0].image}"];
    let image = kubectl(&image);
    let (repository, tag) = image.rsplit_once(':').unwrap();
    let values = [
        format!("image.repository={repository},image.tag={tag},image.pullPolicy=Never"),
        format!("watchNamespace={namespace},page.listen=Pod,page.from[0].podSelector.matchLabels.visitor=guest"),
    ];
    let set = ["--set", &values[0], "--set", &values[1], "--wait", "--timeout", "2m"];
    helm(namespace, &[["install", OPERATOR, "charts/link-operator"].as_slice(), &set].concat()).unwrap();
    let operator = kubectl(&["get", "pods", "-n", namespace, "-o", "jsonpath={.items[0].status.podIP}"]);

    let (page, health) = (8090, 8080);
    let visitors = ["guest", "stranger"].map(|name| Visitor::new(namespace, name));
    visitors[0].is_let_in(&operator, page).await;
    for visitor in &visitors {
        visitor.is_let_in(&operator, health).await;
    }
    assert!(!visitors[1].gets_in(&operator, page));
    // The API server, which is the node's own here and so always let in, as the kubelet is.
    let links = kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{namespace}/services/{OPERATOR}-page:page/proxy/api/links")]);
    assert!(serde_json::from_str::<serde_json::Value>(&links).is_ok(), "{links}");
    kubectl(&["delete", "namespace", namespace, "--wait=false"]);
}
