//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler, on a host of their own behind the router.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::network::{self, Family, KUBERNETES_SERVICE, PODS, SERVICES, control_plane_address};
use super::pki::{Authority, Identity};
use super::process::Daemon;
use super::{Cluster, PATIENCE, binary};
use crate::lab::netns;

/// Where etcd listens, inside the control plane's namespace.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
/// Who asked what, by whom, with which answer; never what was in it.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
                            rules:\n- level: Metadata\n";

/// The control plane of a cluster.
#[derive(Debug)]
pub struct ControlPlane<'a> {
    cluster: &'a Cluster,
}

impl Cluster {
    /// The control plane.
    pub fn control_plane(&self) -> ControlPlane<'_> {
        ControlPlane { cluster: self }
    }

    /// The API server as a URL.
    pub fn api_server(&self) -> String {
        match control_plane_address(self.families().primary()) {
            std::net::IpAddr::V4(address) => format!("https://{address}:6443"),
            std::net::IpAddr::V6(address) => format!("https://[{address}]:6443"),
        }
    }

    pub(super) fn issue_certificates(&self) -> Result<()> {
        let (pki, server) = (self.pki(), self.api_server());
        let authority = pki.begin()?;
        let mut addresses = self.control_plane_host().addresses;
        addresses.push(std::net::Ipv4Addr::LOCALHOST.into());
        for address in KUBERNETES_SERVICE {
            addresses.push(address.parse()?);
        }
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let own = Identity { file: "apiserver", user: "kube-apiserver", group: "manx-lab" };
        pki.issue(&authority, own, &names, &addresses)?;
        let to_kubelets =
            Identity { file: "kubelet-client", user: "kube-apiserver", group: "system:masters" };
        pki.issue(&authority, to_kubelets, &[], &[])?;
        for (file, user, group) in [
            ("admin", "admin", "system:masters"),
            ("controller-manager", "system:kube-controller-manager", "manx-lab"),
            ("scheduler", "system:kube-scheduler", "manx-lab"),
            ("proxy", "system:kube-proxy", "manx-lab"),
        ] {
            pki.client(&authority, Identity { file, user, group }, &server)?;
        }
        self.state.nodes.iter().try_for_each(|number| self.issue_node_certificate(&authority, *number))
    }

    pub(super) fn issue_node_certificate(&self, authority: &Authority, number: usize) -> Result<()> {
        let (node, pki) = (self.node(number), self.pki());
        let name = node.name();
        let file = format!("kubelet-{name}");
        let identity = Identity { file: &file, user: &format!("system:node:{name}"), group: "system:nodes" };
        pki.issue(authority, identity, &[&name], &node.addresses())?;
        pki.write_kubeconfig(&file, &self.api_server())
    }
}

