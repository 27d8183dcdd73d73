use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use medley_common::schedule::Decay;
use medley_common::spec::OptimizerKind;

use crate::cli::tests::{LEAST, REFERENCE, refusal, train, with};
use crate::spec::{BatchMeaning, DeviceChoice, Existing, Progress, Resume, RunLength, Warmup, Workers};

/// Flags added to the least that a run needs, and why they are refused.
const REFUSALS: &[(&str, &str)] = &[
    ("--no_do_train", "nothing to do; give at least one of --do_train, --do_eval and --do_predict"),
    ("--do_eval", "--do_eval needs --validation_file; name the file that holds the rows"),
    ("--do_predict", "--do_predict needs --test_file; name the file that holds the rows"),
    ("--eval_strategy epoch", "--evaluation_strategy needs --validation_file; name the file that holds the rows"),
    ("--per_device_train_batch_size 0", "--per_device_train_batch_size is 0; expected at least 1"),
    ("--per_device_eval_batch_size 0", "--per_device_eval_batch_size is 0; expected at least 1"),
    ("--gradient_accumulation_steps -2", "--gradient_accumulation_steps is -2; expected at least 1"),
    ("--learning_rate -1e-5", "--learning_rate is -1e-5; expected a finite number of 0 or more"),
    ("--learning_rate nan", "--learning_rate is NaN; expected a finite number of 0 or more"),
    ("--weight_decay -inf", "--weight_decay is -inf; expected a finite number of 0 or more"),
    (
        "--warmup_ratio 1.5",
        "--warmup_ratio is 1.5; expected a share of the run from 0 to 1; for a number of updates use \
         --warmup_steps",
    ),
    (
        "--warmup_steps 10.5",
        "--warmup_steps is 10.5; expected a whole number of updates, or a share of the run from 0 up to 1",
    ),
    ("--adam_beta1 1", "--adam_beta1 is 1; expected a number from 0 up to, but not including, 1"),
    ("--adam_beta2 -0.1", "--adam_beta2 is -0.1; expected a number from 0 up to, but not including, 1"),
    ("--adam_epsilon 0", "--adam_epsilon is 0; expected a number above 0"),
    ("--max_grad_norm -1", "--max_grad_norm is -1; expected a number above 0, or 0 to clip nothing"),
    (
        "--label_smoothing_factor 1",
        "--label_smoothing_factor is 1; expected a number from 0 up to, but not including, 1",
    ),
    ("--fp16 --bf16", "--fp16 and --bf16 exclude each other; keep one of them"),
    (
        "--logging_steps 0",
        "--logging_steps is 0; expected a whole number of updates from 1, or a share of the run below 1; use \
         --logging_strategy no to switch it off",
    ),
    (
        "--save_steps 0",
        "--save_steps is 0; expected a whole number of updates from 1, or a share of the run below 1; use \
         --save_strategy no to switch it off",
    ),
    (
        "--save_steps -1",
        "--save_steps is -1; expected a whole number of updates from 1, or a share of the run below 1; use \
         --save_strategy no to switch it off",
    ),
    (
        "--evaluation_strategy steps --eval_steps 0 --validation_file v",
        "--eval_steps is 0; expected a whole number of updates from 1, or a share of the run below 1; use \
         --evaluation_strategy no to switch it off",
    ),
    ("--workers 10", "--workers is 10, but 8 lanes keep at most 8 workers busy; use --lanes 16"),
    ("--workers 0", "--workers is 0; expected 1 to 1024"),
    ("--lanes 0", "--lanes is 0; expected 1 to 1024"),
    ("--lanes 1025", "--lanes is 1025; expected 1 to 1024"),
    ("--threads 0", "--threads is 0; expected 1 to 1024"),
    ("--max_seq_length 3", "--max_seq_length is 3; expected 5 to 65536"),
    (
        "--num_train_epochs 0",
        "--num_train_epochs is 0; expected a number above 0; or give the number of updates with --max_steps",
    ),
    ("--seed -1", "--seed is -1; expected a whole number of 0 or more"),
    ("--save_total_limit 0", "--save_total_limit is 0; expected at least 1; use --save_strategy no to keep none"),
    ("--labels yes", "--labels is \"yes\"; expected at least two names with commas between them, or auto"),
    ("--labels a,,b", "--labels is \"a,,b\"; expected at least two names with commas between them, or auto"),
    ("--labels a,b,a", "--labels is \"a,b,a\"; expected names that differ"),
    (
        "--text_column_names a,b,c",
        "--text_column_names is \"a,b,c\"; expected one or two names of columns, with a comma between them",
    ),
    (
        "--text_column_names a,",
        "--text_column_names is \"a,\"; expected one or two names of columns, with a comma between them",
    ),
    ("--text_column_names a,a", "--text_column_names is \"a,a\"; expected columns that differ"),
    (
        "--text_column_names a,gold_label",
        "--text_column_names is \"a,gold_label\"; expected other columns than that of --label_column_name",
    ),
    ("--label_column_name=", "--label_column_name is \"\"; expected the name of a column"),
    (
        "--hypothesis_only --premise_only",
        "--premise_only and --hypothesis_only exclude each other; keep one of them, or drop both to read pairs",
    ),
    (
        "--hypothesis_only --text_column_names text",
        "--hypothesis_only and --text_column_names text exclude each other; it reads one of two texts: name two columns, or \
         drop it",
    ),
    (
        "--premise_only --text_column_names text",
        "--premise_only and --text_column_names text exclude each other; it reads one of two texts: name two columns, or \
         drop it",
    ),
    (
        "--text_column_delimiter ;",
        "--text_column_delimiter is not supported: two columns are a pair of sentences with [SEP] between them; for one \
         text, join them in the file and name the one column",
    ),
    (
        "--listen 0.0.0.0:1",
        "--listen is 0.0.0.0:1, which other machines can reach; make certificates and tokens with `medley init-certs` and \
         name them with --credentials DIR, or listen on 127.0.0.1, or add --insecure where the network is trusted",
    ),
    (
        "--listen node1:1",
        "invalid value 'node1:1' for '--listen <IP:PORT>': expected an IP address and a port, e.g. \
         127.0.0.1:29400",
    ),
    ("--heartbeat_timeout 0", "--heartbeat_timeout is 0; expected 0.1 to 86400 seconds"),
    (
        "--report_to wandb tensorboard",
        "--report_to is wandb; expected tensorboard, jsonl, mlflow or none; other trackers import TensorBoard's files \
         (wandb sync, for one) or jsonl",
    ),
    (
        "--report_to jsonl --output_dir out --logging_dir out/model.safetensors",
        "--logging_dir is out/model.safetensors; expected a folder outside --output_dir, or one in it under a name that \
         the run does not write",
    ),
    ("--report_to all", "--report_to is all; expected tensorboard, jsonl, mlflow or none; name those that you want"),
    ("--report_to none,jsonl", "--report_to is none,jsonl; expected none alone, or trackers without it"),
    (
        "--overwrite_output_dir --resume_from_checkpoint",
        "--overwrite_output_dir and --resume_from_checkpoint True exclude each other; drop \
         --overwrite_output_dir, as a resumed run adds to its folder anyway",
    ),
    (
        "--lr_scheduler_type greedy",
        "invalid value 'greedy' for '--lr_scheduler_type <NAME>'\n  [possible values: linear, cosine, \
         cosine_with_restarts, polynomial, constant, constant_with_warmup, inverse_sqrt, warmup_stable_decay, \
         reduce_lr_on_plateau]",
    ),
    (
        "--lr_scheduler_kwargs num_cycles=2",
        "--lr_scheduler_kwargs is num_cycles=2; expected a JSON object, such as '{\"num_cycles\": 2}'",
    ),
    (
        "--lr_scheduler_kwargs {\"num_cycles\":[2]}",
        "--lr_scheduler_kwargs is {\"num_cycles\":[2]}; expected numbers and words alone",
    ),
    (
        "--lr_scheduler_type warmup_stable_decay",
        "--lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps, a whole number from 0 to 1e12",
    ),
    (
        "--lr_scheduler_type polynomial --learning_rate 1e-8",
        "--lr_scheduler_kwargs: lr_end is 1e-7; expected less than the peak, 1e-8",
    ),
    ("--max_steps ten", "invalid value 'ten' for '--max_steps <UPDATES>': expected a whole number"),
];

