//! Who is not let in, and what it is told.

mod bed;

use bed::{Authority, Controller, DEADLINE, Leaf, agent_uri, router_uri};
use caplane_proto::v1;
use caplane_proto::v1::northbound_client::NorthboundClient;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use tonic::Code;

/// Tries to read with these credentials; the error is the connection's or the call's.
async fn attempt(
    controller: &Controller,
    identity: Option<(String, String)>,
) -> Result<(), String> {
    let address = controller.addresses().northbound;
    let channel = controller
        .connect(&address, identity)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let request = v1::ReadRequest {
        kind: v1::read_request::Kind::Tenant.into(),
        ..v1::ReadRequest::default()
    };
    NorthboundClient::new(channel)
        .read(request)
        .await
        .map(|_| ())
        .map_err(|status| format!("{status:?}"))
}

/// Waits until the log tells of a refusal with this reason.
async fn refused(controller: &Controller, reason: &str) {
    let told = format!("reason=\"{reason}\"");
    let begun = std::time::Instant::now();
    while !controller.log().contains(&told) {
        assert!(
            begun.elapsed() < DEADLINE,
            "no refusal {told} in:\n{}",
            controller.log()
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_certificate_is_refused_with_its_reason() {
    let controller = Controller::start();
    let authority = &controller.authority;
    let uri = "spiffe://caplane.local/operator/ada";
    attempt(&controller, Some(authority.issue(&Leaf::of(uri))))
        .await
        .expect("a good one passes");

    let expired = Leaf {
        expired: true,
        ..Leaf::of(uri)
    };
    let server_only = Leaf {
        purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..Leaf::of(uri)
    };
    let no_signature = Leaf {
        usages: vec![KeyUsagePurpose::KeyEncipherment],
        ..Leaf::of(uri)
    };
    let two_names = Leaf {
        uris: vec![uri.into(), "spiffe://caplane.local/operator/eve".into()],
        ..Leaf::of(uri)
    };
    let no_name = Leaf {
        uris: vec![],
        ..Leaf::of(uri)
    };
    let elsewhere = Leaf::of("spiffe://elsewhere.example/operator/ada");
    let no_spiffe = Leaf::of("https://caplane.local/operator/ada");
    let strangers = Authority::default();
    let cases = [
        (None, "no_certificate"),
        (Some(strangers.issue(&Leaf::of(uri))), "unknown_issuer"),
        (Some(authority.issue(&expired)), "expired"),
        (Some(authority.issue(&server_only)), "key_usage"),
        (Some(authority.issue(&two_names)), "uri_count"),
        (Some(authority.issue(&no_name)), "uri_count"),
        (Some(authority.issue(&elsewhere)), "trust_domain"),
        (Some(authority.issue(&no_spiffe)), "name"),
        (Some(authority.issue(&no_signature)), "key_usage"),
    ];
    for (identity, reason) in cases {
        attempt(&controller, identity)
            .await
            .expect_err("must be refused");
        refused(&controller, reason).await;
    }
}

/// Shakes hands in one version of TLS and reads a byte; the version spoken, or why not.
async fn shake_hands(
    controller: &Controller,
    address: &str,
    version: &'static rustls::SupportedProtocolVersion,
    identity: Option<&(String, String)>,
) -> Result<rustls::ProtocolVersion, String> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(controller.authority.pem().as_bytes());
    roots.add(root.expect("PEM")).expect("a root");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("ring speaks it")
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => {
            let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
            builder
                .with_client_auth_cert(vec![chain], key)
                .expect("they fit")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let text = |error: std::io::Error| error.to_string();
    let stream = tokio::net::TcpStream::connect(address)
        .await
        .map_err(text)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut tls = connector.connect(name, stream).await.map_err(text)?;
    // In TLS 1.3 the client is done before the server has judged it: its word is the first frame.
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .map_err(text)?;
    let read = tokio::time::timeout(DEADLINE, tls.read_u8()).await;
    read.expect("in time").map_err(text)?;
    Ok(tls.get_ref().1.protocol_version().expect("spoken"))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_refuse_older_tls_and_peers_without_a_certificate() {
    let controller = Controller::start();
    let addresses = controller.addresses();
    let good = controller
        .authority
        .issue(&Leaf::of("spiffe://caplane.local/operator/ada"));
    for (listener, address) in [
        ("northbound", &addresses.northbound),
        ("southbound", &addresses.southbound),
    ] {
        let attempt =
            async |version, identity| shake_hands(&controller, address, version, identity).await;
        let modern = attempt(&rustls::version::TLS13, Some(&good)).await;
        assert_eq!(modern, Ok(rustls::ProtocolVersion::TLSv1_3), "{listener}");
        let older = attempt(&rustls::version::TLS12, Some(&good)).await;
        let told = older.expect_err("TLS 1.2 must be refused");
        assert!(told.contains("ProtocolVersion"), "{listener}: {told}");
        let nobody = attempt(&rustls::version::TLS13, None).await;
        let told = nobody.expect_err("nobody must be refused");
        assert!(told.contains("CertificateRequired"), "{listener}: {told}");
        for reason in ["handshake", "no_certificate"] {
            refused_by(&controller, listener, reason).await;
        }
    }
}

/// Waits until the log tells of a refusal at this listener with this reason.
async fn refused_by(controller: &Controller, listener: &str, reason: &str) {
    let fits = |line: &str| {
        line.contains(&format!("listener=\"{listener}\""))
            && line.contains(&format!("reason=\"{reason}\""))
    };
    let begun = std::time::Instant::now();
    while !controller.log().lines().any(fits) {
        assert!(
            begun.elapsed() < DEADLINE,
            "{listener}: no {reason} in:\n{}",
            controller.log()
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer_operators() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let controller = Controller::start();
    let leaf = Leaf::of("spiffe://caplane.local/operator/ada");
    let channel = controller
        .connect(
            &controller.addresses().northbound,
            Some(controller.authority.issue(&leaf)),
        )
        .await
        .expect("connected");
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest {
            service: "caplane.v1.Northbound".into(),
        })
        .await
        .expect("answered")
        .into_inner();
    assert_eq!(health.status, 1, "serving");

    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(question))
        .await
        .expect("answered")
        .into_inner();
    let answer = answers.message().await.expect("read").expect("one");
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("no list");
    };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    assert!(names.contains(&"caplane.v1.Northbound"), "{names:?}");
    assert!(!names.contains(&"caplane.v1.Southbound"), "not served here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_certificate_is_not_enough() {
    let controller = Controller::start();
    let authority = &controller.authority;
    for uri in [router_uri("r1"), agent_uri("a")] {
        let told = attempt(&controller, Some(authority.issue(&Leaf::of(&uri))))
            .await
            .expect_err("no role");
        assert!(told.contains("has no role here"), "{told}");
    }
    let mut southbound = controller.southbound("never-registered").await;
    let status = southbound
        .session(tokio_stream::pending())
        .await
        .expect_err("no registered router");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("register it"), "{status}");
}

#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    let controller = Controller::start();
    let config = controller.config();
    let run = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_caplane-controller"))
            .arg("check-config")
            .arg("--config")
            .arg(&config)
            .output()
            .expect("runs")
    };
    assert_eq!(run().status.code(), Some(0));
    let text = std::fs::read_to_string(&config).expect("there");
    std::fs::write(&config, text.replace("name = \"c1\"", "nam = \"c1\"")).expect("written");
    let output = run();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("controller.toml:2:1: unknown field `nam`"),
        "{told}"
    );
}

#[test]
fn it_ends_with_its_parent_when_told_to() {
    let mut controller = Controller::start();
    assert_eq!(controller.terminate(), Some(0), "{}", controller.log());
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_caplane-controller"))
        .arg("--config")
        .arg(controller.config())
        .arg("--exit-with-stdin")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    drop(child.stdin.take());
    assert_eq!(child.wait().expect("reaped").code(), Some(0));
}
