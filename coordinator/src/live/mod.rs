//! What has become of a run so far, for who watches it in a browser: curves, evaluations and what happened.
//!
//! All of it is bounded, and none of it is computed for who watches: the driver adds what comes, and whoever watches copies
//! it. When a coordinator comes back, it is made anew of the ledger.

mod curve;
mod evaluation;
mod moment;

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use medley_common::identity::Update;

pub use curve::{BUCKETS, Bucket, Curve, Spread};
pub use evaluation::Evaluation;
pub use moment::{Kind, Moment};

use crate::archive::{Change, Event, History, What};
use crate::run::report::{GroupRecord, UpdateRecord};
use crate::run::{Action, Input};

/// Things that happened of which each is told.
const MOMENTS: usize = 256;
/// Evaluations of which each is told.
const EVALUATIONS: usize = 10;
/// Changes that one who has missed them can be told one by one.
const RECENT: usize = 1024;

/// Loss, learning rate, gradient norm and rows a second of an update.
pub type Values = [Option<f64>; 4];

/// All there is to see.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// The plan, line by line: what, and its text.
    pub plan: Vec<(String, String)>,
    /// The names of the labels, by id.
    pub labels: Vec<String>,
    /// Loss, learning rate, gradient norm and rows a second.
    pub training: Curve<4>,
    /// Loss, accuracy and macro F1 of the validation split.
    pub validation: Curve<3>,
    /// The newest evaluations of any split, the last one last.
    pub evaluations: VecDeque<Evaluation>,
    /// What happened, the last thing last.
    pub moments: VecDeque<Moment>,
    /// How many things happened that are not told any more.
    pub forgotten: u64,
}

/// One thing more to see.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// An update was made.
    Update(u64, Values),
    /// A split was predicted.
    Evaluation(Evaluation),
    /// Something else happened.
    Moment(Moment),
}

/// Up to where somebody has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// By which process.
    stamp: u64,
    /// How many changes there had been.
    position: u64,
}

/// What somebody is to be told who has been told up to some place.
#[derive(Debug, Clone)]
pub enum Missed {
    /// All of it, in the place of what was told before.
    Picture(Box<Picture>),
    /// What has changed since, in order.
    News(Vec<News>),
}

/// What has become of a run.
#[derive(Debug, Clone, Default)]
pub struct Live {
    picture: Picture,
    group: Option<GroupRecord>,
    done: u64,
    stamp: u64,
    position: u64,
    /// Who has been told up to an earlier position is told all anew.
    told_from: u64,
    /// The newest changes, the last one last.
    recent: VecDeque<News>,
}

