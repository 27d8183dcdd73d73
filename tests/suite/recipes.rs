//! What else a recipe may ask for means the same at every number of workers, through losses, stops and replays.

use medley_tests::Scratch;
use rustix::process::Signal;

use crate::RECIPE;
use crate::recovery::assert_same;

const WORK: &str = "--num_train_epochs 3 --save_steps 10 --do_eval --validation_file dev.jsonl --do_predict \
    --test_file test.jsonl";

/// The flags, others in their place, and how what differs is named.
const RECIPES: [(&str, &str, &str); 4] = [
    (
        "--optim sgd --optim_args momentum=0.9,nesterov=True --weight_decay 0.01 --learning_rate 0.02",
        "--optim sgd --optim_args momentum=0.8,nesterov=True --weight_decay 0.01 --learning_rate 0.02",
        "optim_args was \"momentum=0.9,",
    ),
    ("--optim sgd --learning_rate 0.1", "--optim adamw_torch --learning_rate 0.1", "optim was \"sgd\", now"),
    ("--freeze_layers 1 --layer_lr_decay 0.8", "--layer_lr_decay 0.8", "freeze_layers was 1, now not set"),
    (
        "--class_weights auto --label_smoothing_factor 0.1",
        "--class_weights 1,2,3 --label_smoothing_factor 0.1",
        "class_weights was [",
    ),
];

#[test]
fn every_number_of_workers_makes_the_same_run_of_any_recipe() {
    for (flags, _, _) in RECIPES {
        let run = |workers: &str| {
            let scratch = Scratch::new(100);
            let ended = scratch.run(&format!("train {RECIPE} {WORK} {flags} --workers {workers}")).expect(0);
            (scratch, ended)
        };
        let (alone, _) = run("1");
        for workers in ["2", "3", "3 --chaos kill:worker=1@update=7"] {
            let (scratch, ended) = run(workers);
            assert_same(&scratch, &alone, &ended);
        }
        let proof = alone.run("verify out").expect(0);
        assert!(proof.stdout.contains("all is as the ledger says"), "{}", proof.stdout);
        let replay = "replay out --from-checkpoint 20 --updates 4 --workers 2";
        alone.run(replay).expect(0).says(&["updates 21 to 24, made again, are the ledger's to the bit"]);
    }
}

#[test]
fn a_run_of_any_recipe_goes_on_by_the_same_one_alone() {
    const LONG: &str = "--num_train_epochs 12 --save_steps 50 --do_eval --validation_file dev.jsonl --do_predict \
        --test_file test.jsonl";
    for (flags, other, difference) in RECIPES {
        let straight = Scratch::new(100);
        straight.run(&format!("train {RECIPE} {LONG} {flags} --workers 1")).expect(0);
        let scratch = Scratch::new(100);
        let mut run = scratch.start(&format!("train {RECIPE} {LONG} {flags} --workers 2"));
        run.wait_for("update 1/");
        run.signal(Signal::INT);
        run.end().expect(75);
        scratch.run(&format!("train {RECIPE} {LONG} {other} --workers 2")).expect(78).says(&[difference]);
        let ended = scratch.run(&format!("train {RECIPE} {LONG} {flags} --workers 3")).expect(0).says(&["resuming"]);
        assert_same(&scratch, &straight, &ended);
    }
}

#[test]
fn what_is_trained_and_what_counts_is_said() {
    let scratch = Scratch::new(20);
    let command = format!("train {RECIPE} --num_train_epochs 1 --workers 1");
    scratch
        .run(&format!("{command} --freeze_layers 1 --class_weights 1,2,3"))
        .expect(0)
        .says(&["9,699 of 86,467 parameters", "entailment 1.0000, neutral 2.0000, contradiction 3.0000"]);
    assert_eq!(scratch.json("out/train_results.json")["trained_parameters"], 9_699);
    let refused = scratch.run(&format!("{command} --freeze_layers 3 --output_dir other")).expect(78);
    refused.says(&["--freeze_layers is 3; expected 0 to 2, the encoder layers of the model"]);
}
