use super::*;

fn value(update: u64) -> f64 {
    (update * 7919 % 1000) as f64
}

fn curve(updates: std::ops::RangeInclusive<u64>) -> Curve<1> {
    let mut curve = Curve::default();
    for update in updates {
        curve.push(update, [Some(value(update))]);
    }
    curve
}

#[test]
fn a_long_run_is_bounded_and_loses_no_extreme() {
    let mut grown = 0;
    let mut curve = Curve::<1>::default();
    for update in 1..=100_000 {
        let spike = if update == 77_777 { 1e6 } else { value(update) };
        grown += u32::from(curve.push(update, [Some(spike)]));
        assert!(curve.buckets().len() <= BUCKETS);
    }
    assert_eq!((curve.span(), grown), (256, 8));
    let spreads: Vec<Spread> = curve.buckets().iter().filter_map(|bucket| bucket.spreads[0]).collect();
    assert_eq!(spreads.iter().map(|spread| spread.count).sum::<u64>(), 100_000);
    assert_eq!(spreads.iter().map(|spread| spread.greatest).fold(0.0, f64::max), 1e6);
    let sum: f64 = (1..=100_000).map(|update| if update == 77_777 { 1e6 } else { value(update) }).sum();
    assert_eq!(spreads.iter().map(|spread| spread.sum).sum::<f64>(), sum);
    let whole = |bucket: &Bucket<1>| bucket.first / 256 == bucket.last / 256;
    assert!(curve.buckets().iter().all(whole) && curve.buckets().len() > BUCKETS / 2);
}

#[test]
fn updates_far_apart_are_not_crowded_out() {
    let mut curve = Curve::<1>::default();
    for time in 1..=600 {
        curve.push(time * 100, [Some(1.0)]);
    }
    assert!((300..=512).contains(&curve.buckets().len()), "{}", curve.buckets().len());
}

#[test]
fn what_is_no_number_is_no_value() {
    let mut curve = Curve::<3>::default();
    curve.push(1, [Some(f64::NAN), Some(f64::INFINITY), None]);
    curve.push(2, [Some(0.5), None, None]);
    assert_eq!(serde_json::to_string(&curve.buckets()).unwrap(), "[[1,1,null,null,null],[2,2,0.5,null,null]]");
}

#[test]
fn a_bucket_of_several_is_told_by_its_extremes_sum_and_count() {
    let curve = curve(1..=1000);
    assert_eq!(curve.span(), 2);
    let told = serde_json::to_value(curve.buckets()).unwrap();
    assert_eq!(told[0], serde_json::json!([1, 1, 919.0]));
    assert_eq!(told[1], serde_json::json!([2, 3, [757.0, 1595.0, 838.0, 2]]));
}

#[test]
fn going_back_and_on_again_is_as_if_it_had_never_been() {
    let known: Vec<(u64, [Option<f64>; 1])> = (3000..=5000).map(|update| (update, [Some(value(update))])).collect();
    for to in [4999, 4096, 4095, 3333] {
        let mut curve = curve(1..=5000);
        curve.rewind(to, &known);
        assert!(curve.buckets().iter().all(|bucket| bucket.last <= to), "{to}");
        assert_eq!(curve.buckets().last().unwrap().last, to);
        for update in to + 1..=5000 {
            curve.push(update, [Some(value(update))]);
        }
        assert_eq!(curve, self::curve(1..=5000), "{to}");
    }
    // Of a cut bucket that is not known, nothing wrong is told.
    let mut curve = curve(1..=5000);
    curve.rewind(2001, &known);
    assert_eq!(curve.buckets().last().unwrap().last, 1999);
    curve.rewind(0, &known);
    assert!(curve.buckets().is_empty());
}
