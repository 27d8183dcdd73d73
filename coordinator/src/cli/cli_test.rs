use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use medley_common::schedule::Decay;
use medley_common::spec::OptimizerKind;

use super::*;
use medley_common::spec::Precision;

use crate::dataset::layout::RowLayout;
use crate::spec::{BatchMeaning, LabelChoice, Machine, Resume, RunLength, Warmup, Workers};

pub(crate) const REFERENCE: &str = "--model_name_or_path michiyasunaga/BioLinkBERT-large --do_train \
    --train_file mli_train_v1.jsonl --do_eval --validation_file mli_dev_v1.jsonl --do_predict \
    --test_file mli_test_v1.jsonl --max_seq_length 512 --fp16 --per_device_train_batch_size 16 \
    --gradient_accumulation_steps 2 --learning_rate 3e-5 --warmup_ratio 0.5 --num_train_epochs 10 --output_dir out";

pub(crate) const LEAST: &str = "--model_name_or_path m --do_train --train_file t.jsonl --output_dir out";

fn words(verb: &str, flags: &str) -> Vec<String> {
    ["medley", verb].into_iter().chain(flags.split_whitespace()).map(ToOwned::to_owned).collect()
}

pub(crate) fn train(flags: &str) -> Result<RunSpec, CliError> {
    match parse(words("train", flags))? {
        Cli::Train(spec) => Ok(*spec),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn with(flags: &str) -> Result<RunSpec, CliError> {
    train(&format!("{LEAST} {flags}"))
}

pub(crate) fn refusal(flags: &str) -> String {
    let error = train(flags).unwrap_err();
    assert_eq!(error.exit_code(), 64, "{flags}");
    error.to_string()
}

#[test]
fn the_reference_command_is_read_as_it_is() {
    let spec = train(REFERENCE).unwrap();
    let sources = spec.sources();
    assert_eq!(sources.model, "michiyasunaga/BioLinkBERT-large");
    assert_eq!(sources.train_file.as_deref(), Some(Path::new("mli_train_v1.jsonl")));
    assert_eq!(sources.validation_file.as_deref(), Some(Path::new("mli_dev_v1.jsonl")));
    assert_eq!(sources.test_file.as_deref(), Some(Path::new("mli_test_v1.jsonl")));
    let labels = ["entailment", "neutral", "contradiction"].map(str::to_owned).to_vec();
    assert_eq!(sources.labels, LabelChoice::Named(labels));
    assert_eq!((&sources.layout, sources.baseline), (&RowLayout::default(), None));
    assert_eq!(sources.max_seq_length, 512);
    let recipe = spec.recipe();
    assert_eq!((recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps), (16, 2));
    assert_eq!((recipe.peak_learning_rate, recipe.decay.clone()), (3e-5, Decay::linear()));
    assert_eq!((recipe.warmup, recipe.length), (Warmup::Share(0.5), RunLength::Epochs(10.0)));
    assert_eq!((recipe.optimizer.kind, recipe.optimizer.max_grad_norm), (OptimizerKind::AdamwHf, Some(1.0)));
    assert_eq!((recipe.seed, recipe.lanes, recipe.batch_meaning), (42, 8, BatchMeaning::Global));
    assert_eq!(spec.compute().precision, Some(Precision::Float16));
    assert_eq!(spec.output().dir, Path::new("out"));
    assert_eq!(spec.output().resume, Resume::IfPresent);
    assert_eq!(spec.placement().workers, Workers::Auto);
    assert!(spec.notes().is_empty());
}

#[test]
fn kebab_case_and_equals_signs_say_the_same() {
    let kebab: Vec<String> = REFERENCE
        .split_whitespace()
        .map(|word| if word.starts_with("--") { word.replace('_', "-") } else { word.to_owned() })
        .collect();
    assert_eq!(train(&kebab.join(" ")).unwrap(), train(REFERENCE).unwrap());
    let joined = REFERENCE.replace("--max_seq_length 512", "--max-seq-length=512");
    assert_eq!(train(&joined).unwrap(), train(REFERENCE).unwrap());
    let value = with("--run-name a-b_c --validation-file=dir-with-hyphens/dev_x.jsonl --do_eval").unwrap();
    assert_eq!(value.sources().validation_file.as_deref(), Some(Path::new("dir-with-hyphens/dev_x.jsonl")));
}

#[test]
fn defaults_are_those_of_transformers_4_22() {
    let command = command();
    let train = command.find_subcommand("train").unwrap();
    let default = |name: &str| {
        let arg = train.get_arguments().find(|arg| arg.get_id() == name).unwrap_or_else(|| panic!("no {name}"));
        arg.get_default_values().first().map(|value| value.to_str().unwrap().to_owned())
    };
    let numbers = [
        ("per_device_train_batch_size", 8.0),
        ("gradient_accumulation_steps", 1.0),
        ("learning_rate", 5e-5),
        ("weight_decay", 0.0),
        ("adam_beta1", 0.9),
        ("adam_beta2", 0.999),
        ("adam_epsilon", 1e-8),
        ("max_grad_norm", 1.0),
        ("num_train_epochs", 3.0),
        ("max_steps", -1.0),
        ("warmup_ratio", 0.0),
        ("warmup_steps", 0.0),
        ("logging_steps", 500.0),
        ("save_steps", 500.0),
        ("seed", 42.0),
        ("label_smoothing_factor", 0.0),
        ("max_seq_length", 128.0),
    ];
    for (name, expected) in numbers {
        assert_eq!(default(name).unwrap().parse::<f64>().unwrap(), expected, "{name}");
    }
    let words = [
        ("lr_scheduler_type", "linear"),
        ("optim", "adamw_hf"),
        ("logging_strategy", "steps"),
        ("evaluation_strategy", "no"),
        ("save_strategy", "steps"),
    ];
    for (name, expected) in words {
        assert_eq!(default(name).as_deref(), Some(expected), "{name}");
    }
    // `--bf16` is left to the device.
    for name in ["eval_steps", "save_total_limit", "resume_from_checkpoint", "bf16"] {
        assert_eq!(default(name), None, "{name}");
    }
    let switches = ["do_train", "do_eval", "do_predict", "overwrite_output_dir", "logging_first_step", "fp16", "tf32"];
    for name in switches {
        assert_eq!(default(name).as_deref(), Some("False"), "{name}");
    }
}

#[test]
fn booleans_are_read_as_hugging_face_reads_them() {
    let yes = ["", "True", "true", "1", "yes", "t", "Y"];
    for value in yes {
        assert_eq!(with(&format!("--fp16 {value}")).unwrap().compute().precision, Some(Precision::Float16), "{value}");
    }
    for flags in ["--fp16 False", "--fp16 0", "--fp16=no", "--fp16=f", "--no_fp16", "--no-fp16", "--fp16 --no_fp16"] {
        assert_eq!(with(flags).unwrap().compute().precision, None, "{flags}");
    }
    assert_eq!(with("--no_fp16 --fp16").unwrap().compute().precision, Some(Precision::Float16), "the last one counts");
    assert_eq!(refusal("--no_fp16=1"), "--no_fp16 takes no value; use --fp16 True or --fp16 False");
    assert_eq!(
        refusal("--fp16 maybe"),
        "invalid value 'maybe' for '--fp16 [<BOOL>]': expected True or False (or yes/no, 1/0)"
    );
}

#[test]
fn the_last_of_two_flags_counts() {
    let spec =
        with("--seed 1 --seed 2 --train_file u.jsonl --lr_scheduler_type cosine --lr_scheduler_type linear").unwrap();
    assert_eq!(spec.recipe().seed, 2);
    assert_eq!(spec.sources().train_file.as_deref(), Some(Path::new("u.jsonl")));
}

#[test]
fn unknown_and_shortened_flags_get_a_suggestion() {
    let error = with("--lerning_rate 3").unwrap_err();
    let CliError::Clap(clap) = &error else { panic!("{error:?}") };
    assert_eq!(suggestion(clap).as_deref(), Some("learning_rate"));
    assert_eq!(error.to_string(), "unexpected argument '--lerning_rate' found");
    assert_eq!(
        refusal("--per_device_train 3"),
        "--per_device_train is not a flag; write --per_device_train_batch_size"
    );
    assert_eq!(refusal("--do"), "--do is not a flag; write --do_eval or --do_predict or --do_train");
    assert_eq!(refusal("--lr 3"), "--lr is not a flag; write --learning_rate");
    assert_eq!(refusal("--warmup 3"), "--warmup is not a flag; write --warmup_ratio or --warmup_steps");
    let command = command();
    let flags = Spelling::of(command.find_subcommand("train").unwrap(), is_switch);
    for (other, known) in crate::cli::spelling::OTHER_NAMES {
        assert!(flags.knows(known) && !flags.knows(other), "{other}: {known}");
    }
}

#[test]
fn serve_waits_for_a_number_of_workers() {
    let serve = |flags: &str| parse(words("serve", &format!("{LEAST} {flags}")));
    assert_eq!(
        serve("").unwrap_err().to_string(),
        "--workers is missing; say how many workers to wait for, e.g. medley serve --workers 2"
    );
    let Cli::Serve(spec) = serve("--workers 3").unwrap() else { panic!("not serve") };
    assert_eq!((spec.placement().role, spec.placement().listen), (Role::Serve, "127.0.0.1:29400".parse().unwrap()));
    let Cli::Serve(spec) = serve("--workers 3 --listen [::]:5 --insecure").unwrap() else { panic!("not serve") };
    assert_eq!(spec.placement().listen, "[::]:5".parse().unwrap());
    let train = with("").unwrap();
    assert_eq!((train.placement().role, train.placement().listen), (Role::Train, "127.0.0.1:0".parse().unwrap()));
}

#[test]
fn status_and_quickstart() {
    let Cli::Status(status) = parse(words("status", "--coordinator http://node-1.x:80/ --watch")).unwrap() else {
        panic!("not status")
    };
    assert_eq!((status.reach.coordinator.as_str(), status.watch, status.json), ("node-1.x:80", true, false));
    for bad in ["", "node", "node:", "node:0", ":80", "a/b:80", "[::1:80", "node:99999"] {
        let error = parse(words("status", &format!("--coordinator={bad}"))).unwrap_err();
        assert_eq!(error.exit_code(), 64, "{bad}");
    }
    let quick = |flags| parse(words("quickstart", flags));
    let expected = Quickstart { output_dir: "medley-quickstart".into(), workers: 2, prepare_only: false };
    assert_eq!(quick("").unwrap(), Cli::Quickstart(expected));
    assert_eq!(
        quick("--output-dir q --workers 8").unwrap(),
        Cli::Quickstart(Quickstart { output_dir: "q".into(), workers: 8, prepare_only: false })
    );
    assert_eq!(
        quick("--workers 9").unwrap_err().to_string(),
        "invalid value '9' for '--workers <N>': 9 is not in 1..=8"
    );
}

#[test]
fn help_succeeds_and_nonsense_does_not() {
    let code = |words: &[&str]| parse(words.iter().copied()).unwrap_err().exit_code();
    assert_eq!(code(&["medley", "--help"]), 0);
    assert_eq!(code(&["medley", "--version"]), 0);
    assert_eq!(code(&["medley", "train", "--help"]), 0);
    assert_eq!(code(&["medley", "help", "serve"]), 0);
    for nonsense in [&["medley"][..], &[], &["medley", "trian"], &["medley", "train", "x"], &["medley", "--do_train"]] {
        assert_eq!(code(nonsense), 64, "{nonsense:?}");
    }
}

#[test]
fn help_has_one_line_for_each_flag() {
    let help = parse(["medley", "train", "--help"]).unwrap_err();
    let CliError::Clap(help) = help else { panic!("{help:?}") };
    let help = help.render().to_string();
    let command = command();
    for arg in command.find_subcommand("train").unwrap().get_arguments().filter(|arg| !arg.is_hide_set()) {
        let name = format!("      --{} ", arg.get_id());
        let lines: Vec<&str> = help.lines().filter(|line| line.starts_with(&name)).collect();
        assert_eq!(lines.len(), 1, "{name}");
        assert!(lines[0].len() <= 125 && lines[0].trim().contains("  "), "{}", lines[0]);
    }
}

#[test]
fn a_file_name_need_not_be_unicode() {
    let mut words: Vec<OsString> = words("train", LEAST).into_iter().map(Into::into).collect();
    let odd = OsString::from_vec(b"odd-\xff_name".to_vec());
    words.extend(["--train-file".into(), odd.clone()]);
    let Cli::Train(spec) = parse(words.clone()).unwrap() else { panic!("not train") };
    assert_eq!(spec.sources().train_file.as_deref(), Some(Path::new(&odd)));
    words.push(OsString::from_vec(b"--train-file=\xfe-x".to_vec()));
    let Cli::Train(spec) = parse(words).unwrap() else { panic!("not train") };
    assert_eq!(spec.sources().train_file.as_deref(), Some(Path::new(&OsString::from_vec(b"\xfe-x".to_vec()))));
}

#[test]
fn a_bound_run_keeps_the_notes_of_its_flags() {
    let spec = with("--pad_to_max_length --fp16").unwrap();
    let bound = spec.bind(100, &Machine { cores: 2, cuda_devices: 0 }).unwrap();
    let notes: Vec<String> = bound.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "warning: --fp16 needs a GPU; on the CPU this run computes in float32, which is more exact",
            "note: --pad_to_max_length has no effect: padding is never computed, and the result is the same",
        ]
    );
}

