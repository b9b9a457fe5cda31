{{/* Environment of Ray's containers. The reasons are in deploy/cluster.py. */}}
{{- define "tiltserve.rayEnv" -}}
- {name: HOME, value: /tmp}
- {name: OMP_NUM_THREADS, value: "1"}
- {name: GRPC_VERBOSITY, value: ERROR}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
- {name: RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S, value: {{ include "tiltserve.rayDrain" . | quote }}}
# without a token Ray's Jobs API runs any command for whoever reaches it
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ include "tiltserve.rayTokenSecret" . }}, key: auth_token}
{{- end -}}

{{/* Ports of a node of Ray's that the others of its cluster call. */}}
{{- define "tiltserve.rayNodePorts" -}}
- {port: 6380, endPort: 6384, protocol: TCP}
- {port: 52365, protocol: TCP}
- {port: 10002, endPort: 10101, protocol: TCP}
{{- end -}}

{{- define "tiltserve.rayPods" -}}
{{- range list "head" "replica" }}
- podSelector:
    matchLabels:
      {{- include "tiltserve.selector" $ | nindent 6 }}
      app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}
