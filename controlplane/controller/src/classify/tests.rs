use super::*;
use crate::card::AgentCard;

fn shipped() -> Taxonomy {
    Taxonomy::shipped().expect("the shipped taxonomy reads")
}

fn skill(id: &str, name: &str, description: &str, tags: &[&str], examples: &[&str]) -> SkillClaim {
    let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    SkillClaim {
        id: id.into(),
        name: name.into(),
        description: description.into(),
        tags: all(tags),
        examples: all(examples),
    }
}

fn path_of(taxonomy: &Taxonomy, label: Option<Label>) -> &str {
    label
        .and_then(|label| taxonomy.by_label(label))
        .map_or("waiting", |class| class.path.as_str())
}

/// The shipped classes, alone and beside the OASF tree where that is present.
fn taxonomies() -> Vec<Taxonomy> {
    let mut all = vec![shipped()];
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/data/oasf-skills.json"
    );
    if let Ok(text) = std::fs::read_to_string(path) {
        let oasf = Taxonomy::from_json(&text, "oasf-skills.json").expect("reads");
        all.push(shipped().merge(oasf).expect("merges"));
    }
    all
}

#[test]
fn an_exact_name_wins_and_says_so() {
    let taxonomy = shipped();
    let classifier = Classifier::new(&taxonomy);
    let by_id = classifier.classify(&skill(
        "currencyConversion",
        "Book hotels",
        "hotels",
        &[],
        &[],
    ));
    assert_eq!(
        path_of(&taxonomy, by_id.class),
        "finance/currency/currency_conversion"
    );
    assert_eq!((by_id.matched_by, by_id.score), (MatchedBy::Exact, 1.0));
    assert_eq!(
        by_id.provenance,
        "skill id \"currencyConversion\" is the last path segment of finance/currency/currency_conversion"
    );
    let by_path = classifier.classify(&skill("travel/air_travel/flight_status", "x", "", &[], &[]));
    assert_eq!(
        path_of(&taxonomy, by_path.class),
        "travel/air_travel/flight_status"
    );
    let by_alias = classifier.classify(&skill("s1", "Book a Hotel", "", &[], &[]));
    assert_eq!(
        path_of(&taxonomy, by_alias.class),
        "travel/accommodation/hotel_booking"
    );
    assert_eq!(by_alias.matched_by, MatchedBy::Alias);
    assert!(
        by_alias
            .provenance
            .contains("skill name \"Book a Hotel\" is an alias of")
    );
}

#[test]
fn a_name_of_two_classes_means_neither() {
    let text = r#"{"skills": [
        {"path": "a", "uid": "1", "caption": "Same"}, {"path": "a/x", "uid": "1.1", "caption": "P"},
        {"path": "b", "uid": "2", "caption": "Same"}, {"path": "b/x", "uid": "2.1", "caption": "Q"},
        {"path": "c", "uid": "3", "caption": "Third", "aliases": ["b"]}]}"#;
    let taxonomy = Taxonomy::from_json(text, "t").expect("reads");
    let classifier = Classifier::new(&taxonomy);
    assert!(classifier.named("x").is_none() && classifier.named("same").is_none());
    let (label, _) = classifier.named("b").expect("a path hides an alias");
    assert_eq!(path_of(&taxonomy, Some(label)), "b");
}

