//! Commands on the wire: coordinator -> worker.

use medley_common::identity::{Generation, Rank, Update, WorkerId};
use medley_common::message::{Artifact, Command, Form, SplitInfo, Welcome};
use medley_common::model::{Family, ModelConfig};
use medley_common::save::SaveId;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::secret::Secret;
use medley_common::spec::{
    ComputeSpec, GradientDtype, OptimizerKind, OptimizerSpec, Precision, SgdSpec, Summation, TrainSpec, TuningSpec,
};

use crate::v1;
use crate::v1::model_config::Family as WireFamily;
use crate::v1::session_response::Command as Wire;
use crate::wire::{WireError, bytes32, digest, piece, ranges, rate, required, to_ranges, to_token, token};

impl From<Command> for v1::SessionResponse {
    fn from(command: Command) -> Self {
        let command = match command {
            Command::Welcome(welcome) => Wire::Welcome((*welcome).into()),
            Command::Reattach { worker, heartbeat_ms } => {
                Wire::Reattach(v1::Reattach { worker: worker.0, heartbeat_ms })
            }
            Command::Form(form) => Wire::Form(form.into()),
            Command::Token { generation, token } => Wire::Token(to_token(generation, token)),
            Command::Train { generation, through, peak } => {
                Wire::Train(v1::Train { generation: generation.0, through: through.0, peak_learning_rate: peak })
            }
            Command::Save { save, parts, piece } => Wire::Save(v1::Save {
                generation: save.generation.0,
                update: save.update.0,
                parts: parts.into_iter().map(|kind| v1::ArtifactKind::from(kind).into()).collect(),
                piece: piece.index,
                pieces: piece.count,
            }),
            Command::Forget { update } => Wire::Forget(v1::Forget { update: update.0 }),
            Command::Evaluate { generation, split, rows, examples } => Wire::Evaluate(v1::Evaluate {
                generation: generation.0,
                split: v1::Split::from(split).into(),
                rows: to_ranges(rows),
                examples: examples.iter().map(v1::Example::from).collect(),
            }),
            Command::Disband { generation } => Wire::Disband(v1::Disband { generation: generation.0 }),
            Command::Stop { reason, verdict } => {
                Wire::Stop(v1::Stop { reason, verdict: v1::Verdict::from(verdict).into() })
            }
        };
        Self { command: Some(command) }
    }
}

impl TryFrom<v1::SessionResponse> for Command {
    type Error = WireError;

    fn try_from(response: v1::SessionResponse) -> Result<Self, WireError> {
        Ok(match required(response.command, "session_response.command")? {
            Wire::Welcome(welcome) => Self::Welcome(Box::new(welcome.try_into()?)),
            Wire::Reattach(v1::Reattach { worker, heartbeat_ms }) => {
                Self::Reattach { worker: WorkerId(worker), heartbeat_ms }
            }
            Wire::Form(form) => Self::Form(form.try_into()?),
            Wire::Token(message) => {
                let (generation, token) = token(message)?;
                Self::Token { generation, token }
            }
            Wire::Train(train) => Self::Train {
                generation: Generation(train.generation),
                through: Update(train.through),
                peak: rate(train.peak_learning_rate, "train.peak_learning_rate")?,
            },
            Wire::Save(save) => Self::Save {
                save: SaveId { update: Update(save.update), generation: Generation(save.generation) },
                parts: save.parts().map(TryInto::try_into).collect::<Result<_, WireError>>()?,
                piece: piece(save.piece, save.pieces, "save.piece")?,
            },
            Wire::Forget(forget) => Self::Forget { update: Update(forget.update) },
            Wire::Evaluate(evaluate) => Self::Evaluate {
                generation: Generation(evaluate.generation),
                split: evaluate.split().try_into()?,
                rows: ranges(evaluate.rows, "evaluate.rows")?,
                examples: evaluate.examples.into_iter().map(TryInto::try_into).collect::<Result<_, WireError>>()?,
            },
            Wire::Disband(disband) => Self::Disband { generation: Generation(disband.generation) },
            Wire::Stop(stop) => {
                let verdict = stop.verdict().try_into()?;
                Self::Stop { reason: stop.reason, verdict }
            }
        })
    }
}

impl From<Welcome> for v1::Welcome {
    fn from(welcome: Welcome) -> Self {
        let split = |info: SplitInfo| v1::SplitInfo { split: v1::Split::from(info.split).into(), rows: info.rows };
        let artifact = |artifact: Artifact| v1::Artifact {
            kind: v1::ArtifactKind::from(artifact.kind).into(),
            file_name: artifact.file_name,
            bytes: artifact.bytes,
        };
        Self {
            worker: welcome.worker.0,
            spec: Some(welcome.spec.into()),
            model: Some(welcome.model.into()),
            start: welcome.start.0,
            splits: welcome.splits.into_iter().map(split).collect(),
            artifacts: welcome.artifacts.into_iter().map(artifact).collect(),
            heartbeat_ms: welcome.heartbeat_ms,
            run: welcome.run.0.to_vec(),
            window: welcome.window,
            digest_every: welcome.digest_every,
            shard_optimizer_state: welcome.shard_optimizer_state,
        }
    }
}

