//! Every reason to refuse a peer, at both ends.

mod support;

use caplane_transport::{Credentials, EndpointConfig, Event, RefuseReason, TrustBundle};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use support::*;

fn credentials(ca: &Ca, uris: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Credentials {
    let (chain, key) = ca.issue(uris, adjust);
    Credentials::from_pem(chain.as_bytes(), key.as_bytes(), ca.trust()).expect("credentials")
}

fn refused(event: &Event) -> Option<RefuseReason> {
    match event {
        Event::Refused { reason, .. } => Some(*reason),
        _ => None,
    }
}

/// A client with these credentials dials a good server; what each of them says.
fn dial(
    ca: &Ca,
    credentials: Credentials,
    expected: Option<&str>,
) -> (Option<RefuseReason>, RefuseReason) {
    let mut server = Node::bind(EndpointConfig::new(v4(), ca.credentials("router/one")));
    let mut client = Node::bind(EndpointConfig::new(v4(), credentials));
    let peer = client
        .endpoint
        .connect(server.address(), expected)
        .expect("connect");
    let (mut at_client, mut at_server) = (None, None);
    drive([&mut client, &mut server], "refused", |[c, s]| {
        at_client = at_client.or_else(|| c.take(refused));
        at_server = at_server.or_else(|| s.take(refused));
        at_client.is_some() && (at_server.is_some() || expected.is_some())
    });
    let server_counters = server.endpoint.counters();
    if let Some(reason) = at_server {
        assert_eq!(server_counters.refused_for(reason), 1);
        assert_eq!(server_counters.connected, 0);
    }
    assert!(client.endpoint.peer_uri(peer).is_none());
    assert!(!client.events.iter().any(|e| connected(e).is_some()));
    (at_server, at_client.expect("refused"))
}

#[test]
fn each_bad_certificate_is_refused_with_its_reason() {
    let ca = Ca::new("test root");
    let name = uri("agent/one");
    let far = rcgen::date_time_ymd(2090, 1, 1);
    let past = rcgen::date_time_ymd(2001, 1, 1);
    let cases: Vec<(RefuseReason, Credentials)> = vec![
        (
            RefuseReason::Expired,
            credentials(&ca, &[&name], |p| p.not_after = past),
        ),
        (
            RefuseReason::NotYetValid,
            credentials(&ca, &[&name], |p| p.not_before = far),
        ),
        (
            RefuseReason::ExtendedKeyUsage,
            credentials(&ca, &[&name], |p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            RefuseReason::PathRule,
            credentials(&ca, &[&name], |p| {
                p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                p.key_usages = vec![
                    KeyUsagePurpose::KeyCertSign,
                    KeyUsagePurpose::DigitalSignature,
                ];
            }),
        ),
        (
            RefuseReason::UnknownTrustDomain,
            credentials(&ca, &["spiffe://elsewhere.test/agent/one"], |_| {}),
        ),
    ];
    for (reason, credentials) in cases {
        let (at_server, at_client) = dial(&ca, credentials, None);
        assert_eq!(at_server, Some(reason));
        assert_eq!(at_client, RefuseReason::RefusedByPeer, "for {reason:?}");
    }
}

#[test]
fn another_ca_of_the_same_trust_domain_is_refused_by_both_sides() {
    let ours = Ca::new("ours");
    let theirs = Ca::new("theirs");
    let (chain, key) = theirs.issue(&[&uri("agent/one")], |_| {});
    // The client trusts our root, so it gets as far as showing its own certificate.
    let credentials =
        Credentials::from_pem(chain.as_bytes(), key.as_bytes(), ours.trust()).expect("credentials");
    let (at_server, at_client) = dial(&ours, credentials, None);
    assert_eq!(at_server, Some(RefuseReason::UnknownIssuer));
    assert_eq!(at_client, RefuseReason::RefusedByPeer);

    // A client that trusts only its own root refuses our server.
    let (chain, key) = ours.issue(&[&uri("agent/one")], |_| {});
    let credentials = Credentials::from_pem(chain.as_bytes(), key.as_bytes(), theirs.trust())
        .expect("credentials");
    let (at_server, at_client) = dial(&ours, credentials, None);
    assert_eq!(at_server, Some(RefuseReason::RefusedByPeer));
    assert_eq!(at_client, RefuseReason::UnknownIssuer);
}

#[test]
fn the_dialled_name_must_be_the_expected_one() {
    let ca = Ca::new("test root");
    let (_, at_client) = dial(
        &ca,
        ca.credentials("agent/one"),
        Some(&uri("router/another")),
    );
    assert_eq!(at_client, RefuseReason::UnexpectedName);
}

#[test]
fn our_own_certificate_must_have_one_name() {
    let ca = Ca::new("test root");
    for (uris, reason) in [
        (vec![], "no URI"),
        (vec![uri("a"), uri("b")], "several URI"),
        (
            vec!["https://caplane.test/a".to_owned()],
            "neither a SPIFFE",
        ),
    ] {
        let uris: Vec<_> = uris.iter().map(String::as_str).collect();
        let (chain, key) = ca.issue(&uris, |_| {});
        let error = Credentials::from_pem(chain.as_bytes(), key.as_bytes(), ca.trust())
            .expect_err("no single name");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let (chain, key) = ca.issue(&[&uri("a")], |p| {
        p.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    });
    let error = Credentials::from_pem(chain.as_bytes(), key.as_bytes(), ca.trust())
        .expect_err("the wrong key usage");
    assert!(error.to_string().contains("key usage"), "{error}");
    let (chain, _) = ca.issue(&[&uri("a")], |_| {});
    let (_, key) = ca.issue(&[&uri("a")], |_| {});
    let error = Credentials::from_pem(chain.as_bytes(), key.as_bytes(), TrustBundle::new())
        .expect_err("another key");
    assert!(error.to_string().contains("does not belong"), "{error}");
    let error =
        Credentials::from_pem(chain.as_bytes(), b"no key", TrustBundle::new()).expect_err("no key");
    assert!(error.to_string().contains("private key"), "{error}");
}

/// A QUIC client of its own, for what our endpoint would never send.
mod stranger {
    use std::net::UdpSocket;

    use boring::ssl::{SslContextBuilder, SslMethod, SslVerifyMode};

    /// Dials with a certificate chain that our `Credentials` would not load, or none, until refused.
    pub fn dial(
        server: &mut super::Node,
        identity: Option<(&str, &str)>,
        alpn: &[u8],
        until: impl Fn(&super::Node) -> bool,
    ) -> quiche::Connection {
        let mut tls = SslContextBuilder::new(SslMethod::tls()).expect("a context");
        if let Some((chain, key)) = identity {
            let chain = boring::x509::X509::stack_from_pem(chain.as_bytes()).expect("a chain");
            tls.set_certificate(&chain[0]).expect("a certificate");
            let key = boring::pkey::PKey::private_key_from_pem(key.as_bytes()).expect("a key");
            tls.set_private_key(&key).expect("a key");
        }
        tls.set_verify(SslVerifyMode::NONE);
        let mut config = quiche::Config::with_boring_ssl_ctx_builder(quiche::PROTOCOL_VERSION, tls)
            .expect("a configuration");
        config.set_application_protos(&[alpn]).expect("ALPN");
        config.set_initial_max_data(1 << 20);
        config.set_initial_max_stream_data_uni(1 << 16);
        config.set_initial_max_streams_uni(8);
        config.enable_dgram(true, 16, 16);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket.set_nonblocking(true).expect("non-blocking");
        let local = socket.local_addr().expect("an address");
        let scid = quiche::ConnectionId::from_ref(&[7; 16]);
        let mut quic =
            quiche::connect(None, &scid, local, server.address(), &mut config).expect("connect");
        let mut buffer = [0; 2048];
        super::drive([server], "the stranger was answered", |[server]| {
            while let Ok((length, info)) = quic.send(&mut buffer) {
                socket.send_to(&buffer[..length], info.to).expect("send");
            }
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let info = quiche::RecvInfo { from, to: local };
                let _ = quic.recv(&mut buffer[..length], info);
            }
            quic.on_timeout();
            until(server)
        });
        quic
    }
}

#[test]
fn what_no_endpoint_of_ours_would_present_is_refused() {
    let ca = Ca::new("test root");
    let two = ca.issue(&[&uri("a"), &uri("b")], |_| {});
    let none = ca.issue(&[], |_| {});
    let odd = ca.issue(&["https://caplane.test/a"], |_| {});
    // BoringSSL lets RSA keys with the wrong usage be loaded, elliptic ones not.
    let usage = ca.issue_rsa(&[&uri("agent/one")], |p| {
        p.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    });
    let good = ca.issue(&[&uri("agent/one")], |_| {});
    let alpn = caplane_wire::ALPN;
    let cases = [
        (None, alpn, RefuseReason::NoCertificate),
        (Some(&two), alpn, RefuseReason::SeveralUris),
        (Some(&none), alpn, RefuseReason::NoUri),
        (Some(&usage), alpn, RefuseReason::KeyUsage),
        (Some(&odd), alpn, RefuseReason::MalformedUri),
        (Some(&good), b"h3".as_slice(), RefuseReason::Protocol),
    ];
    for (identity, alpn, reason) in cases {
        let mut server = Node::bind(EndpointConfig::new(v4(), ca.credentials("router/one")));
        let identity = identity.map(|(chain, key)| (chain.as_str(), key.as_str()));
        stranger::dial(&mut server, identity, alpn, |server| {
            server.endpoint.counters().refused_for(reason) == 1
        });
        assert_eq!(server.take(refused), Some(reason));
        assert_eq!(server.endpoint.counters().refused_total(), 1);
        assert_eq!(server.endpoint.counters().connected, 0);
        assert_eq!(server.endpoint.peers().count(), 0);
    }
}

#[test]
fn a_good_stranger_is_let_in() {
    let ca = Ca::new("test root");
    let (chain, key) = ca.issue(&[&uri("agent/one")], |_| {});
    let mut server = Node::bind(EndpointConfig::new(v4(), ca.credentials("router/one")));
    stranger::dial(
        &mut server,
        Some((&chain, &key)),
        caplane_wire::ALPN,
        |server| server.endpoint.counters().connected == 1,
    );
    let name = server.take(|event| match event {
        Event::Connected { uri, dialled, .. } => Some((uri.clone(), *dialled)),
        _ => None,
    });
    assert_eq!(name, Some((uri("agent/one"), false)));
}

#[test]
fn silence_and_full_tables_are_refused() {
    let ca = Ca::new("test root");
    // Nobody answers there: the port is bound but never read.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let mut config = EndpointConfig::new(v4(), ca.credentials("agent/one"));
    config.handshake_timeout = std::time::Duration::from_millis(100);
    let mut client = Node::bind(config);
    client
        .endpoint
        .connect(nobody.local_addr().expect("an address"), None)
        .expect("connect");
    let mut reason = None;
    drive([&mut client], "timeout", |[client]| {
        reason = reason.or_else(|| client.take(refused));
        reason.is_some()
    });
    assert_eq!(reason, Some(RefuseReason::Timeout));

    let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
    config.peers_max = 1;
    let mut server = Node::bind(config);
    let mut config = EndpointConfig::new(v4(), ca.credentials("agent/one"));
    config.handshake_timeout = std::time::Duration::from_millis(300);
    let mut client = Node::bind(config);
    for _ in 0..2 {
        client
            .endpoint
            .connect(server.address(), None)
            .expect("connect");
    }
    let mut at_client = None;
    drive([&mut client, &mut server], "one too many", |[client, _]| {
        at_client = at_client.or_else(|| client.take(refused));
        at_client.is_some()
    });
    assert_eq!(server.endpoint.counters().connected, 1);
    assert!(
        server
            .endpoint
            .counters()
            .refused_for(RefuseReason::PeersFull)
            > 0
    );
}

#[test]
fn addresses_are_validated_by_retry_above_the_threshold() {
    let ca = Ca::new("test root");
    let mut config = EndpointConfig::new(v4(), ca.credentials("router/one"));
    config.retry_threshold = 0;
    let mut server = Node::bind(config);
    let mut client = Node::bind(EndpointConfig::new(v4(), ca.credentials("agent/one")));
    for _ in 0..3 {
        client
            .endpoint
            .connect(server.address(), Some(&uri("router/one")))
            .expect("connect");
    }
    drive([&mut client, &mut server], "three connected", |[c, s]| {
        c.endpoint.counters().connected == 3 && s.endpoint.counters().connected == 3
    });
    assert!(server.endpoint.counters().retries_sent >= 3);
    assert_eq!(server.endpoint.counters().tokens_refused, 0);
}
