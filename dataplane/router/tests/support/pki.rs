//! Certificates for one test, in a folder that goes with it.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

pub struct Pki {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

pub struct Files {
    pub uri: String,
    pub chain: PathBuf,
    pub key: PathBuf,
    pub roots: PathBuf,
}

impl Pki {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn roots(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn router(&self, name: &str) -> Files {
        self.issue(&format!("spiffe://caplane.local/router/{name}"), &[])
    }

    pub fn agent(&self, name: &str) -> Files {
        self.issue(
            &format!("spiffe://caplane.local/tenant/shared/agent/{name}"),
            &[],
        )
    }

    pub fn controller(&self) -> Files {
        self.issue(
            "spiffe://caplane.local/controller/c1",
            &["caplane-controller"],
        )
    }

    /// A controller by its DNS name, and something else by its URI.
    pub fn pretender(&self) -> Files {
        self.issue("spiffe://caplane.local/router/c1", &["caplane-controller"])
    }

    fn issue(&self, uri: &str, dns: &[&str]) -> Files {
        let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(dns).unwrap();
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let stem = uri.replace(['/', ':'], "-");
        let chain = self.folder.path().join(format!("{stem}.pem"));
        let key_path = self.folder.path().join(format!("{stem}-key.pem"));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&key_path, key.serialize_pem()).unwrap();
        Files {
            uri: uri.to_owned(),
            chain,
            key: key_path,
            roots: self.roots(),
        }
    }
}
