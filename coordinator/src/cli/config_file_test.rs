use std::io::Write;

use crate::cli::{Cli, parse};
use crate::spec::{RunSpec, Workers};

fn serve(toml: &str, flags: &[&str]) -> Result<RunSpec, String> {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["medley", "serve", "--config", path].into_iter().chain(flags.iter().copied());
    match parse(words).map_err(|error| error.to_string().replace(path, "run.toml"))? {
        Cli::Serve(spec) => Ok(*spec),
        other => panic!("{other:?}"),
    }
}

const RUN: &str = r#"
model_name_or_path = "m"
do_train = true
train_file = "t.jsonl"
output_dir = "out"
learning_rate = 3e-5
num_train_epochs = 2
labels = ["yes", "no"]
workers = 2
max_steps = -1
push_to_hub = false
pad_to_max_length = true
"#;

#[test]
fn a_file_says_what_flags_would_say() {
    let spec = serve(RUN, &[]).unwrap();
    assert_eq!(spec.recipe().peak_learning_rate, 3e-5);
    assert_eq!(spec.sources().labels.to_string(), "yes, no");
    assert_eq!(spec.placement().workers, Workers::Exactly(2));
    assert_eq!(spec.notes().len(), 1, "a flag without effect is noted from a file, too");
}

#[test]
fn flags_override_the_file() {
    let spec =
        serve(RUN, &["--workers", "4", "--learning-rate=1e-3", "--no_do_train", "--do_eval", "--validation_file=v"]);
    let spec = spec.unwrap();
    assert_eq!(spec.placement().workers, Workers::Exactly(4));
    assert_eq!(spec.recipe().peak_learning_rate, 1e-3);
    assert_eq!(spec.sources().train_file, None);
}

#[test]
fn problems_name_the_key_and_the_file() {
    let table = [
        ("lerning_rate = 1", "run.toml: unknown key \"lerning_rate\"; did you mean \"learning_rate\"?"),
        ("max-seq-length = 1", "run.toml: unknown key \"max-seq-length\"; did you mean \"max_seq_length\"?"),
        ("lr = 1", "run.toml: unknown key \"lr\"; did you mean \"learning_rate\"?"),
        ("learning = 1", "run.toml: unknown key \"learning\"; did you mean \"learning_rate\"?"),
        ("zzz = 1", "run.toml: unknown key \"zzz\""),
        ("config = \"x\"", "run.toml: unknown key \"config\""),
        ("no_do_train = true", "run.toml: unknown key \"no_do_train\"; did you mean \"do_train\"?"),
        (
            "deepspeed = \"x.json\"",
            "run.toml: key \"deepspeed\" is not supported: every worker holds the whole model; use \
             --shard_optimizer_state to share out the optimizer's state (ZeRO stage 1), and --workers N to share the work",
        ),
        ("learning_rate = \"high\"", "run.toml: invalid value 'high' for '--learning_rate <RATE>': expected a number"),
        (
            "[train]\nseed = 1",
            "run.toml: train is a table; expected a string, a number, true, false, or a list of strings without commas",
        ),
        (
            "labels = [\"a,b\"]",
            "run.toml: labels is another list; expected a string, a number, true, false, or a list of strings without \
             commas",
        ),
    ];
    for (toml, expected) in table {
        assert_eq!(serve(toml, &[]).unwrap_err(), expected, "{toml}");
    }
    assert!(serve("a = ", &[]).unwrap_err().starts_with("run.toml: is not TOML: "));
    assert!(serve("seed = 1\nseed = 2", &[]).unwrap_err().contains("duplicate key"));
    assert!(serve(&" ".repeat(1 << 21), &[]).unwrap_err().starts_with("run.toml: is larger than 1048576 bytes"));
    let missing = parse(["medley", "serve", "--config", "/nonexistent/x.toml"]).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/x.toml: cannot be read: No such file"), "{missing}");
}
