//! The development certification authority: `caplane pki`, `caplane up` and
//! the end-to-end tests issue from it.
//!
//! It knows names, key usages and files. It refuses to know revocation,
//! rotation and hardware keys: production brings its own authority.
//!
//! Peers are named by one URI in the certificate (R2):
//! `spiffe://<trust domain>/controller/<name>`, `…/router/<name>`,
//! `…/tenant/<tenant>/agent/<name>`, `…/operator/<name>`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

mod files;

pub use files::{Overwrite, PemFiles};

/// Trust domain of the development authority unless another is asked for.
pub const TRUST_DOMAIN: &str = "caplane.local";
/// DNS name in every controller's certificate: what routers and the CLI expect of it.
pub const CONTROLLER_DNS: &str = "caplane-controller";
/// The authority's certificate in a state folder.
pub const CA_FILE: &str = "ca.pem";
/// The authority's key in a state folder (mode 0600).
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// Lifetime of a certificate unless another is asked for.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// Lifetime of the development authority.
const CA_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// How far back certificates begin, so that a peer whose clock is behind accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);
/// Longest name of a router, agent, tenant or operator (bytes).
pub const NAME_BYTES_MAX: usize = 64;

/// Why a certificate could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is in the way.
    #[error("{} exists already: nothing was written; give --force to replace it, or another folder", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried: "write", "read", "create".
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A name that cannot stand in a certificate.
    #[error("{what} {value:?} is not usable: {cause}")]
    Name {
        /// "trust domain", "agent name", …
        what: &'static str,
        /// As given.
        value: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// A file that is not what it should be.
    #[error("{}: {cause}; make an authority with `caplane pki init`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// rcgen refused.
    #[error("cannot make a certificate for {subject}: {source}")]
    Certificate {
        /// For whom.
        subject: String,
        /// The cause.
        source: rcgen::Error,
    },
}

/// A certification authority with its key in memory.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    trust_domain: String,
}

impl Authority {
    /// Makes a new authority, in memory only.
    ///
    /// # Errors
    /// [`PkiError::Name`] for a trust domain that is not lower-case letters, digits, `.`, `-`, `_`.
    pub fn generate(trust_domain: &str) -> Result<Self, PkiError> {
        check_trust_domain(trust_domain)?;
        let failed = |source| PkiError::Certificate {
            subject: format!("the authority of {trust_domain}"),
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + CA_LIFETIME).into();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain);
        params
            .distinguished_name
            .push(DnType::CommonName, "Caplane development CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let uri = format!("spiffe://{trust_domain}");
        params.subject_alt_names = vec![uri_san(&uri)?];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate_pem: certificate.pem(),
            trust_domain: trust_domain.to_owned(),
        })
    }

    /// Makes a new authority and writes [`CA_FILE`] and [`CA_KEY_FILE`] into `folder`, which is created.
    ///
    /// # Errors
    /// [`PkiError::Exists`] unless told to overwrite; [`PkiError::Io`].
    pub fn init(folder: &Path, trust_domain: &str, overwrite: Overwrite) -> Result<Self, PkiError> {
        let authority = Self::generate(trust_domain)?;
        files::write_pair(
            &PemFiles {
                chain: folder.join(CA_FILE),
                key: folder.join(CA_KEY_FILE),
            },
            &authority.certificate_pem,
            &authority.issuer.key().serialize_pem(),
            overwrite,
        )?;
        Ok(authority)
    }

    /// Reads the authority that [`Authority::init`] wrote.
    ///
    /// # Errors
    /// [`PkiError::Io`], or [`PkiError::Unreadable`] naming the file.
    pub fn load(folder: &Path) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
        let certificate_pem = files::read(&certificate_path)?;
        let key = KeyPair::from_pem(&files::read(&key_path)?)
            .map_err(|e| unreadable(&key_path, &format!("not a private key in PEM ({e})")))?;
        let trust_domain = trust_domain_of(&certificate_pem, &key)
            .map_err(|cause| unreadable(&certificate_path, &cause))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|e| unreadable(&certificate_path, &format!("not a CA certificate ({e})")))?;
        Ok(Self {
            issuer,
            certificate_pem,
            trust_domain,
        })
    }

    /// Reads the authority in `folder`, or makes one there.
    ///
    /// # Errors
    /// As [`Authority::load`] and [`Authority::init`].
    pub fn load_or_init(folder: &Path, trust_domain: &str) -> Result<Self, PkiError> {
        if folder.join(CA_FILE).exists() || folder.join(CA_KEY_FILE).exists() {
            Self::load(folder)
        } else {
            Self::init(folder, trust_domain, Overwrite::Refuse)
        }
    }

    /// The authority's own certificate: the root that peers trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The trust domain it speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Issues a certificate with a fresh P-256 key.
    ///
    /// # Errors
    /// [`PkiError::Name`] or [`PkiError::Certificate`].
    pub fn issue(&self, request: &Request) -> Result<Issued, PkiError> {
        let failed = |source| PkiError::Certificate {
            subject: request.common_name.clone(),
            source,
        };
        let mut params = CertificateParams::new(request.dns_names.clone()).map_err(failed)?;
        for uri in &request.uris {
            params.subject_alt_names.push(uri_san(uri)?);
        }
        params.not_before = request.not_before.into();
        params.not_after = request.not_after.into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, request.common_name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages.clone_from(&request.key_usages);
        params
            .extended_key_usages
            .clone_from(&request.extended_key_usages);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued {
            uri: request.uris.first().cloned().unwrap_or_default(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A controller; carries the DNS names [`CONTROLLER_DNS`] and `localhost` as well.
    Controller,
    /// A router.
    Router,
    /// An agent of a tenant.
    Agent {
        /// The tenant's name.
        tenant: String,
    },
    /// A person or program that drives the northbound API.
    Operator,
}

impl Role {
    /// "controller", "router", "agent", "operator": also the first part of the file names.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Router => "router",
            Self::Agent { .. } => "agent",
            Self::Operator => "operator",
        }
    }
}

