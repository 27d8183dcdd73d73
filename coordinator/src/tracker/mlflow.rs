//! MLflow: a run on the server that `MLFLOW_TRACKING_URI` names, by its REST API 2.0.
//!
//! Its id is kept in the run's folder, so that a process that goes on with the run goes on with the same one. A server shows
//! what it was told for ever. So what a run comes to again after it went back is not told again: the same updates come to the
//! same values.

mod client;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Begun, Ending, Kind, Point, Shown, Start, Subject, Tracker, Trouble, now_seconds};
use crate::bounded_file::read_object_if_present;
use client::Client;
use settings::{Experiment, Settings};

pub(super) const KIND: Kind = Kind {
    name: "mlflow",
    open: |subject| {
        let settings = Settings::from_env()?;
        Ok(Box::new(MlFlow { subject: Arc::clone(subject), client: Client::new(&settings), settings, run: None }))
    },
};

/// Where the id is kept.
const FILE: &str = "mlflow.json";
/// The most parameters of one request, by MLflow's documentation.
const MOST_PARAMS: usize = 100;
/// Servers before MLflow 2.8 refuse longer values of parameters.
const LONGEST_PARAM: usize = 500;
/// The most metrics of one request, by MLflow's documentation.
const MOST_METRICS: usize = 1000;

/// The run on a server.
#[derive(Debug)]
struct MlFlow {
    subject: Arc<Subject>,
    settings: Settings,
    client: Client,
    /// Its id there.
    run: Option<String>,
}

impl Tracker for MlFlow {
    /// Hugging Face reports to MLflow under the names of its log, without what MLflow does not take.
    fn key(&self, name: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "_-. :/".contains(c) { c } else { '_' };
        name.chars().map(plain).take(250).collect()
    }

    fn begin(&mut self, start: &Start) -> Result<Begun, Trouble> {
        let (run, experiment) = match self.known(start)? {
            Some(known) => known,
            None => self.create()?,
        };
        let id = json!({ "run_id": run, "status": "RUNNING" });
        self.client.post("runs/update", &id)?;
        let there = self.client.get("runs/get", &[("run_id", &run)])?;
        let data = &there["run"]["data"];
        self.describe(&run, data)?;
        let place = format!("{}/#/experiments/{experiment}/runs/{run}", self.client.place());
        self.run = Some(run);
        Ok(Begun { place, shown: latest(data) })
    }

    fn show(&mut self, points: &[Point]) -> Result<(), Trouble> {
        let Some(run) = &self.run else { return Ok(()) };
        // With the time that they have, what is told twice because an answer was lost is still there once.
        let metric = |point: &Point, (key, value): &(String, f64)| json!({ "key": key, "value": value, "timestamp": milliseconds(point.time), "step": point.step });
        let metrics = points.iter().flat_map(|point| point.values.iter().map(|value| metric(point, value)));
        let metrics: Vec<Value> = metrics.collect();
        metrics.chunks(MOST_METRICS).try_for_each(|metrics| {
            self.client.post("runs/log-batch", &json!({ "run_id": run, "metrics": metrics })).map(drop)
        })
    }

    fn rewind(&mut self, _: u64, _: &mut Shown) -> Result<(), Trouble> {
        Ok(())
    }

    fn end(&mut self, ending: Ending) -> Result<(), Trouble> {
        let Some(run) = &self.run else { return Ok(()) };
        let status = match ending {
            Ending::Completed => "FINISHED",
            Ending::Stopped => "KILLED",
            Ending::Failed => "FAILED",
        };
        let end = json!({ "run_id": run, "status": status, "end_time": milliseconds(now_seconds()) });
        self.client.post("runs/update", &end).map(drop)
    }
}

impl MlFlow {
    /// The id of a run that is there, and its experiment's: the one that is named, or the one that this run had before.
    fn known(&self, start: &Start) -> Result<Option<(String, String)>, Trouble> {
        let kept = match (&self.settings.run, start.kept) {
            (Some(run), _) => Some(run.clone()),
            (None, Some(_)) => self.kept()?,
            (None, None) => None,
        };
        let Some(run) = kept else { return Ok(None) };
        let there = self.client.get("runs/get", &[("run_id", &run)])?;
        let info = &there["run"]["info"];
        let experiment = info["experiment_id"].as_str().unwrap_or("0").to_owned();
        match info["lifecycle_stage"].as_str() {
            Some("deleted") => Err(Trouble::lasting(format!("its run {run} was deleted; restore it there"))),
            _ => Ok(Some((run, experiment))),
        }
    }

