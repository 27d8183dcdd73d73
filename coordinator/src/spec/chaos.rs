//! Faults on purpose: what `--chaos` asks for, and when it is due.
//!
//! A plan is a list of faults, divided by `;`:
//!
//! ```text
//! kill:worker=1@update=20       SIGKILL to the worker in place 1 once update 20 is applied
//! stop:worker=0@update=31       SIGSTOP: it hangs
//! term:worker=0@update=40       SIGTERM: it is asked to leave
//! slow:worker=1@update=10,factor=4,until=50
//!                               SIGSTOP and SIGCONT in turn, so that it gets a quarter of the time; until is optional
//! kill:coordinator@update=50    SIGKILL to this process once the ledger has update 50, and so to its local workers
//! random:mean=10s,seed=7        SIGKILL or SIGSTOP to a random worker, with exponential times between
//! ```
//!
//! `kill`, `stop` and `term` may hit either, and strike in the midst of other work as well: `@save=20` in the first save
//! of update 20 or a later one, when the first worker says that its part is done; `@evaluation=20` in the first evaluation
//! after such an update, when the first predictions come.

use std::fmt;
use std::time::Duration;

use medley_common::identity::Update;
use medley_common::plan::mix;

/// What is done to a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGTERM.
    Terminate,
    /// SIGSTOP and SIGCONT in turn: it gets the time divided by this, above 1.
    Slow(f64),
    /// No more of that.
    Recover,
}

/// Whom it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The local worker in this place, from 0.
    Worker(usize),
    /// The coordinator.
    Coordinator,
}

impl Victim {
    /// Whether it is the coordinator.
    #[must_use]
    pub fn is_coordinator(self) -> bool {
        self == Self::Coordinator
    }

    /// Whether it is a worker.
    #[must_use]
    pub fn is_worker(self) -> bool {
        !self.is_coordinator()
    }
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// What is done.
    pub blow: Blow,
    /// To whom.
    pub victim: Victim,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.blow {
            Blow::Kill => f.write_str("SIGKILL to ")?,
            Blow::Stop => f.write_str("SIGSTOP to ")?,
            Blow::Terminate => f.write_str("SIGTERM to ")?,
            Blow::Slow(factor) => write!(f, "a {factor}th of the time to ")?,
            Blow::Recover => f.write_str("all the time to ")?,
        }
        match self.victim {
            Victim::Worker(place) => write!(f, "the worker in place {place}"),
            Victim::Coordinator => f.write_str("the coordinator"),
        }
    }
}

/// What a fault strikes in, or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// An update is applied.
    Update,
    /// The state after an update is being saved.
    Save,
    /// The model after an update is being evaluated.
    Evaluation,
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Update => "update",
            Self::Save => "save",
            Self::Evaluation => "evaluation",
        })
    }
}

/// When a fault strikes: the first time at or after an update.
type Moment = (Occasion, Update);

/// Faults that are still to come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chaos {
    planned: Vec<(Moment, Fault)>,
    random: Option<Random>,
}

/// Faults at random times.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Random {
    mean: Duration,
    state: u64,
    /// Whether one has struck.
    struck: bool,
}

/// Why a plan cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--chaos: {part:?}: {problem}; expected e.g. kill:worker=1@update=20, stop:worker=0@update=31, \
     slow:worker=1@update=10,factor=4, kill:coordinator@update=40, kill:worker=1@save=20, \
     kill:coordinator@evaluation=20 or random:mean=10s,seed=1, divided by ;"
)]
pub struct ChaosError {
    part: String,
    problem: &'static str,
}

