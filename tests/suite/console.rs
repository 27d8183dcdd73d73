//! What is told of a run on standard error: to people and to programs, much of it or little.

use medley_tests::Scratch;
use serde_json::Value;

use crate::RECIPE;

const RUN: &str = "--num_train_epochs 2 --workers 2 --logging_steps 5 --do_eval --validation_file dev.jsonl";

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

#[test]
fn json_has_an_object_a_line() {
    let scratch = Scratch::new(60);
    let ended = scratch.run(&format!("train {RECIPE} {RUN} --log_format json --log_level debug")).expect(0);
    let events = objects(&ended.stderr);
    for event in &events {
        let fields = ["time", "level", "event", "message"].map(|field| event[field].as_str().unwrap());
        assert!(fields[0].ends_with('Z') && fields[0].contains('T'), "{event}");
        assert!(["debug", "info", "warning"].contains(&fields[1]), "{event}");
    }
    assert_eq!(named(&events, "plan")[0]["evaluation"], "dev.jsonl, at the end");
    assert_eq!(named(&events, "worker_joined").len(), 2);
    // What workers write themselves comes as an object as well.
    let written = named(&events, "worker_output");
    assert!(written.iter().any(|line| line["message"].as_str().unwrap().contains("2 ranks on 1 host")), "{written:?}");
    let updates = named(&events, "update");
    let told: Vec<(&Value, &Value)> = updates.iter().map(|event| (&event["update"], &event["loss"])).collect();
    let ledger = scratch.updates("out/ledger.jsonl");
    let made: Vec<(&Value, &Value)> = ledger.iter().map(|update| (&update["update"], &update["loss"])).collect();
    assert_eq!(told, made, "each update at this level, with the ledger's numbers");
    assert_eq!(named(&events, "log").len(), 3);
    let evaluation = named(&events, "evaluation")[0];
    assert_eq!((&evaluation["split"], &evaluation["final"]), (&"validation".into(), &true.into()));
    assert_eq!(evaluation["accuracy"], scratch.json("out/eval_results.json")["eval_accuracy"]);
    assert_eq!(events.last().unwrap()["event"], "completed");
    // What came of it, with what to type next; a worker that computes takes some megabytes.
    let summary = named(&events, "summary")[0];
    let all = scratch.json("out/all_results.json");
    assert_eq!(summary["results"]["eval_accuracy_interval"], all["eval_accuracy_interval"]);
    for name in ["peak_memory_coordinator_bytes", "peak_memory_worker_bytes"] {
        assert!(all[name].as_u64().unwrap() > 1 << 20 && summary["results"][name] == all[name], "{name}: {all}");
        assert!(scratch.json("out/eval_results.json").get(name).is_none(), "{name}");
    }
    assert_eq!(summary["next"][2], "medley verify out");
    assert!(scratch.read("out/report.html").contains("peak memory of a worker</th><td>"));
    // A failure is the last object, with its words.
    let ended = scratch.run(&format!("train {RECIPE} --train_file dev.jsonl --log_format json")).expect(78);
    let failed = objects(&ended.stderr).pop().unwrap();
    assert_eq!(
        (&failed["event"], &failed["level"], &failed["kind"]),
        (&"failed".into(), &"error".into(), &"config".into())
    );
    assert!(failed["message"].as_str().unwrap().contains("--overwrite_output_dir"));
}

#[test]
fn levels_leave_out_what_matters_less() {
    let scratch = Scratch::new(20);
    let lines = |flags: &str| {
        let run = format!("train {RECIPE} {RUN} {flags} --overwrite_output_dir --resume_from_checkpoint False");
        scratch.run(&run).expect(0).stderr
    };
    assert_eq!(lines("--log_level error"), "");
    let warnings = lines("--log_level warning --fp16");
    assert!(!warnings.is_empty() && warnings.lines().all(|line| line.starts_with("warning: ")), "{warnings}");
    let quiet = lines("--quiet --fp16");
    let told: Vec<&str> = quiet.lines().collect();
    assert!(told.len() == 2 && told[0].starts_with("validation at the end: accuracy"), "{quiet}");
    assert_eq!(told[1], "done: the results are in out");
    let usual = lines("");
    assert!(usual.contains("joined") && !usual.contains("\nupdate 3/"), "{usual}");
    assert!(lines("--log_level debug").contains("\nupdate 3/6: "));
    // Errors are told however quiet it is.
    scratch.run(&format!("train {RECIPE} --device cuda --quiet")).expect(78).says(&["medley: ", "--device"]);
}

#[test]
fn runs_that_come_to_nothing_say_so_in_objects() {
    let scratch = Scratch::new(20);
    let config = scratch.read("model/config.json").replace("\"intermediate_size\": 64", "\"intermediate_size\": 96");
    scratch.write("model/config.json", &config);
    let ended =
        scratch.run(&format!("serve {RECIPE} --workers 1 --listen 127.0.0.1:0 --join_timeout 0.1 --log_format json"));
    let events = objects(&ended.expect(78).stderr);
    assert_eq!(named(&events, "awaiting_workers")[0]["workers"], 1);
    assert_eq!(named(&events, "failed").len(), 1);
    let ended = scratch.run(&format!("train {RECIPE} --workers 1 --log_format json")).expect(65);
    assert!(named(&objects(&ended.stderr), "failed")[0]["message"].as_str().unwrap().contains("intermediate"));
}

/// On a terminal, as `script` of util-linux makes one.
#[test]
fn no_color_is_honoured() {
    let scratch = Scratch::new(20);
    let medley = medley_tests::binaries().join("medley").display().to_string();
    let seen = |variables: &[(&str, &str)], out: &str| {
        let recipe = RECIPE.replace("_dir out", &format!("_dir {out}"));
        let command = format!("{medley} train {recipe} {RUN}");
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).current_dir(scratch.path("")).env("TERM", "xterm");
        let ended = script.env_remove("NO_COLOR").envs(variables.iter().copied()).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        String::from_utf8_lossy(&ended.stdout).into_owned()
    };
    let (coloured, plain) = (seen(&[], "one"), seen(&[("NO_COLOR", "1")], "two"));
    assert!(coloured.contains("\u{1b}[36m"), "cyan: {coloured:?}");
    assert!(plain.contains("6/6") && !plain.contains("\u{1b}[36m") && !plain.contains("\u{1b}[2m"), "{plain:?}");
}