impl ControlPlane<'_> {
    fn daemon(&self, name: &str) -> Daemon {
        Daemon::new(name, self.cluster.dir.join("cp"))
    }

    /// etcd.
    pub fn etcd(&self) -> Daemon {
        self.daemon("etcd")
    }

    /// kube-apiserver.
    pub fn apiserver(&self) -> Daemon {
        self.daemon("apiserver")
    }

    /// kube-controller-manager.
    pub fn controller_manager(&self) -> Daemon {
        self.daemon("controller-manager")
    }

    /// kube-scheduler.
    pub fn scheduler(&self) -> Daemon {
        self.daemon("scheduler")
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        netns::command(&self.cluster.netns("cp"), program)
    }

    /// Starts etcd, also after it was ended; its data are those of before.
    pub fn start_etcd(&self) -> Result<()> {
        let mut command = self.command("etcd");
        command.arg("--data-dir").arg(self.cluster.dir.join("cp/etcd")).args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
            "--listen-peer-urls",
            ETCD_PEER,
            "--initial-advertise-peer-urls",
            ETCD_PEER,
            "--initial-cluster",
            "default=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        ]);
        self.etcd().start(&command)
    }

    /// Starts all but etcd.
    pub(super) fn start(&self) -> Result<()> {
        self.start_apiserver()?;
        self.start_controller_manager()?;
        self.start_scheduler()
    }

    /// Starts kube-apiserver, also after [`ControlPlane::stop_apiserver`], and waits until it is ready.
    pub fn start_apiserver(&self) -> Result<()> {
        let cluster = self.cluster;
        let (pki, families) = (cluster.pki(), cluster.families());
        let policy = cluster.dir.join("cp/audit-policy.yaml");
        std::fs::write(&policy, AUDIT_POLICY)?;
        let any = if families.list().contains(&Family::Ipv6) { "::" } else { "0.0.0.0" };
        let mut command = self.command(binary("kube-apiserver"));
        let path = |path: std::path::PathBuf| path.display().to_string();
        command.args([
            format!("--etcd-servers={ETCD}"),
            "--secure-port=6443".to_owned(),
            format!("--bind-address={any}"),
            format!("--advertise-address={}", control_plane_address(families.primary())),
            format!("--tls-cert-file={}", path(pki.certificate("apiserver"))),
            format!("--tls-private-key-file={}", path(pki.key("apiserver"))),
            format!("--client-ca-file={}", path(pki.certificate("ca"))),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--kubelet-client-certificate={}", path(pki.certificate("kubelet-client"))),
            format!("--kubelet-client-key={}", path(pki.key("kubelet-client"))),
            format!("--kubelet-certificate-authority={}", path(pki.certificate("ca"))),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path(pki.account_key())),
            format!("--service-account-signing-key-file={}", path(pki.key("sa"))),
            format!("--service-cluster-ip-range={}", families.join(SERVICES)),
            format!("--audit-policy-file={}", path(policy)),
            format!("--audit-log-path={}", path(cluster.dir.join("cp/audit.log"))),
        ]);
        let daemon = self.apiserver();
        daemon.start(&command)?;
        daemon.wait("the API server is ready", PATIENCE, || {
            cluster.kubectl(&["get", "--raw", "/readyz"]).map(|_| true)
        })
    }

    /// Ends kube-apiserver: its connections break and new ones are refused.
    pub fn stop_apiserver(&self) -> Result<()> {
        self.apiserver().stop(Duration::from_secs(3))
    }

    /// Stops kube-apiserver in the middle of whatever it does, so that its clients wait in vain, or lets it go on.
    pub fn freeze_apiserver(&self, frozen: bool) -> Result<()> {
        self.apiserver().signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Starts kube-controller-manager.
    pub fn start_controller_manager(&self) -> Result<()> {
        let (pki, families) = (self.cluster.pki(), self.cluster.families());
        let kubeconfig = pki.kubeconfig("controller-manager");
        let mut command = self.command(binary("kube-controller-manager"));
        command.args(serving(&kubeconfig)).args([
            "--leader-elect=false".to_owned(),
            format!("--service-account-private-key-file={}", pki.key("sa").display()),
            format!("--root-ca-file={}", pki.certificate("ca").display()),
            "--use-service-account-credentials=true".to_owned(),
            format!("--allocate-node-cidrs={}", self.cluster.state.options.allocate_node_cidrs),
            format!("--cluster-cidr={}", families.join(PODS)),
            format!("--service-cluster-ip-range={}", families.join(SERVICES)),
            format!("--cluster-signing-cert-file={}", pki.certificate("ca").display()),
            format!("--cluster-signing-key-file={}", pki.key("ca").display()),
            format!("--node-monitor-grace-period={}s", network::NODE_GRACE.as_secs()),
        ]);
        self.controller_manager().start(&command)
    }

    /// Starts kube-scheduler.
    pub fn start_scheduler(&self) -> Result<()> {
        let kubeconfig = self.cluster.pki().kubeconfig("scheduler");
        let mut command = self.command(binary("kube-scheduler"));
        command.args(serving(&kubeconfig)).arg("--leader-elect=false");
        self.scheduler().start(&command)
    }
}

/// What controller-manager and scheduler have in common.
fn serving(kubeconfig: &std::path::Path) -> [String; 4] {
    let kubeconfig = kubeconfig.display();
    [
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--bind-address=127.0.0.1".to_owned(),
    ]
}
