//! Every other flag of Hugging Face: those whose absence nobody would notice, and those that need another way.
//!
//! The names are the fields of `TrainingArguments` of transformers 4.22 and 5.23, and the arguments of
//! `run_glue.py` and `run_classification.py`.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Arg, ArgAction};

use super::truth::Truth;
use crate::spec::Note;

/// What follows an accepted flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// Nothing, or a boolean.
    Truth,
    /// One word.
    Word,
}

/// A flag that is read, and changes nothing.
struct Accepted {
    name: &'static str,
    follows: Follows,
    why: &'static str,
}

const fn accepted(name: &'static str, follows: Follows, why: &'static str) -> Accepted {
    Accepted { name, follows, why }
}

const PADDING: &str = "padding is never computed, and the result is the same";
const LOADER: &str = "there is no data loader, as the rows are held in memory";
const COLLECTIVE: &str = "gradients are summed by Medley's own collective, not by DDP";
const PRINTING: &str = "the coordinator alone tells how the run goes";
const PREDICTIONS: &str = "predictions are sent to the coordinator as they are made";
const DETERMINISTIC: &str = "every run is deterministic";

use Follows::{Truth as Switch, Word};

static ACCEPTED: &[Accepted] = &[
    accepted("pad_to_max_length", Switch, PADDING),
    accepted("group_by_length", Switch, "there is no padding to save; rows keep their shuffled order"),
    accepted("length_column_name", Word, "there is no padding to save; rows keep their shuffled order"),
    accepted("overwrite_cache", Switch, "rows are tokenised anew in every run"),
    accepted("use_fast_tokenizer", Switch, "there is one tokenizer, and its tokens are the same"),
    accepted("remove_unused_columns", Switch, "columns that are not needed are not read"),
    accepted("dataloader_num_workers", Word, LOADER),
    accepted("dataloader_pin_memory", Switch, LOADER),
    accepted("dataloader_persistent_workers", Switch, LOADER),
    accepted("dataloader_prefetch_factor", Word, LOADER),
    accepted("dataloader_multiprocessing_context", Word, LOADER),
    accepted("dataloader_in_order", Switch, LOADER),
    accepted("local_rank", Word, "workers are not launched by torchrun; --workers says how many there are"),
    accepted("ddp_timeout", Word, "lost workers are found by --heartbeat_timeout"),
    accepted("ddp_bucket_cap_mb", Word, COLLECTIVE),
    accepted("ddp_find_unused_parameters", Switch, COLLECTIVE),
    accepted("ddp_broadcast_buffers", Switch, COLLECTIVE),
    accepted("ddp_static_graph", Switch, COLLECTIVE),
    accepted("ddp_backend", Word, COLLECTIVE),
    accepted("average_tokens_across_devices", Switch, "losses are averaged over the rows of the global batch always"),
    accepted("eval_accumulation_steps", Word, PREDICTIONS),
    accepted("eval_do_concat_batches", Switch, PREDICTIONS),
    accepted("eval_use_gather_object", Switch, PREDICTIONS),
    accepted("batch_eval_metrics", Switch, PREDICTIONS),
    accepted("fp16_opt_level", Word, "it is a setting of Apex, which is not used"),
    accepted("full_determinism", Switch, DETERMINISTIC),
    accepted("log_level_replica", Word, PRINTING),
    accepted("log_on_each_node", Switch, PRINTING),
    accepted("logging_nan_inf_filter", Switch, "losses are logged as they are"),
];

/// The accepted flags, for clap.
pub(super) fn accepted_args() -> impl Iterator<Item = Arg> {
    ACCEPTED.iter().map(|flag| {
        let arg = Arg::new(flag.name).long(flag.name).action(ArgAction::Set).hide(true);
        match flag.follows {
            Follows::Word => arg.value_name("VALUE"),
            Follows::Truth => arg.value_parser(Truth::from_str),
        }
    })
}

/// What stands below the flags in the help of a run.
pub(super) fn help() -> String {
    let mut text = String::from("Accepted, without effect on the result:");
    let mut column = usize::MAX;
    for flag in ACCEPTED {
        if column.saturating_add(flag.name.len()) > 100 {
            text.push_str("\n     ");
            column = 5;
        }
        text.extend([" ", flag.name]);
        column += flag.name.len() + 1;
    }
    text.push_str(
        "\n\nFlags may be written with hyphens (--max-seq-length). BOOL is True or False; --do_train alone is True, \
         and\n--no_do_train is False. Where a flag is given twice, the last one counts.",
    );
    text
}

