{{- define "nodeobs.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: nodeobs
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: nodeobs
{{- end }}

{{- define "nodeobs.selectorLabels" -}}
app.kubernetes.io/name: nodeobs
app.kubernetes.io/component: service
{{- end }}

{{- define "nodeobs.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "nodeobs.agentsNamespace" -}}
{{- .Values.agents.namespace | default (printf "%s-agents" .Release.Namespace) -}}
{{- end }}

{{- define "nodeobs.openshift" -}}
{{- if eq (toString .Values.openshift) "auto" -}}
{{- .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- else -}}
{{- .Values.openshift -}}
{{- end -}}
{{- end }}

{{- /* Secret with the certificate, where somebody else makes it. */ -}}
{{- define "nodeobs.certificateSecret" -}}nodeobs-serving-cert{{- end }}

{{- define "nodeobs.serverName" -}}nodeobs.{{ .Release.Namespace }}.svc{{- end }}

{{- /* Who puts the authority into the webhook configuration and the definitions, where the service does not. */ -}}
{{- define "nodeobs.trustAnnotations" -}}
{{- if eq .Values.certificates.source "certManager" -}}
cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/nodeobs
{{- else if eq .Values.certificates.source "openshift" -}}
service.beta.openshift.io/inject-cabundle: "true"
{{- end -}}
{{- end }}

{{- /* Where the authority of the service's certificate is, for its clients: a volume source. */ -}}
{{- define "nodeobs.authorityVolume" -}}
{{- if eq .Values.certificates.source "certManager" -}}
secret:
  secretName: {{ include "nodeobs.certificateSecret" . }}
  items: [{key: ca.crt, path: ca.crt}]
{{- else if eq .Values.certificates.source "openshift" -}}
configMap:
  name: nodeobs-service-ca
  items: [{key: service-ca.crt, path: ca.crt}]
{{- else -}}
configMap:
  name: nodeobs-ca
  items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
{{- end }}

{{- define "nodeobs.objectStoreSecret" -}}
{{- with .Values.outputs.objectStore -}}
{{- if .existingSecret }}{{ .existingSecret }}{{ else if .credentials }}nodeobs-object-store{{ end -}}
{{- end -}}
{{- end }}

{{- /* Only one pod at a time can have the volume: the old one has to go before the new one comes. */ -}}
{{- define "nodeobs.isExclusive" -}}
{{- with .Values.outputs -}}
{{- and (not .objectStore.url) .persistence.enabled (ne .persistence.accessMode "ReadWriteMany") -}}
{{- end -}}
{{- end }}

{{- /* Pod Security "restricted". OpenShift gives each namespace a user of its own. */ -}}
{{- define "nodeobs.podSecurityContext" -}}
runAsNonRoot: true
{{- if ne (include "nodeobs.openshift" .) "true" }}
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "nodeobs.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "nodeobs.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Bytes of a size, as the service or as Kubernetes writes one: `20GiB`, `20Gi`. */ -}}
{{- define "nodeobs.bytes" -}}
{{- $powers := dict "" 0 "k" 1 "m" 2 "g" 3 "t" 4 "p" 5 "e" 6 -}}
{{- $unit := regexFind "[A-Za-z]*$" . | lower | trimSuffix "b" -}}
{{- $bytes := regexFind "^[0-9.]+" . | float64 -}}
{{- range until (get $powers (trimSuffix "i" $unit) | int) -}}
{{- $bytes = mulf $bytes (ternary 1024.0 1000.0 (hasSuffix "i" $unit)) -}}
{{- end -}}
{{- $bytes -}}
{{- end }}

{{- /* What the schema cannot say: values that do not go together. */ -}}
{{- define "nodeobs.validate" -}}
{{- $outputs := .Values.outputs -}}
{{- if and (gt (int .Values.replicas) 1) (not $outputs.objectStore.url) (not (and $outputs.persistence.enabled (eq $outputs.persistence.accessMode "ReadWriteMany"))) }}
{{- fail (printf "replicas is %d, and each would keep outputs where the others cannot see them: set outputs.objectStore.url, or outputs.persistence.accessMode to ReadWriteMany with a claim or storage class that can do it, or replicas to 1" (int .Values.replicas)) }}
{{- end }}
{{- if eq (include "nodeobs.agentsNamespace" .) .Release.Namespace }}
{{- fail (printf "agents.namespace must be another than the release's, which is %q: agents may need a node's socket, and the service's namespace forbids that to every pod" .Release.Namespace) }}
{{- end }}
{{- if gt (len (include "nodeobs.agentsNamespace" .)) 63 }}
{{- fail (printf "the agents' namespace would be %q, which is longer than 63 characters: set agents.namespace" (include "nodeobs.agentsNamespace" .)) }}
{{- end }}
{{- with $outputs.objectStore }}
{{- if and (not .url) (or .endpoint .region .existingSecret .credentials .environment) }}
{{- fail "outputs.objectStore has no effect without its url: set outputs.objectStore.url to s3://bucket/prefix, gs://… or az://…" }}
{{- end }}
{{- if and .existingSecret .credentials }}
{{- fail "outputs.objectStore.existingSecret and outputs.objectStore.credentials are two answers to one question: set one of them" }}
{{- end }}
{{- end }}
{{- $config := .Values.config | default dict }}
{{- with $config.max_body_bytes }}
{{- if or (lt (include "nodeobs.bytes" . | float64) 65536.0) (gt (include "nodeobs.bytes" . | float64) 67108864.0) }}
{{- fail (printf "config.max_body_bytes is %s: it must be from 64KiB to 64MiB" .) }}
{{- end }}
{{- end }}
{{- with .Values.agents.storageLimit }}
{{- if lt (include "nodeobs.bytes" . | float64) 1048576.0 }}
{{- fail (printf "agents.storageLimit is %s: it must be 1MiB or more" .) }}
{{- end }}
{{- end }}
{{- with $outputs.persistence }}
{{- $limit := $config.retention_max_bytes | default "20GiB" }}
{{- if and (not $outputs.objectStore.url) (not (and .enabled .existingClaim)) (ge (include "nodeobs.bytes" $limit | float64) (include "nodeobs.bytes" .size | float64)) }}
{{- fail (printf "outputs.persistence.size is %s, and config.retention_max_bytes is %s: outputs would fill their volume before the oldest are deleted; set one of them so that the volume is larger" .size $limit) }}
{{- end }}
{{- end }}
{{- $names := list }}
{{- range .Values.triggers }}
{{- if has .name $names }}
{{- fail (printf "triggers has the name %q twice" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- if and .Values.image.tag .Values.image.digest }}
{{- fail "image.tag and image.digest are two answers to one question: set one of them" }}
{{- end }}
{{- if and .Values.prometheusRule.enabled (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/PrometheusRule")) }}
{{- fail "prometheusRule.enabled needs the resource PrometheusRule of Prometheus' operator, which this cluster does not have: install that first, or leave it false (helm template: --api-versions monitoring.coreos.com/v1/PrometheusRule)" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor")) }}
{{- fail "metrics.serviceMonitor.enabled needs the resource ServiceMonitor of Prometheus' operator, which this cluster does not have: install that first, or leave it false (helm template: --api-versions monitoring.coreos.com/v1/ServiceMonitor)" }}
{{- end }}
{{- end }}
