{{/* Names, labels and the parts that every pod has. */}}

{{- define "tiltserve.name" -}}
{{- /* RayService allows 47 characters, and parts of names are put behind it */ -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tiltserve.selector" -}}
app.kubernetes.io/name: tiltserve
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "tiltserve.labels" -}}
{{ include "tiltserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Image of (list . .Values.image). */}}
{{- define "tiltserve.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Of every pod: nobody in it is root, or talks to Kubernetes. */}}
{{- define "tiltserve.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Of every container. */}}
{{- define "tiltserve.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods of (list . "front" .Values.front) go. */}}
{{- define "tiltserve.placement" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $part := index . 2 -}}
{{- with $part.spreadOver }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tiltserve.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ $component }}
  {{- end }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Secrets by what they hold. */}}
{{- define "tiltserve.tlsSecret" -}}
{{- if eq .Values.tls.source "secret" -}}
{{ required "tls.secretName: expected the Secret with tls.crt and tls.key, got none" .Values.tls.secretName }}
{{- else -}}
{{ include "tiltserve.name" . }}-tls
{{- end -}}
{{- end -}}

{{/* Secret with the ca.crt that callers of fronts trust; empty for authorities of the world. */}}
{{- define "tiltserve.caSecret" -}}
{{- if eq .Values.tls.source "generated" -}}
{{ include "tiltserve.tlsSecret" . }}
{{- else -}}
{{ .Values.tls.caSecretName }}
{{- end -}}
{{- end -}}

{{- define "tiltserve.internalTlsSecret" -}}
{{- if eq .Values.internalTls.source "secret" -}}
{{ required "internalTls.secretName: expected the Secret with tls.crt, tls.key and ca.crt, got none" .Values.internalTls.secretName }}
{{- else -}}
{{ include "tiltserve.name" . }}-internal-tls
{{- end -}}
{{- end -}}

{{- define "tiltserve.tokensSecret" -}}
{{- if eq .Values.tokens.source "secret" -}}
{{ required "tokens.secretName: expected the Secret with tokens.yaml, got none" .Values.tokens.secretName }}
{{- else -}}
{{ include "tiltserve.name" . }}-tokens
{{- end -}}
{{- end -}}

{{- define "tiltserve.testTokenSecret" -}}
{{- if eq .Values.tokens.source "generated" -}}
{{ include "tiltserve.name" . }}-tokens
{{- else -}}
{{ .Values.tokens.testSecretName }}
{{- end -}}
{{- end -}}

{{- define "tiltserve.internalTokenSecret" -}}
{{ .Values.internalToken.secretName | default (printf "%s-internal" (include "tiltserve.name" .)) }}
{{- end -}}

{{- define "tiltserve.rayTokenSecret" -}}
{{ .Values.rayToken.secretName | default (printf "%s-ray" (include "tiltserve.name" .)) }}
{{- end -}}

{{- define "tiltserve.metricsTokenSecret" -}}
{{ .Values.monitoring.metricsTokenSecretName | default (printf "%s-metrics" (include "tiltserve.name" .)) }}
{{- end -}}

{{/* What one server's processes are told: those of fronts, directories and replicas in one file. */}}
{{- define "tiltserve.settings" -}}
{{- $v := .Values -}}
{{- $name := include "tiltserve.name" . -}}
{{- $directories := list -}}
{{- range $i := until (int $v.directory.replicas) -}}
{{- $directories = append $directories (printf "%s-directory-%d.%s-directory.%s.svc:8004" $name $i $name $.Release.Namespace) -}}
{{- end -}}
{{- $open := or (eq $v.tls.source "none") (and (eq $v.tokens.source "none") (not $v.tls.clientCaSecretName)) (eq $v.internalTls.source "none") -}}
{{- if and $open (not $v.insecure) -}}
{{- fail "insecure: expected true with tls.source, internalTls.source or tokens.source none, got false: others could use the server, or read what is on the way" -}}
{{- end -}}
{{- $s := dict
  "release" $name
  "models" (ternary $v.models.bundledPath (ternary $v.models.store.url "/models" (eq $v.models.source "store")) (eq $v.models.source "bundled"))
  "models_cache" "/cache/models"
  "directory" $directories
  "host" $v.bind
  "directory_host" $v.bind
  "directory_port" 8004
  "replica_host" $v.bind
  "replica_port" 8005
  "replica_metrics_ports" "8006-8006"
  "grpc_port" 8001
  "metrics_port" 8002
  "health_port" 8007
  "replicas" (int $v.replicas.count)
  "threads_per_replica" (int $v.replicas.threads)
  "provider" $v.replicas.gpu.provider
  "drain_seconds" (int $v.drainSeconds)
  "lame_duck_seconds" (int $v.front.lameDuckSeconds)
  "internal_token_file" "/etc/tiltserve/internal-token/token"
  "metrics_token_file" "/etc/tiltserve/metrics-token/token"
  "draws_dir" "/cache/draws"
  "artifacts" ($v.models.artifacts | default "/cache/artifacts")
  "tensorrt_cache" "/cache/tensorrt"
-}}
{{- if $v.front.maxConnectionAgeSeconds }}{{- $_ := set $s "max_connection_age_seconds" (int $v.front.maxConnectionAgeSeconds) }}{{- end -}}
{{- if eq $v.models.source "store" -}}
{{- $_ := required "models.store.url: expected an address with models.source store, got none" $v.models.store.url -}}
{{- $_ := set $s "models_poll_seconds" $v.models.store.pollSeconds -}}
{{- end -}}
{{- if $v.insecure }}{{- $_ := set $s "insecure" true }}{{- end -}}
{{- if ne $v.replicas.gpu.provider "cpu" }}{{- $_ := set $s "gpus_per_replica" $v.replicas.gpu.count }}{{- end -}}
{{- if ne $v.tls.source "none" -}}
{{- $_ := set $s "tls_cert" "/etc/tiltserve/tls/tls.crt" -}}
{{- $_ := set $s "tls_key" "/etc/tiltserve/tls/tls.key" -}}
{{- if $v.tls.clientCaSecretName }}{{- $_ := set $s "tls_client_ca" "/etc/tiltserve/client-ca/ca.crt" }}{{- end -}}
{{- else if $v.tls.clientCaSecretName -}}
{{- fail "tls.clientCaSecretName: expected tls.source generated, secret or certManager with it, got none" -}}
{{- end -}}
{{- if ne $v.internalTls.source "none" }}{{- $_ := set $s "internal_tls" "/etc/tiltserve/internal-tls" }}{{- end -}}
{{- if ne $v.tokens.source "none" }}{{- $_ := set $s "tokens" "/etc/tiltserve/tokens/tokens.yaml" }}{{- end -}}
{{- $s = merge $s (dict "log_format" ($v.settings.log_format | default "json")) -}}
{{- toYaml (mergeOverwrite (deepCopy $v.settings) $s) -}}
{{- end -}}

{{/* Mounts of what fronts, directories and replicas share. */}}
{{- define "tiltserve.sharedMounts" -}}
- {name: internal-token, mountPath: /etc/tiltserve/internal-token, readOnly: true}
{{- if ne .Values.internalTls.source "none" }}
- {name: internal-tls, mountPath: /etc/tiltserve/internal-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tiltserve.sharedVolumes" -}}
- name: internal-token
  secret: {secretName: {{ include "tiltserve.internalTokenSecret" . }}}
{{- if ne .Values.internalTls.source "none" }}
- name: internal-tls
  secret: {secretName: {{ include "tiltserve.internalTlsSecret" . }}}
{{- end }}
{{- end -}}

{{/* What judges callers: at fronts, and at replicas that are called directly. */}}
{{- define "tiltserve.guardMounts" -}}
- {name: metrics-token, mountPath: /etc/tiltserve/metrics-token, readOnly: true}
{{- if ne .Values.tls.source "none" }}
- {name: tls, mountPath: /etc/tiltserve/tls, readOnly: true}
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
- {name: client-ca, mountPath: /etc/tiltserve/client-ca, readOnly: true}
{{- end }}
{{- if ne .Values.tokens.source "none" }}
- {name: tokens, mountPath: /etc/tiltserve/tokens, readOnly: true}
{{- end }}
{{- end -}}

{{- define "tiltserve.guardVolumes" -}}
- name: metrics-token
  secret: {secretName: {{ include "tiltserve.metricsTokenSecret" . }}}
{{- if ne .Values.tls.source "none" }}
- name: tls
  secret:
    secretName: {{ include "tiltserve.tlsSecret" . }}
    items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- end }}
{{- with .Values.tls.clientCaSecretName }}
- name: client-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- if ne .Values.tokens.source "none" }}
- name: tokens
  secret: {secretName: {{ include "tiltserve.tokensSecret" . }}, items: [{key: tokens.yaml, path: tokens.yaml}]}
{{- end }}
{{- end -}}

{{/* Seconds between a front's end being asked for and its being killed. */}}
{{- define "tiltserve.frontGrace" -}}
{{ add (int .Values.front.preStopSeconds) (int .Values.front.lameDuckSeconds) (int .Values.drainSeconds) 10 }}
{{- end -}}

{{/* Of a replica: Ray drains for RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, and Serve waits for drainSeconds + 10. */}}
{{- define "tiltserve.rayDrain" -}}
{{ add (int .Values.drainSeconds) (int .Values.front.lameDuckSeconds) 15 }}
{{- end -}}
{{- define "tiltserve.replicaGrace" -}}
{{ add (int (include "tiltserve.rayDrain" .)) 15 }}
{{- end -}}

{{/* Ray's ports, fixed: network policies name them. (list first, last) of its workers. */}}
{{- define "tiltserve.rayPorts" -}}
node-manager-port: "6380"
object-manager-port: "6381"
runtime-env-agent-port: "6382"
dashboard-agent-grpc-port: "6383"
dashboard-agent-listen-port: "52365"
metrics-export-port: "6384"
min-worker-port: "10002"
max-worker-port: "10101"
{{- end -}}
