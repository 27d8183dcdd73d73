use medley_common::example::Example;
use medley_common::model::{Family, ModelConfig};

use super::course::survey;
use super::*;
use crate::cli::tests::with;
use crate::spec::Bound;

/// all-MiniLM-L6-v2 with three labels.
fn minilm() -> ModelConfig {
    ModelConfig {
        vocab_size: 30_522,
        hidden_size: 384,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: 1_536,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
        family: Family::Bert,
    }
}

fn rows(count: u32) -> Vec<Example> {
    (0..count).map(|row| Example { tokens: vec![1; 10 + row as usize % 7], first_segment: 3, label: Some(0) }).collect()
}

fn bound(flags: &str, rows: u64) -> Bound {
    with(flags).unwrap().bind(rows, &Machine { cores: 2, cuda_devices: 0 }).unwrap()
}

#[test]
fn an_epoch_is_divided_without_loss() {
    let rows = rows(101);
    let bound = bound("--workers 3 --num_train_epochs 2 --warmup_steps 4 --learning_rate 1e-3 --save_steps 5", 101);
    let course = survey(&bound, &rows, 0).course;
    assert_eq!((course.updates, course.updates_per_epoch, course.epochs), (26, 13, 2.0));
    assert_eq!(course.lanes.iter().map(|lane| lane.rows).sum::<u64>(), 101);
    assert_eq!(course.lanes.iter().map(|lane| lane.tokens).sum::<u64>(), course.tokens);
    assert_eq!(course.lanes.iter().map(|lane| lane.worker).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1, 2, 2]);
    assert_eq!(course.longest_row, 16);
    assert_eq!(course.checkpoints, Times { times: 5, first: Some(5), last: Some(25) });
    assert_eq!(course.evaluations, Times { times: 0, first: None, last: None });
    let rate = |update| course.learning_rates.iter().find(|at| at.update == update).unwrap().learning_rate;
    assert_eq!((rate(1), rate(5)), (0.0, 1e-3), "from 0, and at the peak after the warm-up");
    assert!(course.learning_rates.is_sorted_by_key(|at| at.update) && rate(26) > 0.0);
}

#[test]
fn the_heaviest_update_counts() {
    let mut rows = rows(64);
    rows[40].tokens = vec![1; 500];
    let bound = bound("--workers 2", 64);
    let surveyed = survey(&bound, &rows, 0);
    assert!(surveyed.is_whole);
    let most = surveyed.loads.iter().map(|load| load.tokens).max().unwrap();
    assert!((500..600).contains(&most), "{most}");
    assert!(surveyed.loads.iter().all(|load| load.rows <= 8 && load.lane_tokens <= load.tokens));
}

#[test]
fn memory_follows_the_shapes() {
    let model = minilm();
    let memory = |flags: &str, tokens| {
        let bound = bound(flags, 1000);
        let shards = flags.contains("--shard_optimizer_state");
        let shape = Shape { model: &model, bound: &bound, shards, held: (1000, 50_000), predicted: 0 };
        let load = Load { rows: 32, tokens, lane_rows: 4, lane_tokens: tokens / 8 };
        shape.memory(0, load)
    };
    let usual = memory("", 2_000);
    assert_eq!(usual.weights_bytes, 4 * 22_714_371);
    assert_eq!(usual.moments_bytes, 2 * usual.weights_bytes);
    assert_eq!(usual.save_copy_bytes, usual.weights_bytes, "the run ends before a checkpoint is due");
    assert_eq!(memory("--save_steps 5", 2_000).save_copy_bytes, 3 * usual.weights_bytes);
    let shards = memory("--workers 4 --shard_optimizer_state --save_steps 5", 2_000);
    assert_eq!(shards.moments_bytes, 2 * 4 * 22_714_371_u64.div_ceil(4));
    assert_eq!(shards.save_copy_bytes, 3 * usual.weights_bytes, "a checkpoint has all of them");
    // Per token: 6 layers of 7 H + 2 I, all but the last, and more.
    let grown = memory("", 4_000).activations_bytes - usual.activations_bytes;
    assert!((2_000 * 5 * 4 * (7 * 384 + 2 * 1_536)..2 * usual.activations_bytes).contains(&grown), "{grown}");
    assert!(memory("--gradient_checkpointing", 2_000).activations_bytes < usual.activations_bytes / 2);
    assert!(
        memory("--workers 2", 2_000).gradients_bytes > usual.gradients_bytes,
        "others' sums have a place of their own"
    );
}

#[test]
fn predictions_come_in_passes() {
    assert_eq!(predicted_tokens(&[]), 0);
    assert_eq!(predicted_tokens(&[10; 50]), 500);
    assert_eq!(predicted_tokens(&[100; 500]), 4_096);
    assert_eq!(predicted_tokens(&[5_000, 1]), 5_000, "a row is never cut");
}

#[test]
fn gpus_that_share_a_batch_gain_less_and_less_and_those_that_bring_their_own_keep_their_pace() {
    let model = ModelConfig {
        hidden_size: 1024,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        intermediate_size: 4096,
        ..minilm()
    };
    let bound = bound("--per_device_train_batch_size 32", 1000);
    let compute = with("--gradient_dtype bfloat16").unwrap().compute().on(Device::Cuda).unwrap().0;
    let on = |batch, gpus: [u32; 4]| {
        let work = Work { model: &model, train: &bound.train, compute, row_tokens: 45.0, batch };
        gpus.map(|gpus| work.on(gpus))
    };
    let shared = on(Batch::Shared(32), [1, 2, 8, 64]);
    // The estimate of an update of 32 rows of 45 tokens that the kernels' notes have.
    assert!((8.0..13.5).contains(&shared[0].update_ms) && shared[0].sum_ms == 0.0, "{shared:?}");
    assert_eq!(shared.map(|at| (at.rows_per_update, at.rows_of_one)), [(32, 32), (32, 16), (32, 4), (32, 1)]);
    assert!(shared.is_sorted_by(|one, next| one.efficiency > next.efficiency), "{shared:?}");
    let own = on(Batch::Each(32), [1, 8, 64, 1024]);
    assert_eq!(own.map(|at| at.rows_of_one), [32; 4]);
    assert!(own.is_sorted_by(|one, next| one.rows_per_second < next.rows_per_second), "{own:?}");
    assert!(own[1].efficiency > 0.8 && own[3].efficiency > shared[3].efficiency, "{own:?}");
    assert!(own.iter().all(|at| at.exposed_ms <= at.sum_ms && at.update_ms >= at.compute_ms + at.optimizer_ms));
}