impl TryFrom<v1::Welcome> for Welcome {
    type Error = WireError;

    fn try_from(welcome: v1::Welcome) -> Result<Self, WireError> {
        let split = |info: v1::SplitInfo| Ok(SplitInfo { split: info.split().try_into()?, rows: info.rows });
        let artifact = |artifact: v1::Artifact| {
            Ok(Artifact { kind: artifact.kind().try_into()?, file_name: artifact.file_name, bytes: artifact.bytes })
        };
        Ok(Self {
            worker: WorkerId(welcome.worker),
            run: digest(&welcome.run, "welcome.run")?,
            window: welcome.window,
            spec: required(welcome.spec, "welcome.spec")?.try_into()?,
            model: required(welcome.model, "welcome.model")?.try_into()?,
            start: Update(welcome.start),
            splits: welcome.splits.into_iter().map(split).collect::<Result<_, WireError>>()?,
            artifacts: welcome.artifacts.into_iter().map(artifact).collect::<Result<_, WireError>>()?,
            heartbeat_ms: welcome.heartbeat_ms,
            digest_every: welcome.digest_every,
            shard_optimizer_state: welcome.shard_optimizer_state,
        })
    }
}

impl From<TrainSpec> for v1::TrainSpec {
    fn from(spec: TrainSpec) -> Self {
        let (optimizer, sgd) = match spec.optimizer.kind {
            OptimizerKind::AdamwHf => (v1::OptimizerKind::AdamwHf, None),
            OptimizerKind::AdamwTorch => (v1::OptimizerKind::AdamwTorch, None),
            OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov }) => {
                (v1::OptimizerKind::Sgd, Some(v1::Sgd { momentum, dampening, nesterov }))
            }
        };
        Self {
            seed: spec.seed,
            rows_per_update: spec.rows_per_update,
            lanes: spec.lanes,
            lr_scheduler: spec.schedule.decay.name().to_owned(),
            lr_scheduler_values: spec.schedule.decay.values().to_vec(),
            peak_learning_rate: spec.schedule.peak,
            warmup_updates: spec.schedule.warmup_updates,
            total_updates: spec.schedule.total_updates,
            optimizer: optimizer.into(),
            beta1: spec.optimizer.beta1,
            beta2: spec.optimizer.beta2,
            epsilon: spec.optimizer.epsilon,
            weight_decay: spec.optimizer.weight_decay,
            max_grad_norm: spec.optimizer.max_grad_norm,
            label_smoothing: spec.label_smoothing,
            precision: v1::Precision::from(spec.compute.precision).into(),
            bfloat16_gradients: spec.compute.gradient_dtype == GradientDtype::Bfloat16,
            gradient_checkpointing: spec.compute.gradient_checkpointing,
            auto_micro_batch: spec.compute.auto_micro_batch,
            sums_by_worker: spec.compute.summation == Summation::ByWorker,
            sgd,
            frozen_layers: spec.tuning.frozen_layers,
            layer_lr_decay: spec.tuning.layer_lr_decay,
            class_weights: spec.class_weights,
            data_seed: spec.data_seed,
        }
    }
}

impl From<Precision> for v1::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Float32 => Self::Float32,
            Precision::Tf32 => Self::Tf32,
            Precision::Float16 => Self::Float16,
            Precision::Bfloat16 => Self::Bfloat16,
        }
    }
}

impl TryFrom<v1::TrainSpec> for TrainSpec {
    type Error = WireError;

    fn try_from(spec: v1::TrainSpec) -> Result<Self, WireError> {
        let decay = Decay::of(&spec.lr_scheduler, spec.lr_scheduler_values.clone())
            .map_err(|error| WireError::Value { field: "train_spec.lr_scheduler", problem: error.to_string() })?;
        let kind = match spec.optimizer() {
            v1::OptimizerKind::AdamwHf => OptimizerKind::AdamwHf,
            v1::OptimizerKind::AdamwTorch => OptimizerKind::AdamwTorch,
            v1::OptimizerKind::Sgd => {
                let v1::Sgd { momentum, dampening, nesterov } = required(spec.sgd, "train_spec.sgd")?;
                OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov })
            }
            v1::OptimizerKind::Unspecified => return Err(WireError::Missing { field: "train_spec.optimizer" }),
        };
        if spec.rows_per_update == 0 || spec.lanes == 0 {
            let problem = format!("{} rows an update in {} lanes", spec.rows_per_update, spec.lanes);
            return Err(WireError::Value { field: "train_spec", problem });
        }
        Ok(Self {
            seed: spec.seed,
            rows_per_update: spec.rows_per_update,
            lanes: spec.lanes,
            schedule: LrSchedule {
                decay,
                peak: spec.peak_learning_rate,
                warmup_updates: spec.warmup_updates,
                total_updates: spec.total_updates,
            },
            optimizer: OptimizerSpec {
                kind,
                beta1: spec.beta1,
                beta2: spec.beta2,
                epsilon: spec.epsilon,
                weight_decay: spec.weight_decay,
                max_grad_norm: spec.max_grad_norm,
            },
            tuning: TuningSpec { frozen_layers: spec.frozen_layers, layer_lr_decay: spec.layer_lr_decay },
            label_smoothing: spec.label_smoothing,
            class_weights: spec.class_weights.clone(),
            data_seed: spec.data_seed,
            compute: ComputeSpec {
                precision: match spec.precision() {
                    v1::Precision::Float32 => Precision::Float32,
                    v1::Precision::Tf32 => Precision::Tf32,
                    v1::Precision::Float16 => Precision::Float16,
                    v1::Precision::Bfloat16 => Precision::Bfloat16,
                    v1::Precision::Unspecified => return Err(WireError::Missing { field: "train_spec.precision" }),
                },
                gradient_dtype: if spec.bfloat16_gradients { GradientDtype::Bfloat16 } else { GradientDtype::Float32 },
                gradient_checkpointing: spec.gradient_checkpointing,
                auto_micro_batch: spec.auto_micro_batch,
                summation: if spec.sums_by_worker { Summation::ByWorker } else { Summation::ByLane },
            },
        })
    }
}

