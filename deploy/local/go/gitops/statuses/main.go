// Command statuses says of each Kubernetes object on its input (a JSON list) what the GitOps tools say of it: kstatus, which Flux and
// Helm ask, and Argo CD by the health script of this repository.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

type verdict struct {
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Kstatus string `json:"kstatus"`
	Argo    string `json:"argo"`
	Message string `json:"message"`
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(script string) error {
	health, err := os.ReadFile(script)
	if err != nil {
		return err
	}
	var list unstructured.UnstructuredList
	if err := json.NewDecoder(os.Stdin).Decode(&list); err != nil {
		return err
	}
	verdicts := []verdict{}
	for i := range list.Items {
		object := &list.Items[i]
		computed, err := status.Compute(object)
		if err != nil {
			return err
		}
		argo, err := lua.VM{}.ExecuteHealthLua(object, string(health))
		if err != nil {
			return err
		}
		verdicts = append(verdicts, verdict{object.GetKind(), object.GetName(), string(computed.Status), string(argo.Status), argo.Message})
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}
