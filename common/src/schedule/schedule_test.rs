use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn schedule(name: &str) -> LrSchedule {
    let decay = Decay::new(name, []).unwrap();
    LrSchedule { decay, peak: 3e-5, warmup_updates: 1755, total_updates: 3510 }
}

fn settings(kwargs: &Value) -> Vec<(String, Setting)> {
    let setting = |value: &Value| match value.as_str() {
        Some(word) => Setting::Word(word.to_owned()),
        None => Setting::Number(value.as_f64().unwrap()),
    };
    kwargs.as_object().unwrap().iter().map(|(name, value)| (name.clone(), setting(value))).collect()
}

#[test]
fn linear_is_the_reference_run() {
    let linear = schedule("linear");
    assert_eq!(linear.at(Update(1), 3e-5), 0.0);
    assert_eq!(linear.at(Update(2), 3e-5), 3e-5 / 1755.0);
    assert_eq!(linear.at(Update(1756), 3e-5), 3e-5);
    assert_eq!(linear.at(Update(3510), 3e-5), 3e-5 * (1.0 / 1755.0));
    assert_eq!(LrSchedule { warmup_updates: 0, ..linear }.at(Update(1), 3e-5), 3e-5);
}

/// Made by tests/peers/schedules.py.
#[test]
fn rates_are_those_of_transformers() {
    let fixture: Value = serde_json::from_str(include_str!("../../../tests/fixtures/schedules.json")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for case in fixture["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let decay = Decay::new(name, settings(&case["kwargs"])).unwrap();
        let (warmup_updates, total_updates) = (case["warmup"].as_u64().unwrap(), case["total"].as_u64().unwrap());
        let schedule = LrSchedule { decay, peak: fixture["peak"].as_f64().unwrap(), warmup_updates, total_updates };
        for (update, rate) in (1..).zip(case["rates"].as_array().unwrap()) {
            let (found, expected) = (schedule.at(Update(update), schedule.peak), rate.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-12 * schedule.peak, "{case}: update {update} has {found}");
        }
        seen.insert(name.to_owned());
    }
    for case in fixture["evaluated"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let decay = Decay::new(name, settings(&case["kwargs"])).unwrap();
        let peak = fixture["peak"].as_f64().unwrap();
        let schedule = LrSchedule { decay, peak, warmup_updates: 0, total_updates: 40 };
        let measured: Vec<f64> =
            case["measured"].as_array().unwrap().iter().map(|it| it.as_f64().unwrap_or(f64::NAN)).collect();
        for (count, rate) in (1..).zip(case["rates"].as_array().unwrap()) {
            let left = schedule.peak_after(&measured[..count]);
            assert_eq!(schedule.at(Update(count as u64 + 1), left), rate.as_f64().unwrap(), "{case}: after {count}");
        }
        seen.insert(name.to_owned());
    }
    assert!(Decay::names().all(|name| seen.contains(name)), "{seen:?}");
}

#[test]
fn what_is_set_is_written_and_read_back() {
    for (name, kwargs, written) in [
        ("linear", "{}", "\"linear\""),
        ("cosine", r#"{"num_cycles": 0.5}"#, "\"cosine\""),
        ("polynomial", r#"{"power": 2}"#, "[\"polynomial\",[1e-7,2.0]]"),
        (
            "warmup_stable_decay",
            r#"{"num_decay_steps": 12, "decay_type": "1-sqrt"}"#,
            "[\"warmup_stable_decay\",[12.0,2.0,0.0,0.5]]",
        ),
    ] {
        let decay = Decay::new(name, settings(&serde_json::from_str(kwargs).unwrap())).unwrap();
        assert_eq!(serde_json::to_string(&decay).unwrap(), written);
        assert_eq!(serde_json::from_str::<Decay>(written).unwrap(), decay);
        let again = Decay::new(name, decay.settings().map(|(name, setting)| (name.to_owned(), setting))).unwrap();
        assert_eq!(again, decay);
    }
}

#[test]
fn what_cannot_be_set_is_named() {
    for (name, kwargs, problem) in [
        ("linear", r#"{"power": 2}"#, "linear has no \"power\"; expected none"),
        ("polynomial", r#"{"end": 2}"#, "polynomial has no \"end\"; expected lr_end, power"),
        ("cosine_with_restarts", r#"{"num_cycles": 1.5}"#, "num_cycles is 1.5; expected a whole number from 1 to 1e6"),
        ("warmup_stable_decay", "{}", "warmup_stable_decay needs num_decay_steps, a whole number from 0 to 1e12"),
        (
            "warmup_stable_decay",
            r#"{"num_decay_steps": 1, "decay_type": "sqrt"}"#,
            "decay_type is \"sqrt\"; expected linear, cosine, 1-sqrt",
        ),
        ("greedy", "{}", "\"greedy\" is no schedule; expected one of linear, cosine, "),
    ] {
        let refused = Decay::new(name, settings(&serde_json::from_str(kwargs).unwrap())).unwrap_err().to_string();
        assert!(refused.starts_with(problem), "{refused}");
    }
    let polynomial = Decay::new("polynomial", []).unwrap();
    assert_eq!(polynomial.problem(1e-7).unwrap(), "lr_end is 1e-7; expected less than the peak, 1e-7");
    assert_eq!((polynomial.problem(1e-6), Decay::linear().problem(0.0)), (None, None));
    for (name, values) in [("linear", vec![1.0]), ("polynomial", vec![1.0]), ("polynomial", vec![0.0, f64::NAN])] {
        assert!(Decay::of(name, values).is_err());
    }
}

proptest! {
    /// Whatever the run, a rate is a number from 0 to the peak.
    #[test]
    fn any_rate_is_within_bounds(
        name in prop::sample::select(Decay::names().collect::<Vec<_>>()),
        (warmup, total, update) in (0u64..50, 1u64..50, 1u64..60),
        peak in prop::sample::select(vec![0.0, 1e-6, 1e-3]),
    ) {
        let settings = [("num_decay_steps".to_owned(), Setting::Number(9.0))];
        let settings = settings.into_iter().filter(|_| name == "warmup_stable_decay");
        let schedule = LrSchedule {
            decay: Decay::new(name, settings).unwrap(),
            peak,
            warmup_updates: warmup,
            total_updates: total,
        };
        let rate = schedule.at(Update(update), schedule.peak);
        prop_assert!((0.0..=peak * 1.000_001).contains(&rate), "{rate}");
    }
}
