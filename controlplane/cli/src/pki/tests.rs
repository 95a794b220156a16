use std::os::unix::fs::PermissionsExt;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::*;

use super::*;

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .expect("PEM")
        .1
        .contents
}

#[test]
fn a_router_certificate_says_who_it_is_and_what_it_may() {
    let authority = Authority::generate(TRUST_DOMAIN).expect("authority");
    let request = Request::new(TRUST_DOMAIN, &Role::Router, "r1").expect("request");
    let issued = authority.issue(&request).expect("issued");
    assert_eq!(issued.uri, "spiffe://caplane.local/router/r1");

    let (leaf, root) = (der(&issued.chain_pem), der(authority.certificate_pem()));
    let (_, leaf) = X509Certificate::from_der(&leaf).expect("leaf");
    let (_, root) = X509Certificate::from_der(&root).expect("root");
    leaf.verify_signature(Some(root.public_key()))
        .expect("signed by the authority");
    assert_eq!(leaf.issuer(), root.subject());
    assert!(leaf.validity().is_valid() && root.is_ca() && !leaf.is_ca());
    let usage = leaf
        .extended_key_usage()
        .expect("parses")
        .expect("present")
        .value;
    assert!(usage.client_auth && usage.server_auth);
    assert!(
        leaf.key_usage()
            .expect("parses")
            .expect("present")
            .value
            .digital_signature()
    );
    let names = &leaf
        .subject_alternative_name()
        .expect("parses")
        .expect("present")
        .value
        .general_names;
    assert!(matches!(
        names[..],
        [GeneralName::URI("spiffe://caplane.local/router/r1")]
    ));
}

#[test]
fn an_agent_may_not_serve_and_a_controller_has_its_dns_name() {
    let agent = Request::new(
        TRUST_DOMAIN,
        &Role::Agent {
            tenant: "acme".into(),
        },
        "fx",
    )
    .expect("agent");
    assert_eq!(agent.uris, ["spiffe://caplane.local/tenant/acme/agent/fx"]);
    assert_eq!(
        agent.extended_key_usages,
        [ExtendedKeyUsagePurpose::ClientAuth]
    );
    let controller = Request::new(TRUST_DOMAIN, &Role::Controller, "c1").expect("controller");
    assert_eq!(controller.dns_names, ["caplane-controller", "localhost"]);
}

#[test]
fn tests_can_ask_for_what_must_be_refused() {
    let authority = Authority::generate(TRUST_DOMAIN).expect("authority");
    let mut request = Request::new(TRUST_DOMAIN, &Role::Operator, "eve")
        .expect("request")
        .expired();
    request.uris.push("spiffe://caplane.local/router/r1".into());
    request.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let leaf = der(&authority.issue(&request).expect("issued").chain_pem);
    let (_, leaf) = X509Certificate::from_der(&leaf).expect("leaf");
    assert!(!leaf.validity().is_valid());
    let names = &leaf
        .subject_alternative_name()
        .expect("parses")
        .expect("present")
        .value
        .general_names;
    assert_eq!(names.len(), 2);
    let usage = leaf
        .extended_key_usage()
        .expect("parses")
        .expect("present")
        .value;
    assert!(usage.code_signing && !usage.client_auth);
}

#[test]
fn an_authority_read_back_issues_what_the_first_one_would() {
    let folder = tempfile::tempdir().expect("folder");
    let state = folder.path().join("new/state");
    let first = Authority::init(&state, "example.org", Overwrite::Refuse).expect("init");
    let again = Authority::load_or_init(&state, "ignored.when.present").expect("load");
    assert_eq!(again.trust_domain(), "example.org");
    assert_eq!(again.certificate_pem(), first.certificate_pem());
    let (issued, files) =
        issue_to(&again, &state, &Role::Router, "r1", Overwrite::Refuse).expect("issue");
    assert_eq!(files, PemFiles::at(&state, "router-r1"));
    let (leaf, root) = (der(&issued.chain_pem), der(first.certificate_pem()));
    let (_, leaf) = X509Certificate::from_der(&leaf).expect("leaf");
    let (_, root) = X509Certificate::from_der(&root).expect("root");
    leaf.verify_signature(Some(root.public_key()))
        .expect("signed by the same key");
    assert_eq!(leaf.issuer(), root.subject());

    for key in [state.join(CA_KEY_FILE), files.key.clone()] {
        let mode = std::fs::metadata(&key).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
    assert_eq!(
        std::fs::read_to_string(&files.key).expect("key"),
        issued.key_pem
    );
}

#[test]
fn nothing_is_replaced_unasked() {
    let folder = tempfile::tempdir().expect("folder");
    let first = Authority::init(folder.path(), TRUST_DOMAIN, Overwrite::Refuse).expect("init");
    let error =
        Authority::init(folder.path(), TRUST_DOMAIN, Overwrite::Refuse).expect_err("exists");
    assert!(
        error.to_string().contains("ca.pem exists already"),
        "{error}"
    );
    assert!(error.to_string().contains("--force"), "{error}");
    // A lone key is in the way too: the certificate must not be written beside it.
    std::fs::remove_file(folder.path().join(CA_FILE)).expect("removed");
    Authority::init(folder.path(), TRUST_DOMAIN, Overwrite::Refuse).expect_err("key exists");
    assert!(!folder.path().join(CA_FILE).exists());
    let second = Authority::init(folder.path(), TRUST_DOMAIN, Overwrite::Replace).expect("forced");
    assert_ne!(first.certificate_pem(), second.certificate_pem());
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listing").collect();
    assert_eq!(left.len(), 2, "no drafts stay behind: {left:?}");
}

#[test]
fn errors_name_the_file_and_the_remedy() {
    let folder = tempfile::tempdir().expect("folder");
    let missing = Authority::load(folder.path()).expect_err("nothing there");
    assert!(missing.to_string().starts_with("cannot read "), "{missing}");
    Authority::init(folder.path(), TRUST_DOMAIN, Overwrite::Refuse).expect("init");
    let other = Authority::generate(TRUST_DOMAIN).expect("another");
    std::fs::write(folder.path().join(CA_FILE), other.certificate_pem()).expect("swap");
    let swapped = Authority::load(folder.path())
        .expect_err("wrong key")
        .to_string();
    assert!(
        swapped.contains("ca.pem: ca-key.pem beside it is the key of another"),
        "{swapped}"
    );
    std::fs::write(folder.path().join(CA_KEY_FILE), "nonsense").expect("break");
    let broken = Authority::load(folder.path())
        .expect_err("no key")
        .to_string();
    assert!(
        broken.contains("ca-key.pem: not a private key") && broken.contains("caplane pki init"),
        "{broken}"
    );
}

#[test]
fn names_that_cannot_stand_in_a_uri_are_refused_with_the_reason() {
    for (name, cause) in [
        ("", "1 to 64"),
        ("a/b", "'/' is not one of"),
        ("..", "dot"),
        ("ü", "is not one of"),
        (&"x".repeat(65), "1 to 64"),
    ] {
        let error = Request::new(TRUST_DOMAIN, &Role::Router, name)
            .expect_err(name)
            .to_string();
        assert!(error.contains(cause), "{error}");
    }
    let error = Authority::generate("Upper.Case")
        .expect_err("upper case")
        .to_string();
    assert!(error.contains("trust domain \"Upper.Case\""), "{error}");
    let tenant = Role::Agent {
        tenant: "a b".into(),
    };
    assert!(
        Request::new(TRUST_DOMAIN, &tenant, "x")
            .expect_err("tenant")
            .to_string()
            .contains("tenant \"a b\"")
    );
}