/// What a certificate is to say. The fields are open so that a test can ask for
/// one that must be refused: expired, two URIs, the wrong usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Subject common name: for people only, never checked.
    pub common_name: String,
    /// URI subject alternative names; peers demand exactly one.
    pub uris: Vec<String>,
    /// DNS names or IP addresses.
    pub dns_names: Vec<String>,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
    /// Key usage; digitalSignature by default.
    pub key_usages: Vec<KeyUsagePurpose>,
    /// Extended key usage; clientAuth, and serverAuth too for controllers and routers.
    pub extended_key_usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Request {
    /// A certificate for `name` in `role`, valid from an hour ago for [`LEAF_LIFETIME`].
    ///
    /// # Errors
    /// [`PkiError::Name`] when a name is empty, too long, or not of `A-Z a-z 0-9 . - _`.
    pub fn new(trust_domain: &str, role: &Role, name: &str) -> Result<Self, PkiError> {
        let uri = uri_of(trust_domain, role, name)?;
        let (dns_names, server) = match role {
            Role::Controller => (
                vec![CONTROLLER_DNS.to_owned(), "localhost".to_owned()],
                true,
            ),
            Role::Router => (Vec::new(), true),
            Role::Agent { .. } | Role::Operator => (Vec::new(), false),
        };
        let mut extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if server {
            extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let now = SystemTime::now();
        Ok(Self {
            common_name: format!("{} {name}", role.as_str()),
            uris: vec![uri],
            dns_names,
            not_before: now - CLOCK_SKEW,
            not_after: now + LEAF_LIFETIME,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            extended_key_usages,
        })
    }

    /// The same, ending `lifetime` from now.
    #[must_use]
    pub fn valid_for(mut self, lifetime: Duration) -> Self {
        self.not_after = SystemTime::now() + lifetime;
        self
    }

    /// The same, ended an hour ago.
    #[must_use]
    pub fn expired(mut self) -> Self {
        let now = SystemTime::now();
        self.not_before = now - Duration::from_secs(7_200);
        self.not_after = now - Duration::from_secs(3_600);
        self
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The first URI asked for.
    pub uri: String,
    /// The certificate chain, leaf first, without the root.
    pub chain_pem: String,
    /// The private key, PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        f.debug_struct("Issued")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

impl Issued {
    /// Writes `<stem>.pem` and `<stem>-key.pem` (mode 0600) into `folder`, which is created.
    ///
    /// # Errors
    /// [`PkiError::Exists`] unless told to overwrite; [`PkiError::Io`].
    pub fn write(
        &self,
        folder: &Path,
        stem: &str,
        overwrite: Overwrite,
    ) -> Result<PemFiles, PkiError> {
        let files = PemFiles::at(folder, stem);
        files::write_pair(&files, &self.chain_pem, &self.key_pem, overwrite)?;
        Ok(files)
    }
}

/// Issues for `name` in `role` and writes `<role>-<name>.pem` and `<role>-<name>-key.pem` into `folder`.
///
/// # Errors
/// As [`Request::new`], [`Authority::issue`] and [`Issued::write`].
pub fn issue_to(
    authority: &Authority,
    folder: &Path,
    role: &Role,
    name: &str,
    overwrite: Overwrite,
) -> Result<(Issued, PemFiles), PkiError> {
    let issued = authority.issue(&Request::new(authority.trust_domain(), role, name)?)?;
    let files = issued.write(folder, &format!("{}-{name}", role.as_str()), overwrite)?;
    Ok((issued, files))
}

/// The URI that names `name` in `role`.
///
/// # Errors
/// [`PkiError::Name`].
pub fn uri_of(trust_domain: &str, role: &Role, name: &str) -> Result<String, PkiError> {
    check_trust_domain(trust_domain)?;
    check_name("name", name)?;
    Ok(match role {
        Role::Agent { tenant } => {
            check_name("tenant", tenant)?;
            format!("spiffe://{trust_domain}/tenant/{tenant}/agent/{name}")
        }
        other => format!("spiffe://{trust_domain}/{}/{name}", other.as_str()),
    })
}

fn check_name(what: &'static str, value: &str) -> Result<(), PkiError> {
    let refuse = |cause: &str| {
        Err(PkiError::Name {
            what,
            value: value.to_owned(),
            cause: cause.to_owned(),
        })
    };
    if value.is_empty() || value.len() > NAME_BYTES_MAX {
        return refuse("give 1 to 64 characters");
    }
    if value == "." || value == ".." {
        return refuse("a path segment may not be a dot or two");
    }
    match value
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
    {
        Some(bad) => refuse(&format!("{bad:?} is not one of A-Z a-z 0-9 . - _")),
        None => Ok(()),
    }
}

fn check_trust_domain(value: &str) -> Result<(), PkiError> {
    let fits =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    if !value.is_empty() && value.len() <= 255 && value.chars().all(fits) {
        return Ok(());
    }
    Err(PkiError::Name {
        what: "trust domain",
        value: value.to_owned(),
        cause: "give 1 to 255 of a-z 0-9 . - _ (SPIFFE-ID section 2.1)".to_owned(),
    })
}

fn uri_san(uri: &str) -> Result<SanType, PkiError> {
    let name = uri.try_into().map_err(|e: rcgen::Error| PkiError::Name {
        what: "URI",
        value: uri.to_owned(),
        cause: e.to_string(),
    })?;
    Ok(SanType::URI(name))
}

/// Reads the trust domain out of a CA certificate and checks that `key` is its key.
fn trust_domain_of(certificate_pem: &str, key: &KeyPair) -> Result<String, String> {
    use x509_parser::extensions::GeneralName;
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
        .map_err(|e| format!("not a certificate in PEM ({e})"))?;
    let certificate = pem
        .parse_x509()
        .map_err(|e| format!("not a certificate ({e})"))?;
    if certificate.public_key().subject_public_key.data != key.public_key_raw() {
        return Err(format!(
            "{CA_KEY_FILE} beside it is the key of another certificate"
        ));
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| e.to_string())?;
    names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://").map(str::to_owned),
            _ => None,
        })
        .ok_or_else(|| "has no spiffe://<trust domain> name".to_owned())
}

fn unreadable(path: &Path, cause: &str) -> PkiError {
    PkiError::Unreadable {
        path: path.to_owned(),
        cause: cause.to_owned(),
    }
}

#[cfg(test)]
mod tests;
