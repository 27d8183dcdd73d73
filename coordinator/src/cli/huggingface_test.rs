use crate::cli::{command, is_switch, spelling::Spelling};

use super::*;

/// The fields of `TrainingArguments` of transformers 4.22.2.
const FIELDS_4_22: &str = "output_dir overwrite_output_dir do_train do_eval do_predict evaluation_strategy prediction_loss_only \
    per_device_train_batch_size per_device_eval_batch_size per_gpu_train_batch_size per_gpu_eval_batch_size \
    gradient_accumulation_steps eval_accumulation_steps eval_delay learning_rate weight_decay adam_beta1 \
    adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps lr_scheduler_type warmup_ratio warmup_steps \
    log_level log_level_replica log_on_each_node logging_dir logging_strategy logging_first_step logging_steps \
    logging_nan_inf_filter save_strategy save_steps save_total_limit save_on_each_node no_cuda use_mps_device seed \
    data_seed jit_mode_eval use_ipex bf16 fp16 fp16_opt_level half_precision_backend bf16_full_eval fp16_full_eval \
    tf32 local_rank xpu_backend tpu_num_cores tpu_metrics_debug debug dataloader_drop_last eval_steps \
    dataloader_num_workers past_index run_name disable_tqdm remove_unused_columns label_names \
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip sharded_ddp fsdp \
    fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap deepspeed label_smoothing_factor optim adafactor \
    group_by_length length_column_name report_to ddp_find_unused_parameters ddp_bucket_cap_mb \
    dataloader_pin_memory skip_memory_metrics use_legacy_prediction_loop push_to_hub resume_from_checkpoint \
    hub_model_id hub_strategy hub_token hub_private_repo gradient_checkpointing include_inputs_for_metrics \
    fp16_backend push_to_hub_model_id push_to_hub_organization push_to_hub_token _n_gpu mp_parameters \
    auto_find_batch_size full_determinism torchdynamo ray_scope ddp_timeout";

/// The fields of `TrainingArguments` of transformers 5.23.0.
const FIELDS_5_23: &str = "output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type \
    lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon \
    optim_target_modules gradient_accumulation_steps average_tokens_across_devices max_grad_norm \
    label_smoothing_factor bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing \
    activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs torch_compile \
    torch_compile_backend torch_compile_mode use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha \
    torch_empty_cache_steps auto_find_batch_size logging_strategy logging_steps logging_first_step \
    log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level log_level_replica disable_tqdm \
    report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps \
    eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches \
    eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics save_only_model \
    save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint push_to_hub hub_token \
    hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision load_best_model_at_end \
    metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint \
    full_determinism seed data_seed use_cpu accelerator_config parallelism_config dataloader_drop_last \
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor \
    dataloader_multiprocessing_context dataloader_in_order remove_unused_columns label_names \
    train_sampling_strategy length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers \
    ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics do_train do_eval \
    do_predict resume_from_checkpoint local_rank";

/// The arguments of `run_glue.py` that are not among them.
const RUN_GLUE: &str = "model_name_or_path config_name tokenizer_name cache_dir use_fast_tokenizer model_revision \
    use_auth_token token trust_remote_code ignore_mismatched_sizes task_name dataset_name dataset_config_name \
    max_seq_length overwrite_cache pad_to_max_length max_train_samples max_eval_samples max_predict_samples \
    train_file validation_file test_file";

fn respell(words: &[&str]) -> Result<Vec<String>, String> {
    let command = command();
    let spelling = Spelling::of(command.find_subcommand("train").unwrap(), is_switch);
    let words: Vec<std::ffi::OsString> = words.iter().map(Into::into).collect();
    let respelled = spelling.respell(&words).map_err(|error| error.to_string())?;
    Ok(respelled.into_iter().map(|word| word.into_string().unwrap()).collect())
}

#[test]
fn every_flag_of_hugging_face_is_decided_once() {
    let command = command();
    let spelling = Spelling::of(command.find_subcommand("train").unwrap(), is_switch);
    for name in [FIELDS_4_22, FIELDS_5_23, RUN_GLUE].iter().flat_map(|names| names.split_whitespace()) {
        let ways = [spelling.knows(name), Unsupported::named(name).is_some()];
        assert_eq!(ways.iter().filter(|way| **way).count(), 1, "{name}");
    }
}

#[test]
fn each_flag_stands_in_one_table_once() {
    let command = command();
    let spelling = Spelling::of(command.find_subcommand("train").unwrap(), is_switch);
    for (place, flag) in UNSUPPORTED.iter().enumerate() {
        assert!(!spelling.knows(flag.name), "{} is supported", flag.name);
        assert!(UNSUPPORTED[..place].iter().all(|other| other.name != flag.name), "{} twice", flag.name);
    }
}

#[test]
fn unsupported_flags_are_refused_by_name_with_the_way_out() {
    for flag in UNSUPPORTED {
        let word = format!("--{}", flag.name);
        let expected = format!("{word} is not supported: {}", flag.instead);
        let asks = if flag.harmless == Harmless::On { "False" } else { "something" };
        assert_eq!(respell(&[&word, asks]), Err(expected.clone()), "{word}");
        assert_eq!(respell(&[&word.replace('_', "-"), asks]), Err(expected.clone()), "{word}");
        assert_eq!(respell(&[&format!("{word}={asks}")]), Err(expected), "{word}");
    }
}

#[test]
fn unsupported_flags_pass_where_they_ask_for_nothing() {
    let table: [(&[&str], &[&str]); 9] = [
        (&["--push_to_hub", "False", "--do_train"], &["--do_train"]),
        (&["--push_to_hub=no"], &[]),
        (&["--no_push_to_hub", "--do_train"], &["--do_train"]),
        (&["--save_safetensors", "--do_train"], &["--do_train"]),
        (&["--half_precision_backend", "auto"], &[]),
        (&["--past_index", "-1", "--fp16"], &["--fp16"]),
        (&["--model-revision=main"], &[]),
        (&["--fsdp", "", "--do_train"], &["--do_train"]),
        (&["--do_train", "--", "--deepspeed", "x"], &["--do_train", "--", "--deepspeed", "x"]),
    ];
    for (given, expected) in table {
        assert_eq!(respell(given).unwrap(), expected, "{given:?}");
    }
    assert!(respell(&["--no_save_safetensors"]).is_err());
    assert!(respell(&["--push_to_hub", "--do_train"]).is_err());
}

#[test]
fn flags_with_one_reason_share_one_note() {
    let notes = accepted_notes(|name| name.starts_with("ddp_b"));
    let expected = "--ddp_bucket_cap_mb, --ddp_broadcast_buffers, --ddp_backend have no effect: gradients are summed by \
                    Medley's own collective, not by DDP";
    assert_eq!(notes, [Note::plain(expected)]);
    assert_eq!(accepted_notes(|_| false), []);
    let expected = "--fp16_opt_level has no effect: it is a setting of Apex, which is not used";
    assert_eq!(accepted_notes(|name| name == "fp16_opt_level"), [Note::plain(expected)]);
    assert!(help().contains(" fp16_opt_level"), "{}", help());
}
