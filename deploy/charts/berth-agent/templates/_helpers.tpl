{{- define "berth-agent.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 48 bytes at most, so that suffixes fit. */}}
{{- define "berth-agent.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" }}
{{- else if contains (include "berth-agent.name" .) .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "berth-agent.name" .) | trunc 48 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "berth-agent.selectorLabels" -}}
app.kubernetes.io/name: {{ include "berth-agent.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "berth-agent.labels" -}}
{{ include "berth-agent.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: berth
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "berth-agent.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "berth-agent.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "berth-agent.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* The port of a listen address, so that it is said in one place. */}}
{{- define "berth-agent.port" -}}
{{- splitList ":" . | last }}
{{- end }}

{{/* The settings file: the values that are settings, under the names that the agent knows. */}}
{{- define "berth-agent.config" -}}
hub:
  address: {{ required "hub.address is not set: say where the hub is, with --set hub.address=HOST:PORT" .Values.hub.address | quote }}
  serverName: {{ .Values.hub.serverName | quote }}
enroll:
  address: {{ .Values.enroll.address | quote }}
  caHash: {{ .Values.enroll.caHash | quote }}
{{ toYaml (pick .Values "useLoadBalancerClass" "loadBalancerClasses" "nodeAddressType" "adminListen" "log") }}
{{- end }}

{{/* The agent's own Secrets: what it keeps, and what it was given to begin with. */}}
{{- define "berth-agent.identity" -}}
{{- include "berth-agent.fullname" . }}-identity
{{- end }}
{{- define "berth-agent.join" -}}
{{- include "berth-agent.fullname" . }}-join
{{- end }}

{{/* The pod, the same in both kinds. */}}
{{- define "berth-agent.pod" -}}
metadata:
  labels:
    {{- include "berth-agent.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read at start; certificates are reloaded and need no restart.
    checksum/config: {{ include "berth-agent.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "berth-agent.serviceAccountName" . }}
  automountServiceAccountToken: true
  # Service links are environment variables named after Services: one called berth-log would pass for a setting.
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext: {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: agent
      image: {{ include "berth-agent.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run]
      # In the environment, so that `kubectl exec … -- /berth-agent doctor` sees the same settings.
      env:
        - name: BERTH_CONFIG
          value: /etc/berth/config/agent.yaml
        {{- if not .Values.tlsSecretName }}
        - name: BERTH_ENROLL_SECRET
          value: {{ .Release.Namespace }}/{{ include "berth-agent.identity" . }}
        {{- end }}
      ports:
        - name: admin
          containerPort: {{ include "berth-agent.port" .Values.adminListen }}
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext: {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/berth/config
          readOnly: true
        # The whole directory, never subPath: the kubelet renews what is in it, and the agent reads it again.
        {{- if .Values.tlsSecretName }}
        - name: tls
          mountPath: /etc/berth/tls
          readOnly: true
        {{- else }}
        - name: join
          mountPath: /etc/berth/join
          readOnly: true
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "berth-agent.fullname" . }}
    {{- if .Values.tlsSecretName }}
    - name: tls
      secret:
        secretName: {{ .Values.tlsSecretName }}
        defaultMode: 288 # 0440
    {{- else }}
    # It may come later, and go once it was used.
    - name: join
      secret:
        secretName: {{ include "berth-agent.join" . }}
        defaultMode: 288 # 0440
        optional: true
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