    /// The id that was kept of a run on this server.
    fn kept(&self) -> Result<Option<String>, Trouble> {
        let path = self.file()?;
        let kept = read_object_if_present(&path).map_err(|error| Trouble::lasting(error.to_string()))?;
        let text = |kept: &serde_json::Map<String, Value>, key: &str| Some(kept.get(key)?.as_str()?.to_owned());
        let here = kept.filter(|kept| text(kept, "tracking_uri").as_deref() == Some(self.client.place()));
        Ok(here.and_then(|kept| text(&kept, "run_id")))
    }

    /// Makes a run in its experiment, and keeps its id; answers both ids.
    fn create(&self) -> Result<(String, String), Trouble> {
        let experiment = self.experiment()?;
        let user = std::env::var("USER").unwrap_or_default();
        let asked = json!({
            "experiment_id": experiment,
            "run_name": self.subject.title(),
            "start_time": milliseconds(now_seconds()),
            "tags": [
                { "key": "mlflow.source.name", "value": "medley" },
                { "key": "mlflow.source.type", "value": "LOCAL" },
                { "key": "mlflow.user", "value": user },
            ],
        });
        let made = self.client.post("runs/create", &asked)?;
        let info = &made["run"]["info"];
        let run = info["run_id"].as_str().or(info["run_uuid"].as_str());
        let run = run.ok_or_else(|| self.client.odd("runs/create", "no run_id"))?.to_owned();
        let path = self.file()?;
        let kept = json!({ "tracking_uri": self.client.place(), "experiment_id": experiment, "run_id": run });
        std::fs::write(&path, format!("{kept:#}\n")).map_err(Trouble::io("write", &path))?;
        Ok((run, experiment))
    }

    /// The experiment's id; one of a name that is not there is made.
    fn experiment(&self) -> Result<String, Trouble> {
        let name = match &self.settings.experiment {
            Experiment::Id(id) => return Ok(id.clone()),
            Experiment::Named(name) => name,
        };
        let path = "experiments/get-by-name";
        if let Some(found) = self.client.get_if_there(path, &[("experiment_name", name)])? {
            let found = &found["experiment"];
            if found["lifecycle_stage"] == "deleted" {
                return Err(Trouble::lasting(format!(
                    "its experiment {name} was deleted; restore it, or name another"
                )));
            }
            let id = found["experiment_id"].as_str();
            return id.map(str::to_owned).ok_or_else(|| self.client.odd(path, "no experiment_id"));
        }
        let made = self.client.post("experiments/create", &json!({ "name": name }))?;
        let id = made["experiment_id"].as_str();
        id.map(str::to_owned).ok_or_else(|| self.client.odd("experiments/create", "no experiment_id"))
    }

    /// Tells what the run is: settings that the server does not have, as it refuses others under the same names.
    fn describe(&self, run: &str, data: &Value) -> Result<(), Trouble> {
        let there: Vec<&str> =
            data["params"].as_array().into_iter().flatten().filter_map(|it| it["key"].as_str()).collect();
        let settings = self.subject.settings.iter().filter(|(_, value)| !value.is_null());
        let params = settings.map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.clone(),
                // As it is typed: JSON may have many zeros.
                Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
                value => value.to_string(),
            };
            json!({ "key": self.key(name), "value": value.chars().take(LONGEST_PARAM).collect::<String>() })
        });
        let params: Vec<Value> =
            params.filter(|it| !it["key"].as_str().is_some_and(|key| there.contains(&key))).collect();
        for params in params.chunks(MOST_PARAMS) {
            self.client.post("runs/log-batch", &json!({ "run_id": run, "params": params }))?;
        }
        let tag = json!({ "run_id": run, "key": "medley.run", "value": self.subject.run.to_string() });
        self.client.post("runs/set-tag", &tag).map(drop)
    }

    fn file(&self) -> Result<PathBuf, Trouble> {
        Ok(self.subject.folder()?.join(FILE))
    }
}

/// What a server shows of a run, by the last step of each metric.
fn latest(data: &Value) -> Shown {
    let mut shown = Shown::default();
    for metric in data["metrics"].as_array().into_iter().flatten() {
        // 64 bits may be a string in the JSON of protocol buffers.
        let step = &metric["step"];
        let step = step.as_u64().or_else(|| step.as_str()?.parse().ok()).unwrap_or_default();
        metric["key"].as_str().into_iter().for_each(|key| shown.note(key, step));
    }
    shown
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1e3) as u64
}

#[cfg(test)]
#[path = "mlflow_test.rs"]
mod tests;