impl Live {
    /// That of a run with this plan and these labels, as far as `history` has it, through `update`.
    #[must_use]
    pub fn new<'p>(
        plan: impl Iterator<Item = (&'p str, &'p str)>,
        labels: &[String],
        history: Option<&History>,
        update: Update,
    ) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut live = Self { stamp: since_1970.as_nanos() as u64, ..Self::default() };
        live.picture.plan = plan.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        live.picture.labels = labels.to_vec();
        let Some(history) = history else { return live };
        for past in history.updates() {
            live.push(
                past.update.0,
                [Some(past.loss), Some(past.learning_rate), norm(past.grad_norm, past.skipped), None],
            );
        }
        history.evaluations().for_each(|(at, entry)| live.evaluated(Evaluation::of_entry(at, entry)));
        history.events().iter().for_each(|event| live.happened(Moment::of(event, None)));
        live.group = history.group().cloned();
        if update < history.last() {
            live.rewind(update.0);
        }
        live
    }

    /// Takes note of what is done, at so many rows a second; whether there is anything new to see.
    pub fn did(&mut self, action: &Action, rows_per_second: Option<f64>) -> bool {
        match action {
            Action::Record(record) => self.update(record, rows_per_second),
            Action::Publish(report, _) => self.evaluated(Evaluation::of(report, self.picture.labels.len())),
            Action::Group(group) => {
                self.happens(What::Group(Change::between(self.group.as_ref(), group)), self.done);
                self.group = Some(group.clone());
            }
            Action::Rewind(to, _) => {
                self.happens(What::Rewind { to: *to, reason: String::new() }, self.done);
                self.rewind(to.0);
            }
            _ => return false,
        }
        true
    }

    /// Takes note of what is heard; whether there is anything new to see.
    pub fn heard(&mut self, input: &Input) -> bool {
        let Input::Based(base) = input else { return false };
        // The best model, which is loaded in the end, was shown when it was saved.
        let is_shown = |moment: &Moment| moment.kind == Kind::Checkpoint && moment.update >= base.update.0;
        if self.picture.moments.iter().any(is_shown) {
            return false;
        }
        self.happens(What::Checkpoint, base.update.0);
        true
    }

    fn update(&mut self, record: &UpdateRecord, rows_per_second: Option<f64>) {
        if record.attempt > 1 {
            self.happens(What::Retry(record.attempt), self.done);
        }
        let UpdateRecord { update, loss, learning_rate, grad_norm, skipped, .. } = *record;
        self.push(update.0, [Some(loss), Some(learning_rate), norm(grad_norm, skipped), rows_per_second]);
    }

    fn push(&mut self, update: u64, values: Values) {
        self.done = update;
        let grown = self.picture.training.push(update, values);
        self.tell(News::Update(update, values), grown);
    }

    fn evaluated(&mut self, evaluation: Evaluation) {
        // That of the end may be of another model than the last, which the curve has at this update already.
        let is_first = self.picture.evaluations.back().is_none_or(|last| last.update < evaluation.update);
        let is_of_curve = evaluation.split == "validation" && is_first;
        let grown = is_of_curve && self.picture.validation.push(evaluation.update, evaluation.values());
        if self.picture.evaluations.len() == EVALUATIONS {
            self.picture.evaluations.pop_front();
        }
        self.picture.evaluations.push_back(evaluation.clone());
        self.tell(News::Evaluation(evaluation), grown);
    }

    /// Something happens after so many updates.
    fn happens(&mut self, what: What, update: u64) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        self.happened(Moment::of(&Event { update: Update(update), what }, at));
    }

    fn happened(&mut self, moment: Moment) {
        let moments = &mut self.picture.moments;
        if moments.len() == MOMENTS {
            // Of checkpoints there may be very many.
            let old = moments.iter().position(|old| old.kind == Kind::Checkpoint).unwrap_or_default();
            moments.remove(old);
            self.picture.forgotten += 1;
        }
        moments.push_back(moment);
        self.tell(News::Moment(moment), false);
    }

    fn rewind(&mut self, to: u64) {
        self.done = to;
        self.recent.retain(|news| !matches!(news, News::Update(update, _) if *update > to));
        let known: Vec<(u64, Values)> = self.recent.iter().filter_map(News::values).collect();
        self.picture.training.rewind(to, &known);
        self.picture.validation.rewind(to, &[]);
        self.picture.evaluations.retain(|evaluation| evaluation.update <= to);
        // What was told is void.
        self.told_from = self.position;
    }

    /// Adds a change; where buckets were `merged` with it, all must be told anew.
    fn tell(&mut self, news: News, merged: bool) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(news);
        self.position += 1;
        let oldest = self.position - self.recent.len() as u64;
        self.told_from = if merged { self.position } else { self.told_from.max(oldest) };
    }

    /// All there is to see.
    #[must_use]
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Up to where one has been told who has been told all.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { stamp: self.stamp, position: self.position }
    }

    /// What one is to be told who has been told up to `place`, or nothing.
    #[must_use]
    pub fn missed(&self, place: Option<Place>) -> Missed {
        let is_known =
            |place: &Place| place.stamp == self.stamp && (self.told_from..=self.position).contains(&place.position);
        match place.filter(is_known) {
            Some(place) => {
                let count = (self.position - place.position) as usize;
                Missed::News(self.recent.iter().skip(self.recent.len() - count).cloned().collect())
            }
            None => Missed::Picture(Box::new(self.picture.clone())),
        }
    }
}

impl News {
    fn values(&self) -> Option<(u64, Values)> {
        match self {
            Self::Update(update, values) => Some((*update, *values)),
            Self::Evaluation(_) | Self::Moment(_) => None,
        }
    }
}

/// One that moved no weight has no norm.
fn norm(norm: f64, skipped: bool) -> Option<f64> {
    (!skipped).then_some(norm)
}

/// As it stands in an event's id.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{}", self.stamp, self.position)
    }
}

impl std::str::FromStr for Place {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (stamp, position) = text.split_once('-').unwrap_or_default();
        Ok(Self { stamp: u64::from_str_radix(stamp, 16)?, position: position.parse()? })
    }
}

#[cfg(test)]
#[path = "live_test.rs"]
mod tests;
