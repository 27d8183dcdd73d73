//! What NCCL reads beside what a program asks it for, and before it: variables, and its files where a variable is not set.

use std::path::PathBuf;

/// Names the file that goes before the machine's.
const FILE: &str = "NCCL_CONF_FILE";

/// The value that NCCL will find for a variable.
pub(crate) fn value(name: &str) -> Option<String> {
    let set = std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let own = std::env::var_os(FILE).filter(|file| !file.is_empty()).map(PathBuf::from);
    let own = own.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".nccl.conf")));
    let files = own.into_iter().chain([PathBuf::from("/etc/nccl.conf")]);
    set.or_else(|| files.filter_map(|file| std::fs::read_to_string(file).ok()).find_map(|text| in_file(&text, name)))
}

/// The value in a file's text.
fn in_file(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    lines.find_map(|(left, value)| (left.trim() == name).then(|| value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_nccl_reads_them() {
        let text = "NCCL_DEBUG=INFO\n# NCCL_COMM_BLOCKING=0\nNCCL_COMM_BLOCKING = 1\n";
        assert_eq!(in_file(text, "NCCL_COMM_BLOCKING").as_deref(), Some("1"));
        assert_eq!(in_file(text, "NCCL_NET"), None);
        assert_eq!(value("PATH"), std::env::var("PATH").ok(), "a variable goes before files");
    }
}