#[test]
fn skills_described_in_other_words_are_found_by_text() {
    let cases = [
        (
            skill(
                "fx1",
                "Money changer",
                "Converts an amount in dollars or euros to another currency",
                &["exchange"],
                &["How much is 10 USD in EUR?"],
            ),
            "finance/currency/currency_conversion",
        ),
        (
            skill(
                "rooms",
                "Rooms",
                "Finds and reserves hotel rooms in any city",
                &["hotel", "lodging"],
                &[],
            ),
            "travel/accommodation/hotel_booking",
        ),
        (
            skill(
                "fly",
                "Ticket desk",
                "Books return flights for travellers",
                &["air", "tickets"],
                &["From SFO to LHR"],
            ),
            "travel/air_travel/air_ticket_booking",
        ),
        (
            skill(
                "decompose",
                "Coordinator",
                "Breaks a complex request down into actionable tasks",
                &["planner"],
                &[],
            ),
            "planning/tasks/task_planning",
        ),
        (
            skill(
                "alarms",
                "Storm control",
                "Correlates network alarms into one incident",
                &["noc"],
                &[],
            ),
            "network_operations/fault_management/alarm_correlation",
        ),
        (
            skill(
                "slices",
                "Slice factory",
                "Creates and terminates 5G slice instances",
                &["5G"],
                &[],
            ),
            "network_operations/network_slicing/slice_lifecycle",
        ),
        (
            skill(
                "bill",
                "Why so much",
                "Explains the items on a customer's phone bill",
                &[],
                &[],
            ),
            "telecom_business/billing/bill_explanation",
        ),
        (
            skill(
                "esims",
                "Profiles",
                "Downloads eSIM profiles to new phones",
                &["esim"],
                &[],
            ),
            "subscriber_services/sim_management/esim_provisioning",
        ),
        (
            skill(
                "w",
                "Sky",
                "Tells the temperature and rain forecast for tomorrow",
                &["weather"],
                &[],
            ),
            "weather/weather_forecast",
        ),
        (
            skill(
                "table",
                "Dinner",
                "Reserves tables at restaurants nearby",
                &[],
                &[],
            ),
            "food/restaurant_booking",
        ),
    ];
    for taxonomy in taxonomies() {
        let classifier = Classifier::new(&taxonomy);
        for (claim, expected) in &cases {
            let decision = classifier.classify(claim);
            assert_eq!(
                path_of(&taxonomy, decision.class),
                *expected,
                "{}",
                decision.provenance
            );
            assert!(decision.score > 0.0 && decision.score < 1.0);
            assert!(
                decision.provenance.starts_with("BM25 puts it in "),
                "{}",
                decision.provenance
            );
        }
    }
}

#[test]
fn skills_that_say_little_or_nothing_wait_for_an_operator() {
    let cases = [
        skill(
            "frobnicate",
            "Frobnicate",
            "Frobnicates widgets",
            &["widgets"],
            &[],
        ),
        skill("x", "Do it", "Helps users with any request", &[], &[]),
        skill(
            "s",
            "Knitting patterns",
            "Suggests patterns for knitting socks",
            &["wool"],
            &[],
        ),
        skill(
            "h",
            "Hello World",
            "Just returns hello world",
            &["hello world"],
            &["hi", "hello world"],
        ),
        skill(
            "r",
            "Dice",
            "Rolls an N-sided dice and says if the result is prime",
            &["dice"],
            &["Roll a 20-sided dice"],
        ),
        skill("", "", "", &[], &[]),
    ];
    for taxonomy in taxonomies() {
        let classifier = Classifier::new(&taxonomy);
        for claim in &cases {
            let decision = classifier.classify(claim);
            assert_eq!(decision.class, None, "{claim:?}: {}", decision.provenance);
            assert_eq!(decision.matched_by, MatchedBy::Waiting);
            assert!(
                decision.provenance.contains("waits for an operator"),
                "{}",
                decision.provenance
            );
        }
    }
}

