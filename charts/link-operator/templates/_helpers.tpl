{{- define "link-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 55 characters: the name of a Service, which may end in -metrics, has at most 63. */ -}}
{{- define "link-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- else }}
{{- $name := include "link-operator.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 55 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 55 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "link-operator.selector" -}}
app.kubernetes.io/name: {{ include "link-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- /* Of what is not the operator's, such as the pod of `helm test`: without the labels by which its pods are selected. */ -}}
{{- define "link-operator.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "link-operator.labels" -}}
{{ include "link-operator.selector" . }}
{{ include "link-operator.commonLabels" . }}
{{- end }}

{{- define "link-operator.testLabels" -}}
app.kubernetes.io/name: {{ include "link-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "link-operator.serviceAccount" -}}
{{- default (include "link-operator.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "link-operator.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "link-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "link-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Whether the page can be reached at the pod's address. It asks nobody who they are: only a NetworkPolicy keeps others from it. */}}
{{- define "link-operator.pageOnPod" -}}
{{- if and .Values.page.enabled (eq .Values.page.listen "Pod") -}}
{{- if not (and .Values.networkPolicy.enabled .Values.page.from) -}}
{{- fail "page.listen Pod needs networkPolicy.enabled, and page.from: where connections of the API server come from. Everybody else would reach the page without a login" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}
