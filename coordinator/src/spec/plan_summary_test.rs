use crate::archive::fixture::model;
use crate::cli::tests::{REFERENCE, train};
use crate::spec::Machine;

fn summary(flags: &str, rows: u64) -> String {
    summary_on(Machine { cores: 4, cuda_devices: 0 }, flags, rows)
}

fn summary_on(machine: Machine, flags: &str, rows: u64) -> String {
    let spec = train(flags).unwrap();
    let labels: Vec<Option<u32>> = (0..rows).map(|row| Some((row % 4).min(2) as u32)).collect();
    let names = ["entailment", "neutral", "contradiction"].map(str::to_owned);
    let bound = spec.bind(rows, &machine).unwrap().on(&spec, &model(), (&labels, &names)).unwrap();
    bound.summary(&spec, rows, &model()).to_string()
}

#[test]
fn the_reference_plan_is_told_in_full() {
    let expected = "  \
  model          michiyasunaga/BioLinkBERT-large; entailment, neutral, contradiction; up to 512 tokens
  training       3,510 updates = 10 epochs of 351 over 11,232 rows, seed 42
  global batch   32 rows an update = 16 x 2, the same at any number of workers
  learning rate  0 to 3e-5 over 1,755 updates of warm-up, then straight down to 0
  optimizer      adamw_hf, betas 0.9 and 0.999, epsilon 1e-8, weight decay 0, gradients clipped to norm 1
  workers        3 workers on the CPU with 1 thread each; 8 lanes, 2 or 3 for each
  precision      float32 (instead of float16)
  evaluation     mli_dev_v1.jsonl, at the end
  prediction     mli_test_v1.jsonl, at the end
  checkpoints    after every 500 updates (7 times)
  output         out
";
    assert_eq!(summary(&format!("{REFERENCE} --workers 3"), 11_232), expected);
}

#[test]
fn other_plans_are_told_apart() {
    let line = |flags: &str, start: &str| {
        let plan = summary(&format!("{REFERENCE} {flags}"), 11_232);
        let line = plan.lines().map(str::trim).find(|line| line.starts_with(start)).map(ToOwned::to_owned);
        line.unwrap_or_else(|| panic!("no {start} in\n{plan}"))
    };
    assert_eq!(
        line("--scale_batch_with_workers --workers 2", "global"),
        "global batch   64 rows an update = 16 x 2 x 2 workers, which grows with the workers (--scale_batch_with_workers)"
    );
    assert_eq!(
        line("--max_steps 1", "training"),
        "training       1 update = 0.00 epochs of 351 over 11,232 rows, seed 42"
    );
    assert_eq!(
        line("--evaluation_strategy epoch", "evaluation"),
        "evaluation     mli_dev_v1.jsonl, after every epoch (10 times) and at the end"
    );
    assert_eq!(
        line("--save_steps 1755 --save_total_limit 1", "checkpoints"),
        "checkpoints    after every 1,755 updates (twice), the last 1 kept"
    );
    assert_eq!(line("--save_strategy no", "checkpoints"), "checkpoints    none but the final model");
    assert_eq!(
        line("--workers 4", "workers"),
        "workers        4 workers on the CPU with 1 thread each; 8 lanes, 2 for each"
    );
    assert_eq!(
        line("--workers 4 --shard_optimizer_state", "state"),
        "state          a shard of the optimizer's for each worker; a run that loses one goes back to the last checkpoint"
    );
    assert_eq!(
        line("--workers 4 --shard_optimizer_state --save_strategy no", "state"),
        "state          a shard of the optimizer's for each worker; a run that loses one begins anew: there are no checkpoints"
    );
    assert_eq!(line("--no_fp16", "precision"), "precision      float32");
    assert_eq!(
        line("--hypothesis_only", "texts"),
        "texts          sentence2: the second text of each pair alone (--hypothesis_only)"
    );
    assert_eq!(line("--text_column_names text", "texts"), "texts          text: single sentences");
    assert_eq!(line("--text_column_names a,b", "texts"), "texts          a and b: pairs");
    assert_eq!(
        line("--optim sgd --optim_args momentum=0.9,nesterov=True", "optimizer"),
        "optimizer      sgd, Nesterov's momentum 0.9, weight decay 0, gradients clipped to norm 1"
    );
    assert_eq!(
        line("--freeze_layers 1", "trained"),
        "trained        9,699 of 25,667 parameters: the embeddings and the lowest layer are frozen"
    );
    assert_eq!(
        line("--class_weights auto", "class"),
        "class weights  entailment 1.3333, neutral 1.3333, contradiction 0.6667; evaluation counts all rows alike"
    );
    assert!(line("--layer_lr_decay 0.95", "learning").ends_with("; times 0.95 for each layer below the head"));
}

#[test]
fn the_plan_says_what_gpus_compute_in() {
    let plan = |flags: &str| summary_on(Machine { cores: 4, cuda_devices: 2 }, &format!("{REFERENCE} {flags}"), 11_232);
    let auto = "precision      bfloat16, as on all GPUs (--bf16 False computes in float32)";
    assert!(plan("--no_fp16").contains(auto), "{}", plan("--no_fp16"));
    assert!(plan("--no_fp16 --bf16 False").contains("precision      float32\n"));
    assert!(plan("--no_fp16 --bf16").contains("precision      bfloat16\n"));
    assert!(plan("").contains("precision      float16\n"));
}

#[test]
fn the_plan_says_what_equal_bits_cost_on_gpus() {
    let plan = |flags: &str| summary_on(Machine { cores: 4, cuda_devices: 2 }, &format!("{REFERENCE} {flags}"), 11_232);
    let on = "reproducible   on, at a cost: each of 8 lanes is a pass of its own, and NCCL moves their sums,";
    assert!(plan("--reproducible on").contains(on), "{}", plan("--reproducible on"));
    let off = "reproducible   off: the last bits depend on the number of workers (--reproducible on";
    assert!(plan("").contains(off) && plan("--reproducible off").contains(off), "{}", plan(""));
    assert!(!plan("--device cpu --reproducible on").contains("reproducible "));
}

#[test]
fn a_plan_without_training_says_only_what_happens() {
    let flags = "--model_name_or_path m --output_dir out --do_predict --test_file x.jsonl --from_scratch --labels a,b";
    let expected = "  \
  model       m, its weights drawn anew; a, b; up to 128 tokens
  workers     1 worker on the CPU with 4 threads; 8 lanes
  precision   float32
  prediction  x.jsonl, at the end
  output      out
";
    assert_eq!(summary(flags, 0), expected);
}
