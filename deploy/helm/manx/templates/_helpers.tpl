{{/* The image of everything. */}}
{{- define "manx.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* Labels of one of the two. */}}
{{- define "manx.labels" -}}
app.kubernetes.io/name: manx-{{ . }}
app.kubernetes.io/component: {{ . }}
app.kubernetes.io/part-of: manx
{{- end }}

{{/* One of the objects to begin with. */}}
{{- define "manx.object" -}}
apiVersion: manx.dev/v1alpha1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
spec:
  {{- toYaml .spec | nindent 2 }}
{{ end }}

{{/* The port of HOST:PORT. */}}
{{- define "manx.port" -}}
{{ regexReplaceAll "^.*:" . "" }}
{{- end }}