proptest::proptest! {
    #[test]
    fn no_words_make_it_panic(words in proptest::collection::vec(word(), 0..12), rows in 0..100_000u64) {
        let words = ["medley".to_owned(), "train".to_owned()].into_iter().chain(words);
        match parse(words) {
            Ok(Cli::Train(spec)) => drop(spec.bind(rows, &Machine { cores: 2, cuda_devices: 0 })),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(!error.to_string().is_empty() || error.exit_code() == 0),
        }
    }
}

/// Words that are likely to be read, and some that are not.
fn word() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let known: Vec<String> = REFERENCE.split_whitespace().map(ToOwned::to_owned).collect();
    let odd = [
        "--",
        "-",
        "--=",
        "---",
        "--no_",
        "--no_fp16=",
        "--max_steps",
        "--save_steps",
        "--workers",
        "--threads",
        "1e400",
        "NaN",
        "-1",
        "0",
        "9223372036854775807",
        "--resume_from_checkpoint",
        "--num-train-epochs",
        "--fsdp",
        "=",
        "",
    ];
    prop_oneof![
        4 => prop::sample::select(known),
        4 => prop::sample::select(odd.map(ToOwned::to_owned).to_vec()),
        1 => "-{0,3}[a-z_=-]{0,12}",
        1 => any::<String>(),
    ]
}
