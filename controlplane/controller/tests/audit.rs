//! The audit log of a real controller: what is in it, and that it goes on after SIGKILL.

mod bed;

use std::time::{Duration, Instant};

use bed::{Controller, DEADLINE};
use caplane_proto::v1;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::northbound_client::NorthboundClient;
use caplane_proto::v1::update::Type;
use prost::Message;
use tonic::Code;
use tonic::transport::Channel;

type Client = NorthboundClient<Channel>;

fn add(name: &str) -> v1::WriteRequest {
    let tenant = v1::Tenant {
        name: name.into(),
        ..v1::Tenant::default()
    };
    v1::WriteRequest {
        updates: vec![v1::Update {
            r#type: Type::Insert.into(),
            entity: Some(v1::Entity {
                entity: Some(Body::Tenant(tenant)),
            }),
        }],
        ..v1::WriteRequest::default()
    }
}

/// Every record, the chain checked by what the .proto file says of it.
async fn log(client: &mut Client, request: v1::ReadAuditRequest) -> Vec<v1::AuditBody> {
    let mut stream = client
        .read_audit(request)
        .await
        .expect("answered")
        .into_inner();
    let (mut bodies, mut previous) = (Vec::new(), None::<Vec<u8>>);
    while let Some(record) = stream.message().await.expect("goes on") {
        let hashed = [b"caplane.audit/1\n", record.body.as_slice()].concat();
        let hash = ring::digest::digest(&ring::digest::SHA256, &hashed);
        assert_eq!(record.hash, hash.as_ref());
        let key = &ring::signature::ED25519;
        let key = ring::signature::UnparsedPublicKey::new(key, &record.public_key);
        key.verify(&record.hash, &record.signature).expect("signed");
        let body = v1::AuditBody::decode(record.body.as_slice()).expect("a body");
        if let Some(previous) = previous {
            assert_eq!(body.previous, previous);
        }
        previous = Some(record.hash);
        bodies.push(body);
    }
    bodies
}

async fn all(client: &mut Client) -> Vec<v1::AuditBody> {
    log(client, v1::ReadAuditRequest::default()).await
}

