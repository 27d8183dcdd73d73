//! The files of a run's folder against the digests that ledger, manifests and certificate have.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Proved, Verdict};
use crate::archive::{
    ArchiveError, CERTIFICATE_FILE, Certificate, Checkpoint, CheckpointRecord, FileRecord, LEDGER_FILE, MANIFEST_FILE,
    checkpoints_of,
};

/// Reads every checkpoint of ours whole, and holds its manifest against the ledger's record.
pub(super) fn checkpoints(folder: &Path, proved: Option<&Proved>, verdict: &mut Verdict) -> Result<(), ArchiveError> {
    let recorded = proved.map_or(&[][..], |proved| proved.history.checkpoints());
    let (mut present, mut intact) = (0u64, 0u64);
    for path in checkpoints_of(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_recorded = recorded.iter().any(|record| record.name == name);
        if !is_recorded && !path.join(MANIFEST_FILE).exists() {
            // Another program's.
            continue;
        }
        present += 1;
        let read = Checkpoint::open(&path).map(|checkpoint| checkpoint.record());
        let record = recorded.iter().rev().find(|record| record.name == name);
        match (read, record) {
            (Err(error), _) => verdict.wrong(name, None, brief(&error)),
            (Ok(read), Some(record)) if read != *record => {
                let what = difference(&read, record);
                verdict.wrong(format!("{name}/{MANIFEST_FILE}"), None, what);
            }
            // Made under a ledger that was lost: this one begins with it, or later.
            (Ok(read), None) if proved.is_some_and(|it| read.update <= it.history.identity().start) => intact += 1,
            (Ok(_), None) if proved.is_some() => verdict.wrong(name, None, "is in no record of the ledger"),
            (Ok(_), _) => intact += 1,
        }
    }
    let gone = (recorded.len() as u64).saturating_sub(present);
    let gone = if gone > 0 { format!("; {gone} more were made and are gone") } else { String::new() };
    verdict.check("checkpoints", format!("{intact} of {present} intact{gone}"));
    Ok(())
}

/// What is wrong, without the path that the problem has anyway.
fn brief(error: &ArchiveError) -> String {
    match error {
        ArchiveError::InvalidCheckpoint { reason, .. } => reason.clone(),
        error => error.to_string(),
    }
}

fn difference(read: &CheckpointRecord, record: &CheckpointRecord) -> String {
    if read.update != record.update {
        return format!("is of update {}; the ledger says {}", read.update, record.update);
    }
    format!("is another than the ledger has: {}, not {}", read.manifest, record.manifest)
}

/// Holds the outputs against the newest record of them in the ledger.
pub(super) fn outputs(folder: &Path, proved: Option<&Proved>, verdict: &mut Verdict) {
    match proved.and_then(|proved| proved.history.outputs()) {
        Some(outputs) => {
            let intact = compare(folder, &outputs.files, LEDGER_FILE, verdict);
            verdict.check("outputs", format!("{intact} of {} intact", outputs.files.len()));
        }
        None if proved.is_none() => verdict.check("outputs", "not compared: there is no whole ledger".to_owned()),
        None => verdict.check("outputs", "none recorded".to_owned()),
    }
}

/// Holds the certificate against the ledger and the outputs.
pub(super) fn certificate(folder: &Path, proved: Option<&Proved>, verdict: &mut Verdict) {
    let certificate = match Certificate::read_alone(folder) {
        Ok(Some(certificate)) => certificate,
        Ok(None) => {
            if proved.is_some_and(|proved| proved.history.outputs().is_some()) {
                verdict.wrong(
                    CERTIFICATE_FILE,
                    None,
                    "is missing, though the ledger has the outputs of a complete run",
                );
            }
            return verdict.check("certificate", "none: the run is not complete".to_owned());
        }
        Err(reason) => {
            let what = reason.strip_prefix(CERTIFICATE_FILE).unwrap_or(&reason).trim_start_matches([':', ' ']);
            verdict.wrong(CERTIFICATE_FILE, None, what);
            return verdict.check("certificate", "damaged".to_owned());
        }
    };
    let before = verdict.problems.len();
    if let Some(Proved { history, heads }) = proved {
        let place = usize::try_from(certificate.ledger.records).unwrap_or(usize::MAX).saturating_sub(1);
        if heads.get(place) != Some(&certificate.ledger) {
            let what = format!("has not the line {} that {CERTIFICATE_FILE} names", certificate.ledger.records);
            verdict.wrong(LEDGER_FILE, None, what);
        }
        let differences = certificate.recipe.differences(&history.identity().recipe);
        if let Some(difference) = differences.first() {
            verdict.wrong(CERTIFICATE_FILE, None, format!("is of another recipe than the ledger: {difference}"));
        }
        if history.outputs().map(|outputs| outputs.parameters) != Some(certificate.parameters) {
            verdict.wrong(CERTIFICATE_FILE, None, "has not the final parameters that the ledger has");
        }
    } else {
        // Without a ledger, the certificate alone says what the outputs must be.
        let files = certificate.files.iter().chain(&certificate.results);
        compare(folder, &files.map(|(name, file)| (name.clone(), *file)).collect(), CERTIFICATE_FILE, verdict);
    }
    let found = if verdict.problems.len() == before { "matches" } else { "does not match" };
    verdict.check("certificate", format!("{found}: update {}, {}", certificate.update, certificate.parameters));
}

/// Holds files against their records; answers how many are intact.
fn compare(folder: &Path, files: &BTreeMap<String, FileRecord>, by: &str, verdict: &mut Verdict) -> u64 {
    let mut intact = 0;
    for (name, record) in files {
        match FileRecord::of_file(&folder.join(name)) {
            Ok(found) if found == *record => intact += 1,
            Ok(found) => {
                let what = format!(
                    "has been changed: {} bytes, {}; {by} has {} bytes, {}",
                    found.bytes, found.sha256, record.bytes, record.sha256
                );
                verdict.wrong(name.clone(), None, what);
            }
            Err(error) => verdict.wrong(name.clone(), None, error.to_string()),
        }
    }
    intact
}
