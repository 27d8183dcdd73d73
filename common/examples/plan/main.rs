//! Plans the first updates of a large run, of 32 rows in 8 lanes each: `plan ROWS UPDATES`.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod spec;

use std::time::Instant;

use medley_common::identity::Update;
use medley_common::plan::Plan;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rows, updates] = &words[..] else { panic!("expected ROWS UPDATES, found {words:?}") };
    let rows: u32 = rows.parse().expect("a number of rows");
    let updates: u64 = updates.parse().expect("a number of updates");
    let lengths = (0..rows).map(|row| 10 + row % 1000 * 7919 % 100).collect();
    let start = Instant::now();
    let mut plan = Plan::new(&spec::of(updates), lengths);
    let planned: u32 = (1..=updates).map(|update| plan.update(Update(update)).rows()).sum();
    println!("{{\"rows\": {planned}, \"ms\": {:.3}}}", start.elapsed().as_secs_f64() * 1e3);
}
