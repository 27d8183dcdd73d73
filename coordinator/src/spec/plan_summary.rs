//! The plan of a run, for people.

use std::fmt;

use medley_common::lane::LaneTree;
use medley_common::model::ModelConfig;
use medley_common::spec::{OptimizerKind, Precision, SgdSpec, Summation};

use super::number::{Grouped, counted};
use super::tuning;
use crate::dataset::layout::RowLayout;
use crate::spec::{BatchMeaning, Bound, Device, Every, InitialWeights, LabelChoice, Role, RunLength, RunSpec, Sources};

/// What a run is going to do, line by line; its `Display` is what is printed at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSummary {
    lines: Vec<(&'static str, String)>,
}

impl PlanSummary {
    pub(super) fn new(spec: &RunSpec, bound: &Bound, train_rows: u64, model: &ModelConfig) -> Self {
        let mut lines = vec![("model", of_model(spec))];
        lines.extend(texts(spec).map(|text| ("texts", text)));
        if bound.cadence.total_updates > 0 {
            lines.push(("training", training(spec, bound, train_rows)));
            lines.push(("global batch", batch(spec, bound)));
            lines.push(("learning rate", learning_rate(spec, bound)));
            lines.push(("optimizer", optimizer(bound)));
            lines.extend(class_weights(spec, bound).map(|weights| ("class weights", weights)));
            lines.extend(bound.train.tuning.frozen_layers.map(|layers| ("trained", trained(layers, model))));
        }
        lines.push(("workers", workers(spec, bound)));
        lines.push(("precision", precision(spec, bound)));
        if bound.team.device == Device::Cuda {
            lines.push(("reproducible", reproducible(bound)));
        }
        if let Some(file) = &spec.sources().validation_file {
            lines.push(("evaluation", format!("{}, {}", file.display(), evaluations(bound))));
        }
        if let Some(file) = &spec.sources().test_file {
            lines.push(("prediction", format!("{}, at the end", file.display())));
        }
        if bound.cadence.total_updates > 0 {
            lines.push(("checkpoints", checkpoints(spec, bound)));
            lines.extend(shards(spec, bound).map(|shards| ("state", shards)));
            lines.extend(spec.criterion().map(|criterion| ("selection", criterion.words())));
        }
        lines.push(("output", spec.output().dir.display().to_string()));
        Self { lines }
    }

    /// The lines: what, and its text.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.lines.iter().map(|(name, text)| (*name, text.as_str()))
    }
}

impl fmt::Display for PlanSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        self.lines.iter().try_for_each(|(name, text)| writeln!(f, "  {name:<width$}  {text}"))
    }
}

fn of_model(spec: &RunSpec) -> String {
    let sources = spec.sources();
    let weights = match sources.weights {
        InitialWeights::Pretrained => "",
        InitialWeights::Random => ", its weights drawn anew",
    };
    format!("{}{weights}; {}; up to {} tokens", sources.model, sources.labels, sources.max_seq_length)
}

/// What is read of each row, where that is not MedNLI's.
fn texts(spec: &RunSpec) -> Option<String> {
    let Sources { layout, baseline, .. } = spec.sources();
    let names: Vec<&str> = layout.text.names().collect();
    match (baseline, names.as_slice()) {
        (Some(baseline), _) => Some(format!("{}: {baseline}", names.join(" and "))),
        (None, [only]) => Some(format!("{only}: single sentences")),
        (None, _) if layout.text == RowLayout::default().text => None,
        (None, _) => Some(format!("{}: pairs", names.join(" and "))),
    }
}

