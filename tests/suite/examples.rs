//! Text of the data is in the page of a run where it is asked for, and nowhere else.

use medley_tests::Scratch;

use crate::RECIPE;

const RUN: &str = "--num_train_epochs 1 --workers 1 --do_predict --test_file test.jsonl";

#[test]
fn the_surest_wrong_predictions_are_shown_where_they_are_asked_for() {
    let scratch = Scratch::new(40);
    // Sentences that begin with markup.
    let rows = scratch.read("test.jsonl");
    let marked: String = rows
        .lines()
        .map(|line| {
            let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
            let premise = format!("<b>{}", row["sentence1"].as_str().unwrap());
            row["sentence1"] = premise.into();
            format!("{row}\n")
        })
        .collect();
    scratch.write("test.jsonl", &marked);
    scratch.run(&format!("train {RECIPE} {RUN}")).expect(0);
    let plain = scratch.read("out/report.html");
    assert!(!plain.contains("&lt;b&gt;") && !plain.contains("holds text of"), "not asked for");

    scratch.run("report out --report_examples 3").expect(0);
    let page = scratch.read("out/report.html");
    assert!(page.contains("This page holds text of test.jsonl.") && page.contains("MedNLI"), "{page}");
    // What it should show, from the files.
    let gold: Vec<serde_json::Value> = scratch.json_lines("test.jsonl");
    let mut wrong: Vec<(f64, usize)> = Vec::new();
    for predicted in scratch.json_lines("out/predictions.jsonl") {
        let index = predicted["index"].as_u64().unwrap() as usize;
        if predicted["prediction"] != gold[index]["gold_label"] {
            let sure = predicted["probabilities"].as_array().unwrap().iter().filter_map(|it| it.as_f64());
            wrong.push((sure.fold(0.0, f64::max), index));
        }
    }
    wrong.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
    assert!(wrong.len() > 3, "a model that has learned so little is wrong more often: {wrong:?}");
    let told = format!("{} of 20 labelled rows were predicted wrongly; these are the 3 ", wrong.len());
    assert!(page.contains(&told), "{told}: {page}");
    let shown = page.split("class=\"examples\"").nth(1).unwrap().split("</table>").next().unwrap();
    let lines: Vec<&str> =
        shown.split("<tr><th scope=\"row\">").skip(1).map(|row| row.split('<').next().unwrap()).collect();
    let expected: Vec<String> = wrong[..3].iter().map(|(_, index)| (index + 1).to_string()).collect();
    assert_eq!(lines, expected);
    assert!(shown.matches("<p>&lt;b&gt;").count() == 3 && !shown.contains("<b>"), "{shown}");

    // At the end of the run itself; and without a number.
    scratch.run(&format!("train {RECIPE} {RUN} --report_examples")).expect(0);
    assert!(scratch.read("out/report.html").contains("holds text of test.jsonl"));
    scratch.run("report out").expect(0);
    assert!(!scratch.read("out/report.html").contains("holds text of"), "it goes with the next page");
    // Another file, or none.
    scratch.write("test.jsonl", &rows);
    let changed = scratch.run("report out --report_examples").expect(65);
    changed.says(&["--report_examples", "test.jsonl has changed since", &scratch.sha256("test.jsonl")]);
    std::fs::remove_file(scratch.path("test.jsonl")).unwrap();
    scratch.run("report out --report_examples").expect(65).says(&["test.jsonl", "put the test file back"]);
    assert!(!scratch.read("out/report.html").contains("holds text of"), "the page stays as it was");
}

#[test]
fn without_predictions_there_is_nothing_to_show() {
    let scratch = Scratch::new(20);
    let refused = scratch.run(&format!("train {RECIPE} --report_examples 5")).expect(64);
    refused.says(&["--report_examples needs --do_predict"]);
    scratch.run(&format!("train {RECIPE} --do_predict --test_file test.jsonl --report_examples 0")).expect(64);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    scratch.run("report out --report_examples").expect(65).says(&["no predictions.jsonl"]);
    let unlabelled = scratch.read("test.jsonl").replace("gold_label", "label_of_somebody");
    scratch.write("test.jsonl", &unlabelled);
    let ended = scratch.run(&format!("train {RECIPE} {RUN} --report_examples --output_dir second")).expect(0);
    ended.says(&["the pictures in second/report.html are without examples: ", "no row has a label"]);
    assert!(scratch.path("second/report.html").is_file());
    scratch.run("compare out other --report_examples").expect(64);
}