/// One note for each reason why flags have no effect.
pub(super) fn accepted_notes(is_given: impl Fn(&str) -> bool) -> Vec<Note> {
    let mut reasons: BTreeMap<usize, (&str, Vec<String>)> = BTreeMap::new();
    for flag in ACCEPTED.iter().filter(|flag| is_given(flag.name)) {
        let first = ACCEPTED.iter().position(|other| other.why == flag.why).unwrap_or(0);
        reasons.entry(first).or_insert_with(|| (flag.why, Vec::new())).1.push(format!("--{}", flag.name));
    }
    let sentence = |(why, names): (&str, Vec<String>)| match names.as_slice() {
        [name] => format!("{name} has no effect: {why}"),
        names => format!("{} have no effect: {why}", names.join(", ")),
    };
    reasons.into_values().map(sentence).map(Note::plain).collect()
}

/// Values under which a flag asks for nothing that Medley does not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harmless {
    Nothing,
    Off,
    On,
    Is(&'static [&'static str]),
}

/// A flag that asks for what Medley does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported {
    name: &'static str,
    harmless: Harmless,
    /// What to do instead.
    pub(super) instead: &'static str,
}

impl Unsupported {
    /// The flag of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        UNSUPPORTED.iter().find(|flag| flag.name == name)
    }

    /// Whether it takes a boolean, and so may stand alone.
    pub(super) fn is_switch(&self) -> bool {
        matches!(self.harmless, Harmless::Off | Harmless::On)
    }

    /// Whether this value asks for what Medley does anyway; `None` where the flag stands alone.
    pub(super) fn asks_nothing(&self, value: Option<&str>) -> bool {
        let truth = || value.map_or(Some(true), |value| value.parse::<Truth>().ok().map(|truth| truth.0));
        match self.harmless {
            Harmless::Nothing => false,
            Harmless::Off => truth() == Some(false),
            Harmless::On => truth() == Some(true),
            Harmless::Is(values) => value.is_some_and(|value| values.contains(&value)),
        }
    }
}

const fn un(name: &'static str, harmless: Harmless, instead: &'static str) -> Unsupported {
    Unsupported { name, harmless, instead }
}

use Harmless::{Is, Nothing, Off, On};

const SHARDING: &str = "every worker holds the whole model; use --workers N to share the work";
const ZERO: &str = "every worker holds the whole model; use --shard_optimizer_state to share out the optimizer's state (ZeRO \
                    stage 1), and --workers N to share the work";
const MEMORY: &str = "activations are kept for the backward pass; to need less memory, use more --workers on other machines, a \
                      shorter --max_seq_length, or a smaller batch for each update";
const EVALUATE_HALF: &str = "evaluation is in the precision of --fp16 or --bf16";
const COMPILED: &str = "there is no Python to compile; drop the flag";
const HUB: &str = "nothing is uploaded; upload --output_dir after the run, e.g. with huggingface-cli upload";
const TRACKER: &str = "it is a setting of Trackio; the trackers are those of --report_to";
const SAMPLES: &str = "all rows of a file are used; give a shorter file, e.g. made with head -n";
const DATASETS: &str = "data are JSONL, CSV or TSV files; use --train_file, --validation_file and --test_file";
const PAIR: &str = "two columns are a pair of sentences with [SEP] between them; for one text, join them in the file and \
                    name the one column";
const BATCH: &str = "use --per_device_train_batch_size";
const TPU: &str = "TPUs are not supported; use --device cpu or --device cuda";
const DEVICE: &str = "use --device cpu or --device cuda";
const HALF: &str = "use --fp16 or --bf16 alone";
const TORCHRUN: &str = "use --workers N";
const REVISION: &str = "download that revision and give its folder as --model_name_or_path";
const TOKEN: &str = "set the environment variable HF_TOKEN, or give a folder as --model_name_or_path";
const FOLDER: &str = "put the files of the model into one folder and give it as --model_name_or_path";
const DEBUG: &str = "it is a tool for PyTorch; drop the flag";
const ADAMW: &str = "use --optim adamw_hf, adamw_torch or sgd";
const METRICS: &str = "evaluation gives the loss and the accuracy, and predictions are written for other metrics";
const EMBEDDINGS: &str = "drop the flag; the plain model is trained";

