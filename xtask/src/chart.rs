//! The templates of the Helm chart that are made of kustomize's base: the same text with values in the place of what can
//! be chosen. So what is changed in the base is changed in the chart.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, ensure};

use crate::chore::Root;

/// What stands in the base, and what stands there in the chart.
type Exchange = (&'static str, &'static str);

/// In every template.
const EVERYWHERE: [Exchange; 1] = [("namespace: manx-system", "namespace: {{ .Values.namespace }}")];

/// In the templates of programs; `@` is `agent` or `controller`.
const PROGRAMS: [Exchange; 7] = [
    (
        "\n    app.kubernetes.io/name: manx-@\n    app.kubernetes.io/component: @\n    app.kubernetes.io/part-of: manx\n",
        "\n    {{- include \"manx.labels\" \"@\" | nindent 4 }}\n",
    ),
    (
        "\n        app.kubernetes.io/name: manx-@\n        app.kubernetes.io/component: @\n        app.kubernetes.io/part-of: manx\n",
        "\n        {{- include \"manx.labels\" \"@\" | nindent 8 }}\n",
    ),
    ("imagePullPolicy: IfNotPresent", "imagePullPolicy: {{ .Values.image.pullPolicy }}"),
    (
        "        kubectl.kubernetes.io/default-container: @\n",
        "        kubectl.kubernetes.io/default-container: @\n        {{- with .Values.@.podAnnotations }}\n        \
         {{- toYaml . | nindent 8 }}\n        {{- end }}\n",
    ),
    (
        "      serviceAccountName: manx-@\n",
        "      serviceAccountName: manx-@\n      {{- with .Values.image.pullSecrets }}\n      imagePullSecrets:\n        \
         {{- range . }}\n        - name: {{ . }}\n        {{- end }}\n      {{- end }}\n      \
         {{- with .Values.@.nodeSelector }}\n      nodeSelector:\n        {{- toYaml . | nindent 8 }}\n      {{- end }}\n",
    ),
    ("--log-format=json", "--log-format={{ .Values.@.logFormat }}"),
    ("image: manx:VERSION", "image: {{ include \"manx.image\" . }}"),
];

const AGENT: [Exchange; 7] = [
    (
        "rollingUpdate: {maxUnavailable: 1, maxSurge: 0}",
        "rollingUpdate: {maxUnavailable: {{ .Values.agent.maxUnavailable }}, maxSurge: 0}",
    ),
    ("priorityClassName: system-node-critical", "priorityClassName: {{ .Values.agent.priorityClassName }}"),
    (
        "      tolerations:\n        - {operator: Exists}\n",
        "      tolerations:\n        {{- toYaml .Values.agent.tolerations | nindent 8 }}\n",
    ),
    (
        "            - --cni-bin-dir=/host/bin\n",
        "            - --cni-bin-dir=/host/bin\n            {{- with .Values.agent.metricsListen }}\n            \
         - --metrics-listen={{ . }}\n            {{- end }}\n            {{- with .Values.agent.extraArgs }}\n            \
         {{- toYaml . | nindent 12 }}\n            {{- end }}\n",
    ),
    (
        "            requests: {cpu: 20m, memory: 48Mi}\n            limits: {memory: 512Mi}\n",
        "            {{- toYaml .Values.agent.resources | nindent 12 }}\n",
    ),
    ("path: /opt/cni/bin", "path: {{ .Values.agent.cniBinDir | quote }}"),
    ("path: /etc/cni/net.d", "path: {{ .Values.agent.cniConfDir | quote }}"),
];

