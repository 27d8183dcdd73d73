use crate::cli::tests::train;

use super::*;

const LEAST: &str = "--model_name_or_path m --do_train --train_file t.jsonl --output_dir out";

fn kind(flags: &str) -> Result<OptimizerKind, String> {
    let spec = train(&format!("{LEAST} {flags}")).map_err(|error| error.to_string())?;
    Ok(spec.recipe().optimizer.kind)
}

#[test]
fn sgd_takes_torchs_settings_in_hugging_faces_format() {
    let sgd = |momentum, dampening, nesterov| Ok(OptimizerKind::Sgd(SgdSpec { momentum, dampening, nesterov }));
    assert_eq!(kind("--optim sgd"), sgd(0.0, 0.0, false), "as Hugging Face has it");
    assert_eq!(kind("--optim sgd --optim_args momentum=0.9"), sgd(0.9, 0.0, false));
    assert_eq!(kind("--optim sgd --optim-args momentum=0.9,nesterov=True"), sgd(0.9, 0.0, true));
    assert_eq!(kind("--optim sgd --optim_args dampening=0.5,momentum=.5,"), sgd(0.5, 0.5, false));
    assert_eq!(kind("--optim adamw_torch --optim_args="), Ok(OptimizerKind::AdamwTorch));
}

#[test]
fn other_settings_are_refused_by_name() {
    for (flags, expected) in [
        ("--optim sgd --optim_args momentum=1", "--optim_args is momentum=1; expected a number from 0 up to, but not"),
        ("--optim sgd --optim_args momentum=nan", "--optim_args is momentum=nan; expected a number"),
        ("--optim sgd --optim_args momentum", "--optim_args is momentum; expected settings as in momentum=0.9,"),
        ("--optim sgd --optim_args maximize=True", "--optim_args is maximize=True; expected momentum, dampening and"),
        ("--optim sgd --optim_args lr=1", "--optim_args is lr=1; expected no lr in it; use --learning_rate"),
        ("--optim sgd --optim_args weight_decay=1", "use --weight_decay"),
        ("--optim sgd --optim_args nesterov=maybe", "--optim_args is nesterov=maybe; expected True or False"),
        ("--optim sgd --optim_args nesterov=True", "expected a momentum above 0 and no dampening with nesterov"),
        ("--optim sgd --optim_args dampening=0.1", "expected a momentum above 0 with dampening"),
        ("--optim_args momentum=0.9", "expected nothing with AdamW, whose settings are --adam_beta1,"),
    ] {
        let error = kind(flags).unwrap_err();
        assert!(error.contains(expected), "{flags}: {error}");
    }
}
