use medley_common::identity::{Generation, RowId, WorkerId};

use super::*;
use crate::archive::LEDGER_FILE;
use crate::archive::Ledger;
use crate::verify::tests::run;

fn none<'p>() -> impl Iterator<Item = (&'p str, &'p str)> {
    std::iter::empty()
}

fn record(update: u64) -> UpdateRecord {
    UpdateRecord {
        update: Update(update),
        attempt: 1,
        epoch: 0.0,
        learning_rate: 1e-3,
        loss: 1.0 / update as f64,
        grad_norm: 2.0,
        skipped: update.is_multiple_of(10),
        lanes: vec![vec![RowId(0)]],
        workers: vec![WorkerId(1)],
        tokens: 10,
        parameters: None,
    }
}

fn updates(live: &mut Live, updates: std::ops::RangeInclusive<u64>) {
    updates.for_each(|update| assert!(live.did(&Action::Record(record(update)), Some(8.0))));
}

fn told(live: &Live, place: Place) -> Option<Vec<News>> {
    match live.missed(Some(place)) {
        Missed::News(news) => Some(news),
        Missed::Picture(_) => None,
    }
}

#[test]
fn one_who_looks_again_is_told_each_change_once() {
    let mut live = Live::new(none(), &[], None, Update(0));
    let start = live.place();
    updates(&mut live, 1..=3);
    let third = live.place();
    let news = told(&live, start).unwrap();
    assert_eq!(news.len(), 3);
    assert_eq!(news[1], News::Update(2, [Some(0.5), Some(1e-3), Some(2.0), Some(8.0)]));
    updates(&mut live, 4..=10);
    assert_eq!(told(&live, third).unwrap().len(), 7);
    assert_eq!(told(&live, live.place()).unwrap(), []);
    // It moved no weight.
    assert_eq!(live.picture().training.buckets()[9].spreads[2], None);
    assert_eq!(third.to_string().parse::<Place>().unwrap(), third);
}

#[test]
fn where_buckets_were_merged_or_updates_undone_all_is_told_anew() {
    let mut live = Live::new(none(), &[], None, Update(0));
    updates(&mut live, 1..=511);
    let place = live.place();
    updates(&mut live, 512..=513);
    assert_eq!(live.picture().training.span(), 2);
    assert!(told(&live, place).is_none());
    let place = live.place();
    assert!(live.did(&Action::Rewind(Update(100), "node7 is gone".to_owned()), None));
    assert!(told(&live, place).is_none());
    assert_eq!(live.picture().training.buckets().last().unwrap().last, 100);
    let place = live.place();
    updates(&mut live, 101..=102);
    assert_eq!(told(&live, place).unwrap().len(), 2);
    assert!(!format!("{:?}", live.picture().moments).contains("node7"));
}

#[test]
fn checkpoints_do_not_crowd_out_what_happened() {
    let mut live = Live::new(none(), &[], None, Update(0));
    let group = GroupRecord { generation: Generation(1), members: Vec::new() };
    assert!(live.did(&Action::Group(group), None));
    let base = |update| Input::Based(crate::run::Base { update: Update(update), artifacts: Vec::new() });
    (1..=1000).for_each(|update| assert!(live.heard(&base(update))));
    assert!(!live.heard(&Input::Elapsed));
    let picture = live.picture();
    assert_eq!((picture.moments.len(), picture.forgotten), (MOMENTS, 745));
    assert_eq!(picture.moments[0].words(), "0 workers connected");
    assert_eq!((picture.moments[255].update, picture.moments[255].kind), (1000, Kind::Checkpoint));
}

/// What a coordinator that comes back shows is what it would show had it never been away.
#[test]
fn the_ledger_gives_it_back() {
    let folder = run(|_| {});
    let history = Ledger::recover(&folder.path().join(LEDGER_FILE)).unwrap().history;
    let live = Live::new(none(), &[], Some(&history), history.last());
    let picture = live.picture();
    assert_eq!(picture.training.buckets().len(), history.updates().len());
    for (bucket, past) in picture.training.buckets().iter().zip(history.updates()) {
        assert_eq!((bucket.first, bucket.spreads[0].unwrap().sum), (past.update.0, past.loss));
        assert_eq!(bucket.spreads[3], None, "how fast it was is not in the ledger");
    }
    let words: Vec<String> = picture.moments.iter().map(Moment::words).collect();
    assert!(
        words.contains(&"2 workers connected".to_owned()) && words.contains(&"back to update 8".to_owned()),
        "{words:?}"
    );
    assert!(picture.moments.iter().all(|moment| moment.at.is_none()));
    let earlier = Live::new(none(), &[], Some(&history), Update(5));
    assert_eq!(earlier.picture().training.buckets().last().unwrap().last, 5);
}