#[test]
fn flags_that_do_not_fit_are_refused_with_the_way_out() {
    for (flags, expected) in REFUSALS {
        assert_eq!(&refusal(&format!("{LEAST} {flags}")), expected, "{flags}");
    }
}

#[test]
fn what_every_run_needs_is_asked_for() {
    let missing = [
        (
            "--do_train",
            "--model_name_or_path is missing; name a model on the hub or a folder, e.g. --model_name_or_path \
             michiyasunaga/BioLinkBERT-base",
        ),
        ("--model_name_or_path m --do_train", "--do_train needs --train_file; name the file that holds the rows"),
        (
            "--model_name_or_path m --do_train --train_file t",
            "--output_dir is missing; name the folder for the model and the results, e.g. --output_dir out",
        ),
    ];
    for (flags, expected) in missing {
        assert_eq!(refusal(flags), expected);
    }
}

#[test]
fn files_are_looked_for_only_when_asked() {
    let error = train(REFERENCE).unwrap().sources().check_files().unwrap_err().to_string();
    assert_eq!(
        error,
        "--train_file mli_train_v1.jsonl: no such file; check the name, and the folder that it is relative to"
    );
}

#[test]
fn what_has_no_effect_is_noted_and_what_is_ignored_is_warned_of() {
    let table = [
        (
            "--pad_to_max_length",
            "note: --pad_to_max_length has no effect: padding is never computed, and the result is the same",
        ),
        (
            "--dataloader_num_workers 4 --no_dataloader_pin_memory",
            "note: --dataloader_num_workers, --dataloader_pin_memory have no effect: there is no data loader, as the \
             rows are held in memory",
        ),
        (
            "--local_rank -1",
            "note: --local_rank has no effect: workers are not launched by torchrun; --workers says how many there are",
        ),
        (
            "--per_device_eval_batch_size 32",
            "note: --per_device_eval_batch_size has no effect: evaluation is packed by tokens, and the result is the same",
        ),
        (
            "--optim adamw_torch_fused",
            "note: --optim adamw_torch_fused is computed as adamw_torch, which has the same formula",
        ),
        (
            "--warmup_steps 10 --warmup_ratio 0.1",
            "note: --warmup_ratio 0.1 has no effect: --warmup_steps 10 comes first",
        ),
        ("--bf16 --tf32", "note: --tf32 has no effect: matrix products are in bfloat16 already"),
        ("--test_file x.jsonl", "warning: --test_file x.jsonl is not read, because --do_predict is not given"),
        (
            "--lr_scheduler_type constant --warmup_ratio 0.1",
            "warning: --lr_scheduler_type constant has no warm-up; use constant_with_warmup to have one",
        ),
        (
            "--listen 0.0.0.0:7 --insecure",
            "warning: --insecure: whoever reaches 0.0.0.0:7 can read the model and the data, and take part in the run",
        ),
    ];
    for (flags, expected) in table {
        let notes: Vec<String> = with(flags).unwrap().notes().iter().map(ToString::to_string).collect();
        assert_eq!(notes, [expected], "{flags}");
    }
    assert!(with("").unwrap().notes().is_empty());
}

