//! The flags of a run, as `train` and `serve` take them: names, defaults and help, nothing checked against each other.
//!
//! Names and defaults are those of `TrainingArguments` and `run_glue.py` of transformers 4.22. The first line of a
//! field's comment is its line in the help, so each has one line only.

use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use medley_common::schedule::Decay;

use super::console_flags::ConsoleFlags;
use super::listen_flag::ListenFlag;
use super::row_flags::RowFlags;
use super::selection_flags::SelectionFlags;
use super::truth::Truth;
use super::tuning_flags::TuningFlags;
use crate::spec::DeviceChoice;

/// All of them.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case")]
pub(crate) struct RunFlags {
    /// TOML file with more of these flags; those of the command line win
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tasks: TaskFlags,
    #[command(flatten)]
    pub(crate) data: DataFlags,
    #[command(flatten)]
    pub(crate) rows: RowFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) console: ConsoleFlags,
    #[command(flatten)]
    pub(crate) batch: BatchFlags,
    #[command(flatten)]
    pub(crate) optimizer: OptimizerFlags,
    #[command(flatten)]
    pub(crate) tuning: TuningFlags,
    #[command(flatten)]
    pub(crate) cadence: CadenceFlags,
    #[command(flatten)]
    pub(crate) selection: SelectionFlags,
    #[command(flatten)]
    pub(crate) precision: PrecisionFlags,
    #[command(flatten)]
    pub(crate) placement: PlacementFlags,
}

/// What to do.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Tasks")]
pub(crate) struct TaskFlags {
    /// Fine-tune the model on --train_file
    #[arg(long)]
    pub(crate) do_train: Truth,
    /// Evaluate the model on --validation_file at the end
    #[arg(long)]
    pub(crate) do_eval: Truth,
    /// Predict the rows of --test_file at the end
    #[arg(long)]
    pub(crate) do_predict: Truth,
}

/// What to read.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Model and data")]
pub(crate) struct DataFlags {
    /// Model on the hub, or its folder [required]
    #[arg(long, value_name = "NAME|DIR")]
    pub(crate) model_name_or_path: Option<String>,
    /// Draw new weights; the model needs a config and a tokenizer only
    #[arg(long)]
    pub(crate) from_scratch: Truth,
    /// Rows to train on: .csv, .tsv, or else JSONL
    #[arg(long, value_name = "FILE")]
    pub(crate) train_file: Option<PathBuf>,
    /// Rows to evaluate on
    #[arg(long, value_name = "FILE")]
    pub(crate) validation_file: Option<PathBuf>,
    /// Rows to predict
    #[arg(long, value_name = "FILE")]
    pub(crate) test_file: Option<PathBuf>,
    /// Classes by id; auto: those of the rows
    #[arg(long, value_name = "LIST", default_value = "entailment,neutral,contradiction")]
    pub(crate) labels: String,
    /// Longer rows are cut to so many tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    pub(crate) max_seq_length: i64,
}

/// Where to write.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Output")]
pub(crate) struct OutputFlags {
    /// Folder for the model, the results and the checkpoints [required]
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Replace what another run or program left in it
    #[arg(long)]
    pub(crate) overwrite_output_dir: Truth,
    /// Checkpoint to go on from; True or False: the last or none [default: the last, if any]
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "True")]
    pub(crate) resume_from_checkpoint: Option<String>,
    /// Keep so many checkpoints: the latest, and the best that was evaluated [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) save_total_limit: Option<i64>,
    /// Write where time goes to profile.json and trace.json; replaces an earlier start's
    #[arg(long)]
    pub(crate) profile: Truth,
    /// Show N sure but wrong predictions, with their text, in report.html [alone: 20]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    pub(crate) report_examples: Option<i64>,
    /// Show no progress bar
    #[arg(long)]
    pub(crate) disable_tqdm: Truth,
    /// Trackers to report to: tensorboard, jsonl, mlflow; none
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',', default_value = "none")]
    #[arg(action = clap::ArgAction::Set)]
    pub(crate) report_to: Vec<String>,
    /// Where trackers write files [default: runs in --output_dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) logging_dir: Option<PathBuf>,
    /// What trackers call the run [default: --output_dir]
    #[arg(long, value_name = "NAME")]
    pub(crate) run_name: Option<String>,
}

