//! Agent identity codes: known answers, and which mistakes their check digits find.

use caplane_wire::{Aic, PeerName};
use proptest::prelude::*;

const SALT: [u8; 2] = [0x12, 0x34];

/// Both layouts of the levels; the check is the same.
const KNOWN: [&str; 2] = [
    "1.2.156.3088.1.34C2.478BDF.3GF546.1.0SEN",
    "1.2.156.3088.1.1.34C2.478BDF.3GF546.0JU4",
];

fn aic(text: &str) -> Aic<'_> {
    Aic::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Well-formed codes whose check digits are right.
fn codes() -> impl Strategy<Value = (String, Vec<u8>)> {
    let levels = prop::collection::vec("[0-9A-Z]{1,4}", 9..10);
    let salt = prop::collection::vec(any::<u8>(), 0..9);
    (levels, salt).prop_map(|(levels, salt)| {
        let levels = levels.join(".");
        let open = format!("{levels}.0000");
        let digits = aic(&open).check_digits(&salt);
        let digits = String::from_utf8(digits.to_vec()).expect("ASCII");
        (format!("{levels}.{digits}"), salt)
    })
}

#[test]
fn known_codes_pass_under_their_salt_only() {
    for text in KNOWN {
        let code = aic(text);
        assert!(code.check(&SALT), "{text}");
        assert!(aic(&text.to_lowercase()).check(&SALT), "{text}");
        for other in [&[][..], &[0x12], &[0x34, 0x12], &[0x12, 0x34, 0]] {
            assert!(!code.check(other), "{text} {other:?}");
        }
        assert_eq!(code.levels().count(), 10);
        assert_eq!(code.levels().last(), text.rsplit('.').next());
        assert_eq!(code, aic(&text.to_lowercase()));
    }
    assert_ne!(aic(KNOWN[0]), aic(KNOWN[1]));
}

/// CRC-16 finds every run of errors of up to 16 bits, so any character that is wrong; with the check digits themselves
/// any difference shows.
#[test]
fn no_wrong_character_passes() {
    for text in KNOWN {
        for at in 0..text.len() {
            for put in "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ".chars() {
                if text[at..].starts_with(put) {
                    continue;
                }
                let mut wrong = text.to_owned();
                wrong.replace_range(at..=at, put.encode_utf8(&mut [0; 4]));
                // In the place of a dot there are nine levels.
                let passes = Aic::parse(&wrong).is_ok_and(|code| code.check(&SALT));
                assert!(!passes, "{wrong}");
            }
        }
    }
}

#[test]
fn what_is_no_code_says_where() {
    let position = |text: &str| Aic::parse(text).expect_err(text).position();
    assert_eq!(position(""), 0);
    assert_eq!(position("1.2.156"), 7);
    assert_eq!(position("1.2.156.3088.1.34C2.478BDF.3GF546.1.0SEN.7"), 42);
    assert_eq!(position("1.2..3088.1.34C2.478BDF.3GF546.1.0SEN"), 4);
    assert_eq!(position("1.2.156.3088.1.34-2.478BDF.3GF546.1.0SEN"), 17);
    assert_eq!(position(&"1".repeat(54)), 53);
    // A check of another length is no check.
    for last in ["SEN", "00SEN", "0SE", "0"] {
        let text = format!("1.2.156.3088.1.34C2.478BDF.3GF546.1.{last}");
        assert!(!aic(&text).check(&SALT), "{text}");
    }
}

#[test]
fn prefixes_end_at_levels() {
    let code = aic(KNOWN[0]);
    for (prefix, is_below) in [
        ("1.2.156.3088", true),
        ("1.2.156.3088.1.34c2", true),
        (KNOWN[0], true),
        ("1.2.156.308", false),
        ("1.2.156.3088.", false),
        ("1.2.156.3089", false),
        ("", false),
    ] {
        assert_eq!(code.is_below(prefix), is_below, "{prefix}");
    }
    let longer = format!("{}.1", KNOWN[0]);
    assert!(!code.is_below(&longer));
}

#[test]
fn a_peers_name_gives_its_code() {
    let uri = format!("acps://{}", KNOWN[0]);
    let name = PeerName::parse(&uri).expect("a name");
    assert_eq!(name.aic(), Some(aic(KNOWN[0])));
    let agent = PeerName::parse("spiffe://example.org/agent/a").expect("a name");
    assert_eq!(agent.aic(), None);
    // Peers' names are compared as bytes: one spelling only.
    let lower = uri.replace("34C2", "34c2");
    let error = PeerName::parse(&lower).expect_err("lower case");
    assert_eq!(Some(error.position()), lower.rfind('c'), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_wrong_character_and_two_that_changed_places_are_found(
        (text, salt) in codes(),
        at in any::<prop::sample::Index>(),
        put in "[0-9A-Z]",
    ) {
        prop_assert!(aic(&text).check(&salt));
        prop_assert!(aic(&text.to_lowercase()).check(&salt));
        let at = at.index(text.len() - 1);
        let mut wrong = text.clone();
        wrong.replace_range(at..=at, &put);
        let mut swapped = text.clone().into_bytes();
        swapped.swap(at, at + 1);
        let swapped = String::from_utf8(swapped).expect("ASCII");
        for changed in [wrong, swapped] {
            // The dot before the check digits is not under them: moved, it makes others of them.
            let passes = Aic::parse(&changed).is_ok_and(|code| code.check(&salt));
            prop_assert!(!passes || changed == text, "{} {}", text, changed);
        }
    }

    #[test]
    fn whatever_the_text_nothing_panics(text in "\\PC{0,60}", salt in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(code) = Aic::parse(&text) {
            let _ = (code.check(&salt), code.levels().count(), code.is_below(&text));
        }
    }

    #[test]
    fn codes_come_apart_into_their_levels(text in "([0-9A-Za-z]{1,4}\\.){9}[0-9A-Za-z]{1,4}") {
        let levels: Vec<&str> = aic(&text).levels().collect();
        prop_assert_eq!(levels.len(), 10);
        prop_assert_eq!(levels.join("."), text);
    }
}