#[test]
fn values_reach_their_places() {
    let spec = with(
        "--max_steps 7 --warmup_steps 3 --max_grad_norm 0 --optim adamw_torch --lanes 16 --workers 16 --device cpu \
         --threads 3 --listen localhost:81 --labels a,b --from_scratch --overwrite_output_dir --save_total_limit 2 \
         --resume_from_checkpoint False --disable_tqdm --scale_batch_with_workers --heartbeat_timeout 0.5 \
         --evaluation_strategy epoch --validation_file v --lr_scheduler_type constant_with_warmup",
    )
    .unwrap();
    let (recipe, placement, output) = (spec.recipe(), spec.placement(), spec.output());
    assert_eq!((recipe.length, recipe.warmup), (RunLength::Updates(7), Warmup::Updates(3)));
    assert_eq!((recipe.optimizer.kind, recipe.optimizer.max_grad_norm), (OptimizerKind::AdamwTorch, None));
    assert_eq!(
        (recipe.decay.clone(), recipe.batch_meaning),
        (Decay::new("constant_with_warmup", []).unwrap(), BatchMeaning::PerWorker)
    );
    assert_eq!((placement.workers, placement.device), (Workers::Exactly(16), DeviceChoice::Cpu));
    assert_eq!((placement.threads, placement.heartbeat_timeout), (Some(3), Duration::from_millis(500)));
    assert_eq!(placement.listen, "127.0.0.1:81".parse::<SocketAddr>().unwrap());
    assert_eq!((output.existing, output.save_total_limit), (Existing::Overwrite, Some(2)));
    assert_eq!((&output.resume, output.progress), (&Resume::Never, Progress::Hidden));
    assert_eq!(spec.sources().validation_file.as_deref(), Some(Path::new("v")), "a strategy implies --do_eval");
    let from = with("--resume_from_checkpoint elsewhere/checkpoint-5").unwrap();
    assert_eq!(from.output().resume, Resume::From("elsewhere/checkpoint-5".into()));
    assert_eq!(with("--warmup_steps 0.25").unwrap().recipe().warmup, Warmup::Share(0.25), "as in transformers 5");
    let tracked = with("--report_to tensorboard,jsonl jsonl --run_name a").unwrap();
    assert_eq!(tracked.tracking().trackers, ["tensorboard", "jsonl"]);
    assert_eq!((&tracked.tracking().logging_dir, tracked.notes()), (&tracked.output().dir.join("runs"), &[][..]));
    let untracked = with("--report_to none --logging_dir logs").unwrap();
    assert_eq!((untracked.tracking().trackers.len(), untracked.notes().len()), (0, 1));
}