const CONTROLLER: [Exchange; 7] = [
    ("replicas: 2\n", "replicas: {{ .Values.controller.replicas }}\n"),
    (
        "priorityClassName: system-cluster-critical",
        "priorityClassName: {{ .Values.controller.priorityClassName }}",
    ),
    (
        "        - {key: manx.dev/agent-not-ready, operator: Exists}\n",
        "        - {key: manx.dev/agent-not-ready, operator: Exists}\n        \
         {{- with .Values.controller.extraTolerations }}\n        {{- toYaml . | nindent 8 }}\n        {{- end }}\n",
    ),
    ("--metrics-listen=127.0.0.1:9180", "--metrics-listen={{ .Values.controller.metricsListen }}"),
    ("port: 9180", "port: {{ include \"manx.port\" .Values.controller.metricsListen }}"),
    (
        "            - --defaults=/etc/manx/defaults\n",
        "            - --defaults=/etc/manx/defaults\n            {{- with .Values.controller.nodeGrace }}\n            \
         - --node-grace={{ . }}\n            {{- end }}\n            {{- with .Values.controller.extraArgs }}\n            \
         {{- toYaml . | nindent 12 }}\n            {{- end }}\n",
    ),
    (
        "            requests: {cpu: 10m, memory: 32Mi}\n            limits: {memory: 256Mi}\n",
        "            {{- toYaml .Values.controller.resources | nindent 12 }}\n",
    ),
];

/// The chart's generated files, made of those of the base: `base` reads one of these.
pub(crate) fn files(
    root: &Root,
    base: impl Fn(&str) -> anyhow::Result<String>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let about = fs::read_to_string(root.join("deploy/helm/manx/Chart.yaml")).context("reading Chart.yaml")?;
    let about = about.lines().map(|line| match line.split_once("ersion: ") {
        Some((name @ ("v" | "appV"), _)) => format!("{name}ersion: {}\n", env!("CARGO_PKG_VERSION")),
        _ => format!("{line}\n"),
    });
    let of = |name: &str| format!("deploy/helm/manx/{name}");
    let program = |file: &str, name: &str, own: &[Exchange]| {
        let text = base(file)?;
        let text = text.replace(&format!("image: manx:{}", env!("CARGO_PKG_VERSION")), "image: manx:VERSION");
        template(file, &text, name, &[&EVERYWHERE, &PROGRAMS[..], own].concat())
    };
    Ok(BTreeMap::from([
        (of("Chart.yaml"), about.collect()),
        (of("files/crds.yaml"), base("crds.yaml")?),
        (of("templates/rbac.yaml"), template("rbac.yaml", &base("rbac.yaml")?, "", &EVERYWHERE)?),
        (of("templates/daemonset.yaml"), program("daemonset.yaml", "agent", &AGENT)?),
        (of("templates/controller.yaml"), program("controller.yaml", "controller", &CONTROLLER)?),
    ]))
}

fn template(file: &str, text: &str, name: &str, exchanges: &[Exchange]) -> anyhow::Result<String> {
    let mut text = without_comments(text);
    for (from, to) in exchanges {
        let (from, to) = (from.replace('@', name), to.replace('@', name));
        ensure!(
            text.contains(&from),
            "deploy/base/{file} has no {from:?} any more: bring xtask/src/chart.rs up to date"
        );
        text = text.replace(&from, &to);
    }
    Ok(format!(
        "{{{{- /* generated by cargo xtask manifests from deploy/base/{file}, which says why */}}}}\n{text}"
    ))
}

/// Reasons stand in the base.
fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_chosen_any_more_is_said() {
        let error =
            template("a.yaml", "replicas: 3\n", "", &[("replicas: 2", "")]).expect_err("it is not there");
        assert!(error.to_string().contains("deploy/base/a.yaml has no \"replicas: 2\""), "{error}");
    }

    #[test]
    fn values_stand_where_the_base_has_what_can_be_chosen() {
        let text = "# why\nreplicas: 2\n";
        let made = template("a.yaml", text, "x", &[("replicas: 2", "replicas: {{ .Values.@.n }}")]);
        assert!(
            made.is_ok_and(|text| text.ends_with("\nreplicas: {{ .Values.x.n }}\n") && !text.contains('#'))
        );
    }
}