impl From<ModelConfig> for v1::ModelConfig {
    fn from(model: ModelConfig) -> Self {
        Self {
            vocab_size: model.vocab_size,
            hidden_size: model.hidden_size,
            num_hidden_layers: model.num_hidden_layers,
            num_attention_heads: model.num_attention_heads,
            intermediate_size: model.intermediate_size,
            max_position_embeddings: model.max_position_embeddings,
            type_vocab_size: model.type_vocab_size,
            layer_norm_eps: model.layer_norm_eps,
            hidden_dropout: model.hidden_dropout,
            attention_dropout: model.attention_dropout,
            classifier_dropout: model.classifier_dropout,
            initializer_range: model.initializer_range,
            num_labels: model.num_labels,
            family: match model.family {
                Family::Bert => None,
                Family::Roberta { pad_token_id } => Some(WireFamily::Roberta(v1::Roberta { pad_token_id })),
                Family::Electra { embedding_size } => Some(WireFamily::Electra(v1::Electra { embedding_size })),
            },
        }
    }
}

impl TryFrom<v1::ModelConfig> for ModelConfig {
    type Error = WireError;

    fn try_from(model: v1::ModelConfig) -> Result<Self, WireError> {
        let model = Self {
            family: match model.family {
                None => Family::Bert,
                Some(WireFamily::Roberta(v1::Roberta { pad_token_id })) => Family::Roberta { pad_token_id },
                Some(WireFamily::Electra(v1::Electra { embedding_size })) => Family::Electra { embedding_size },
            },
            vocab_size: model.vocab_size,
            hidden_size: model.hidden_size,
            num_hidden_layers: model.num_hidden_layers,
            num_attention_heads: model.num_attention_heads,
            intermediate_size: model.intermediate_size,
            max_position_embeddings: model.max_position_embeddings,
            type_vocab_size: model.type_vocab_size,
            layer_norm_eps: model.layer_norm_eps,
            hidden_dropout: model.hidden_dropout,
            attention_dropout: model.attention_dropout,
            classifier_dropout: model.classifier_dropout,
            initializer_range: model.initializer_range,
            num_labels: model.num_labels,
        };
        model.validate().map_err(|error| WireError::Value { field: "welcome.model", problem: error.to_string() })?;
        Ok(model)
    }
}

impl From<Form> for v1::Form {
    fn from(form: Form) -> Self {
        Self {
            generation: form.generation.0,
            rank: form.rank.0,
            peers: form.peers,
            secret: form.secret.0.to_vec(),
            lanes: form.lanes.into_iter().map(|lanes| v1::LaneSet { runs: to_ranges(lanes) }).collect(),
            update: form.update.0,
            line: form.line.0,
            source: form.source.map(|rank| rank.0),
        }
    }
}

impl TryFrom<v1::Form> for Form {
    type Error = WireError;

    fn try_from(form: v1::Form) -> Result<Self, WireError> {
        let world = form.peers.len();
        let source = form.source.unwrap_or(0);
        if form.rank as usize >= world || form.lanes.len() != world || source as usize >= world {
            let (rank, lanes) = (form.rank, form.lanes.len());
            let problem = format!("rank {rank}, source {source} of {world} with the lanes of {lanes} ranks");
            return Err(WireError::Value { field: "form.rank", problem });
        }
        Ok(Self {
            generation: Generation(form.generation),
            rank: Rank(form.rank),
            secret: Secret(bytes32(&form.secret, "form.secret")?),
            peers: form.peers,
            lanes: form.lanes.into_iter().map(|lanes| ranges(lanes.runs, "form.lanes")).collect::<Result<_, _>>()?,
            update: Update(form.update),
            line: Generation(form.line),
            source: form.source.map(Rank),
        })
    }
}

#[cfg(test)]
#[path = "command_test.rs"]
mod tests;
