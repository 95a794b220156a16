//! Identities for yardsticks, and loads through the naive hop.

use super::process::HopProcess;
use super::quic::CertificateFiles;
use super::{CeilingError, Spread};
use crate::load::{self, Plan, Report};
use caplane::pki::{self, Authority, Issued, Overwrite, Request, Role};
use caplane_transport::{Credentials, TrustBundle};

/// Certificates in a temporary folder that goes with it.
pub struct Yard {
    certificate: CertificateFiles,
    sender: Credentials,
    receiver: Credentials,
    _folder: tempfile::TempDir,
}

impl Yard {
    /// Makes an authority and three certificates.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn open() -> Result<Yard, CeilingError> {
        let folder = tempfile::Builder::new()
            .prefix("caplane-yard-")
            .tempdir()
            .map_err(|e| CeilingError::Io("temporary folder", e))?;
        let authority = Authority::init(folder.path(), pki::TRUST_DOMAIN, Overwrite::Refuse)?;
        let issue = |role: &Role, name: &str| {
            authority.issue(&Request::new(pki::TRUST_DOMAIN, role, name)?)
        };
        let mut trust = TrustBundle::new();
        trust.add_pem(pki::TRUST_DOMAIN, authority.certificate_pem().as_bytes())?;
        let credentials = |issued: &Issued| {
            Credentials::from_pem(
                issued.chain_pem.as_bytes(),
                issued.key_pem.as_bytes(),
                trust.clone(),
            )
        };
        let agent = Role::Agent {
            tenant: "bench".to_owned(),
        };
        issue(&Role::Router, "naive")?.write(folder.path(), "naive", Overwrite::Refuse)?;
        Ok(Yard {
            certificate: CertificateFiles {
                chain: folder.path().join("naive.pem"),
                key: folder.path().join("naive-key.pem"),
            },
            sender: credentials(&issue(&agent, "sender")?)?,
            receiver: credentials(&issue(&agent, "receiver")?)?,
            _folder: folder,
        })
    }

    /// The certificate that yardsticks show.
    pub fn certificate(&self) -> &CertificateFiles {
        &self.certificate
    }

    /// `plan` (one sender, one receiver) through a fresh naive hop with packets as the plan says.
    ///
    /// # Errors
    /// When the hop does not start or the run fails.
    pub fn through_hop(
        &self,
        plan: &Plan,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Report, CeilingError> {
        let hop = HopProcess::start(plan.udp_payload_max, &self.certificate)?;
        let target = hop.target(self.sender.clone(), self.receiver.clone());
        Ok(load::run(plan, &target, tell)?)
    }
}

/// Messages a core-second (millions) of some runs.
pub fn millions(reports: &[Report]) -> Spread {
    Spread::of(reports.iter().map(|report| {
        report
            .router_cpu
            .map_or(0.0, |cpu| cpu.messages_per_core_second / 1e6)
    }))
}

/// Payload gigabits a core-second of some runs.
pub fn gigabits(reports: &[Report]) -> Spread {
    Spread::of(reports.iter().map(|report| {
        report
            .router_cpu
            .map_or(0.0, |cpu| cpu.gbit_per_core_second)
    }))
}
