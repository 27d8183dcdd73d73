use super::*;

/// A card of a run that predicted labelled validation rows, with names that are markup.
fn facts() -> Facts {
    let identity = crate::archive::fixture::identity();
    let certificate = Certificate {
        version: "0.1.0".to_owned(),
        update: medley_common::identity::Update(3),
        epoch: 2.0,
        layout: Digest([0; 32]),
        parameters: Digest([0; 32]),
        best: None,
        recipe: identity.recipe,
        command: ["medley", "train", "--output_dir", "my out"].map(str::to_owned).to_vec(),
        inputs: std::collections::BTreeMap::new(),
        programs: std::collections::BTreeMap::new(),
        hosts: std::collections::BTreeSet::new(),
        ledger: crate::archive::Head { records: 1, digest: Digest([0; 32]) },
        files: std::collections::BTreeMap::new(),
        results: std::collections::BTreeMap::new(),
    };
    let results = serde_json::json!({
        "eval_accuracy": 0.75, "eval_accuracy_interval": [0.5, 0.875], "eval_macro_f1": 0.7, "eval_samples": 30,
        "eval_f1_a|b": 0.6,
    });
    let data = |split, file: &str, prefix, results: &Value| Data {
        split,
        file: file.to_owned(),
        sha256: "ab".repeat(32),
        prefix,
        results: results.as_object().cloned().unwrap_or_default(),
    };
    Facts {
        name: "a: \"b\"".to_owned(),
        base_model: Some("org/bert".to_owned()),
        is_pretrained: true,
        labels: vec!["a|b".to_owned(), "<c>".to_owned()],
        family: "BERT",
        is_pair: true,
        max_seq_length: 64,
        data: vec![
            data("train", "train.jsonl", "train", &Value::Null),
            data("validation", "dev |`\n---\nx: 1.jsonl", "eval", &results),
        ],
        certificate,
    }
}

#[test]
fn names_of_others_stay_text_in_the_header_and_in_the_tables() {
    let header = header::header(&facts());
    assert!(header.contains("base_model: \"org/bert\"\nbase_model_relation: finetune\n"), "{header}");
    assert!(header.contains("- name: \"a: \\\"b\\\"\"\n"), "{header}");
    assert!(
        header.contains("name: \"dev |`\\U0000000A---\\U0000000Ax: 1.jsonl\"\n      split: validation\n"),
        "{header}"
    );
    assert!(header.contains("    - type: accuracy\n      value: 0.75\n") && !header.contains("\n---"), "{header}");
    let body = body::body(&facts());
    assert!(body.contains("| accuracy | 0.7500 (0.5000 to 0.8750) |\n"), "{body}");
    assert!(body.contains("| F1 of a&#124;b | 0.6000 |\n") && body.contains("<code>&#60;c&#62;</code>"), "{body}");
    assert!(body.contains("| rows | 30 |\n") && body.contains("dev &#124;&#96; --- x: 1.jsonl"), "{body}");
    assert!(body.contains("```sh\nmedley train --output_dir 'my out'\n```\n"), "{body}");
    for table in body.split("\n\n").filter(|part| part.starts_with('|')) {
        let columns: Vec<usize> = table.trim().lines().map(|line| line.matches('|').count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{table}");
    }
}

#[test]
fn without_labelled_rows_there_are_no_results_and_a_folder_is_no_base_model() {
    let mut facts = facts();
    facts.data.truncate(1);
    (facts.base_model, facts.is_pretrained) = (None, false);
    let header = header::header(&facts);
    assert!(
        !header.contains("model-index") && !header.contains("base_model") && !header.contains("metrics"),
        "{header}"
    );
    let body = body::body(&facts);
    assert!(!body.contains("## Results") && body.contains("trained from new weights with Medley"), "{body}");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(base_model(&folder.path().display().to_string()), None);
    assert_eq!(base_model("no such/folder/at all"), None);
    assert_eq!(base_model("michiyasunaga/BioLinkBERT-base@main").as_deref(), Some("michiyasunaga/BioLinkBERT-base"));
}
