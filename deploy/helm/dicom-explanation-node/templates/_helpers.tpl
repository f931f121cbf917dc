{{- define "node.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "node.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "node.labels" -}}
{{ include "node.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "node.image" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- printf "%s:%s%s" .root.Values.image.repository $tag (.suffix | default "") | quote }}
{{- end }}

{{/* The settings, with the files of the TLS secret. */}}
{{- define "node.settings" -}}
{{- $settings := deepCopy .Values.settings }}
{{- if .Values.tlsSecret }}
{{- $files := dict "certificate" "/etc/dicom-node/tls/tls.crt" "key" "/etc/dicom-node/tls/tls.key" "authorities" "/etc/dicom-node/tls/ca.crt" }}
{{- $settings = mergeOverwrite $settings (dict "tls" (mergeOverwrite $files (default dict $settings.tls))) }}
{{- end }}
{{- toToml $settings }}
{{- end }}

{{/* Who may do what to a container: nothing. */}}
{{- define "node.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "node.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "node.environment" -}}
env:
  - {name: DICOM_NODE_NODE__DATABASE__FILE, value: /run/secrets/dicom-node/database-url}
  - {name: DICOM_NODE_BROKER__URL__FILE, value: /run/secrets/dicom-node/broker-url}
  {{- if .device }}
  - {name: DICOM_NODE_MODEL__DEVICE, value: {{ .device }}}
  {{- end }}
  {{- with .root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "node.mounts" -}}
- {name: state, mountPath: /var/lib/dicom-node}
- {name: settings, mountPath: /etc/dicom-node/node.toml, subPath: node.toml, readOnly: true}
- {name: secret, mountPath: /run/secrets/dicom-node, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if .root.Values.tlsSecret }}
- {name: tls, mountPath: /etc/dicom-node/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "node.volumes" -}}
- name: state
  persistentVolumeClaim:
    claimName: {{ .root.Values.persistence.existingClaim | default (printf "%s-state" (include "node.name" .root)) }}
- name: settings
  configMap: {name: {{ include "node.name" .root }}}
- name: secret
  secret:
    secretName: {{ .root.Values.secret }}
    defaultMode: 0440
    items:
      - {key: database-url, path: database-url}
      - {key: broker-url, path: broker-url}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if .root.Values.tlsSecret }}
- name: tls
  secret:
    secretName: {{ .root.Values.tlsSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/*
One role as a Deployment. Of its dictionary: root, role, args, replicas (absent: KEDA's), resources, grace (seconds until a
process that is told to end is killed), strategy; and suffix of the image's tag, device, gpu, where it serves.
*/}}
{{- define "node.deployment" -}}
{{- $values := .root.Values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "node.name" .root }}-{{ .role }}
  labels: {{- include "node.labels" . | nindent 4 }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  minReadySeconds: 5
  revisionHistoryLimit: 3
  progressDeadlineSeconds: {{ add 900 .grace }}
  strategy: {{- toYaml .strategy | nindent 4 }}
  selector:
    matchLabels: {{- include "node.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "node.labels" . | nindent 8 }}
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/settings: {{ include "node.settings" .root | sha256sum }}
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ ternary $values.settings.web.port $values.settings.metrics.port (eq .role "web") | int | quote }}
        prometheus.io/path: /metrics
        {{- with $values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{- include "node.podSecurity" . | nindent 8 }}
      terminationGracePeriodSeconds: {{ .grace }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- if .gpu }}
      {{- with $values.worker.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      {{- end }}
      {{- with (ternary $values.worker.nodeSelector $values.nodeSelector (hasKey . "suffix")) }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with (ternary $values.worker.tolerations $values.tolerations (hasKey . "suffix")) }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "node.selector" . | nindent 14 }}
      containers:
        - name: {{ .role }}
          image: {{ include "node.image" . }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args: {{ toJson .args }}
          {{- include "node.environment" . | nindent 10 }}
          ports:
            {{- with .ports }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            - {name: metrics, containerPort: {{ $values.settings.metrics.port | int }}}
          securityContext: {{- include "node.containerSecurity" . | nindent 12 }}
          {{- $resources := deepCopy .resources }}
          {{- if .gpu }}
          {{- $resources = mergeOverwrite $resources (dict "limits" (dict $values.worker.gpuResource 1)) }}
          {{- end }}
          resources: {{- toYaml $resources | nindent 12 }}
          {{- if eq .role "web" }}
          {{- $scheme := ternary "HTTPS" "HTTP" (hasKey $values.settings.web "certificate") }}
          startupProbe:
            httpGet: {path: /health/live, port: http, scheme: {{ $scheme }}}
            periodSeconds: 5
            failureThreshold: 60
          readinessProbe:
            httpGet: {path: /health/live, port: http, scheme: {{ $scheme }}}
            periodSeconds: 10
          livenessProbe:
            httpGet: {path: /health/live, port: http, scheme: {{ $scheme }}}
            periodSeconds: 20
            timeoutSeconds: 10
          {{- else }}
          # Ready once it works; then alive while the loop that does the work goes round.
          startupProbe:
            exec: {command: [python, -m, dicom_node.watch.pulse]}
            periodSeconds: 5
            timeoutSeconds: 15
            failureThreshold: 120
          readinessProbe:
            exec: {command: [python, -m, dicom_node.watch.pulse]}
            periodSeconds: 20
            timeoutSeconds: 15
          livenessProbe:
            exec: {command: [python, -m, dicom_node.watch.pulse]}
            periodSeconds: 30
            timeoutSeconds: 15
          {{- end }}
          {{- if .ports }}
          # No new connection comes here any more when the process is told to end.
          lifecycle:
            preStop:
              exec: {command: [sleep, "10"]}
          {{- end }}
          volumeMounts: {{- include "node.mounts" . | nindent 12 }}
      volumes: {{- include "node.volumes" . | nindent 8 }}
{{- end }}
