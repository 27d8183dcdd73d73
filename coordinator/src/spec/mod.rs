//! What a run is to do: every flag checked, nothing yet read or started.
//!
//! [`RunSpec`] holds what the flags say; [`RunSpec::bind`] adds what depends on the data and the machine. Both are
//! pure: the one look at the disk is [`Sources::check_files`].

mod bound;
mod cadence;
mod chaos;
mod class_weights;
mod console;
mod criterion;
mod label_choice;
mod note;
mod number;
mod optimizer;
mod output;
mod placement;
mod plan_summary;
mod precision;
mod recipe;
mod run_spec;
mod schedule;
mod sources;
mod spec_error;
mod text;
mod tracking;
mod tuning;

pub use bound::Bound;
pub use cadence::{Cadence, Every};
pub use chaos::{Blow, Chaos, ChaosError, Fault, Occasion as FaultOccasion, Victim};
pub use class_weights::ClassWeights;
pub use console::{Console, Format, Level};
pub(crate) use criterion::is_cost;
pub use criterion::{Criterion, Measured};
pub use label_choice::LabelChoice;
pub use note::{Note, NoteKind};
pub use output::{Existing, Output, Progress, Resume};
pub use placement::{Device, DeviceChoice, Machine, Placement, Role, Team, Workers};
pub use plan_summary::PlanSummary;
pub use precision::Compute;
pub use recipe::{BatchMeaning, Recipe, RunLength, Warmup};
pub use run_spec::RunSpec;
pub use sources::{InitialWeights, Sources};
pub use spec_error::SpecError;
pub use text::Baseline;
pub use tracking::Tracking;
