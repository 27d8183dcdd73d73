use super::super::subject::tests::subject;
use super::*;

fn jsonl(folder: &Path) -> Jsonl {
    Jsonl { subject: Arc::new(subject(folder.to_owned())), open: None }
}

fn point(step: u64) -> Point {
    Point {
        step,
        time: 2.5,
        values: vec![("train/epoch".to_owned(), 0.1 * step as f64), ("train/loss".to_owned(), 0.5)],
    }
}

fn begin(jsonl: &mut Jsonl, kept: Option<u64>) -> Shown {
    jsonl.begin(&Start { kept, history: Vec::new() }).unwrap().shown
}

/// The steps of the lines after the first, each of which is whole.
fn steps(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("abababab").join(FILE)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["settings"]["learning_rate"], &lines[0]["run_name"]), (&3e-5.into(), &"out".into()));
    lines[1..].iter().map(|line| line["step"].as_u64().unwrap()).collect()
}

#[test]
fn a_file_has_what_is_in_effect_and_no_update_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = jsonl(folder.path());
    assert_eq!(begin(&mut first, None), Shown::default());
    first.show(&[point(1), point(2), point(3)]).unwrap();
    let mut shown = Shown::default();
    first.rewind(1, &mut shown).unwrap();
    assert_eq!(shown.news(point(1)), None);
    first.show(&[point(2), point(4)]).unwrap();
    first.end(Ending::Stopped).unwrap();
    assert_eq!(steps(folder.path()), [1, 2, 4]);
    // A crash has cut the last line, and the run goes on after update 4, or after one that lies before.
    let path = first.open.unwrap().path;
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 3]).unwrap();
    let mut second = jsonl(folder.path());
    assert_eq!(begin(&mut second, Some(4)).news(point(4)), Some(point(4)));
    second.show(&[point(4)]).unwrap();
    assert_eq!(steps(folder.path()), [1, 2, 4]);
    begin(&mut jsonl(folder.path()), Some(2));
    assert_eq!(steps(folder.path()), [1, 2]);
    assert_eq!(begin(&mut jsonl(folder.path()), None), Shown::default());
    assert_eq!(steps(folder.path()), [0; 0]);
    let line: Value = serde_json::from_str(&line(&point(3))).unwrap();
    assert_eq!((line["train/loss"].as_f64(), line["time"].as_f64()), (Some(0.5), Some(2.5)));
}

#[test]
fn a_file_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("abababab");
    std::fs::create_dir(&run).unwrap();
    for other in ["{\"run\": \"another\"}\n", "step,loss\n", "\n", "{\"step\": 1}\n", "rows"] {
        std::fs::write(run.join(FILE), other).unwrap();
        let refused = jsonl(folder.path()).begin(&Start { kept: None, history: Vec::new() }).unwrap_err();
        assert!(!refused.may_pass && refused.reason.contains("not of this run"), "{other:?}: {refused}");
        assert_eq!(std::fs::read_to_string(run.join(FILE)).unwrap(), other);
    }
    // What a crash leaves of a first line is taken up.
    std::fs::write(run.join(FILE), "{\"run\":\"abab").unwrap();
    begin(&mut jsonl(folder.path()), Some(3));
    assert_eq!(steps(folder.path()), [0; 0]);
    std::fs::remove_file(run.join(FILE)).unwrap();
    std::fs::create_dir(run.join(FILE)).unwrap();
    let refused = jsonl(folder.path()).begin(&Start { kept: None, history: Vec::new() }).unwrap_err();
    assert!(refused.reason.ends_with("is no file"), "{refused}");
}
