//! ACPs capability specifications and identity codes through the API of a controller process.

mod bed;

use bed::{Controller, agent_uri, write};
use caplane_proto::v1;
use caplane_proto::v1::agent::IdentityCheck;
use caplane_proto::v1::entity::Entity as Body;
use caplane_proto::v1::update::Type::Insert;
use tonic::Code;

/// Words of our own in the form of ACS 02.01.
const SPECIFICATION: &[u8] = include_bytes!("cards/harbour_desk.acs.json");
const CODE: &str = "1.2.156.3088.1.1.34C2.478BDF.3GF546.0JU4";

fn agent(uri: &str, card: &[u8]) -> Body {
    Body::Agent(v1::Agent {
        uri: uri.into(),
        card: card.to_vec(),
        ..v1::Agent::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn specifications_are_registered_as_they_are_and_codes_checked_where_that_can_be() {
    let salts = "[acps]\nsalts = [{ prefix = \"1.2.156.3088.1\", salt = \"1234\" }]";
    let controller = Controller::with(salts);
    let mut operator = controller.operator().await;
    let acps = format!("acps://{CODE}");
    // Nobody gave the salt of this issuer, so these digits mean nothing.
    let foreign = "acps://1.2.840.7.1.1.34C2.478BDF.3GF546.0000";
    let updates = vec![
        (Insert, agent(&acps, SPECIFICATION)),
        (Insert, agent(foreign, b"")),
        (Insert, agent(&agent_uri("plain"), b"")),
    ];
    operator.write(write(updates)).await.expect("written");

    let mut read = async |key: &str| {
        let request = v1::ReadRequest {
            kind: v1::read_request::Kind::Agent.into(),
            key: key.into(),
            ..v1::ReadRequest::default()
        };
        let response = operator.read(request).await.expect("read").into_inner();
        match response.entities.into_iter().next().and_then(|e| e.entity) {
            Some(Body::Agent(agent)) => agent,
            other => panic!("{other:?}"),
        }
    };
    let desk = read(&acps).await;
    assert_eq!(desk.card, SPECIFICATION, "as it was");
    assert_eq!(
        (desk.name.as_str(), desk.provider.as_str()),
        ("Harbour desk", "Example Port Authority")
    );
    assert_eq!(desk.skills.len(), 2);
    assert_eq!((desk.aic.as_str(), desk.inactive), (CODE, false));
    assert_eq!(desk.identity_check(), IdentityCheck::Passed);
    let unknown = read(foreign).await;
    assert_eq!(unknown.identity_check(), IdentityCheck::NotChecked);
    let plain = read(&agent_uri("plain")).await;
    assert_eq!(plain.identity_check(), IdentityCheck::Unspecified);

    let wrong = acps.replace("0JU4", "0JU5");
    let refused = operator
        .write(write(vec![(Insert, agent(&wrong, b""))]))
        .await;
    let status = refused.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("updates[0].agent.uri \"1.2.156"),
        "{status}"
    );
    assert!(!status.message().contains("0JU4"), "{status}");
}
