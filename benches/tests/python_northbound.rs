//! Are the .proto files enough to drive a controller? A client in Python whose code grpcio-tools makes from them
//! (`benches/python/caplane_northbound.py`) registers agents, compares and sets, reads typed errors and watches.

mod python;

use std::collections::BTreeSet;

use caplane::fabric::{Fabric, FabricConfig, OPERATOR};
use caplane::pki::PemFiles;
use python::{Script, names};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_made_from_the_proto_files_writes_watches_and_reads_errors_as_data() {
    let folder = tempfile::tempdir().expect("folder");
    let config = FabricConfig::line(folder.path(), 1).expect("programs are built");
    let fabric = Fabric::start(config).await.expect("the fabric starts");
    let files = PemFiles::at(folder.path(), &format!("operator-{OPERATOR}"));
    let address = fabric.northbound_address().expect("bound");
    let arguments = [
        ("--controller", address.to_owned()),
        ("--chain", files.chain.display().to_string()),
        ("--key", files.key.display().to_string()),
        ("--roots", fabric.roots().display().to_string()),
        (
            "--trust-domain",
            fabric.authority().trust_domain().to_owned(),
        ),
    ];
    let arguments = arguments.into_iter().flat_map(|(o, v)| [o.to_owned(), v]);
    let steps = Script::start("caplane_northbound.py", arguments)
        .await
        .success()
        .await;
    let expected = [
        "registered",
        "read and written back",
        "compare and set won",
        "compare and set lost",
        "done once",
        "typed error",
        "every fault told",
        "watched",
        "resumed",
        "gone",
    ];
    assert_eq!(names(&steps), BTreeSet::from(expected), "{steps:?}");
    let agents = fabric.api().agents().await.expect("read");
    assert_eq!(agents.len(), 2, "{agents:?}");
}
