{{- define "berth-hub.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 48 bytes at most, so that suffixes fit. */}}
{{- define "berth-hub.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else if contains (include "berth-hub.name" .) .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "berth-hub.name" .) | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "berth-hub.selectorLabels" -}}
app.kubernetes.io/name: {{ include "berth-hub.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* managed-by must never be berth-hub: that marks what the hub itself made and may delete. */}}
{{- define "berth-hub.labels" -}}
{{ include "berth-hub.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: berth
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "berth-hub.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "berth-hub.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "berth-hub.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The port of a listen address, so that it is said in one place. */}}
{{- define "berth-hub.port" -}}
{{- splitList ":" . | last }}
{{- end }}

{{/* The name in a certificate that the hub issues for itself. */}}
{{- define "berth-hub.serverName" -}}
{{- include "berth-hub.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/* Where join tokens are kept. */}}
{{- define "berth-hub.tokens" -}}
berth-join-tokens
{{- end }}
