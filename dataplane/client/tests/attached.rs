//! The client against a router of the tests: attaching, sending, receiving, and what goes wrong.

mod stub;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use caplane_client::*;
use stub::{Ca, Order, Stub, within};

fn class() -> Label {
    "class:7.12".parse().unwrap()
}

fn to_class() -> Destination {
    Destination::new(class(), 0)
}

/// One stub, an asking agent 1, and serving agents 100, 101, ... that are the members of the class.
async fn fabric(
    servers: u32,
    adjust: impl Fn(&mut ClientConfig),
) -> (Ca, Stub, Client, Vec<Client>) {
    let ca = Ca::new();
    let stub = Stub::start(&ca, 1);
    let members: Vec<u32> = (100..100 + servers).collect();
    stub.rules().members.insert(class(), members.clone());
    let mut config = ca.agent(1, &[&stub]);
    adjust(&mut config);
    let asker = within(10, "attach", Client::attach(config)).await.unwrap();
    let mut serving = Vec::new();
    for agent in members {
        let mut config = ca.agent(agent, &[&stub]);
        adjust(&mut config);
        serving.push(within(10, "attach", Client::attach(config)).await.unwrap());
    }
    (ca, stub, asker, serving)
}

/// Answers every message with its own payload, until the client closes.
fn echo(server: &Client) -> tokio::task::JoinHandle<u64> {
    let server = server.clone();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok(delivery) = server.recv().await {
            let payload = delivery.payload().clone();
            count += 1;
            if delivery.reply(payload).await.is_err() {
                break;
            }
        }
        count
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn attaching_tells_who_we_are_and_resolving_what_there_is() {
    let (_ca, stub, asker, _) = fabric(0, |_| {}).await;
    let attachment = asker.attachment().unwrap();
    assert_eq!(attachment.address.label, Label::agent(1, 1).unwrap());
    assert_eq!(
        (
            attachment.address.domain,
            attachment.tenant,
            attachment.generation
        ),
        (5, 1, 7)
    );
    assert_eq!(attachment.router_name, "r1");
    let name = stub.seen().hellos.remove(0);
    assert!(name.starts_with("i-"), "{name}");

    stub.rules().candidates = vec![Candidate {
        label: class().bits(),
        tenant: 4,
        name: "travel/hotels".into(),
        score: 0.8,
        ..Candidate::default()
    }];
    let found = within(
        5,
        "resolve",
        asker.resolve(Query::Text("book a hotel".into())),
    )
    .await
    .unwrap();
    let destination = Destination::try_from(&found[0]).unwrap();
    assert_eq!((destination.label, destination.tenant), (class(), 4));

    stub.rules().resolve_error = "no controller".into();
    let error = within(5, "resolve", asker.resolve(Query::Path("x".into()))).await;
    assert_eq!(
        error.unwrap_err(),
        ResolveError::Refused("no controller".into())
    );
    let long = Query::Text("x".repeat(200_000));
    let error = within(5, "resolve", asker.resolve(long)).await;
    assert!(
        matches!(error, Err(ResolveError::TooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn receipted_messages_arrive_exactly_once_though_messages_and_receipts_are_lost_and_doubled()
{
    let (_ca, stub, asker, servers) = fabric(1, |config| {
        config.resend_initial = Duration::from_millis(50);
    })
    .await;
    {
        let mut rules = stub.rules();
        rules.drop_data_every = Some(7);
        rules.drop_receipts_every = Some(5);
        rules.double_every = Some(3);
    }
    const COUNT: usize = 600;
    let flow = asker.flow(to_class(), FlowOptions::default());
    let mut pending = Vec::new();
    for n in 0..COUNT {
        let payload = n.to_be_bytes().repeat(1 + n % 50);
        pending.push(flow.send_receipted(payload).await.unwrap());
    }
    let mut seen = HashSet::new();
    for _ in 0..COUNT {
        let delivery = within(20, "delivery", servers[0].recv()).await.unwrap();
        let payload = delivery.payload();
        let n = usize::from_be_bytes(payload[..8].try_into().unwrap());
        assert_eq!(payload[..], n.to_be_bytes().repeat(1 + n % 50)[..]);
        assert_eq!(delivery.sequence() as usize, n);
        assert!(seen.insert(n), "{n} came twice");
    }
    let mut resent = 0;
    for receipt in pending {
        let receipt = within(20, "receipt", receipt).await.unwrap();
        assert_eq!(Some(receipt.from), servers[0].address());
        resent += receipt.attempts - 1;
    }
    assert!(resent > 50, "{resent}");
    assert!(servers[0].counters().duplicates > 50);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), servers[0].recv())
            .await
            .is_err(),
        "nothing more is delivered"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_and_the_flow_stays_with_who_answered_until_that_one_goes() {
    let (_ca, stub, asker, mut servers) = fabric(2, |_| {}).await;
    let echoes: Vec<_> = servers.iter().map(echo).collect();
    let mut events = asker.events();
    let flow = asker.flow(to_class(), FlowOptions::default());
    let first = within(10, "reply", flow.request("ping")).await.unwrap();
    assert_eq!(first.payload(), "ping");
    let pinned = first.source();
    for n in 0..20_u8 {
        let reply = within(10, "reply", flow.request(vec![n])).await.unwrap();
        assert_eq!(
            (reply.payload()[..].to_vec(), reply.source()),
            (vec![n], pinned)
        );
    }
    assert_eq!(
        stub.seen().asked[&class()],
        1,
        "after the first reply: by name"
    );

    let gone = servers
        .iter()
        .position(|server| server.address() == Some(pinned))
        .unwrap();
    let gone = servers.remove(gone);
    within(10, "close", gone.close()).await;
    let reply = within(10, "reply", flow.request("again")).await.unwrap();
    assert_eq!(Some(reply.source()), servers[0].address());
    assert_eq!(stub.seen().asked[&class()], 2);
    let unpinned = within(5, "event", async {
        loop {
            if let Some(ClientEvent::Unpinned { from, .. }) = events.next().await {
                break from;
            }
        }
    });
    assert_eq!(unpinned.await, pinned);
    drop(servers);
    for echo in echoes {
        echo.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_sent_again_and_a_missing_one_is_reported() {
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    let served = echo(&servers[0]);
    stub.rules().drop_data_every = Some(2);
    let flow = asker.flow(to_class(), FlowOptions::default().affinity(false));
    for n in 0..20_u8 {
        let reply = within(10, "reply", flow.request(vec![n])).await.unwrap();
        assert_eq!(reply.payload()[..], [n]);
    }
    served.abort();
    stub.rules().drop_data_every = None;
    let options = FlowOptions::default().request_timeout(Duration::from_millis(300));
    let hasty = asker.flow(to_class(), options);
    let error = within(5, "no reply", hasty.request("anybody?")).await;
    assert!(
        matches!(
            error,
            Err(SendError::NoReply {
                receipted: true,
                ..
            })
        ),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn long_messages_go_in_bulk_and_keep_their_order() {
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    let flow = asker.flow(to_class(), FlowOptions::default());
    let lane_max = 65_536 - 48;
    let sizes = [lane_max, lane_max + 1, 1 << 20, 100_000, 10 << 20, 70_000];
    let mut pending = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        pending.push(flow.send_receipted(vec![n as u8; size]).await.unwrap());
    }
    let mut bulk = Vec::new();
    for _ in sizes {
        let delivery = within(20, "delivery", servers[0].recv()).await.unwrap();
        let n = delivery.payload()[0] as usize;
        assert_eq!(delivery.payload().len(), sizes[n]);
        assert!(delivery.payload().iter().all(|byte| *byte as usize == n));
        assert_eq!(delivery.carried_by() == CarriedBy::Bulk, n > 0, "{n}");
        if n > 0 {
            bulk.push(n);
        }
    }
    assert_eq!(bulk, [1, 2, 3, 4, 5]);
    for receipt in pending {
        within(20, "receipt", receipt).await.unwrap();
    }
    assert_eq!(stub.seen().bulk, 5);

    let error = flow.send(vec![0; 16 << 20]).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge { .. }), "{error}");
    assert_eq!(error.fault(), Fault::Caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_on_the_lanes_of_a_class_leaves_bulk_messages_their_share() {
    const BACKLOG: u64 = 8_000;
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    stub.rules().drop_data_every = Some(1);
    let lanes: Vec<Flow> = (0..16)
        .map(|_| asker.flow(to_class(), FlowOptions::default()))
        .collect();
    for n in 0..BACKLOG as usize {
        lanes[n % 16].send(vec![0; 16_000]).await.unwrap();
    }
    let behind = BACKLOG - stub.seen().data;
    let bulk = asker.flow(to_class(), FlowOptions::default());
    bulk.send(vec![0; 1 << 20]).await.unwrap();
    within(30, "everything", async {
        while stub.seen().data < BACKLOG + 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    // 1 MiB beside four lanes that always have more: it takes turns with them.
    let passed = BACKLOG + 1 - stub.seen().bulk_came_as[0];
    eprintln!("of {behind} messages before it, it came before {passed}");
    assert!(behind > 1_000, "no backlog: {behind}");
    assert!(passed > behind / 3, "came before {passed} of {behind}");
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_stream_that_the_router_stops_ends_as_its_code_says() {
    let (_ca, stub, asker, _servers) = fabric(1, |_| {}).await;
    stub.rules().stop_bulk = Some(caplane_wire::StreamCode::PolicyDenied);
    let flow = asker.flow(to_class(), FlowOptions::default());
    let pending = flow.send_receipted(vec![0; 8 << 20]).await.unwrap();
    let error = within(10, "refusal", pending).await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Refused {
                code: NoticeCode::PolicyDenied,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_travel_beside_the_lanes() {
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    let options = FlowOptions::default().carrier(Carrier::Datagram);
    let flow = asker.flow(to_class(), options);
    flow.send("fire and forget").await.unwrap();
    let delivery = within(10, "datagram", servers[0].recv()).await.unwrap();
    assert_eq!(delivery.payload(), "fire and forget");
    assert_eq!(delivery.carried_by(), CarriedBy::Datagram);
    let receipt = flow.send_receipted("with receipt").await.unwrap();
    within(10, "receipt", receipt).await.unwrap();
    assert_eq!(stub.seen().datagrams, 2);
    let long = flow.send_receipted(vec![0; 60_000]).await.unwrap();
    let error = within(10, "too large", long).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_reach_who_waits_and_who_listens() {
    let (_ca, _stub, asker, _) = fabric(0, |_| {}).await;
    let mut events = asker.events();
    let nowhere = Destination::new("class:9.9".parse().unwrap(), 0);
    let flow = asker.flow(nowhere, FlowOptions::default());
    let pending = flow.send_receipted("hello?").await.unwrap();
    let error = within(10, "refusal", pending).await.unwrap_err();
    let router = Label::router(1).unwrap();
    assert_eq!(
        error,
        SendError::Refused {
            code: NoticeCode::NoRoute,
            router
        }
    );
    flow.send("anybody?").await.unwrap();
    let noticed = within(10, "notices", async {
        let mut noticed = Vec::new();
        while noticed.len() < 2 {
            if let Some(ClientEvent::Notice { flow, sequence, .. }) = events.next().await {
                noticed.push((flow, sequence));
            }
        }
        noticed
    });
    assert_eq!(noticed.await, [(flow.id(), 0), (flow.id(), 1)]);
}

async fn next_reattachment(events: &mut Events) -> (Attachment, bool) {
    within(20, "reattachment", async {
        loop {
            match events.next().await {
                Some(ClientEvent::Reattached {
                    attachment,
                    label_changed,
                }) => break (attachment, label_changed),
                Some(_) => {}
                None => panic!("the client is gone"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_router_is_come_back_to_and_what_was_under_way_is_sent_again() {
    // The server only listens: it learns of the loss by its next keepalive.
    let adjust = |config: &mut ClientConfig| config.idle_timeout = Duration::from_secs(4);
    let (ca, stub, asker, servers) = fabric(1, adjust).await;
    let mut events = asker.events();
    let mut server_events = servers[0].events();
    let flow = asker.flow(to_class(), FlowOptions::default());
    stub.rules().drop_data_every = Some(1);
    let mut pending = Vec::new();
    for n in 0..100_u32 {
        let payload = n.to_be_bytes().to_vec();
        pending.push(flow.send_receipted(payload).await.unwrap());
    }
    within(5, "data sent", async {
        while stub.seen().data < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let address = stub.vanish();
    let stub = Stub::start_at(&ca, 1, address);
    stub.rules().members.insert(class(), vec![100]);
    stub.rules().first_instance = 9;
    // Until the server is back too, nobody serves the class, and that would end the waits.
    stub.rules().drop_data_every = Some(1);
    let (attachment, label_changed) = next_reattachment(&mut events).await;
    assert!(label_changed);
    assert_eq!(attachment.address.label, Label::agent(1, 9).unwrap());
    next_reattachment(&mut server_events).await;
    stub.rules().drop_data_every = None;
    for receipt in pending {
        let receipt = within(20, "receipt", receipt).await.unwrap();
        assert_eq!(receipt.from.label, Label::agent(100, 9).unwrap());
    }
    let mut order = Vec::new();
    for _ in 0..100 {
        let delivery = within(5, "delivery", servers[0].recv()).await.unwrap();
        order.push(delivery.sequence());
    }
    assert_eq!(order.len(), order.iter().collect::<HashSet<_>>().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_router_is_left_for_another_before_it_goes() {
    let ca = Ca::new();
    let (first, second) = (Stub::start(&ca, 1), Stub::start(&ca, 2));
    let asker = Client::attach(ca.agent(1, &[&first, &second]))
        .await
        .unwrap();
    let server = Client::attach(ca.agent(100, &[&second])).await.unwrap();
    second.rules().members.insert(class(), vec![100]);
    assert_eq!(asker.attachment().unwrap().router_name, "r1");
    let mut events = asker.events();
    first.order(Order::Drain(Duration::from_secs(20)));
    let (attachment, label_changed) = within(10, "move", async {
        let mut draining = false;
        loop {
            match events.next().await {
                Some(ClientEvent::Draining { .. }) => draining = true,
                Some(ClientEvent::Reattached {
                    attachment,
                    label_changed,
                }) => {
                    assert!(draining);
                    break (attachment, label_changed);
                }
                Some(ClientEvent::Detached { .. }) => panic!("make before break"),
                Some(_) => {}
                None => panic!("the client is gone"),
            }
        }
    })
    .await;
    assert_eq!(
        (attachment.router_name.as_str(), label_changed),
        ("r2", false)
    );
    let flow = asker.flow(to_class(), FlowOptions::default());
    let receipt = flow.send_receipted("moved").await.unwrap();
    within(10, "receipt", receipt).await.unwrap();
    within(5, "delivery", server.recv()).await.unwrap();
    within(10, "goodbye", async {
        while first.seen().byes == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_or_finds_nobody_learns_why() {
    let ca = Ca::new();
    let stub = Stub::start(&ca, 1);
    stub.rules().refuse_hello = Some(CloseCode::NotAllowed);
    let error = within(10, "refusal", Client::attach(ca.agent(1, &[&stub])))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            AttachError::Refused {
                code: CloseCode::NotAllowed,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Peer);

    // Registration may be on its way: try on until the time is over, then say so.
    stub.rules().refuse_hello = Some(CloseCode::UnknownIdentity);
    let mut config = ca.agent(1, &[&stub]);
    config.attach_timeout = Duration::from_millis(500);
    let error = within(10, "refusal", Client::attach(config.clone())).await;
    assert!(
        matches!(
            error,
            Err(AttachError::Refused {
                code: CloseCode::UnknownIdentity,
                ..
            })
        ),
        "{error:?}"
    );
    assert!(stub.seen().hellos.len() > 3, "it tried on");

    config.routers = vec!["127.0.0.1:1".into(), "nobody.invalid:4433".into()];
    let error = within(10, "nobody", Client::attach(config.clone()))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("127.0.0.1:1") && text.contains("nobody.invalid:4433"),
        "{text}"
    );
    assert_eq!(error.fault(), Fault::Operating);

    let other = Ca::new();
    config.routers = vec![stub.address.to_string()];
    config.credentials = other.credentials("agent/1");
    let error = within(10, "another authority", Client::attach(config.clone())).await;
    assert!(
        matches!(error, Err(AttachError::Unreachable { .. })),
        "{error:?}"
    );

    config.routers = vec!["no port".into()];
    let error = Client::attach(config).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impostor_of_a_router_is_not_spoken_to() {
    let ca = Ca::new();
    let stub = Stub::start(&ca, 1);
    let mut config = ca.agent(1, &[&stub]);
    config.router_uri_prefix = Some("spiffe://caplane.test/other/".into());
    config.attach_timeout = Duration::from_millis(500);
    let error = within(10, "refusal", Client::attach(config))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("is not a router's name"),
        "{error}"
    );
    assert!(stub.seen().hellos.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_instance_closes_and_ends_its_waits() {
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    stub.rules().drop_data_every = Some(1);
    let flow = asker.flow(to_class(), FlowOptions::default());
    let pending = flow.send_receipted("lost").await.unwrap();
    stub.order(Order::Close(Some(1), CloseCode::Replaced));
    let error = within(10, "end of the wait", pending).await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Closed(CloseReason::Refused {
                code: CloseCode::Replaced,
                ..
            })
        ),
        "{error}"
    );
    // Who learns of the end by one wait finds the client closed and detached.
    assert!(asker.attachment().is_none());
    assert!(within(5, "end", asker.attached()).await.is_err());
    assert!(matches!(flow.send("more").await, Err(SendError::Closed(_))));
    assert!(within(5, "end", asker.recv()).await.is_err());
    assert!(servers[0].attachment().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_does_not_read_holds_its_senders_back_and_loses_nothing() {
    let (_ca, _stub, asker, servers) = fabric(1, |config| {
        config.receive.messages_max = 10;
    })
    .await;
    const COUNT: usize = 500;
    let flow = asker.flow(to_class(), FlowOptions::default());
    let mut pending = Vec::new();
    for n in 0..COUNT {
        let payload = vec![n as u8; 1_000];
        pending.push(flow.send_receipted(payload).await.unwrap());
    }
    within(10, "the first ten", async {
        while servers[0].counters().delivered < 10 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for n in 0..COUNT {
        assert!(servers[0].counters().delivered as usize <= n + 10);
        let delivery = within(10, "delivery", servers[0].recv()).await.unwrap();
        assert_eq!(delivery.payload()[..], vec![n as u8; 1_000]);
    }
    for receipt in pending {
        within(20, "receipt", receipt).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_send_buffer_is_bounded_and_comes_back() {
    let (_ca, stub, asker, servers) = fabric(1, |config| {
        config.send_buffer_bytes = 1 << 20;
    })
    .await;
    stub.rules().drop_data_every = Some(1);
    let flow = asker.flow(to_class(), FlowOptions::default());
    let mut pending = Vec::new();
    let stuck = tokio::time::timeout(Duration::from_millis(300), async {
        loop {
            pending.push(flow.send_receipted(vec![0; 10_000]).await.unwrap());
        }
    });
    let stuck: Result<(), _> = stuck.await;
    assert!(stuck.is_err());
    assert_eq!(pending.len(), (1 << 20) / 10_256);
    stub.rules().drop_data_every = None;
    let after = within(10, "room", flow.send_receipted(vec![0; 10_000])).await;
    pending.push(after.unwrap());
    for receipt in pending {
        within(20, "receipt", receipt).await.unwrap();
    }
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_finishes_what_was_sent() {
    let (_ca, stub, asker, servers) = fabric(1, |_| {}).await;
    let flow = asker.flow(to_class(), FlowOptions::default());
    for n in 0..1_000_u32 {
        flow.send(n.to_be_bytes().to_vec()).await.unwrap();
    }
    let last = flow.send_receipted("last").await.unwrap();
    within(10, "close", asker.close()).await;
    within(1, "receipt", last).await.unwrap();
    for n in 0..1_000_u32 {
        let delivery = within(5, "delivery", servers[0].recv()).await.unwrap();
        assert_eq!(delivery.payload()[..], n.to_be_bytes());
    }
    assert_eq!(stub.seen().byes, 1);
    assert!(matches!(
        flow.send("late").await,
        Err(SendError::Closed(CloseReason::Application))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_everything_says_goodbye() {
    let (_ca, stub, asker, _) = fabric(0, |_| {}).await;
    drop(asker);
    within(5, "goodbye", async {
        while stub.seen().byes == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// 10,000 receipted messages of 64 B to 1 MiB over 32 flows, in order per flow and carrier.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_of_all_sizes_arrive_whole_and_in_order() {
    let (_ca, _stub, asker, servers) = fabric(1, |_| {}).await;
    const COUNT: usize = 10_000;
    let size = |n: usize| match n % 100 {
        0 => 1 << 20,
        1..=3 => 100_000,
        4..=20 => 16_384,
        21..=50 => 1_024,
        _ => 64,
    };
    let started = Instant::now();
    let receiving = tokio::spawn({
        let server = servers[0].clone();
        async move {
            let mut last: BTreeMap<(u64, bool), u32> = BTreeMap::new();
            let (mut count, mut bytes) = (0, 0);
            while count < COUNT {
                for delivery in server.recv_many(256).await.unwrap() {
                    let payload = delivery.payload();
                    let n = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    assert_eq!(payload.len(), size(n as usize));
                    assert!(payload[4..].iter().all(|byte| *byte == n as u8));
                    let bulk = delivery.carried_by() == CarriedBy::Bulk;
                    if let Some(before) = last.insert((delivery.flow(), bulk), n) {
                        assert!(before < n);
                    }
                    count += 1;
                    bytes += payload.len();
                }
            }
            bytes
        }
    });
    let flows: Vec<Flow> = (0..32)
        .map(|_| asker.flow(to_class(), FlowOptions::default()))
        .collect();
    let mut pending = Vec::new();
    for n in 0..COUNT {
        let mut payload = vec![n as u8; size(n)];
        payload[..4].copy_from_slice(&(n as u32).to_be_bytes());
        let flow = &flows[n / 7 % flows.len()];
        pending.push(flow.send_receipted(Bytes::from(payload)).await.unwrap());
    }
    for receipt in pending {
        within(60, "receipt", receipt).await.unwrap();
    }
    let bytes = within(60, "deliveries", receiving).await.unwrap();
    let took = started.elapsed();
    println!("{COUNT} messages, {bytes} bytes in {took:?}");
    // A busy machine may make the client impatient; nothing is lost on the way.
    assert!(asker.counters().resent < COUNT as u64 / 10);
}
