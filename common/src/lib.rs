//! The vocabulary of Medley: pure values that the coordinator and the workers both name.
//!
//! Admission: a type lives here if both sides name it, it is a noun of the domain, it is pure (no clock, no I/O,
//! no randomness but seeded functions), and someone who explains the system would say it aloud.
//!
//! | module | noun |
//! |---|---|
//! | [`identity`] | workers, ranks, generations, updates, rows, digests |
//! | [`model`] | the shape of a BERT classifier |
//! | [`example`] | one tokenised row |
//! | [`schedule`] | update number -> learning rate |
//! | [`lane`] | the canonical micro-batches of an update and the tree that sums them |
//! | [`plan`] | which rows each update takes, and in which lane |
//! | [`spec`] | the recipe of a run that every worker follows |
//! | [`save`] | one save of the state, and the pieces that its files are sent in |
//! | [`secret`] | what a group's members share, and no log shows |
//! | [`evaluation`] | predictions and what they add up to |
//! | [`message`] | what workers report and what the coordinator orders; the token of a group |
#![forbid(unsafe_code)]

pub mod evaluation;
pub mod example;
pub mod high_water;
pub mod identity;
pub mod lane;
pub mod message;
pub mod model;
pub mod plan;
pub mod save;
pub mod schedule;
pub mod secret;
pub mod spec;
