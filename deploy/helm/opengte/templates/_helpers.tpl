{{- define "opengte.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "opengte.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "opengte.labels" -}}
{{ include "opengte.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Whether requests need a key; an ingress without keys is refused unless insecure is written. */}}
{{- define "opengte.checkAccess" -}}
{{- if and .Values.ingress.enabled (not (or .Values.keysSecret .Values.apiKeySecret)) (ne (toString .Values.insecure) "true") }}
{{- fail "ingress.enabled is true and there are no API keys, so everyone could use the server. Set keysSecret (made with `gte keys create`) or apiKeySecret; or set insecure=true to admit everyone." }}
{{- end }}
{{- end }}
