use super::*;
use crate::sweep::axis::Axis;

fn board(halving: Option<u32>, greater_is_better: bool) -> Board {
    let axes = [Axis::parse("learning_rate=1,2,3,4").unwrap()];
    let plan = Plan::new(&axes, vec![1, 2], (None, 0), halving).unwrap();
    Board::new(plan, "accuracy".into(), greater_is_better)
}

/// Plays a sweep whose runs come to `value`.
fn play(board: &mut Board, value: impl Fn(Place) -> Option<f64>) -> Vec<(usize, usize, u64)> {
    let mut played = Vec::new();
    while let Some(place) = board.next() {
        played.push((place.rung, place.setting, place.seed));
        board.note(place, value(place));
    }
    played
}

#[test]
fn every_run_is_made_once_and_the_means_decide() {
    let mut board = board(None, true);
    let played = play(&mut board, |place| Some([0.5, 0.7, 0.6, 0.7][place.setting] + 0.01 * place.seed as f64));
    let expected: Vec<_> = (0..4).flat_map(|setting| [1, 2].map(|seed| (0, setting, seed))).collect();
    assert_eq!(played, expected);
    let (setting, place) = board.best().unwrap();
    assert_eq!((words(setting).as_str(), place.seed), ("learning_rate=2", 2), "the earlier of equals, its best seed");
    let first = &board.to_json()["rungs"][0]["settings"][0];
    assert!((first["mean"].as_f64().unwrap() - 0.715).abs() < 1e-12);
    // The sample's standard deviation over the root of 2.
    assert!((first["standard_error"].as_f64().unwrap() - 0.005).abs() < 1e-12);
    let text = board.to_string();
    assert!(text.contains("learning_rate=2     2  0.7150 ± 0.0050"), "{text}");
}

#[test]
fn the_best_half_goes_on_and_what_diverged_does_not() {
    let mut halved = board(Some(2), true);
    let played = play(&mut halved, |place| (place.setting != 3).then_some(place.setting as f64));
    let rounds: Vec<Vec<usize>> = (0..3)
        .map(|rung| {
            let mut settings: Vec<usize> = played.iter().filter(|it| it.0 == rung).map(|it| it.1).collect();
            settings.dedup();
            settings
        })
        .collect();
    assert_eq!(rounds, [vec![0, 1, 2, 3], vec![1, 2], vec![2]]);
    assert_eq!(halved.best().unwrap().1, Place { rung: 2, setting: 2, seed: 1 });
    assert!(halved.to_string().contains("2 diverged"), "{halved}");
    let mut least = board(Some(2), false);
    play(&mut least, |place| Some(place.setting as f64));
    assert_eq!(words(least.best().unwrap().0), "learning_rate=1");
}

#[test]
fn where_all_diverged_nothing_is_the_best() {
    let mut board = board(None, true);
    play(&mut board, |_| Some(f64::NAN));
    assert!(board.best().is_none() && board.next().is_none());
}
