//! The whole system, as a person meets it: real binaries, real processes, real sockets.
// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod architecture;
mod bad_input;
mod compare;
mod console;
mod convert;
mod crew;
mod documents;
mod examples;
mod export;
mod families;
mod faults;
mod formats;
mod giants;
mod hostile;
mod launching;
mod ledger;
mod live;
mod manual;
mod network;
mod operators;
mod plan;
mod predict;
mod probes;
mod profile;
mod proof;
mod reattach;
mod recipes;
mod recovery;
mod resume;
mod saving;
mod selection;
mod serving;
mod sharding;
mod slowness;
mod sweep;
mod tracking;
mod training;
mod watching;

/// The flags that every run of the suite shares: 8 rows an update, dropout on.
const RECIPE: &str = "--model_name_or_path model --do_train --train_file train.jsonl --max_seq_length 64 \
    --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --learning_rate 1e-3 --warmup_ratio 0.1 \
    --threads 1 --output_dir out";
