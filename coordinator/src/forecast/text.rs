//! A forecast, for people.

use std::fmt;

use super::speed::Source;
use super::{Course, Forecast, LaneShare, Memory, Scaling, Times};
use crate::status_view::duration;

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<(&str, String)> =
            self.summary.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        if let Some(course) = &self.training {
            lines.extend(of_course(course));
        }
        let machine = &self.machine;
        for (flag, address) in &machine.listens {
            let free = if address.ends_with(":0") { "a free port" } else { "free" };
            lines.push((flag, format!("{address}: {free}")));
        }
        lines.push(("credentials", self.credentials()));
        lines.push(("machine", of_machine(machine.cores, machine.gpus, machine.available_memory_bytes)));
        if let Some(room) = &self.disk {
            let (need, free) = (megabytes(room.need_bytes), megabytes(room.free_bytes));
            lines.push(("disk", format!("{need} at most, of {free} that can be had: {}", room.plan)));
        }
        lines.push(("time", self.time()));
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        lines.iter().try_for_each(|(name, text)| writeln!(f, "  {name:<width$}  {text}"))?;
        writeln!(
            f,
            "\nwhat each worker needs of memory, estimated from shapes (on CPUs about 15 % off at most where it was measured):"
        )?;
        table(&self.memory_estimates).iter().try_for_each(|line| writeln!(f, "{line}"))?;
        if !self.scaling.is_empty() {
            writeln!(
                f,
                "\nan update on so many GPUs (H200, 8 a node), on paper: from published constants, none fitted to a measurement; efficiency is \
                 rows/s by those of as many single GPUs, lanes are --lanes:"
            )?;
            of_scaling(&self.scaling).iter().try_for_each(|line| writeln!(f, "{line}"))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

impl Forecast {
    fn credentials(&self) -> String {
        match &self.machine.credentials {
            Some(folder) => format!("{folder}, which can be read"),
            None => "none: this machine alone, and its workers get a token of their own".to_owned(),
        }
    }

    fn time(&self) -> String {
        match (&self.time, &self.training) {
            (_, None) => "nothing is left to train".to_owned(),
            (None, Some(_)) => {
                "not known before the first updates: run it for some, or give --rows_per_second".to_owned()
            }
            (Some(speed), Some(_)) => {
                let source = match speed.source {
                    Source::Given => "as given",
                    Source::EarlierRun => "as the run that lies in the output folder measured",
                };
                let (rate, takes) = (speed.rows_per_second, duration(speed.training_seconds));
                format!("{takes} of training at {rate:.1} rows/s, {source}; evaluations and saves come on top")
            }
        }
    }
}

fn of_course(course: &Course) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if course.updates_done > 0 {
        lines.push(("done", format!("{} of {} updates", course.updates_done, course.updates)));
    }
    let (rows, tokens, longest) = (course.rows, course.tokens, course.longest_row);
    lines.push(("an epoch", format!("{rows} rows, {tokens} tokens, the longest row of {longest}")));
    let rates = course.learning_rates.iter().map(|at| format!("{}: {:.3e}", at.update, at.learning_rate));
    lines.push(("rate at update", rates.collect::<Vec<_>>().join(", ")));
    lines.extend(of_workers(&course.lanes));
    for (name, times) in [("evaluations", course.evaluations), ("saves", course.checkpoints)] {
        if let Times { times, first: Some(first), last: Some(last) } = times {
            lines.push((name, format!("{times}, the first after update {first}, the last after {last}")));
        }
    }
    lines
}

/// What each worker takes of the first epoch, and each of its lanes.
fn of_workers(lanes: &[LaneShare]) -> Vec<(&'static str, String)> {
    let workers = lanes.iter().map(|lane| lane.worker).max().map_or(0, |last| last + 1);
    let line = |worker: u32| {
        let own: Vec<&LaneShare> = lanes.iter().filter(|lane| lane.worker == worker).collect();
        let (rows, tokens): (u64, u64) =
            own.iter().fold((0, 0), |(rows, tokens), lane| (rows + lane.rows, tokens + lane.tokens));
        let each: Vec<String> = own.iter().map(|lane| lane.rows.to_string()).collect();
        let text = format!("{rows} rows, {tokens} tokens of the first epoch; rows by lane: {}", each.join(", "));
        ("worker", format!("{worker}: {text}"))
    };
    (0..workers).map(line).collect()
}

fn of_machine(cores: u32, gpus: u32, memory: Option<u64>) -> String {
    let memory = memory.map_or_else(String::new, |bytes| format!(", {} of memory available", megabytes(bytes)));
    format!("{cores} cores, {gpus} GPUs that a worker can use{memory}")
}

fn table(estimates: &[Memory]) -> Vec<String> {
    let head = ["worker", "weights", "gradients", "moments", "copy for a save", "activations", "process", "in all"];
    let row = |(rank, memory): (usize, &Memory)| {
        let bytes = [
            memory.weights_bytes,
            memory.gradients_bytes,
            memory.moments_bytes,
            memory.save_copy_bytes,
            memory.activations_bytes,
            memory.process_bytes,
            memory.total_bytes,
        ];
        let mut cells = vec![rank.to_string()];
        cells.extend(bytes.map(megabytes));
        cells
    };
    aligned(&head, estimates.iter().enumerate().map(row))
}

fn of_scaling(scaling: &[Scaling]) -> Vec<String> {
    let head = [
        "GPUs",
        "rows an update",
        "lanes",
        "of one GPU",
        "update",
        "forward, backward",
        "optimizer",
        "sum",
        "of it not hidden",
        "rows/s",
        "efficiency",
    ];
    let row = |at: &Scaling| {
        let mut cells =
            vec![at.gpus.to_string(), at.rows_per_update.to_string(), at.lanes.to_string(), at.rows_of_one.to_string()];
        let times = [at.update_ms, at.compute_ms, at.optimizer_ms, at.sum_ms, at.exposed_ms];
        cells.extend(times.map(|ms| format!("{ms:.2} ms")));
        cells.extend([format!("{:.0}", at.rows_per_second), format!("{:.2}", at.efficiency)]);
        cells
    };
    aligned(&head, scaling.iter().map(row))
}

/// The lines of a table, its columns to the right.
fn aligned(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let head = head.iter().map(|name| (*name).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        format!("  {}", cells.join("  "))
    };
    rows.iter().map(line).collect()
}

/// Bytes, as people say them.
pub(super) fn megabytes(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}
