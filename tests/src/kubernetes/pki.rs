//! Certificates, keys and kubeconfigs of a cluster: one CA, and a client certificate for whoever speaks to the API
//! server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// The folder that holds them, as files that programs are pointed to.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

/// A user of the API server.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The name of its files.
    pub file: &'a str,
    /// The user: the certificate's common name.
    pub user: &'a str,
    /// The user's group: the certificate's organization.
    pub group: &'a str,
}

/// Who signs: kept while certificates are made, and written for the controller-manager's own signing.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// The certificates below `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The certificate of `name`, such as `ca` or `apiserver`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The private key of `name`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// The kubeconfig of `name`.
    pub fn kubeconfig(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.conf"))
    }

    /// Makes the CA, and the key that signs tokens of service accounts.
    pub fn begin(&self) -> Result<Authority> {
        std::fs::create_dir_all(&self.dir)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "manx-lab-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        std::fs::write(self.certificate("ca"), certificate.pem())?;
        std::fs::write(self.key("ca"), key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        std::fs::write(self.key("sa"), accounts.serialize_pem())?;
        std::fs::write(self.dir.join("sa.pub"), accounts.public_key_pem())?;
        Ok(Authority { issuer: Issuer::new(params, key) })
    }

    /// Opens the CA of a cluster that is up, to add a node.
    pub fn reopen(&self) -> Result<Authority> {
        let key = std::fs::read_to_string(self.key("ca")).context("the cluster's CA")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "manx-lab-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Authority { issuer: Issuer::new(params, KeyPair::from_pem(&key)?) })
    }

    /// The public half of the key that signs tokens of service accounts.
    pub fn account_key(&self) -> PathBuf {
        self.dir.join("sa.pub")
    }

    /// Issues a certificate for `identity`, good as a client and, for `names` and `addresses`, as a server.
    pub fn issue(
        &self,
        authority: &Authority,
        identity: Identity<'_>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut alternatives: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        alternatives.extend(addresses.iter().map(ToString::to_string));
        let mut params = CertificateParams::new(alternatives)?;
        params.distinguished_name.push(DnType::CommonName, identity.user);
        params.distinguished_name.push(DnType::OrganizationName, identity.group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &authority.issuer)?;
        std::fs::write(self.certificate(identity.file), certificate.pem())?;
        std::fs::write(self.key(identity.file), key.serialize_pem())?;
        Ok(())
    }

    /// [`Pki::issue`] for a client, with a kubeconfig for the API server at `server`.
    pub fn client(&self, authority: &Authority, identity: Identity<'_>, server: &str) -> Result<()> {
        self.issue(authority, identity, &[], &[])?;
        self.write_kubeconfig(identity.file, server)
    }

    /// Writes the kubeconfig of whom `file` was issued for.
    pub fn write_kubeconfig(&self, file: &str, server: &str) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             contexts:\n- name: lab\n  context: {{cluster: lab, user: {file}}}\n\
             clusters:\n- name: lab\n  cluster:\n    server: {server}\n    certificate-authority: {}\n\
             users:\n- name: {file}\n  user:\n    client-certificate: {}\n    client-key: {}\n",
            path(&self.certificate("ca")),
            path(&self.certificate(file)),
            path(&self.key(file)),
        );
        std::fs::write(self.kubeconfig(file), text).map_err(Into::into)
    }
}
