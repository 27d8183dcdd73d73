use super::*;

fn criterion(greater_is_better: bool, patience: u32, threshold: f64) -> Criterion {
    let patience = NonZeroU32::new(patience);
    Criterion { metric: "accuracy".into(), greater_is_better, load_best: true, patience, threshold }
}

fn measured(values: &[f64]) -> Vec<Measured> {
    (1..).map(Update).zip(values).map(|(update, value)| Measured { update, value: *value }).collect()
}

#[test]
fn the_earliest_of_equals_is_the_best_and_what_is_no_number_never_is() {
    let values = measured(&[f64::NAN, 0.5, 0.7, 0.7, f64::INFINITY, 0.6]);
    let most = criterion(true, 0, 0.0);
    assert_eq!(most.best(values.clone()).map(|best| best.update), Some(Update(3)));
    assert_eq!(most.ranking(values.clone()), [3, 4, 6, 2].map(Update));
    let least = criterion(false, 0, 0.0);
    assert_eq!(least.best(values.clone()).map(|best| best.update), Some(Update(2)));
    assert_eq!(least.ranking(values), [2, 6, 3, 4].map(Update));
    assert_eq!(most.best(measured(&[f64::NAN])), None);
}

/// What `EarlyStoppingCallback` of transformers 4.22 does with these values, called as `Trainer` calls it.
#[test]
fn training_ends_when_the_callback_of_transformers_would_end_it() {
    let ends = |criterion: &Criterion, values: &[f64]| criterion.ends_after(measured(values)).map(|update| update.0);
    let two = criterion(true, 2, 0.0);
    assert_eq!(ends(&two, &[0.5, 0.6, 0.6, 0.6]), Some(4));
    assert_eq!(ends(&two, &[0.5, 0.4, 0.6, 0.5, 0.6, 0.7]), Some(5), "an improvement counts anew from there");
    assert_eq!(ends(&two, &[0.5, 0.4, 0.6, 0.5, 0.61, 0.6]), None);
    assert_eq!(ends(&two, &[0.9]), None);
    assert_eq!(ends(&criterion(false, 1, 0.0), &[0.9, 0.8, 0.8]), Some(3));
    // What improves by no more than the threshold is the best all the same, and the next is compared with it.
    assert_eq!(ends(&criterion(true, 2, 0.1), &[0.5, 0.58, 0.66, 0.9]), Some(3));
    assert_eq!(ends(&criterion(true, 1, 0.0), &[f64::NAN]), Some(1));
    assert_eq!(ends(&criterion(true, 0, 0.0), &[0.9, 0.1, 0.1, 0.1]), None, "without patience, never");
}

#[test]
fn the_peak_goes_by_the_evaluations_before_an_update_but_not_by_one_before_the_first() {
    use medley_common::schedule::Setting;
    let settings = [("mode", Setting::Word("max".into())), ("patience", Setting::Number(0.0))];
    let settings = settings.map(|(name, setting)| (name.to_owned(), setting));
    let decay = Decay::new("reduce_lr_on_plateau", settings).unwrap();
    let schedule = LrSchedule { decay, peak: 1.0, warmup_updates: 0, total_updates: 9 };
    let at = |update, value| Measured { update: Update(update), value };
    let measured = [at(0, 0.9), at(2, 0.5), at(4, 0.4), at(6, 0.6)];
    let peak = |update| criterion(true, 0, 0.0).peak(&schedule, &measured, Update(update));
    assert_eq!([1, 3, 4, 5, 7, 9].map(peak), [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]);
    let linear = LrSchedule { decay: Decay::linear(), ..schedule.clone() };
    assert_eq!(criterion(true, 0, 0.0).peak(&linear, &measured, Update(9)), 1.0);
}
