//! `kubectl manx`: manxctl as a plugin of the real kubectl, called by an administrator where the API server is.

use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Cluster, binary, program};
use crate::lab::netns;

impl Cluster {
    /// `kubectl`, with the program of the image on its PATH as `kubectl-manx` and `kubectl_complete-manx`.
    ///
    /// # Errors
    /// When the image was not built beside this program.
    pub fn kubectl_with_plugin(&self) -> Result<Command> {
        let program = program("manxctl")?;
        let dir = self.dir.join("plugins");
        std::fs::create_dir_all(&dir)?;
        for name in ["kubectl-manx", "kubectl_complete-manx"] {
            let link = dir.join(name);
            if !link.exists() {
                symlink(&program, &link).with_context(|| format!("cannot make {}", link.display()))?;
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = netns::command(&self.netns("cp"), binary("kubectl"));
        command.env("PATH", format!("{}:{path}", dir.display()));
        command.env("KUBECONFIG", self.kubeconfig());
        Ok(command)
    }
}
