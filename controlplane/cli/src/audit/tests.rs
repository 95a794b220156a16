use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::*;

struct Chain {
    key: Ed25519KeyPair,
    records: Vec<v1::AuditRecord>,
}

impl Chain {
    fn of(records: u64) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let mut chain = Self {
            key: Ed25519KeyPair::from_pkcs8(der.as_ref()).expect("a key"),
            records: Vec::new(),
        };
        for i in 0..records {
            chain.add(v1::AuditBody {
                who: format!("spiffe://d/operator/{i}"),
                call: "Write".into(),
                what: "INSERT tenant t".into(),
                generation: i,
                ..v1::AuditBody::default()
            });
        }
        chain
    }

    fn add(&mut self, mut body: v1::AuditBody) {
        if body.sequence == 0 {
            body.sequence = self.records.len() as u64 + 1;
        }
        if let Some(last) = self.records.last() {
            body.previous.clone_from(&last.hash);
        }
        let body = body.encode_to_vec();
        let hash = hash(&body);
        self.records.push(v1::AuditRecord {
            signature: self.key.sign(&hash).as_ref().to_vec(),
            public_key: self.key.public_key().as_ref().to_vec(),
            hash,
            body,
        });
    }

    fn keys(&self) -> Vec<Vec<u8>> {
        vec![self.key.public_key().as_ref().to_vec()]
    }
}

/// Whether it is found out, with the key and without.
fn found_out(records: &[v1::AuditRecord], chain: &Chain) -> bool {
    verify(records, &chain.keys(), None).is_err() && verify(records, &[], None).is_err()
}

#[test]
fn a_whole_log_is_told_with_its_head() {
    let chain = Chain::of(5);
    let whole = verify(&chain.records, &chain.keys(), None).expect("whole");
    assert_eq!((whole.oldest, whole.newest), (1, 5));
    assert_eq!(whole.head, chain.records[4].hash);
    assert_eq!(verify(&chain.records, &[], None), Ok(whole));
    let nothing = verify(&[], &[], None).expect("nothing is whole");
    assert_eq!((nothing.oldest, nothing.newest), (0, 0));
}

#[test]
fn every_change_of_a_byte_is_found() {
    let chain = Chain::of(3);
    let mut tried = 0;
    for (place, record) in chain.records.iter().enumerate() {
        let bytes = record.encode_to_vec();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                tried += 1;
                // What cannot be read at all is found too.
                let Ok(changed) = v1::AuditRecord::decode(bytes.as_slice()) else {
                    continue;
                };
                let mut records = chain.records.clone();
                records[place] = changed;
                assert!(
                    found_out(&records, &chain),
                    "record {place}, byte {at}, bit {bit}"
                );
            }
        }
    }
    assert!(tried > 3 * 8 * 200, "{tried}");
}

#[test]
fn every_swap_gap_and_repetition_is_found() {
    let chain = Chain::of(6);
    for a in 0..6 {
        for b in 0..a {
            let mut records = chain.records.clone();
            records.swap(a, b);
            assert!(found_out(&records, &chain), "swapped {a} and {b}");
        }
        let mut records = chain.records.clone();
        records.insert(a, records[a].clone());
        assert!(found_out(&records, &chain), "repeated {a}");
        // The newest is another matter, see below.
        if a < 5 {
            let mut records = chain.records.clone();
            records.remove(a);
            assert!(found_out(&records, &chain), "without {a}");
        }
    }
    // Changed by who has the key, too late: the next one does not follow.
    let mut records = chain.records.clone();
    let mut body = v1::AuditBody::decode(records[3].body.as_slice()).expect("a body");
    body.what.clear();
    let body = body.encode_to_vec();
    records[3].hash = hash(&body);
    records[3].signature = chain.key.sign(&records[3].hash).as_ref().to_vec();
    records[3].body = body;
    assert!(
        found_out(&records, &chain),
        "signed anew, and the next does not follow"
    );
}

#[test]
fn that_the_newest_are_missing_shows_to_who_remembers() {
    let chain = Chain::of(5);
    let head = chain.records[4].hash.clone();
    let shorter = &chain.records[..4];
    assert!(
        verify(shorter, &chain.keys(), None).is_ok(),
        "nothing else can tell"
    );
    assert!(verify(shorter, &chain.keys(), Some(&head)).is_err());
    assert!(verify(&chain.records, &chain.keys(), Some(&head)).is_ok());
    // One of before is still there.
    let before = chain.records[1].hash.clone();
    assert!(verify(&chain.records, &chain.keys(), Some(&before)).is_ok());
}

#[test]
fn a_log_made_anew_is_found_by_who_has_the_key() {
    let (chain, forged) = (Chain::of(3), Chain::of(3));
    assert!(
        verify(&forged.records, &[], None).is_ok(),
        "nothing else can tell"
    );
    let error = verify(&forged.records, &chain.keys(), None).expect_err("another key");
    assert_eq!(error.sequence, 1);
    let mut mixed = chain.records.clone();
    mixed[2] = forged.records[2].clone();
    assert!(verify(&mixed, &[], None).is_err());
}

#[test]
fn what_was_forgotten_must_be_said_to_be() {
    let mut chain = Chain::of(6);
    let rest = |chain: &Chain, from: usize| verify(&chain.records[from..], &chain.keys(), None);
    assert!(rest(&chain, 3).is_err());
    let prune = |through: u64, hash: &[u8]| v1::AuditBody {
        call: "prune".into(),
        pruned_through: through,
        pruned_hash: hash.to_vec(),
        ..v1::AuditBody::default()
    };
    let third = chain.records[2].hash.clone();
    chain.add(prune(3, &third));
    let whole = rest(&chain, 3).expect("said so");
    assert_eq!((whole.oldest, whole.newest), (4, 7));
    assert!(rest(&chain, 2).is_err() && rest(&chain, 4).is_err());
    assert!(
        rest(&chain, 0).is_err(),
        "it is said to be gone and is there"
    );
    // A head that was remembered before it was forgotten.
    let kept = verify(&chain.records[3..], &chain.keys(), Some(&third));
    assert!(kept.is_ok());
}

#[test]
fn a_caller_who_names_a_call_prune_has_forgotten_nothing() {
    let mut chain = Chain::of(5);
    let third = chain.records[2].hash.clone();
    chain.add(v1::AuditBody {
        call: "prune".into(),
        pruned_through: 3,
        pruned_hash: third,
        ..v1::AuditBody::default()
    });
    // What the controller wrote down of somebody who was denied.
    chain.add(v1::AuditBody {
        who: "spiffe://d/tenant/t/agent/a".into(),
        call: "prune".into(),
        code: 7,
        ..v1::AuditBody::default()
    });
    let left = &chain.records[3..];
    let whole = verify(left, &chain.keys(), None).expect("whole");
    assert_eq!((whole.oldest, whole.newest), (4, 7));
}
