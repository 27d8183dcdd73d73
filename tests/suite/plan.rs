//! `medley plan`: what it says is what the run then does, what the run refuses it refuses, and it leaves no trace.

use medley_tests::Scratch;
use serde_json::Value;

use crate::RECIPE;

/// What lies in a folder, by name; a lock says nothing of a run.
fn names(scratch: &Scratch, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(scratch.path(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != ".medley.lock");
    names.sort();
    names
}

fn plan(scratch: &Scratch, flags: &str) -> Value {
    let ended = scratch.run(&format!("plan {RECIPE} {flags} --json")).expect(0);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn what_is_planned_is_done() {
    let scratch = Scratch::new(60);
    let flags =
        "--num_train_epochs 2 --workers 2 --save_steps 6 --evaluation_strategy epoch --validation_file dev.jsonl";
    let before = names(&scratch, "");
    let planned = plan(&scratch, flags);
    assert_eq!(names(&scratch, ""), before, "a plan writes nothing");
    let ended = scratch.run(&format!("train {RECIPE} {flags}")).expect(0);
    let text = scratch.run(&format!("plan {RECIPE} {flags} --overwrite_output_dir --resume_from_checkpoint False"));
    let text = text.expect(0).stdout;
    for part in planned["summary"].as_array().unwrap() {
        let line = part[1].as_str().unwrap();
        assert!(ended.stderr.contains(line) && text.contains(line), "{line}");
    }
    let course = &planned["training"];
    let updates = scratch.updates("out/ledger.jsonl");
    assert_eq!(course["updates"], updates.len());
    for at in course["learning_rates"].as_array().unwrap() {
        let update = at["update"].as_u64().unwrap() as usize;
        assert_eq!(updates[update - 1]["learning_rate"], at["learning_rate"], "update {update}");
    }
    let epoch = &updates[..course["updates_per_epoch"].as_u64().unwrap() as usize];
    for (lane, share) in course["lanes"].as_array().unwrap().iter().enumerate() {
        let rows: usize = epoch.iter().map(|update| update["lanes"][lane].as_array().unwrap().len()).sum();
        assert_eq!(share["rows"], rows, "lane {lane}");
    }
    assert!(scratch.path("out/checkpoint-12").is_dir());
    assert_eq!((&course["checkpoints"]["times"], &course["checkpoints"]["last"]), (&2.into(), &12.into()));
    assert_eq!(course["evaluations"]["times"], 2);
    // The run that lies there has measured itself.
    assert!(text.contains("as the run that lies in the output folder measured"), "{text}");
}

#[test]
fn time_is_said_where_it_is_known() {
    let scratch = Scratch::new(40);
    assert_eq!(plan(&scratch, "--num_train_epochs 3")["time"], Value::Null);
    let told = scratch.run(&format!("plan {RECIPE}")).expect(0).stdout;
    assert!(told.contains("not known before the first updates"), "{told}");
    let time = &plan(&scratch, "--num_train_epochs 3 --rows_per_second 2")["time"];
    assert_eq!((&time["training_seconds"], &time["source"]), (&60.0.into(), &"given".into()));
    scratch.run(&format!("plan {RECIPE} --rows_per_second 0")).expect(64).says(&["--rows_per_second is 0"]);
}

/// The exit code and the words are those of the run.
#[test]
fn what_the_run_refuses_the_plan_refuses() {
    let scratch = Scratch::new(10);
    std::fs::create_dir(scratch.path("full")).unwrap();
    scratch.write("full/thesis.txt", "ten years of work");
    scratch.write("bad.jsonl", "{}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen {}", taken.local_addr().unwrap());
    let http = listen.replace("--listen", "--http_listen");
    let cases = [
        ("--train_file bad.jsonl", 65),
        ("--train_file nowhere.jsonl", 65),
        ("--model_name_or_path nowhere", 65),
        ("--output_dir full", 78),
        ("--output_dir bad.jsonl", 78),
        ("--output_dir bad.jsonl/below", 78),
        ("--output_dir model --overwrite_output_dir", 78),
        ("--resume_from_checkpoint True", 78),
        ("--device cuda", 78),
        ("--credentials nowhere", 78),
        ("--chaos kill:worker=7@update=1", 78),
        ("--learning_rate -1", 64),
        ("--workers 9", 64),
        (&listen, 78),
        (&http, 78),
    ];
    for (flags, code) in cases {
        let [run, plan] = ["train", "plan"].map(|verb| scratch.run(&format!("{verb} {RECIPE} {flags}")).expect(code));
        let words = |text: &str| text.lines().rfind(|line| line.starts_with("medley: ")).map(ToOwned::to_owned);
        assert_eq!(words(&plan.stderr), words(&run.stderr), "{flags}");
        assert!(plan.stdout.is_empty(), "{flags}");
    }
    assert!(!scratch.path("out").exists());
    assert_eq!(names(&scratch, "full"), ["thesis.txt"]);
}

/// A run that goes on shows in the plan, and is not disturbed by it.
#[test]
fn a_run_in_the_folder_is_seen() {
    let scratch = Scratch::new(40);
    let flags = "--num_train_epochs 400 --save_steps 2 --save_total_limit 1 --workers 1";
    let estimate = plan(&scratch, flags)["memory_estimates"][0]["total_bytes"].as_f64().unwrap();
    let mut running = scratch.start(&format!("train {RECIPE} {flags}"));
    let joined = running.wait_for("joined: ");
    let pid = joined.split("pid ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    running.wait_for("checkpoint-4");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB");
    let measured = peak.parse::<f64>().unwrap() * 1024.0;
    assert!((0.6..1.6).contains(&(estimate / measured)), "estimated {estimate}, measured {measured}");
    scratch.run(&format!("plan {RECIPE} {flags}")).expect(78).says(&["is in use by process"]);
    running.signal(rustix::process::Signal::TERM);
    running.end().expect(75);
    let before = names(&scratch, "out");
    let planned = plan(&scratch, flags);
    assert!(planned["training"]["updates_done"].as_u64().unwrap() >= 4);
    assert_eq!(names(&scratch, "out"), before);
}

#[test]
fn numbers_of_gpus_are_told_on_paper() {
    let scratch = Scratch::new(40);
    let flags = "--gpus 1,8 --scale_batch_with_workers --device cpu --workers 2";
    let scaling = plan(&scratch, flags)["scaling"].clone();
    let rows: Vec<_> = scaling.as_array().unwrap().iter().map(|at| at["rows_per_update"].as_u64()).collect();
    assert_eq!(rows, [Some(8), Some(64)], "each of them has the rows of one worker");
    let text = scratch.run(&format!("plan {RECIPE} --gpus 8")).expect(0).stdout;
    assert!(text.contains("none fitted to a measurement") && text.contains("efficiency"), "{text}");
    scratch.run(&format!("plan {RECIPE} --gpus 0")).expect(64).says(&["--gpus is 0; expected numbers from 1 to"]);
}
