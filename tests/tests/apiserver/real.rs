//! A kube-apiserver and its etcd, started for one run of the contract.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

use super::cluster::Cluster;

/// The token that the server is told to accept.
const TOKEN: &str = "contract-suite";

/// Both processes; they end with it.
pub(crate) struct RealServer {
    processes: Vec<Child>,
    folder: TempDir,
    port: u16,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended already needs no signal.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl RealServer {
    /// Starts both, or says why not: one of them is not on this machine.
    pub(crate) fn start_here() -> anyhow::Result<Result<Self, String>> {
        let apiserver = manx_tests::kubernetes::binary("kube-apiserver");
        if !apiserver.exists() {
            return Ok(Err(format!(
                "{} is missing (`cargo xtask kubernetes` builds it)",
                apiserver.display()
            )));
        }
        let mut version = Command::new("etcd");
        if version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Ok(Err("etcd is missing (Debian: etcd-server)".to_owned()));
        }
        Self::start(&apiserver, Path::new("etcd")).map(Ok)
    }

    fn start(apiserver: &Path, etcd: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("a folder for etcd")?;
        let [client, peer, secure] = [free_port()?, free_port()?, free_port()?];
        let mut server = Self { processes: Vec::new(), folder, port: secure };
        let of = |port: u16| format!("http://127.0.0.1:{port}");
        server.spawn(
            etcd,
            "etcd",
            &[
                format!("--data-dir={}", server.path("etcd-data")),
                format!("--listen-client-urls={}", of(client)),
                format!("--advertise-client-urls={}", of(client)),
                format!("--listen-peer-urls={}", of(peer)),
                format!("--initial-advertise-peer-urls={}", of(peer)),
                format!("--initial-cluster=default={}", of(peer)),
                "--unsafe-no-fsync".into(),
            ],
        )?;
        let key = server.path("service-account.key");
        openssl(&["genrsa", "-out", &key, "2048"])?;
        let tokens = server.path("tokens.csv");
        std::fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n"))?;
        server.spawn(
            apiserver,
            "kube-apiserver",
            &[
                format!("--etcd-servers={}", of(client)),
                "--bind-address=127.0.0.1".into(),
                format!("--secure-port={secure}"),
                format!("--cert-dir={}", server.path("certificates")),
                "--service-account-issuer=https://kubernetes.default.svc".into(),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                format!("--token-auth-file={tokens}"),
                "--authorization-mode=AlwaysAllow".into(),
                "--disable-admission-plugins=ServiceAccount".into(),
                "--service-cluster-ip-range=10.0.0.0/24".into(),
            ],
        )?;
        Ok(server)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn spawn(&mut self, binary: &Path, name: &str, arguments: &[String]) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.path(&format!("{name}.log")))?;
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        self.processes.push(process);
        Ok(())
    }

    fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: real\n\
             clusters: [{{name: real, cluster: {{server: 'https://127.0.0.1:{}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: real, user: {{token: {TOKEN}}}}}]\n\
             contexts: [{{name: real, context: {{cluster: real, user: real}}}}]\n",
            self.port
        )
    }

    /// A cluster for one test, once the server is ready.
    pub(crate) async fn cluster(&self) -> anyhow::Result<Cluster> {
        let kubeconfig = self.kubeconfig();
        let parsed = Kubeconfig::from_yaml(&kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        let client = kube::Client::try_from(config)?;
        for _ in 0..600 {
            let ready = hyper::Request::get("/readyz").body(Vec::new())?;
            if client.request_text(ready).await.is_ok_and(|answer| answer == "ok") {
                return Ok(Cluster::remote(client, kubeconfig));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!(
            "kube-apiserver is not ready after a minute; its log is in {}",
            self.path("kube-apiserver.log")
        )
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn openssl(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("openssl").args(arguments).output().context("running openssl")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