/// How much to compute.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Batch and length")]
pub(crate) struct BatchFlags {
    /// Rows of a batch, shared by all workers
    #[arg(long, value_name = "ROWS", default_value_t = 8)]
    pub(crate) per_device_train_batch_size: i64,
    /// Batches of an update
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) gradient_accumulation_steps: i64,
    /// A batch for each worker, as in Hugging Face, instead of for all
    #[arg(long)]
    pub(crate) scale_batch_with_workers: Truth,
    /// Times to go through the rows; may be a fraction
    #[arg(long, value_name = "EPOCHS", default_value_t = 3.0)]
    pub(crate) num_train_epochs: f64,
    /// Updates to make, instead of --num_train_epochs
    #[arg(long, value_name = "UPDATES", default_value_t = -1)]
    pub(crate) max_steps: i64,
    /// Parts that an update is computed in, at least --workers
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) lanes: i64,
    /// Accepted; evaluation is packed by tokens [default: 8]
    #[arg(long, value_name = "ROWS")]
    pub(crate) per_device_eval_batch_size: Option<i64>,
}

/// How gradients become weights.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Optimizer and schedule")]
pub(crate) struct OptimizerFlags {
    /// Highest learning rate
    #[arg(long, value_name = "RATE", default_value = "5e-5")]
    pub(crate) learning_rate: f64,
    /// Its course, as Hugging Face names them
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Decay::names()), default_value = "linear")]
    pub(crate) lr_scheduler_type: String,
    /// What is set about its course, as JSON: '{"num_cycles": 2}'
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    pub(crate) lr_scheduler_kwargs: String,
    /// Share of the run in which it rises from 0
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub(crate) warmup_ratio: f64,
    /// Updates in which it rises, instead of --warmup_ratio
    #[arg(long, value_name = "UPDATES", default_value_t = 0.0)]
    pub(crate) warmup_steps: f64,
    /// adamw_hf, adamw_torch, adamw_torch_fused or sgd
    #[arg(long, value_name = "NAME", value_enum, default_value_t = OptimFlag::Hf)]
    pub(crate) optim: OptimFlag,
    /// What is set about sgd: momentum=0.9,nesterov=True,dampening=0
    #[arg(long, value_name = "KEY=VALUE,..")]
    pub(crate) optim_args: Option<String>,
    /// Decay of all weights but biases and layer norms
    #[arg(long, value_name = "RATE", default_value_t = 0.0)]
    pub(crate) weight_decay: f64,
    /// Decay of the first moment
    #[arg(long, value_name = "BETA", default_value_t = 0.9)]
    pub(crate) adam_beta1: f64,
    /// Decay of the second moment
    #[arg(long, value_name = "BETA", default_value_t = 0.999)]
    pub(crate) adam_beta2: f64,
    /// Keeps the division by the second moment finite
    #[arg(long, value_name = "EPSILON", default_value = "1e-8")]
    pub(crate) adam_epsilon: f64,
    /// Gradients are scaled down to this norm; 0 leaves them
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    pub(crate) max_grad_norm: f64,
    /// Probability spread over all labels
    #[arg(long, value_name = "MASS", default_value_t = 0.0)]
    pub(crate) label_smoothing_factor: f64,
    /// How much each class counts in training: auto (balanced), or a number for each
    #[arg(long, value_name = "auto|W,W,..")]
    pub(crate) class_weights: Option<String>,
    /// Seeds the order of the rows, dropout and new weights
    #[arg(long, value_name = "SEED", default_value_t = 42)]
    pub(crate) seed: i64,
    /// Seeds the order of the rows [default: --seed]
    #[arg(long, value_name = "SEED")]
    pub(crate) data_seed: Option<i64>,
}

/// When to log, evaluate and save.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Log, evaluation and checkpoints during training")]
pub(crate) struct CadenceFlags {
    /// When to write a line of the log
    #[arg(long, value_name = "no|steps|epoch", value_enum, default_value_t = StrategyFlag::Steps)]
    pub(crate) logging_strategy: StrategyFlag,
    /// Updates between lines, or a share of the run below 1
    #[arg(long, value_name = "UPDATES", default_value_t = 500.0)]
    pub(crate) logging_steps: f64,
    /// Log the first update, too
    #[arg(long)]
    pub(crate) logging_first_step: Truth,
    /// When to evaluate; implies --do_eval
    #[arg(long, visible_alias = "eval_strategy", value_name = "no|steps|epoch")]
    #[arg(value_enum, default_value_t = StrategyFlag::No)]
    pub(crate) evaluation_strategy: StrategyFlag,
    /// Updates between evaluations, or a share of the run [default: --logging_steps]
    #[arg(long, value_name = "UPDATES")]
    pub(crate) eval_steps: Option<f64>,
    /// Updates, or epochs, before the first evaluation that may be due
    #[arg(long, value_name = "UPDATES|EPOCHS", default_value_t = 0.0)]
    pub(crate) eval_delay: f64,
    /// Evaluate before the first update, too
    #[arg(long)]
    pub(crate) eval_on_start: Truth,
    /// When to save a checkpoint
    #[arg(long, value_name = "no|steps|epoch", value_enum, default_value_t = StrategyFlag::Steps)]
    pub(crate) save_strategy: StrategyFlag,
    /// Updates between checkpoints, or a share of the run
    #[arg(long, value_name = "UPDATES", default_value_t = 500.0)]
    pub(crate) save_steps: f64,
    /// Updates between digests of the weights; 0: at saves only
    #[arg(long, value_name = "UPDATES", default_value_t = 0)]
    pub(crate) digest_steps: i64,
}