#[test]
fn questions_find_their_class_first() {
    let cases = [
        ("convert currency", "finance/currency/currency_conversion"),
        (
            "convert 100 dollars to another currency please",
            "finance/currency/currency_conversion",
        ),
        ("book a hotel", "travel/accommodation/hotel_booking"),
        (
            "I need to book a hotel room in Paris",
            "travel/accommodation/hotel_booking",
        ),
        ("book air tickets", "travel/air_travel/air_ticket_booking"),
        ("buy a plane ticket", "travel/air_travel/air_ticket_booking"),
        ("plan my tasks", "planning/tasks/task_planning"),
        (
            "why is my phone bill so high",
            "telecom_business/billing/bill_explanation",
        ),
        (
            "activate my SIM card",
            "subscriber_services/sim_management/sim_activation",
        ),
        (
            "create a network slice",
            "network_operations/network_slicing/slice_lifecycle",
        ),
        (
            "what will the weather be tomorrow",
            "weather/weather_forecast",
        ),
        ("track my parcel", "shopping/parcel_tracking"),
        ("travel/air_travel", "travel/air_travel"),
        ("class:112.2.1", "travel/air_travel/air_ticket_booking"),
    ];
    for taxonomy in taxonomies() {
        let classifier = Classifier::new(&taxonomy);
        for (question, expected) in cases {
            let found = classifier.find(question, 3);
            let first = found.first().map(|scored| scored.label);
            assert_eq!(path_of(&taxonomy, first), expected, "{question}: {found:?}");
            assert!(found.len() <= 3 && found.is_sorted_by(|a, b| a.score >= b.score));
        }
        assert!(classifier.find("", 5).is_empty());
        assert!(classifier.find("zzz qqq", 5).is_empty());
        assert!(classifier.find("convert currency", 0).is_empty());
        assert_eq!(
            classifier
                .find("book travel network service telecom plan", 10_000)
                .len(),
            FIND_MAX.min(
                classifier
                    .find("book travel network service telecom plan", FIND_MAX)
                    .len()
            )
        );
    }
}

/// The cards lie beside the workspace where it is developed, and not in a clone.
#[test]
fn real_cards_land_in_their_classes_where_present() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/data/agent-cards"
    );
    if !std::path::Path::new(folder).is_dir() {
        return;
    }
    for taxonomy in taxonomies() {
        let classifier = Classifier::new(&taxonomy);
        for (file, expected) in [
            (
                "currency_agent.json",
                "finance/currency/currency_conversion",
            ),
            (
                "hotel_booking_agent.json",
                "travel/accommodation/hotel_booking",
            ),
            (
                "air_ticketing_agent.json",
                "travel/air_travel/air_ticket_booking",
            ),
            ("planner_agent.json", "planning/tasks/task_planning"),
        ] {
            let bytes = std::fs::read(format!("{folder}/{file}")).expect("a card");
            let card = AgentCard::parse(&bytes).expect("reads");
            for claim in &card.skills {
                let decision = classifier.classify(claim);
                assert_eq!(
                    path_of(&taxonomy, decision.class),
                    expected,
                    "{}",
                    decision.provenance
                );
                // Without its names the prose alone must still do.
                let prose = SkillClaim {
                    id: "s1".into(),
                    name: "A skill".into(),
                    ..claim.clone()
                };
                let decision = classifier.classify(&prose);
                assert_eq!(
                    path_of(&taxonomy, decision.class),
                    expected,
                    "{}",
                    decision.provenance
                );
            }
        }
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    let taxonomy = shipped();
    let (one, two) = (Classifier::new(&taxonomy), Classifier::new(&taxonomy));
    for question in ["network", "booking tickets", "plan", "data usage abroad"] {
        assert_eq!(one.find(question, 20), two.find(question, 20));
    }
}

#[test]
fn another_scorer_can_take_over() {
    struct Fixed(Label);
    impl Scorer for Fixed {
        fn name(&self) -> &'static str {
            "fixed"
        }
        fn rank(&self, query: &Query<'_>, _limit: usize) -> Vec<Ranked> {
            let evidence = query
                .parts
                .iter()
                .map(|(text, _)| (*text).to_owned())
                .collect();
            vec![Ranked {
                label: self.0,
                score: 0.9,
                evidence,
            }]
        }
    }
    let taxonomy = shipped();
    let label = taxonomy.class_by_path("weather").expect("there").label;
    let classifier = Classifier::with_scorer(&taxonomy, Box::new(Fixed(label)));
    let decision = classifier.classify(&skill("q", "r", "s", &[], &[]));
    assert_eq!(
        (decision.class, decision.matched_by),
        (Some(label), MatchedBy::Text)
    );
    assert_eq!(
        decision.provenance,
        "fixed puts it in weather at 0.90 by q, r, s"
    );
}
