//! Which runs a sweep consists of: a pure function of what was asked.

use medley_common::plan::mix;
use serde::{Deserialize, Serialize};

use super::SweepError;
use super::axis::Axis;

/// The most settings that a sweep may have.
const MOST: usize = 10_000;

/// Flags and their values, as one run has them.
pub(super) type Setting = Vec<(String, String)>;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The settings, in the order in which they are tried.
    pub(super) settings: Vec<Setting>,
    /// The seeds that each is run with.
    pub(super) seeds: Vec<u64>,
    /// How many of which go on, and with what share of the updates: the last rung is whole.
    pub(super) rungs: Vec<Rung>,
}

/// One round of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Rung {
    /// Settings that take part: the best of the round before.
    pub(super) settings: usize,
    /// Their share of the updates of a whole run.
    pub(super) share: f64,
}

impl Plan {
    /// All combinations where there are no `trials`, else so many draws.
    pub(super) fn new(
        axes: &[Axis],
        seeds: Vec<u64>,
        (trials, draw_seed): (Option<u32>, u64),
        halving: Option<u32>,
    ) -> Result<Self, SweepError> {
        let settings = match trials {
            Some(trials) => drawn(axes, trials, draw_seed),
            None => combinations(axes)?,
        };
        let rungs = rungs(settings.len(), halving);
        Ok(Self { settings, seeds, rungs })
    }

    /// Runs in all.
    pub(super) fn runs(&self) -> usize {
        self.rungs.iter().map(|rung| rung.settings * self.seeds.len()).sum()
    }
}

fn combinations(axes: &[Axis]) -> Result<Vec<Setting>, SweepError> {
    let mut settings: Vec<Setting> = vec![Vec::new()];
    for axis in axes {
        let Some(values) = axis.values() else { return Err(SweepError::Endless { axis: axis.to_string() }) };
        if settings.len().saturating_mul(values.len()) > MOST {
            return Err(SweepError::TooMany { most: MOST });
        }
        let with = |setting: &Setting, value: &String| {
            setting.iter().cloned().chain([(axis.name.clone(), value.clone())]).collect::<Setting>()
        };
        settings = settings.iter().flat_map(|setting| values.iter().map(|value| with(setting, value))).collect();
    }
    Ok(settings)
}

/// Different settings, as far as there are so many.
fn drawn(axes: &[Axis], trials: u32, seed: u64) -> Vec<Setting> {
    // 53 random bits, as many as a double has.
    let uniform = |draw: u64, axis: u64| (mix(mix(mix(seed) ^ draw) ^ axis) >> 11) as f64 / (1u64 << 53) as f64;
    let mut settings: Vec<Setting> = Vec::new();
    for draw in 0..u64::from(trials) * 20 {
        let at = |(index, axis): (u64, &Axis)| (axis.name.clone(), axis.at(uniform(draw, index)));
        let setting: Setting = (0..).zip(axes).map(at).collect();
        if !settings.contains(&setting) {
            settings.push(setting);
        }
        if settings.len() == trials as usize {
            break;
        }
    }
    settings
}

/// Successive halving (Jamieson and Talwalkar, 2016) with whole runs: in each round the best 1 of `eta` go on, and are
/// trained anew for `eta` times as many updates.
fn rungs(settings: usize, eta: Option<u32>) -> Vec<Rung> {
    let Some(eta) = eta.map(|eta| eta as usize) else { return vec![Rung { settings, share: 1.0 }] };
    let mut sizes = vec![settings];
    while sizes.last().is_some_and(|size| *size > 1) {
        sizes.push(sizes[sizes.len() - 1].div_ceil(eta));
    }
    let last = sizes.len() - 1;
    let share = |rung: usize| (eta as f64).powi(i32::try_from(last - rung).unwrap_or(i32::MAX)).recip();
    sizes.into_iter().enumerate().map(|(rung, settings)| Rung { settings, share: share(rung) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes(texts: &[&str]) -> Vec<Axis> {
        texts.iter().map(|text| Axis::parse(text).unwrap()).collect()
    }

    fn plan(texts: &[&str], trials: Option<u32>, halving: Option<u32>) -> Plan {
        Plan::new(&axes(texts), vec![1, 2], (trials, 7), halving).unwrap()
    }

    #[test]
    fn all_combinations_are_tried_once_each() {
        let plan = plan(&["a=1,2,3", "b=x,y"], None, None);
        let words =
            |setting: &Setting| setting.iter().map(|(name, value)| format!("{name}{value}")).collect::<String>();
        let tried: Vec<String> = plan.settings.iter().map(words).collect();
        assert_eq!(tried, ["a1bx", "a1by", "a2bx", "a2by", "a3bx", "a3by"]);
        assert_eq!((plan.runs(), plan.rungs), (12, vec![Rung { settings: 6, share: 1.0 }]));
        assert_eq!(self::plan(&[], None, None).settings, [Setting::new()], "seeds alone");
    }

    #[test]
    fn a_draw_is_the_same_every_time_and_has_no_setting_twice() {
        let drawn = plan(&["a=log:1e-5..1e-3", "b=x,y"], Some(9), None);
        assert_eq!(drawn, plan(&["a=log:1e-5..1e-3", "b=x,y"], Some(9), None));
        assert_eq!(drawn.settings.len(), 9);
        let rates: Vec<f64> = drawn.settings.iter().map(|setting| setting[0].1.parse().unwrap()).collect();
        assert!(rates.iter().all(|rate| (1e-5..=1e-3).contains(rate)), "{rates:?}");
        assert!(rates.iter().any(|rate| *rate < 1e-4) && rates.iter().any(|rate| *rate > 1e-4), "{rates:?}");
        assert_eq!(plan(&["b=x,y"], Some(9), None).settings.len(), 2, "there are no more");
    }

    #[test]
    fn halving_ends_with_one_whole_run() {
        let rungs = plan(&["a=1,2,3,4,5,6,7,8,9"], None, Some(3)).rungs;
        let sizes: Vec<(usize, f64)> = rungs.iter().map(|rung| (rung.settings, rung.share)).collect();
        assert_eq!(sizes, [(9, 1.0 / 9.0), (3, 1.0 / 3.0), (1, 1.0)]);
        let odd: Vec<usize> = plan(&["a=1,2,3,4,5"], None, Some(2)).rungs.iter().map(|rung| rung.settings).collect();
        assert_eq!(odd, [5, 3, 2, 1]);
        assert_eq!(plan(&["a=1"], None, Some(2)).rungs, [Rung { settings: 1, share: 1.0 }]);
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let endless = Plan::new(&axes(&["a=0..1"]), vec![1], (None, 0), None).unwrap_err();
        assert!(endless.to_string().contains("--trials"), "{endless}");
        let many: Vec<String> = (0..200).map(|value| value.to_string()).collect();
        let many = format!("={}", many.join(","));
        let texts = [format!("a{many}"), format!("b{many}")];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert!(Plan::new(&axes(&texts), vec![1], (None, 0), None).is_err());
    }
}
