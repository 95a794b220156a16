use super::*;

const QUOTA: Quota = Quota {
    calls_per_second: 10,
    updates_per_second: 100,
    bytes_per_second: 1_000,
    watches: 2,
};

fn name(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn a_client_may_save_up_and_then_gets_what_is_due() {
    let (quotas, start) = (Quotas::default(), Instant::now());
    let one = [(Kind::Calls, 1)];
    let take = |client: &str, at: f64| {
        quotas.take(
            &name(client),
            &QUOTA,
            &one,
            start + Duration::from_secs_f64(at),
        )
    };
    for i in 0..100 {
        assert_eq!(take("a", 0.0), Ok(()), "{i}");
    }
    let exceeded = take("a", 0.0).expect_err("saved up for 10 s, not for more");
    assert_eq!((exceeded.kind, exceeded.per_second), (Kind::Calls, 10));
    // Who waits as long as it was told may go on; who does not may not.
    let after = exceeded.retry_after.as_secs_f64();
    assert!(after > 0.09 && after < 0.2, "{after}");
    assert!(
        take("a", after * 0.4).is_ok(),
        "the bucket is above nothing"
    );
    assert!(take("a", after * 0.5).is_err());
    // In the long run: what is due.
    let passed = (0..10_000).filter(|i| take("a", 1.0 + f64::from(*i) / 1_000.0).is_ok());
    assert!((95..=112).contains(&passed.count()));
    // Others have their own.
    assert!(take("b", 0.0).is_ok());
    // A clock that seems to go back fills nothing and breaks nothing.
    assert!(take("b", 0.0).is_ok());
}

#[test]
fn a_large_request_passes_and_is_paid_for_afterwards() {
    let (quotas, start) = (Quotas::default(), Instant::now());
    let batch = [(Kind::Updates, 2_000), (Kind::Bytes, 500)];
    let take = |at: u64| quotas.take(&name("a"), &QUOTA, &batch, start + Duration::from_secs(at));
    assert_eq!(take(0), Ok(()), "more than was saved up");
    let exceeded = take(1).expect_err("in debt");
    assert_eq!(exceeded.kind, Kind::Updates);
    // 2,000 of 1,000 were taken, 100 came back.
    let due = exceeded.retry_after.as_secs_f64();
    assert!((8.9..9.2).contains(&due), "{due}");
    // What was refused took nothing of the other kind either.
    let bytes = [(Kind::Bytes, 9_400)];
    assert!(
        quotas
            .take(&name("a"), &QUOTA, &bytes, start + Duration::from_secs(1))
            .is_ok()
    );
    assert!(take(11).is_ok());
}

#[test]
fn only_so_many_clients_are_remembered_and_the_silent_one_goes() {
    let (quotas, start) = (Quotas::default(), Instant::now());
    let all = [(Kind::Calls, 1_000)];
    let take = |client: usize, at: u64| {
        let at = start + Duration::from_millis(at);
        quotas.take(&name(&client.to_string()), &QUOTA, &all, at)
    };
    for client in 0..CLIENTS_MAX {
        assert!(take(client, client as u64).is_ok());
    }
    let later = CLIENTS_MAX as u64;
    assert!(take(0, later).is_err(), "in debt, and heard of just now");
    assert!(take(CLIENTS_MAX, later).is_ok());
    assert_eq!(quotas.clients().len(), CLIENTS_MAX);
    assert!(take(0, later).is_err(), "still remembered");
    assert!(take(1, later).is_ok(), "forgotten");
}

#[test]
fn watches_are_counted_while_they_live() {
    let quotas = Arc::new(Quotas::default());
    let watch = |client: &str| quotas.watch(&name(client), &QUOTA);
    let (first, _second) = (watch("a").expect("one"), watch("a").expect("two"));
    assert!(watch("a").is_none() && watch("b").is_some());
    drop(first);
    assert!(watch("a").is_some());
    assert_eq!(quotas.watches().len(), 1, "who has none is forgotten");
}
