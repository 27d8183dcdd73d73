//! The ways in which a flag may be written, brought down to the one that clap knows.
//!
//! `--max-seq-length` becomes `--max_seq_length` and `--no_do_train` becomes `--do_train=False`; a flag of Hugging
//! Face that is not supported, or is cut short, ends here. Values are never touched.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::CliError;
use super::huggingface::Unsupported;

/// What people write who have another program's flags in mind, and the flag here.
pub(super) const OTHER_NAMES: &[(&str, &str)] = &[
    ("batch_size", "per_device_train_batch_size"),
    ("bs", "per_device_train_batch_size"),
    ("cpu", "device"),
    ("dev_file", "validation_file"),
    ("epoch", "num_train_epochs"),
    ("epochs", "num_train_epochs"),
    ("eval", "do_eval"),
    ("eval_file", "validation_file"),
    ("gpus", "workers"),
    ("lr", "learning_rate"),
    ("lr_scheduler", "lr_scheduler_type"),
    ("max_len", "max_seq_length"),
    ("max_length", "max_seq_length"),
    ("model", "model_name_or_path"),
    ("model_name", "model_name_or_path"),
    ("nproc_per_node", "workers"),
    ("num_epochs", "num_train_epochs"),
    ("num_workers", "dataloader_num_workers"),
    ("output", "output_dir"),
    ("patience", "early_stopping_patience"),
    ("scheduler", "lr_scheduler_type"),
    ("steps", "max_steps"),
    ("train_batch_size", "per_device_train_batch_size"),
    ("val_file", "validation_file"),
    ("wandb", "report_to"),
    ("wd", "weight_decay"),
];

/// The flags of one command.
#[derive(Debug)]
pub(super) struct Spelling {
    names: BTreeSet<String>,
    switches: BTreeSet<String>,
}

impl Spelling {
    /// The flags of `command`; those for which `is_switch` holds may also be written with `no_`.
    pub(super) fn of(command: &clap::Command, is_switch: impl Fn(&clap::Arg) -> bool) -> Self {
        let mut names = BTreeSet::from(["help".to_owned()]);
        let mut switches = BTreeSet::new();
        for arg in command.get_arguments() {
            let all = arg.get_long_and_visible_aliases().unwrap_or_default();
            names.extend(all.iter().map(|name| (*name).to_owned()));
            if is_switch(arg) {
                switches.extend(all.into_iter().map(ToOwned::to_owned));
            }
        }
        Self { names, switches }
    }

    /// Whether there is a flag of this name, written with underscores.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Respells the words behind the command, up to a bare `--`.
    pub(super) fn respell(&self, words: &[OsString]) -> Result<Vec<OsString>, CliError> {
        let mut respelled = Vec::with_capacity(words.len());
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            if word == "--" {
                respelled.push(word.clone());
                respelled.extend_from_slice(after);
                break;
            }
            match Flag::read(word) {
                None => respelled.push(word.clone()),
                Some(flag) => rest = self.respell_flag(&flag, after, &mut respelled)?,
            }
        }
        Ok(respelled)
    }

    /// Adds `flag` to `respelled`, and returns the words after it and what it takes.
    fn respell_flag<'a>(
        &self,
        flag: &Flag<'_>,
        after: &'a [OsString],
        respelled: &mut Vec<OsString>,
    ) -> Result<&'a [OsString], CliError> {
        let Flag { name, value } = flag;
        let denied = name.strip_prefix("no_");
        if self.knows(name) {
            let mut word = flag.spelled(name);
            // Joined, a negative number such as -1e-5 cannot be taken for a flag of one letter.
            let number = after.first().filter(|next| value.is_none() && is_negative_number(next));
            if let Some(number) = number {
                word.push("=");
                word.push(number);
            }
            respelled.push(word);
            return Ok(&after[usize::from(number.is_some())..]);
        }
        if let Some(switch) = denied.filter(|name| self.switches.contains(*name)) {
            if value.is_some() {
                return Err(CliError::ValueOfNo { flag: format!("--{name}"), switch: format!("--{switch}") });
            }
            respelled.push(OsString::from(format!("--{switch}=False")));
        } else if let Some(unsupported) = Unsupported::named(name) {
            let next = after.first().filter(|next| value.is_none() && Flag::read(next).is_none());
            let value = value.or(next.map(OsString::as_os_str)).map(OsStr::to_string_lossy);
            if !unsupported.asks_nothing(value.as_deref()) {
                return Err(CliError::Unsupported { flag: format!("--{name}"), instead: unsupported.instead });
            }
            return Ok(&after[usize::from(next.is_some())..]);
        } else if let Some(unsupported) = denied.and_then(Unsupported::named).filter(|flag| flag.is_switch()) {
            if value.is_some() || !unsupported.asks_nothing(Some("False")) {
                return Err(CliError::Unsupported { flag: format!("--{name}"), instead: unsupported.instead });
            }
        } else {
            let flag_is = |full: String| CliError::Abbreviated { flag: format!("--{name}"), full };
            if let Some(known) = self.other_name(name) {
                return Err(flag_is(format!("--{known}")));
            }
            let full: Vec<String> = self.completions(name).map(|full| format!("--{full}")).collect();
            if !full.is_empty() {
                return Err(flag_is(full.join(" or ")));
            }
            respelled.push(flag.spelled(name));
        }
        Ok(after)
    }

    /// The flag that another program calls `name`.
    pub(super) fn other_name(&self, name: &str) -> Option<&'static str> {
        OTHER_NAMES.iter().find(|(other, known)| *other == name && self.knows(known)).map(|(_, known)| *known)
    }

    /// The flags that begin with `name`, itself included.
    pub(super) fn completions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a String> {
        self.names.iter().filter(move |full| name.len() > 1 && full.starts_with(name))
    }
}

fn is_negative_number(word: &OsStr) -> bool {
    word.to_str().is_some_and(|text| text.starts_with('-') && text.parse::<f64>().is_ok())
}

/// `--name` or `--name=value`.
struct Flag<'a> {
    /// With underscores.
    name: String,
    value: Option<&'a OsStr>,
}

impl<'a> Flag<'a> {
    /// `None` for whatever is not a flag with a long name.
    fn read(word: &'a OsStr) -> Option<Self> {
        let text = word.as_bytes().strip_prefix(b"--").filter(|text| !text.is_empty())?;
        let end = text.iter().position(|byte| *byte == b'=').unwrap_or(text.len());
        let name = std::str::from_utf8(&text[..end]).ok()?.replace('-', "_");
        Some(Self { name, value: text.get(end + 1..).map(OsStr::from_bytes) })
    }

    fn spelled(&self, name: &str) -> OsString {
        let mut word = OsString::from(format!("--{name}"));
        if let Some(value) = self.value {
            word.push("=");
            word.push(value);
        }
        word
    }
}