fn training(spec: &RunSpec, bound: &Bound, train_rows: u64) -> String {
    let cadence = &bound.cadence;
    let updates = counted(cadence.total_updates, "update");
    let epochs = match spec.recipe().length {
        RunLength::Epochs(epochs) => format!("{epochs}"),
        RunLength::Updates(_) => format!("{:.2}", cadence.total_updates as f64 / cadence.updates_per_epoch as f64),
    };
    let plural = if epochs == "1" { "epoch" } else { "epochs" };
    let rows = counted(train_rows, "row");
    let order = bound.train.data_seed.map_or_else(String::new, |seed| format!(" (rows by {seed})"));
    format!(
        "{updates} = {epochs} {plural} of {} over {rows}, seed {}{order}",
        Grouped(cadence.updates_per_epoch),
        bound.train.seed
    )
}

fn batch(spec: &RunSpec, bound: &Bound) -> String {
    let recipe = spec.recipe();
    let rows = counted(bound.train.rows_per_update.into(), "row");
    let (size, steps) = (recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps);
    match recipe.batch_meaning {
        BatchMeaning::Global => format!("{rows} an update = {size} x {steps}, the same at any number of workers"),
        BatchMeaning::PerWorker => format!(
            "{rows} an update = {size} x {steps} x {}, which grows with the workers (--scale_batch_with_workers)",
            counted(bound.team.workers.into(), "worker")
        ),
    }
}

fn learning_rate(spec: &RunSpec, bound: &Bound) -> String {
    let schedule = &bound.train.schedule;
    let peak = format!("{:?}", schedule.peak);
    let warmup = match schedule.warmup_updates {
        0 => peak.clone(),
        updates => format!("0 to {peak} over {} of warm-up", counted(updates, "update")),
    };
    let words = schedule.decay.words();
    let course =
        if schedule.decay.has_warmup() { format!("{warmup}, then {words}") } else { format!("{peak} {words}") };
    let course = match spec.criterion().filter(|_| schedule.decay.wants().is_some()) {
        Some(criterion) => format!("{course} of eval_{}", criterion.metric),
        None => course,
    };
    match bound.train.tuning.layer_lr_decay {
        Some(decay) => format!("{course}; times {decay} for each layer below the head"),
        None => course,
    }
}

fn optimizer(bound: &Bound) -> String {
    let optimizer = &bound.train.optimizer;
    let settings = match optimizer.kind {
        OptimizerKind::AdamwHf | OptimizerKind::AdamwTorch => {
            format!("betas {} and {}, epsilon {:?}", optimizer.beta1, optimizer.beta2, optimizer.epsilon)
        }
        OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov }) => {
            let dampened = if dampening > 0.0 { format!(" with dampening {dampening}") } else { String::new() };
            format!("{}momentum {momentum}{dampened}", if nesterov { "Nesterov's " } else { "" })
        }
    };
    let clipping = match optimizer.max_grad_norm {
        Some(norm) => format!("gradients clipped to norm {norm}"),
        None => "gradients not clipped".into(),
    };
    format!("{}, {settings}, weight decay {}, {clipping}", optimizer.kind.name(), optimizer.weight_decay)
}

fn trained(frozen_layers: u32, model: &ModelConfig) -> String {
    let (trained, all) = (model.trained_parameters(Some(frozen_layers)), model.parameters());
    format!("{} of {}: {}", Grouped(trained), counted(all, "parameter"), tuning::frozen(frozen_layers))
}

fn class_weights(spec: &RunSpec, bound: &Bound) -> Option<String> {
    let weights = bound.train.class_weights.iter().enumerate();
    let named = |(label, weight): (usize, &f64)| match &spec.sources().labels {
        LabelChoice::Named(names) => format!("{} {weight:.4}", names.get(label).map_or("", String::as_str)),
        LabelChoice::Auto => format!("{weight:.4}"),
    };
    let weights: Vec<String> = weights.map(named).collect();
    (!weights.is_empty()).then(|| format!("{}; evaluation counts all rows alike", weights.join(", ")))
}

