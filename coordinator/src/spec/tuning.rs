//! Which parameters are trained, and how fast.

use medley_common::model::ModelConfig;
use medley_common::spec::TuningSpec;

use super::number::Number;
use crate::cli::tuning_flags::TuningFlags;
use crate::spec::SpecError;

const FREEZE_LAYERS: &str = "--freeze_layers";

/// Frozen layers without their embeddings would pass a gradient on that nobody asks for, so those are frozen as well.
pub(super) fn parse(flags: &TuningFlags) -> Result<TuningSpec, SpecError> {
    let layers = Number::new(FREEZE_LAYERS, flags.freeze_layers).at_least(0)?;
    let decay = Number::new("--layer_lr_decay", flags.layer_lr_decay)
        .that(|decay| decay > 0.0 && decay <= 1.0, "a number above 0, and at most 1")?;
    Ok(TuningSpec {
        frozen_layers: (layers > 0 || flags.freeze_embeddings.0).then_some(layers),
        layer_lr_decay: (decay < 1.0).then_some(decay),
    })
}

/// Checks that the model has as many layers.
pub(super) fn check(tuning: &TuningSpec, model: &ModelConfig) -> Result<(), SpecError> {
    let most = model.num_hidden_layers;
    match tuning.frozen_layers {
        Some(frozen) if frozen > most => Err(Number::new(FREEZE_LAYERS, i64::from(frozen))
            .refused(format!("0 to {most}, the encoder layers of the model"))),
        _ => Ok(()),
    }
}

/// What of the model stays as it is, for people.
pub(super) fn frozen(layers: u32) -> String {
    match layers {
        0 => "the embeddings are frozen".to_owned(),
        1 => "the embeddings and the lowest layer are frozen".to_owned(),
        layers => format!("the embeddings and the lowest {layers} layers are frozen"),
    }
}

#[cfg(test)]
mod tests {
    use crate::archive::fixture::model;
    use crate::cli::tests::train;
    use crate::spec::Machine;

    use super::*;

    fn tuning(flags: &str) -> Result<TuningSpec, String> {
        let least = "--model_name_or_path m --do_train --train_file t.jsonl --output_dir out";
        let spec = train(&format!("{least} {flags}")).map_err(|error| error.to_string())?;
        let bound = spec.bind(10, &Machine { cores: 1, cuda_devices: 0 }).map_err(|error| error.to_string())?;
        let bound = bound.on(&spec, &model(), (&[], &[])).map_err(|error| error.to_string())?;
        Ok(bound.train.tuning)
    }

    #[test]
    fn frozen_layers_freeze_the_embeddings_below_them() {
        let frozen = |flags| tuning(flags).unwrap().frozen_layers;
        assert_eq!(["", "--freeze_layers 0"].map(frozen), [None, None]);
        assert_eq!(frozen("--freeze_embeddings"), Some(0));
        assert_eq!(["--freeze_layers 2", "--freeze_layers 2 --freeze_embeddings"].map(frozen), [Some(2), Some(2)]);
        assert_eq!(tuning("--layer_lr_decay 0.95").unwrap().layer_lr_decay, Some(0.95));
        assert_eq!(tuning("--layer_lr_decay 1").unwrap(), TuningSpec::default());
    }

    #[test]
    fn what_the_model_does_not_have_is_refused() {
        let refusal = |flags: &str| tuning(flags).unwrap_err();
        assert_eq!(
            refusal("--freeze_layers 3"),
            "--freeze_layers is 3; expected 0 to 2, the encoder layers of the model"
        );
        assert_eq!(refusal("--freeze_layers -1"), "--freeze_layers is -1; expected at least 0");
        for decay in ["0", "1.5", "nan"] {
            assert!(refusal(&format!("--layer_lr_decay {decay}")).contains("expected a number above 0, and at most 1"));
        }
    }
}
