//! Dropout masks as pure functions: nothing is drawn, nothing is stored.
//!
//! Whether an element is dropped depends on the seed, the update, the data row, the place in the model and the element's
//! number within that row's tensor, and on nothing else: so a row has the same mask on whichever worker and in whatever
//! company it is computed, and backward finds the mask of forward again.

use medley_common::identity::{RowId, Update};
use medley_common::model::ModelConfig;
use medley_common::plan::mix;

/// A place in the model where values are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// The embedding's output.
    Embedding,
    /// The attention probabilities of a layer.
    Attention(u32),
    /// The attention's dense output of a layer.
    AttentionOutput(u32),
    /// The feed-forward's dense output of a layer.
    FeedForwardOutput(u32),
    /// The pooled output, or what else a classifier's last layer reads.
    Pooled,
    /// The hidden state that a classifier's first layer reads, in families that drop it.
    ClassifierInput,
}

impl Site {
    fn number(self) -> u64 {
        match self {
            Self::Embedding => 0,
            Self::Pooled => 1,
            // From 2 on all numbers are those of layers.
            Self::ClassifierInput => u64::MAX,
            Self::Attention(layer) => 2 + 3 * u64::from(layer),
            Self::AttentionOutput(layer) => 3 + 3 * u64::from(layer),
            Self::FeedForwardOutput(layer) => 4 + 3 * u64::from(layer),
        }
    }
}

/// The masks of one update, or of none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Masks {
    key: u64,
    hidden: f64,
    attention: f64,
    classifier: f64,
}

impl Masks {
    /// What the masks of this update are told from those of others by.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The masks of `update` in the run of this seed, at the model's rates.
    #[must_use]
    pub fn new(model: &ModelConfig, seed: u64, update: Update) -> Self {
        Self {
            key: mix(mix(seed) ^ update.0),
            hidden: model.hidden_dropout,
            attention: model.attention_dropout,
            classifier: model.classifier_dropout,
        }
    }

    /// Masks that drop nothing: for prediction.
    #[must_use]
    pub fn none() -> Self {
        Self { key: 0, hidden: 0.0, attention: 0.0, classifier: 0.0 }
    }

    /// The dropout of a place; `None` where its rate is 0.
    #[must_use]
    pub fn at(&self, site: Site) -> Option<Dropout> {
        let rate = match site {
            Site::Embedding | Site::AttentionOutput(_) | Site::FeedForwardOutput(_) => self.hidden,
            Site::Attention(_) => self.attention,
            Site::Pooled | Site::ClassifierInput => self.classifier,
        };
        (rate > 0.0).then(|| Dropout {
            key: self.key,
            site: site.number(),
            threshold: (rate * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - rate)) as f32,
        })
    }
}

/// The dropout of one place in one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Of the update.
    key: u64,
    site: u64,
    threshold: u32,
    scale: f32,
}

impl Dropout {
    /// The update's key; the site, the threshold and the scale: what a device computes the same masks from.
    #[must_use]
    pub fn parts(&self) -> (u64, (u64, u32, f32)) {
        (self.key, (self.site, self.threshold, self.scale))
    }

    /// The mask of one row.
    #[must_use]
    pub fn row(&self, row: RowId) -> RowMask {
        let key = mix(mix(self.key ^ self.site) ^ u64::from(row.0));
        RowMask { low: key as u32, high: (key >> 32) as u32, threshold: self.threshold, scale: self.scale }
    }
}

/// The mask of one row at one place in one update: 64 bits of key, 32 bits of hash an element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowMask {
    low: u32,
    high: u32,
    threshold: u32,
    scale: f32,
}

impl RowMask {
    /// What the element of this number is multiplied by: 0 if it is dropped, else the reciprocal of the share kept.
    #[inline(always)]
    #[must_use]
    pub fn factor(&self, element: u32) -> f32 {
        let hash = lowbias32(lowbias32(element ^ self.low) ^ self.high);
        if hash < self.threshold { 0.0 } else { self.scale }
    }
}

/// An integer hash with low bias (Chris Wellons, "Prospecting for Hash Functions", 2018).
#[inline(always)]
fn lowbias32(value: u32) -> u32 {
    let value = (value ^ (value >> 16)).wrapping_mul(0x7feb_352d);
    let value = (value ^ (value >> 15)).wrapping_mul(0x846c_a68b);
    value ^ (value >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELEMENTS: u32 = 100_000;

    fn masks(seed: u64, update: u64) -> Masks {
        Masks { key: mix(mix(seed) ^ update), hidden: 0.1, attention: 0.25, classifier: 0.0 }
    }

    fn dropped(mask: RowMask) -> Vec<bool> {
        (0..ELEMENTS).map(|element| mask.factor(element) == 0.0).collect()
    }

    /// The share of elements that both drop: the product of their rates if they are independent.
    fn both(left: &[bool], right: &[bool]) -> f64 {
        left.iter().zip(right).filter(|(left, right)| **left && **right).count() as f64 / left.len() as f64
    }

    #[test]
    fn rates_and_scales_are_as_asked() {
        for (site, rate) in [(Site::Embedding, 0.1), (Site::Attention(3), 0.25)] {
            let mask = masks(42, 7).at(site).unwrap().row(RowId(5));
            let mean = (0..ELEMENTS).map(|element| f64::from(mask.factor(element))).sum::<f64>() / f64::from(ELEMENTS);
            let share = both(&dropped(mask), &dropped(mask));
            // Five standard deviations of a binomial share.
            assert!((share - rate).abs() < 5.0 * (rate * (1.0 - rate) / f64::from(ELEMENTS)).sqrt(), "{share}");
            assert!((mean - 1.0).abs() < 0.01, "{mean}");
        }
        assert_eq!(masks(42, 7).at(Site::Pooled), None);
        assert_eq!(Masks::none().at(Site::Embedding), None);
    }

    #[test]
    fn masks_of_other_rows_sites_updates_and_seeds_are_independent() {
        let base = dropped(masks(42, 7).at(Site::Embedding).unwrap().row(RowId(5)));
        let others = [
            masks(42, 7).at(Site::Embedding).unwrap().row(RowId(6)),
            masks(42, 7).at(Site::AttentionOutput(0)).unwrap().row(RowId(5)),
            masks(42, 7).at(Site::FeedForwardOutput(0)).unwrap().row(RowId(5)),
            masks(42, 8).at(Site::Embedding).unwrap().row(RowId(5)),
            masks(43, 7).at(Site::Embedding).unwrap().row(RowId(5)),
        ];
        for other in others {
            let share = both(&base, &dropped(other));
            assert!((share - 0.01).abs() < 5.0 * (0.01_f64 * 0.99 / f64::from(ELEMENTS)).sqrt(), "{share}");
        }
    }

    #[test]
    fn neighbouring_elements_are_independent() {
        let drops = dropped(masks(42, 7).at(Site::Embedding).unwrap().row(RowId(5)));
        for distance in [1, 2, 4, 32, 384, 1024] {
            let share = both(&drops[distance..], &drops[..drops.len() - distance]);
            assert!((share - 0.01).abs() < 0.0016, "{distance}: {share}");
        }
    }
}