fn workers(spec: &RunSpec, bound: &Bound) -> String {
    let team = &bound.team;
    let workers = counted(team.workers.into(), "worker");
    let here = match (spec.placement().role, team.device) {
        (Role::Serve, _) => format!("{workers} to join"),
        (Role::Train, Device::Cpu) => {
            let each = if team.workers == 1 { "" } else { " each" };
            format!("{workers} on the CPU with {}{each}", counted(team.threads.into(), "thread"))
        }
        (Role::Train, Device::Cuda) => format!("{workers}, a GPU each"),
    };
    let lanes = counted(bound.train.lanes.into(), "lane");
    if team.workers == 1 || bound.cadence.total_updates == 0 {
        return format!("{here}; {lanes}");
    }
    let shares = LaneTree::new(bound.train.lanes).assign(team.workers);
    let (least, most) =
        (shares.iter().map(ExactSizeIterator::len).min(), shares.iter().map(ExactSizeIterator::len).max());
    match (least, most) {
        (Some(least), Some(most)) if least != most => format!("{here}; {lanes}, {least} or {most} for each"),
        _ => format!("{here}; {lanes}, {} for each", most.unwrap_or(0)),
    }
}

/// What it means that each worker keeps a shard of the optimizer's state.
fn shards(spec: &RunSpec, bound: &Bound) -> Option<String> {
    let back = match bound.cadence.checkpoints() {
        0 => "begins anew: there are no checkpoints",
        _ => "goes back to the last checkpoint",
    };
    let state = format!("a shard of the optimizer's for each worker; a run that loses one {back}");
    spec.placement().shard_optimizer_state.then_some(state)
}

fn precision(spec: &RunSpec, bound: &Bound) -> String {
    let used = bound.train.compute.precision;
    match spec.compute().precision {
        None if used == Precision::Bfloat16 => format!("{used}, as on all GPUs (--bf16 False computes in float32)"),
        Some(asked) if asked != used => format!("{used} (instead of {asked})"),
        None | Some(_) => used.to_string(),
    }
}

/// On the CPU it costs next to nothing; on GPUs it is a choice.
fn reproducible(bound: &Bound) -> String {
    match bound.train.compute.summation {
        Summation::ByLane => format!(
            "on, at a cost: each of {} is a pass of its own, and NCCL moves their sums, which are added in one order",
            counted(bound.train.lanes.into(), "lane")
        ),
        Summation::ByWorker => {
            "off: the last bits depend on the number of workers (--reproducible on for one pass a lane)".into()
        }
    }
}

fn evaluations(bound: &Bound) -> String {
    let cadence = &bound.cadence;
    match (cadence.evaluations(), rhythm(cadence.evaluation)) {
        (0, _) | (_, None) => "at the end".into(),
        (times, Some(rhythm)) => format!("{rhythm} ({}) and at the end", times_over(times)),
    }
}

fn checkpoints(spec: &RunSpec, bound: &Bound) -> String {
    let cadence = &bound.cadence;
    let kept = match spec.output().save_total_limit {
        Some(limit) if cadence.evaluations() > 0 => format!(", the last {} kept, and the best", Grouped(limit.into())),
        Some(limit) => format!(", the last {} kept", Grouped(limit.into())),
        None => String::new(),
    };
    match (cadence.checkpoints(), rhythm(cadence.saving)) {
        (0, _) | (_, None) => "none but the final model".into(),
        (times, Some(rhythm)) => format!("{rhythm} ({}){kept}", times_over(times)),
    }
}

fn rhythm(every: Every) -> Option<String> {
    match every {
        Every::Never => None,
        Every::Epoch => Some("after every epoch".into()),
        Every::Updates(updates) if updates.get() == 1 => Some("after every update".into()),
        Every::Updates(updates) => Some(format!("after every {}", counted(updates.get(), "update"))),
    }
}

fn times_over(times: u64) -> String {
    match times {
        1 => "once".into(),
        2 => "twice".into(),
        times => format!("{} times", Grouped(times)),
    }
}

#[cfg(test)]
#[path = "plan_summary_test.rs"]
mod tests;