/// Which numbers to compute with.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Precision and memory (float32 on a CPU)")]
pub(crate) struct PrecisionFlags {
    /// Half precision in matrix products
    #[arg(long)]
    pub(crate) fp16: Truth,
    /// Brain floating point in matrix products [default: on GPUs]
    #[arg(long)]
    pub(crate) bf16: Option<Truth>,
    /// TensorFloat-32 in matrix products
    #[arg(long)]
    pub(crate) tf32: Truth,
    /// Numbers in which gradients travel between GPUs
    #[arg(long, value_name = "float32|bfloat16", value_enum, default_value_t = GradientDtypeFlag::Float32)]
    pub(crate) gradient_dtype: GradientDtypeFlag,
    /// The same bits at any number of workers; auto: on for the CPU
    #[arg(long, value_name = "auto|on|off", value_enum, default_value_t = ReproducibleFlag::Auto)]
    pub(crate) reproducible: ReproducibleFlag,
    /// Compute activations again in the backward pass, for less memory
    #[arg(long)]
    pub(crate) gradient_checkpointing: Truth,
    /// Halve a worker's passes where its GPU's memory ends; the update stays the same
    #[arg(long)]
    pub(crate) auto_micro_batch: Truth,
}

/// Who computes.
#[derive(Debug, Clone, Args)]
#[command(rename_all = "snake_case", next_help_heading = "Workers")]
pub(crate) struct PlacementFlags {
    /// Processes; auto is one on a CPU, else one for each GPU; serve needs N
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    pub(crate) workers: WorkersFlag,
    /// What they compute on
    #[arg(long, value_name = "auto|cpu|cuda", value_enum, default_value_t = DeviceFlag::Auto)]
    pub(crate) device: DeviceFlag,
    /// Threads of each worker [default: cores / workers]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<i64>,
    /// Where the coordinator listens [default: 127.0.0.1:0; serve: 127.0.0.1:29400]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<ListenFlag>,
    /// Certificates and tokens, for --listen to be reached by other machines
    #[arg(long, value_name = "DIR")]
    pub(crate) credentials: Option<PathBuf>,
    /// Allow --listen to be reached by other machines, without encryption
    #[arg(long)]
    pub(crate) insecure: Truth,
    /// Where probes, Prometheus and browsers are answered, in the clear [default: nowhere]
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<ListenFlag>,
    /// Silence after which a worker counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub(crate) heartbeat_timeout: f64,
    /// How long to wait for the workers to join
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    pub(crate) join_timeout: f64,
    /// Workers that are enough to go on with when others are lost
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) min_workers: i64,
    /// How often train starts a lost worker again, in all
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) max_restarts: i64,
    /// Move lanes away from slow workers; the result is the same
    #[arg(long)]
    pub(crate) rebalance: Truth,
    /// Share out the optimizer's state (ZeRO stage 1); a loss goes back to a checkpoint
    #[arg(long)]
    pub(crate) shard_optimizer_state: Truth,
    /// Faults to inject: kill:worker=1@update=20;random:mean=10s,seed=1
    #[arg(long, value_name = "PLAN")]
    pub(crate) chaos: Option<String>,
}

// No comments on the variants of these: clap would show them as help, at several lines a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimFlag {
    #[value(name = "adamw_hf")]
    Hf,
    #[value(name = "adamw_torch")]
    Torch,
    #[value(name = "adamw_torch_fused")]
    TorchFused,
    #[value(name = "sgd")]
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum StrategyFlag {
    No,
    Steps,
    Epoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum GradientDtypeFlag {
    Float32,
    Bfloat16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum ReproducibleFlag {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum DeviceFlag {
    Auto,
    Cpu,
    Cuda,
}

impl From<DeviceFlag> for DeviceChoice {
    fn from(flag: DeviceFlag) -> Self {
        match flag {
            DeviceFlag::Auto => Self::Auto,
            DeviceFlag::Cpu => Self::Cpu,
            DeviceFlag::Cuda => Self::Cuda,
        }
    }
}

/// `auto`, or a number that is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkersFlag {
    Auto,
    Exactly(i64),
}

impl FromStr for WorkersFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Exactly).map_err(|_| "expected a number or auto".into()),
        }
    }
}
