//! NCCL's calls must return at once: one that waits for a peer could neither be ended when the peer dies nor have a
//! deadline. The worker asks NCCL for that, but what a machine or a person has set goes before.

#[cfg(feature = "cuda")]
use std::path::PathBuf;

/// What NCCL takes for its calls' way, before what a program asks for.
pub(super) const BLOCKING: &str = "NCCL_COMM_BLOCKING";
/// Where NCCL reads variables from that are not set.
#[cfg(feature = "cuda")]
const FILE: &str = "NCCL_CONF_FILE";

/// Whether NCCL would be told otherwise by a variable, or by one of its files where it is not set.
#[cfg(feature = "cuda")]
pub(super) fn is_overruled() -> bool {
    let set = std::env::var(BLOCKING).ok();
    let own = std::env::var_os(FILE).map(PathBuf::from);
    let own = own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".nccl.conf")));
    let files = own.into_iter().chain([PathBuf::from("/etc/nccl.conf")]);
    blocks(set.as_deref(), files.filter_map(|file| std::fs::read_to_string(file).ok()))
}

/// Whether the variable, as it is `set`, or else one of the files' contents, has calls block.
fn blocks(set: Option<&str>, mut files: impl Iterator<Item = String>) -> bool {
    let is_other = |value: &str| value.trim() != "0";
    let named = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == BLOCKING).then(|| is_other(value))
    };
    set.map_or_else(|| files.any(|text| text.lines().filter_map(named).any(|is| is)), is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_goes_before_files() {
        let file = |text: &str| std::iter::once(text.to_owned());
        assert!(!blocks(None, std::iter::empty()) && !blocks(None, file("NCCL_DEBUG=INFO\n# NCCL_COMM_BLOCKING=1\n")));
        assert!(blocks(Some("1"), std::iter::empty()) && !blocks(Some("0"), file("NCCL_COMM_BLOCKING=1\n")));
        assert!(blocks(None, file("NCCL_DEBUG=INFO\nNCCL_COMM_BLOCKING = 1\n")));
        assert!(!blocks(None, file("NCCL_COMM_BLOCKING=0\n")));
    }
}
