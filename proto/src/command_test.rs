use medley_common::example::Example;
use medley_common::identity::{Digest, Split};
use medley_common::message::{ArtifactKind, Token, Verdict};
use medley_common::save::Piece;
use medley_common::secret::Secret;

use super::*;

fn welcome() -> Welcome {
    Welcome {
        worker: WorkerId(3),
        run: Digest([4; 32]),
        window: 4,
        spec: TrainSpec {
            seed: 42,
            data_seed: Some(3),
            rows_per_update: 32,
            lanes: 8,
            schedule: LrSchedule {
                decay: Decay::of("polynomial", vec![1e-7, 2.0]).unwrap(),
                peak: 3e-5,
                warmup_updates: 5,
                total_updates: 10,
            },
            optimizer: OptimizerSpec {
                kind: OptimizerKind::AdamwTorch,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.01,
                max_grad_norm: None,
            },
            tuning: TuningSpec { frozen_layers: Some(1), layer_lr_decay: Some(0.9) },
            label_smoothing: 0.1,
            class_weights: vec![0.5, 1.0, 2.5],
            compute: ComputeSpec { summation: Summation::ByWorker, ..ComputeSpec::default() },
        },
        model: ModelConfig {
            family: Family::Bert,
            vocab_size: 100,
            hidden_size: 32,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            intermediate_size: 64,
            max_position_embeddings: 128,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.1,
            attention_dropout: 0.0,
            classifier_dropout: 0.2,
            initializer_range: 0.02,
            num_labels: 3,
        },
        start: Update(4),
        splits: vec![SplitInfo { split: Split::Train, rows: 100 }],
        artifacts: vec![Artifact { kind: ArtifactKind::Weights, file_name: "model.safetensors".into(), bytes: 7 }],
        heartbeat_ms: 500,
        digest_every: 20,
        shard_optimizer_state: true,
    }
}

#[test]
fn every_command_survives_the_wire() {
    let generation = Generation(2);
    let form = Form {
        generation,
        rank: Rank(1),
        peers: vec!["a:1".into(), "b:2".into()],
        secret: Secret([9; 32]),
        lanes: vec![vec![0..2, 2..4], vec![4..8]],
        update: Update(6),
        line: Generation(1),
        source: Some(Rank(0)),
    };
    let mut of_sgd = welcome();
    of_sgd.spec.optimizer.kind = OptimizerKind::Sgd(SgdSpec { momentum: 0.9, dampening: 0.25, nesterov: true });
    let commands = [
        Command::Welcome(Box::new(welcome())),
        Command::Welcome(Box::new(of_sgd)),
        Command::Reattach { worker: WorkerId(3), heartbeat_ms: 500 },
        Command::Form(form),
        Command::Token { generation, token: Token::new(vec![9; Token::MOST_BYTES]).unwrap() },
        Command::Train { generation, through: Update(12), peak: 1.5e-5 },
        Command::Save {
            save: SaveId { update: Update(12), generation },
            parts: vec![ArtifactKind::Weights, ArtifactKind::Optimizer],
            piece: Piece { index: 1, count: 3 },
        },
        Command::Forget { update: Update(12) },
        Command::Evaluate { generation, split: Split::Validation, rows: vec![0..3, 7..9], examples: Vec::new() },
        Command::Evaluate {
            generation,
            split: Split::Test,
            rows: vec![0..1],
            examples: vec![Example { tokens: vec![2, 7, 3, 9, 3], first_segment: 3, label: None }],
        },
        Command::Disband { generation },
        Command::Stop { reason: "done".into(), verdict: Verdict::Refused },
    ];
    for command in commands {
        assert_eq!(Command::try_from(v1::SessionResponse::from(command.clone())), Ok(command));
    }
}

#[test]
fn every_family_survives_the_wire() {
    for family in [Family::Bert, Family::Roberta { pad_token_id: 1 }, Family::Electra { embedding_size: 16 }] {
        let model = ModelConfig { family, ..welcome().model };
        assert_eq!(ModelConfig::try_from(v1::ModelConfig::from(model.clone())), Ok(model));
    }
    let model = ModelConfig { family: Family::Electra { embedding_size: 0 }, ..welcome().model };
    let refused = ModelConfig::try_from(v1::ModelConfig::from(model));
    assert!(matches!(refused, Err(WireError::Value { field: "welcome.model", .. })), "{refused:?}");
}

#[test]
fn a_rank_outside_its_group_is_refused() {
    let form = v1::Form { rank: 2, peers: vec!["a:1".into()], secret: vec![0; 32], ..Default::default() };
    assert!(matches!(Form::try_from(form), Err(WireError::Value { field: "form.rank", .. })));
}