/// Asks until the log has a record like this.
async fn find(client: &mut Client, fits: impl Fn(&v1::AuditBody) -> bool) -> v1::AuditBody {
    let begun = Instant::now();
    loop {
        if let Some(body) = all(client).await.into_iter().find(&fits) {
            return body;
        }
        assert!(begun.elapsed() < DEADLINE, "not recorded");
        // Each look is recorded too: looking without a pause would use up what may be recorded in a second.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_denials_and_readers_are_recorded_and_the_chain_survives_sigkill() {
    const VIEWER: &str = "spiffe://caplane.local/viewer/v";
    const NET: &str = "spiffe://caplane.local/net/n";
    let role = |who, role| format!("[[roles]]\nwho = \"{who}\"\nrole = \"{role}\"\n");
    let roles = role(VIEWER, "viewer") + &role(NET, "operator");
    let mut controller = Controller::with(&roles);
    let mut admin = controller.operator().await;
    let request = add("t");
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &request.encode_to_vec());
    let written = admin.write(request).await.expect("written").into_inner();
    // Tried only, and refused: neither changed anything.
    let rehearsal = v1::WriteRequest {
        dry_run: true,
        ..add("u")
    };
    admin.write(rehearsal).await.expect("tried");
    admin.write(add("t")).await.expect_err("it is there");
    let bodies = all(&mut admin).await;
    let [write] = bodies.as_slice() else {
        panic!("{bodies:?}");
    };
    assert_eq!(write.who, "spiffe://caplane.local/operator/ada");
    assert_eq!(
        (write.role.as_str(), write.call.as_str()),
        ("admin", "Write")
    );
    assert_eq!((write.what.as_str(), write.code), ("INSERT tenant t", 0));
    assert_eq!((write.generation, write.sequence), (written.generation, 1));
    assert_eq!(write.request_sha256, sha256.as_ref());
    assert!(write.peer.starts_with("127.0.0.1:"), "{}", write.peer);

    let mut viewer = controller.caller(VIEWER).await;
    let status = viewer.write(add("u")).await.expect_err("denied");
    assert_eq!(status.code(), Code::PermissionDenied);
    let denial = find(&mut admin, |body| {
        body.code == Code::PermissionDenied as i32
    })
    .await;
    assert_eq!(
        (denial.who.as_str(), denial.call.as_str()),
        (VIEWER, "Write")
    );
    assert!(
        denial.what.contains("needs the role orchestrator"),
        "{}",
        denial.what
    );
    find(&mut admin, |body| body.call == "ReadAudit").await;
    // Of a batch that goes on, a denied update is no refusal of the call.
    let mut net = controller.caller(NET).await;
    let goes_on = v1::WriteRequest {
        atomicity: v1::write_request::Atomicity::ContinueOnError.into(),
        ..add("u")
    };
    net.write(goes_on).await.expect("goes on");
    let denial = find(&mut admin, |body| body.who == NET).await;
    assert_eq!(denial.code, Code::PermissionDenied as i32);
    assert!(denial.what.contains("needs admin"), "{}", denial.what);
    let mut stranger = controller.caller("spiffe://caplane.local/nobody").await;
    stranger
        .read(v1::ReadRequest::default())
        .await
        .expect_err("denied");
    find(&mut admin, |body| {
        body.who == "spiffe://caplane.local/nobody"
    })
    .await;

    let before = all(&mut admin).await;
    controller.kill();
    controller.run();
    let mut admin = controller.operator().await;
    admin.write(add("after")).await.expect("written");
    let after = all(&mut admin).await;
    assert_eq!(after[..before.len()], before[..], "nothing was lost");
    let last = after.iter().find(|body| body.what == "INSERT tenant after");
    let last = last.expect("recorded");
    let page = v1::ReadAuditRequest {
        from: last.sequence,
        count: 1,
    };
    assert_eq!(log(&mut admin, page).await, std::slice::from_ref(last));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_and_a_flood_of_denials_push_nothing_out() {
    const VIEWER: &str = "spiffe://caplane.local/viewer/v";
    let roles = format!("[[roles]]\nwho = \"{VIEWER}\"\nrole = \"viewer\"\n");
    let controller = Controller::with(&roles);
    let mut admin = controller.operator().await;
    let waits = v1::WriteRequest {
        confirm: Some(v1::CommitConfirmed::default()),
        ..add("t")
    };
    let written = admin.write(waits).await.expect("written").into_inner();
    let confirm = v1::ConfirmRequest {
        id: written.pending.expect("it waits").id,
        action: v1::confirm_request::Action::Confirm.into(),
        ..v1::ConfirmRequest::default()
    };
    for _ in 0..5 {
        admin.confirm(confirm.clone()).await.expect("confirmed");
    }
    let mut viewer = controller.caller(VIEWER).await;
    for _ in 0..300 {
        let status = viewer.write(add("u")).await.expect_err("denied");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // The next record of this kind, that the log was read, says how many were counted only.
    let begun = Instant::now();
    let bodies = loop {
        let bodies = all(&mut admin).await;
        if bodies.iter().any(|body| body.call == "ReadAudit") {
            break bodies;
        }
        assert!(begun.elapsed() < DEADLINE, "not recorded");
        // As above.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let of = |call: &str, code: Code| {
        let fits = |body: &&v1::AuditBody| body.call == call && body.code == code as i32;
        bodies.iter().filter(fits).count() as u64
    };
    assert_eq!(of("Confirm", Code::Ok), 1);
    let denials = of("Write", Code::PermissionDenied);
    assert!((20..=21).contains(&denials), "{denials}");
    let counted: u64 = bodies.iter().map(|body| body.left_out).sum();
    assert_eq!(denials + counted, 300);
}
