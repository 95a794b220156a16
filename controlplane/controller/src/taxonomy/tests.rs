use super::*;

fn entry(uid: &str, path: &str, more: &str) -> String {
    format!(
        "{{\"uid\": \"{uid}\", \"path\": \"{path}\", \"caption\": \"C\", \"description\": \"D\"{more}}}"
    )
}

fn file(entries: &[String]) -> String {
    format!(
        "{{\"source\": \"a test\", \"skills\": [{}]}}",
        entries.join(",")
    )
}

fn refusal(entries: &[String]) -> String {
    Taxonomy::from_json(&file(entries), "t.json")
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn entries_in_any_order_become_labels_in_order() {
    let text = file(&[
        entry(
            "7.12.3",
            "travel/hotels/book",
            ", \"aliases\": [\"book a hotel\"], \"new_field\": {\"x\": 1}",
        ),
        entry("7", "travel", ""),
        entry("9", "food", ", \"caption2\": 1"),
        entry("7.12", "travel/hotels", ""),
    ]);
    let taxonomy = Taxonomy::from_json(&text, "t.json").expect("reads");
    let paths: Vec<_> = taxonomy.iter().map(|class| class.path.as_str()).collect();
    assert_eq!(
        paths,
        ["travel", "travel/hotels", "travel/hotels/book", "food"]
    );
    let class = taxonomy.class_by_path("travel/hotels/book").expect("there");
    assert_eq!(class.label.to_string(), "class:7.12.3");
    assert_eq!(taxonomy.by_label(class.label), Some(class));
    assert_eq!(
        (class.aliases[0].as_str(), class.segment()),
        ("book a hotel", "book")
    );
    assert_eq!(
        taxonomy.by_label(Label::class(7, 12, 4).expect("label")),
        None
    );
    assert_eq!((taxonomy.len(), taxonomy.is_empty()), (4, false));
}

#[test]
fn json_errors_say_file_line_column_and_field() {
    for (text, expected) in [
        ("", "t.json:1:0: EOF while parsing a value"),
        ("{\"skills\": []}", "t.json: 0 skills; give 1 to 50000"),
        (
            "{\n \"skills\": 4}",
            "t.json:2:12: skills: invalid type: integer `4`, expected a sequence",
        ),
        (
            "{\"skills\": [\n{\"uid\": 1}]}",
            "t.json:2:9: skills[0].uid: invalid type: integer `1`, expected a string",
        ),
        (
            "{\"skills\": [{\"uid\": \"1\"}]}",
            "t.json:1:24: skills[0]: missing field `path`",
        ),
        ("{\"skills\": []} x", "t.json:1:16: trailing characters"),
        ("{\"skills\": [", "t.json:1:12: skills"),
    ] {
        let error = Taxonomy::from_json(text, "t.json")
            .expect_err(text)
            .to_string();
        assert!(
            error.starts_with(expected),
            "{text}\n  said {error}\n  expected {expected}"
        );
    }
}

#[test]
fn bad_uids_say_what_would_be_right() {
    for (uid, cause) in [
        ("", "has \"\" where a number belongs"),
        ("0", "has \"0\" where a number belongs"),
        ("01", "has \"01\" where a number belongs"),
        ("1024", "has 1024, past 1023"),
        ("99999", "has \"99999\" where"),
        ("1..2", "has \"\" where"),
        ("1.-2", "has \"-2\" where"),
        ("1.2.3.4", "is deeper than three levels"),
        ("one", "has \"one\" where"),
    ] {
        let path = "a/b/c/d"
            .split('/')
            .take(uid.split('.').count())
            .collect::<Vec<_>>()
            .join("/");
        let error = refusal(&[entry(uid, &path, "")]);
        assert!(
            error.starts_with(&format!("t.json: skills[0] ({path}): uid {uid:?} {cause}")),
            "{error}"
        );
        assert!(error.contains("numbers 1..=1023 joined by dots"), "{error}");
    }
}

#[test]
fn a_broken_tree_names_the_entry_at_fault() {
    let root = entry("1", "a", "");
    let cases = [
        (
            vec![root.clone(), entry("1", "b", "")],
            "skills[1] (b): has the uid of skills[0] (a)",
        ),
        (
            vec![root.clone(), entry("2", "a", "")],
            "skills[1] (a): has the path of skills[0]",
        ),
        (
            vec![entry("1.2", "a/b", "")],
            "skills[0] (a/b): its parent class:1 is not in the file",
        ),
        (
            vec![root.clone(), entry("1.2", "b/c", "")],
            "skills[1] (b/c): its uid stands under \"a\", its path under \"b\"",
        ),
        (
            vec![root.clone(), entry("2", "a/b", "")],
            "skills[1] (a/b): the path has 2 segments and uid \"2\" has 1",
        ),
        (
            vec![entry("1", "a b", "")],
            "skills[0] (a b): the path must be names without blanks",
        ),
        (
            vec![entry("1.1", "a/", "")],
            "the path must be names without blanks",
        ),
        (
            vec![entry("1", "a", ", \"aliases\": [\"--\"]")],
            "alias \"--\" holds no letter and no digit",
        ),
        (
            vec![
                entry("1", "a", ", \"aliases\": [\"Book it\"]"),
                entry("2", "b", ", \"aliases\": [\"book-it\"]"),
            ],
            "skills[1] (b): alias \"book-it\" belongs to a already",
        ),
    ];
    for (entries, expected) in cases {
        let error = refusal(&entries);
        assert!(
            error.contains(expected),
            "said {error}\n  expected {expected}"
        );
    }
}

#[test]
fn sizes_are_bounded() {
    let long = "x".repeat(DESCRIPTION_BYTES_MAX + 1);
    let error = Taxonomy::from_json(
        &format!(
            "{{\"skills\": [{{\"uid\": \"1\", \"path\": \"a\", \"description\": \"{long}\"}}]}}"
        ),
        "t.json",
    )
    .expect_err("too long");
    assert!(
        error
            .to_string()
            .contains("a description of 4097 bytes; at most 4096"),
        "{error}"
    );
    let aliases: Vec<String> = (0..=ALIASES_MAX).map(|i| format!("\"a{i}\"")).collect();
    let error = refusal(&[entry(
        "1",
        "a",
        &format!(", \"aliases\": [{}]", aliases.join(",")),
    )]);
    assert!(error.contains("65 aliases; at most 64"), "{error}");
    let error = refusal(&[entry("1", &"x".repeat(PATH_BYTES_MAX + 1), "")]);
    assert!(
        error.len() < 250 && error.contains("513 bytes long; at most 512"),
        "{error}"
    );
    let large = " ".repeat(FILE_BYTES_MAX + 1);
    let error = Taxonomy::from_json(&large, "t.json")
        .expect_err("too large")
        .to_string();
    assert!(error.contains("at most 16777216"), "{error}");
}

#[test]
fn files_merge_when_nothing_collides() {
    let read =
        |entries: &[String], name: &str| Taxonomy::from_json(&file(entries), name).expect("reads");
    let one = || {
        read(
            &[entry("1", "a", ", \"aliases\": [\"the first\"]")],
            "one.json",
        )
    };
    let both = one()
        .merge(read(&[entry("2", "b", "")], "two.json"))
        .expect("merges");
    assert_eq!(both.len(), 2);
    assert!(both.class_by_path("a").is_some() && both.class_by_path("b").is_some());
    assert_eq!(both.version().split(',').count(), 2);
    assert_ne!(both.version(), one().version());
    for (entries, expected) in [
        (
            [entry("1", "z", "")],
            "two.json: z: level-1 number 1 is used by one.json too",
        ),
        (
            [entry("2", "a", "")],
            "two.json: a: this path is used by one.json too",
        ),
        (
            [entry("2", "z", ", \"aliases\": [\"The First\"]")],
            "two.json: z: alias \"The First\" is used by a of one.json too",
        ),
    ] {
        let error = one()
            .merge(read(&entries, "two.json"))
            .expect_err("collides")
            .to_string();
        assert!(
            error.starts_with(expected),
            "said {error}\n  expected {expected}"
        );
    }
}

#[test]
fn the_shipped_taxonomy_is_well_described_and_leaves_room_for_the_oasf_tree() {
    let shipped = Taxonomy::shipped().expect("reads");
    assert!(shipped.len() >= 80, "{}", shipped.len());
    for class in shipped.iter() {
        assert!(
            class.label.levels()[0] > 100,
            "{} would collide with the OASF tree",
            class.path
        );
        assert!(
            class.description.len() >= 10,
            "{} needs a description",
            class.path
        );
        assert!(!class.aliases.is_empty(), "{} needs an alias", class.path);
    }
    assert!(
        shipped.version().starts_with("1.0.0-"),
        "{}",
        shipped.version()
    );
}

/// The OASF tree lies beside the workspace where it is developed, and not in a clone.
#[test]
fn the_oasf_tree_loads_and_merges_where_present() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/data/oasf-skills.json"
    );
    let Ok(text) = std::fs::read_to_string(path) else {
        return;
    };
    let oasf = Taxonomy::from_json(&text, "oasf-skills.json").expect("reads");
    assert_eq!(oasf.len(), 513);
    let class = oasf.class_by_path("language_processing/language_understanding/entity_recognition");
    assert_eq!(class.expect("there").label.to_string(), "class:1.1.3");
    let shipped = Taxonomy::shipped().expect("reads");
    let count = shipped.len();
    assert_eq!(shipped.merge(oasf).expect("merges").len(), count + 513);
}

#[test]
fn one_name_in_many_spellings() {
    for name in [
        "Currency Conversion",
        "currency-conversion",
        "currencyConversion",
        " currency__conversion! ",
    ] {
        assert_eq!(normalise(name), "currency_conversion");
    }
    assert_eq!(normalise("eSIM"), "e_sim");
    assert_eq!(normalise("API v2"), "api_v2");
    assert_eq!(normalise("Zürich-Öl"), "zürich_öl");
    assert_eq!(normalise("—"), "");
}
