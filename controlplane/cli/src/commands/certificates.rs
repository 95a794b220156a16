//! `caplane pki`.

use std::time::Duration;

use serde_json::json;

use crate::arguments::{PkiCommand, RoleName};
use crate::failure::Failure;
use crate::output::Output;
use crate::pki::{Authority, CA_FILE, CA_KEY_FILE, Overwrite, Request, Role};
use crate::settings::Settings;

pub(super) fn run(settings: &Settings, command: PkiCommand) -> Result<Output, Failure> {
    let folder = &settings.state;
    let overwrite = |force| {
        if force {
            Overwrite::Replace
        } else {
            Overwrite::Refuse
        }
    };
    match command {
        PkiCommand::Init {
            trust_domain,
            force,
        } => {
            Authority::init(folder, &trust_domain, overwrite(force))?;
            let (certificate, key) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
            let text = format!(
                "a development authority for {trust_domain}: {} and {}\nnext: caplane pki issue controller c1\n",
                certificate.display(),
                key.display()
            );
            let json =
                json!({ "trust_domain": trust_domain, "certificate": certificate, "key": key });
            Ok(Output::new("caplane.authority/1", json, text))
        }
        PkiCommand::Issue {
            role,
            name,
            tenant,
            days,
            dns,
            force,
        } => {
            let role = match role {
                RoleName::Controller => Role::Controller,
                RoleName::Router => Role::Router,
                RoleName::Agent => Role::Agent { tenant },
                RoleName::Operator => Role::Operator,
            };
            let authority = Authority::load(folder)?;
            let lifetime = Duration::from_secs(days * 86_400);
            let mut request =
                Request::new(authority.trust_domain(), &role, &name)?.valid_for(lifetime);
            request.dns_names.extend(dns);
            let issued = authority.issue(&request)?;
            let stem = format!("{}-{name}", role.as_str());
            let files = issued.write(folder, &stem, overwrite(force))?;
            let text = format!(
                "{} for {days} days: {} and {}\n",
                issued.uri,
                files.chain.display(),
                files.key.display()
            );
            let json =
                json!({ "uri": issued.uri, "chain": files.chain, "key": files.key, "days": days });
            Ok(Output::new("caplane.certificate/1", json, text))
        }
    }
}
