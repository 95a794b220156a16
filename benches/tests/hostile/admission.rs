//! Who is not let in, and that nothing of theirs is forwarded.

use boring::pkey::PKey;
use boring::rsa::Rsa;
use caplane::pki::{Authority, Issued, Request, Role};
use caplane_proto::v1::ByeCode;
use caplane_wire::CloseCode;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::peer::{Identity, Peer};
use crate::scene::{CLASS, Scene, pem};

/// `certificate_required` as a transport error (RFC 9001 section 4.8, RFC 8446 section 6).
const CERTIFICATE_REQUIRED: u64 = 0x100 + 116;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_certificate_is_refused_with_its_own_reason() {
    let mut scene = Scene::set(1).await;
    let honest = scene.rogue("honest").await;
    let authority = scene.stage.fabric.authority();
    let good = request(authority, "rogue");
    let other = Authority::generate(authority.trust_domain()).expect("another authority");
    let two = Request {
        uris: vec![good.uris[0].clone(), format!("{}2", good.uris[0])],
        ..good.clone()
    };
    let no_name = Request {
        uris: Vec::new(),
        ..good.clone()
    };
    let server_only = Request {
        extended_key_usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..good.clone()
    };
    let elsewhere = Request {
        uris: vec!["spiffe://elsewhere.test/agent/rogue".to_owned()],
        ..good.clone()
    };
    let cases = [
        ("no_certificate", None),
        ("unknown_issuer", Some(issue(&other, &good))),
        ("expired", Some(issue(authority, &good.clone().expired()))),
        ("extended_key_usage", Some(issue(authority, &server_only))),
        ("key_usage", Some(for_key_agreement_only(&scene, &good))),
        ("several_uris", Some(issue(authority, &two))),
        ("no_uri", Some(issue(authority, &no_name))),
        ("unknown_trust_domain", Some(issue(authority, &elsewhere))),
    ];
    for (number, (reason, identity)) in cases.into_iter().enumerate() {
        let identity = identity.as_ref();
        let identity = identity.map(|(chain, key)| (chain.as_str(), key.as_str()));
        let rogue = intrude(&scene, identity).await;
        let end = rogue.end().await;
        assert!(!end.application, "{reason}: {end:?}");
        if reason == "no_certificate" {
            assert_eq!(end.code, CERTIFICATE_REQUIRED);
        }
        scene
            .counted(
                "router_handshakes_refused_total",
                &[("reason", reason)],
                1.0,
            )
            .await;
        let all = scene.count("router_handshakes_refused_total", &[]).await;
        assert_eq!(all, (number + 1) as f64, "{reason} is counted once");
        scene.serves(reason).await;
    }
    scene.victim_got_nothing_but_from(&honest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_that_is_not_registered_is_told_so_and_forwarded_nothing() {
    let mut scene = Scene::set(1).await;
    let honest = scene.rogue("honest").await;
    let stranger = scene.stage.fabric.issue_agent("shared", "stranger");
    let (chain, key) = pem(&stranger.expect("a certificate"));
    let rogue = intrude(&scene, Some((&chain, &key))).await;
    let bye = rogue.bye().await;
    assert_eq!(bye.code(), ByeCode::UnknownIdentity, "{}", bye.reason);
    assert!(!bye.reason.is_empty());
    let end = rogue.end().await;
    assert!(end.application, "{end:?}");
    assert_eq!(end.code, CloseCode::UnknownIdentity.number());
    scene
        .counted("router_byes_total", &[("code", "unknown_identity")], 1.0)
        .await;
    scene.serves("a stranger").await;
    scene.victim_got_nothing_but_from(&honest).await;
}

/// Dials, and sends Hello and a message for the victim without waiting to be let in.
async fn intrude(scene: &Scene, identity: Option<Identity<'_>>) -> Peer {
    let rogue = Peer::dial(scene.entry(), identity).await;
    rogue.hello("one");
    let header = rogue.header(scene.target(), CLASS, 5);
    rogue.send(header, b"rogue");
    rogue
}

fn request(authority: &Authority, name: &str) -> Request {
    let role = Role::Agent {
        tenant: "shared".to_owned(),
    };
    Request::new(authority.trust_domain(), &role, name).expect("a name")
}

fn issue(authority: &Authority, request: &Request) -> (String, String) {
    let Issued {
        chain_pem, key_pem, ..
    } = authority.issue(request).expect("issued");
    (chain_pem, key_pem)
}

/// A certificate whose key may only agree on keys. With an elliptic key BoringSSL would not even load it.
fn for_key_agreement_only(scene: &Scene, request: &Request) -> (String, String) {
    let key = Rsa::generate(2048).and_then(PKey::from_rsa).expect("a key");
    let key = key.private_key_to_pem_pkcs8().expect("PEM");
    let key = KeyPair::from_pem(&String::from_utf8(key).expect("ASCII")).expect("a key");
    let folder = scene.stage.fabric.folder();
    let authority = std::fs::read_to_string(folder.join(caplane::pki::CA_KEY_FILE));
    let authority = KeyPair::from_pem(&authority.expect("a file")).expect("a key");
    let pem = scene.stage.fabric.authority().certificate_pem();
    let issuer = Issuer::from_ca_cert_pem(pem, authority).expect("the authority");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    let uri = request.uris[0].as_str().try_into().expect("ASCII");
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).expect("issued");
    (certificate.pem(), key.serialize_pem())
}