impl Chaos {
    /// Reads a plan.
    ///
    /// # Errors
    /// The first part that is no fault.
    pub fn parse(plan: &str) -> Result<Self, ChaosError> {
        let mut chaos = Self::default();
        for part in plan.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = |problem| ChaosError { part: part.to_owned(), problem };
            match (part.strip_prefix("random:"), part.strip_prefix("slow:")) {
                (Some(options), _) => chaos.random = Some(Random::parse(options).map_err(wrong)?),
                (None, Some(slow)) => chaos.planned.extend(slowed(slow).map_err(wrong)?),
                (None, None) => chaos.planned.push(planned(part).map_err(wrong)?),
            }
        }
        Ok(chaos)
    }

    /// Why a fault of the plan can never strike in a run of so many updates, with so many local workers.
    #[must_use]
    pub fn never(&self, workers: u32, total: Update) -> Option<String> {
        self.planned.iter().find_map(|(moment, fault)| {
            let why = match fault.victim {
                Victim::Worker(_) if workers == 0 => "medley serve starts no workers".to_owned(),
                Victim::Worker(place) if place >= workers as usize => {
                    format!("the workers have the places 0 to {}", workers - 1)
                }
                _ if moment.1 > total => format!("the run has {total} updates"),
                _ => return None,
            };
            Some(format!("--chaos: {} can never come: {why}", describe(*moment, *fault)))
        })
    }

    /// The planned faults that are still to come, in words; random ones where none has struck.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let random = self.random.filter(|random| !random.struck);
        let random = random.map(|random| format!("a random fault, one in {} s on average,", random.mean.as_secs_f64()));
        self.planned.iter().map(|(moment, fault)| describe(*moment, *fault)).chain(random).collect()
    }

    /// Whether nothing is to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty() && self.random.is_none()
    }

    /// Takes out what is due for such victims on this occasion of `update`.
    pub fn due(&mut self, occasion: Occasion, update: Update, victims: impl Fn(Victim) -> bool) -> Vec<Fault> {
        self.take(|(on, at), fault| on == occasion && at <= update && victims(fault.victim))
    }

    fn take(&mut self, is_due: impl Fn(Moment, Fault) -> bool) -> Vec<Fault> {
        let is_due = |(moment, fault): &(Moment, Fault)| is_due(*moment, *fault);
        let due = self.planned.iter().filter(|planned| is_due(planned)).map(|(_, fault)| *fault).collect();
        self.planned.retain(|planned| !is_due(planned));
        due
    }

    /// What is left for a coordinator that comes back after `update`: what has killed it does not do so again.
    #[must_use]
    pub fn after(mut self, update: Update) -> Self {
        drop(self.take(|(_, at), fault| at <= update && fault.victim.is_coordinator()));
        self
    }

    /// The time to the next random fault.
    pub fn pause(&mut self) -> Option<Duration> {
        let random = self.random.as_mut()?;
        // Uniform in (0, 1], so that its logarithm is finite.
        let uniform = ((random.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        Some(random.mean.mul_f64(-uniform.ln()))
    }

    /// The random fault that is due, to one of the workers in `places`.
    pub fn strike(&mut self, places: &[usize]) -> Option<Fault> {
        let random = self.random.as_mut()?;
        let blow = if random.next().is_multiple_of(4) { Blow::Stop } else { Blow::Kill };
        let place = usize::try_from(random.next() % u64::try_from(places.len().max(1)).ok()?).ok()?;
        let victim = Victim::Worker(*places.get(place)?);
        random.struck = true;
        Some(Fault { blow, victim })
    }
}

fn describe((occasion, update): Moment, fault: Fault) -> String {
    format!("{fault} at {occasion} {update}")
}

fn planned(part: &str) -> Result<(Moment, Fault), &'static str> {
    let (what, when) = part.split_once('@').ok_or("it says not when")?;
    let (blow, whom) = what.split_once(':').ok_or("it says not to whom")?;
    let blow = match blow {
        "kill" => Blow::Kill,
        "stop" => Blow::Stop,
        "term" => Blow::Terminate,
        _ => return Err("it is none of kill, stop, term, slow, random"),
    };
    let victim = match whom.split_once('=') {
        None if whom == "coordinator" => Victim::Coordinator,
        Some(("worker", place)) => Victim::Worker(place.parse().map_err(|_| "the worker is no number")?),
        _ => return Err("it hits neither worker=N nor coordinator"),
    };
    let moment = when.split_once('=').and_then(|(on, update)| {
        let occasion = match on {
            "update" => Occasion::Update,
            "save" => Occasion::Save,
            "evaluation" => Occasion::Evaluation,
            _ => return None,
        };
        Some((occasion, Update(update.parse().ok()?)))
    });
    Ok((moment.ok_or("it is not at update=N, save=N or evaluation=N")?, Fault { blow, victim }))
}

/// A worker that is slow from one update on, and perhaps until another.
fn slowed(part: &str) -> Result<Vec<(Moment, Fault)>, &'static str> {
    let (whom, when) = part.split_once('@').ok_or("it says not when")?;
    let place = whom.strip_prefix("worker=").and_then(|place| place.parse().ok());
    let victim = Victim::Worker(place.ok_or("it slows no worker=N")?);
    let (mut from, mut factor, mut until) = (None, None, None);
    for option in when.split(',') {
        match option.split_once('=') {
            Some(("update", value)) => from = value.parse().ok().map(Update),
            Some(("until", value)) => until = Some(Update(value.parse().map_err(|_| "until is no update")?)),
            Some(("factor", value)) => factor = value.parse().ok().filter(|factor| (1.1..=100.0).contains(factor)),
            _ => return Err("its options are update=N, factor=F and until=N"),
        }
    }
    let from = from.ok_or("it is not at update=N")?;
    let blow = Blow::Slow(factor.ok_or("its factor is not 1.1 to 100")?);
    let recovery = until.map(|until| (until, Fault { blow: Blow::Recover, victim }));
    let faults = [(from, Fault { blow, victim })].into_iter().chain(recovery);
    Ok(faults.map(|(update, fault)| ((Occasion::Update, update), fault)).collect())
}

impl Random {
    fn parse(options: &str) -> Result<Self, &'static str> {
        let (mut mean, mut seed) = (None, 1);
        for option in options.split(',') {
            match option.split_once('=') {
                Some(("mean", value)) => {
                    let seconds = value.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok());
                    let within = |seconds: &f64| (0.01..=86_400.0).contains(seconds);
                    let seconds = seconds.filter(within).ok_or("the mean is not 0.01s to 86400s")?;
                    mean = Some(Duration::from_secs_f64(seconds));
                }
                Some(("seed", value)) => seed = value.parse().map_err(|_| "the seed is no number")?,
                _ => return Err("its options are mean=SECONDSs and seed=N"),
            }
        }
        Ok(Self { mean: mean.ok_or("it has no mean")?, state: seed, struck: false })
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }
}

#[cfg(test)]
#[path = "chaos_test.rs"]
mod tests;
