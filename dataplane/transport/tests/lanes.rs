//! Lanes, the control stream, bulk streams and datagrams over loopback.

mod support;

use support::*;

#[test]
fn an_endpoint_may_be_moved_to_its_thread() {
    fn send<T: Send>() {}
    send::<caplane_transport::Endpoint>();
    send::<caplane_transport::Waker>();
}

#[test]
fn messages_arrive_whole_and_in_order() {
    for listen in [v4(), v6()] {
        let mut pair = Pair::new(listen, |_| {});
        let lane = pair.lane();
        let sizes = [48, 49, 1_000, 65_536, 16_384, 100];
        let sent: Vec<_> = (0..600_u32)
            .map(|n| message(n, sizes[n as usize % sizes.len()]))
            .collect();
        let mut next = 0;
        let to_server = pair.to_server;
        pair.drive("600 messages", |client, server| {
            while next < sent.len() && client.endpoint.lane_ready(to_server, lane) {
                client
                    .endpoint
                    .send_lane(to_server, lane, sent[next].clone())
                    .expect("send");
                next += 1;
            }
            server.messages.len() == sent.len()
        });
        for (got, expected) in pair.server.messages.iter().zip(&sent) {
            assert_eq!(&got.2, expected);
        }
        assert_eq!(pair.server.endpoint.counters().copied_bytes, 0);
        pair.drive("acknowledged", |client, _| client.endpoint.acked(to_server));
    }
}

#[test]
fn an_idle_tail_leaves_its_slab_and_the_message_is_whole_all_the_same() {
    let mut pair = Pair::new(v4(), |_| {});
    let (lane, to_server) = (pair.lane(), pair.to_server);
    let whole = message(1, 50_000);
    pair.client
        .endpoint
        .send_lane(to_server, lane, whole.slice(..20_000))
        .expect("send");
    // After a second without more, the tail is moved to memory of its own size: 20,000 bytes are copied once.
    pair.drive("the tail is moved", |_, server| {
        server.endpoint.counters().copied_bytes == 20_000
    });
    pair.client
        .endpoint
        .send_lane(to_server, lane, whole.slice(20_000..))
        .expect("send");
    pair.drive("the message", |_, server| server.messages.len() == 1);
    assert_eq!(pair.server.messages[0].2, whole);
    // And once more into the slab that the rest was read into.
    assert_eq!(pair.server.endpoint.counters().copied_bytes, 40_000);
}