static UNSUPPORTED: &[Unsupported] = &[
    // Sharding, launchers and devices.
    un("deepspeed", Nothing, ZERO),
    un("fsdp", Is(&["", "False"]), ZERO),
    un("fsdp_config", Nothing, SHARDING),
    un("fsdp_min_num_params", Is(&["0"]), SHARDING),
    un("fsdp_transformer_layer_cls_to_wrap", Nothing, SHARDING),
    un("sharded_ddp", Is(&["", "False"]), ZERO),
    un("mp_parameters", Is(&[""]), SHARDING),
    un("parallelism_config", Nothing, SHARDING),
    un("accelerator_config", Nothing, SHARDING),
    un("tp_size", Is(&["0", "1"]), SHARDING),
    un("split_batches", Off, "use --per_device_train_batch_size: it counts the rows of all workers together"),
    un("dispatch_batches", Off, "each worker takes its own lanes of the rows; drop the flag"),
    un("nproc_per_node", Nothing, TORCHRUN),
    un("nnodes", Nothing, "use medley serve --workers N, and start a worker on each machine"),
    un("num_processes", Nothing, TORCHRUN),
    un("master_addr", Nothing, "use medley serve --listen IP:PORT"),
    un("master_port", Nothing, "use medley serve --listen IP:PORT"),
    un("n_gpu", Nothing, TORCHRUN),
    un("_n_gpu", Nothing, TORCHRUN),
    un("no_cuda", Off, "use --device cpu"),
    un("use_cpu", Off, "use --device cpu"),
    un("use_mps_device", Off, DEVICE),
    un("xpu_backend", Nothing, DEVICE),
    un("tpu_num_cores", Nothing, TPU),
    un("tpu_metrics_debug", Off, TPU),
    // Precision.
    un("fp16_full_eval", Off, EVALUATE_HALF),
    un("bf16_full_eval", Off, EVALUATE_HALF),
    un("half_precision_backend", Is(&["auto"]), HALF),
    un("fp16_backend", Is(&["auto"]), HALF),
    // Memory and speed.
    un("gradient_checkpointing_kwargs", Nothing, MEMORY),
    un("activation_checkpointing", Off, MEMORY),
    un("activation_checkpointing_kwargs", Nothing, MEMORY),
    un("auto_find_batch_size", Off, "use --auto_micro_batch, which leaves the update as it is"),
    un("torch_empty_cache_steps", Nothing, MEMORY),
    un("jit_mode_eval", Off, COMPILED),
    un("use_ipex", Off, COMPILED),
    un("torchdynamo", Nothing, COMPILED),
    un("torch_compile", Off, COMPILED),
    un("torch_compile_backend", Nothing, COMPILED),
    un("torch_compile_mode", Nothing, COMPILED),
    un("use_liger_kernel", Off, COMPILED),
    un("liger_kernel_config", Nothing, COMPILED),
    un("use_cache", Off, "a classifier generates nothing, so it has no key-value cache; drop the flag"),
    // Optimizer and batch.
    un("adafactor", Off, ADAMW),
    un("optim_target_modules", Nothing, ADAMW),
    un("neftune_noise_alpha", Nothing, EMBEDDINGS),
    un("per_gpu_train_batch_size", Nothing, BATCH),
    un("per_gpu_eval_batch_size", Nothing, "drop the flag; the batch size of evaluation does not change its result"),
    un("train_batch_size", Nothing, BATCH),
    un("eval_batch_size", Nothing, "drop the flag; the batch size of evaluation does not change its result"),
    un("dataloader_drop_last", Off, "each row is used once an epoch; the last update of an epoch may have fewer rows"),
    un("train_sampling_strategy", Is(&["random"]), "rows are shuffled, and lanes balanced by their tokens"),
    // Evaluation, log and checkpoints.
    un("evaluate_during_training", Off, "use --evaluation_strategy steps"),
    un("prediction_loss_only", Off, METRICS),
    un("include_inputs_for_metrics", Off, METRICS),
    un("include_for_metrics", Nothing, METRICS),
    un("metric_name", Is(&["accuracy", "acc"]), METRICS),
    un("label_names", Nothing, "use --labels to name the classes"),
    un("past_index", Is(&["-1"]), "a BERT has no memory of past rows; drop the flag"),
    un("use_legacy_prediction_loop", Off, METRICS),
    un("include_num_input_tokens_seen", Is(&["no", "False", "false"]), "tokens are shown by medley status"),
    un("include_tokens_per_second", Off, "tokens are shown by medley status"),
    un("skip_memory_metrics", On, "memory is not measured; watch the workers' processes"),
    un("project", Nothing, TRACKER),
    un("trackio_space_id", Nothing, TRACKER),
    un("trackio_bucket_id", Nothing, TRACKER),
    un("trackio_static_space_id", Nothing, TRACKER),
    un("save_on_each_node", Off, "the coordinator alone writes; --output_dir is a folder of its machine"),
    un("save_only_model", Off, "checkpoints hold the optimizer, too; use --save_strategy no for the final model alone"),
    un("save_safetensors", On, "models are written as model.safetensors only"),
    un("enable_jit_checkpoint", Off, "a run that is interrupted saves a checkpoint by itself; drop the flag"),
    un("ignore_data_skip", Off, "a resumed run goes on with exactly the rows that are left"),
    un("restore_callback_states_from_checkpoint", Off, "a resumed run restores all of its state; drop the flag"),
    // The hub.
    un("push_to_hub", Off, HUB),
    un("push_to_hub_model_id", Nothing, HUB),
    un("push_to_hub_organization", Nothing, HUB),
    un("push_to_hub_token", Nothing, HUB),
    un("hub_model_id", Nothing, HUB),
    un("hub_strategy", Nothing, HUB),
    un("hub_token", Nothing, HUB),
    un("hub_private_repo", Off, HUB),
    un("hub_always_push", Off, HUB),
    un("hub_revision", Nothing, HUB),
    // The model's files.
    un("config_name", Nothing, FOLDER),
    un("tokenizer_name", Nothing, FOLDER),
    un("model_revision", Is(&["main"]), REVISION),
    un("cache_dir", Nothing, "set the environment variable HF_HUB_CACHE to the folder"),
    un("use_auth_token", Off, TOKEN),
    un("token", Nothing, TOKEN),
    un("trust_remote_code", Off, "a model's own code is never run; only BERT classifiers are supported"),
    un("ignore_mismatched_sizes", Off, "a classifier of another size is not replaced; see --labels"),
    un("low_cpu_mem_usage", Off, "weights are read straight into place; drop the flag"),
    un("model_type", Is(&["bert"]), "only BERT classifiers are supported"),
    un("do_lower_case", On, "the tokenizer's own files say so; change them in the model's folder"),
    // The data.
    un("task_name", Nothing, DATASETS),
    un("dataset_name", Nothing, DATASETS),
    un("dataset_config_name", Nothing, DATASETS),
    un("data_dir", Nothing, DATASETS),
    un("train_split_name", Nothing, DATASETS),
    un("validation_split_name", Nothing, DATASETS),
    un("test_split_name", Nothing, DATASETS),
    un("remove_splits", Nothing, DATASETS),
    un("remove_columns", Nothing, "columns that --text_column_names and --label_column_name do not name are not read"),
    un("text_column_delimiter", Nothing, PAIR),
    un("max_train_samples", Nothing, SAMPLES),
    un("max_eval_samples", Nothing, SAMPLES),
    un("max_val_samples", Nothing, SAMPLES),
    un("max_predict_samples", Nothing, SAMPLES),
    un("max_test_samples", Nothing, SAMPLES),
    un("do_regression", Off, "only classifiers are trained; name the classes with --labels"),
    un("shuffle_train_dataset", Off, "rows are shuffled anew in each epoch; drop the flag"),
    un("shuffle_seed", Nothing, "use --data_seed, which orders the rows"),
    un("preprocessing_num_workers", Nothing, "drop the flag; rows are tokenised at the start of the run"),
    // Tools.
    un("debug", Is(&[""]), DEBUG),
    un("ray_scope", Is(&["last"]), "there is no search over hyperparameters; drop the flag"),
];

#[cfg(test)]
#[path = "huggingface_test.rs"]
mod tests;
