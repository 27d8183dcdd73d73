//! Who sums with whom, in a line for people.

use std::collections::BTreeMap;
#[cfg(any(feature = "cuda", test))]
use std::{ffi::OsString, path::Path};

use super::mesh::Seat;
#[cfg(any(feature = "cuda", test))]
use crate::nccl_log;

/// `4 ranks on 2 hosts (10.0.0.1: 3, 10.0.0.2: 1)`, by the addresses of the ranks' collectives.
pub(super) fn ranks(peers: &[String]) -> String {
    let mut hosts = BTreeMap::<&str, usize>::new();
    for peer in peers {
        *hosts.entry(peer.rsplit_once(':').map_or(peer.as_str(), |(host, _)| host)).or_default() += 1;
    }
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let shares: Vec<String> = hosts.iter().map(|(host, ranks)| format!("{host}: {ranks}")).collect();
    let (count, places) = (peers.len(), hosts.len());
    format!("{count} rank{} on {places} host{} ({})", plural(count), plural(places), shares.join(", "))
}

/// What this rank's sums travel over: `shared memory`, `TCP`, or each with so many peers, and why no memory is shared
/// with one on this machine.
pub(super) fn way(seats: &[Seat]) -> String {
    let sharing = seats.iter().filter(|seat| matches!(seat.shares(), Ok(true))).count();
    let way = match (sharing, seats.len() - sharing) {
        (_, 0) => "shared memory".to_owned(),
        (0, _) => "TCP".to_owned(),
        (sharing, others) => format!("shared memory with {sharing} and TCP with {others} of them"),
    };
    let refused = seats.iter().find_map(|seat| Some((seat.peer(), seat.shares().err()?)));
    match refused {
        None => way,
        Some((peer, why)) => format!("{way}; no memory is shared with rank {peer}: {why}"),
    }
}

/// The ranks, NCCL's version, what their first machine says of itself, the settings that NCCL reads, and the ways that it has
/// chosen, which it tells nobody but its own log: where that is somebody else's, they are not known here.
#[cfg(any(feature = "cuda", test))]
pub(super) fn line(
    peers: &[String],
    version: i32,
    (machine, ways): (&[String], Option<String>),
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> String {
    let variables = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let settings: Vec<_> = variables.filter(|(name, _)| name.starts_with("NCCL_")).collect();
    let file = settings.iter().find(|(name, _)| name == nccl_log::VARIABLES[2]);
    let is_own = nccl_log::is_own(file.and_then(|(_, value)| value.to_str()));
    let settings = settings.iter().filter(|(name, _)| !is_own || !nccl_log::VARIABLES.contains(&name.as_str()));
    let mut settings: Vec<String> = settings.map(|(name, value)| format!("{name}={}", value.display())).collect();
    settings.sort_unstable();
    let settings = if settings.is_empty() { "no NCCL_ variable set".to_owned() } else { settings.join(" ") };
    let (ranks, machine) = (ranks(peers), machine.join("; "));
    let (major, minor, patch) = (version / 10_000, version % 10_000 / 100, version % 100);
    let ways = ways.map_or_else(
        || "the ways that it has chosen stand in its log alone: NCCL_DEBUG=INFO".to_owned(),
        |ways| format!("NCCL has chosen {ways}"),
    );
    format!("{ranks} over NCCL {major}.{minor}.{patch}; {machine}; {settings}; {ways}")
}

/// The InfiniBand and RoCE adapters that `folder` lists: what NCCL can choose from between machines, before Ethernet.
#[cfg(any(feature = "cuda", test))]
pub(super) fn adapters(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    if names.is_empty() { "no InfiniBand adapter".to_owned() } else { format!("InfiniBand {}", names.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_by_host() {
        let peers = ["10.0.0.1:4000", "10.0.0.2:4000", "10.0.0.1:4001", "[fe80::1]:4000"].map(str::to_owned);
        assert_eq!(ranks(&peers), "4 ranks on 3 hosts (10.0.0.1: 2, 10.0.0.2: 1, [fe80::1]: 1)");
        assert_eq!(ranks(&peers[..1]), "1 rank on 1 host (10.0.0.1: 1)");
    }

    /// It says what is known, and where to read what is not.
    #[test]
    fn a_line_tells_what_nccl_was_given() {
        let peers = ["10.0.0.1:4000", "10.0.0.1:4001"].map(str::to_owned);
        let variables = [("NCCL_SOCKET_IFNAME", "lo"), ("PATH", "/bin"), ("NCCL_NET", "Socket")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let machine = ["GPU a".to_owned(), "no InfiniBand adapter".to_owned()];
        let line = line(&peers, 22809, (&machine, None), variables);
        assert_eq!(
            line,
            "2 ranks on 1 host (10.0.0.1: 2) over NCCL 2.28.9; GPU a; no InfiniBand adapter; NCCL_NET=Socket \
             NCCL_SOCKET_IFNAME=lo; the ways that it has chosen stand in its log alone: NCCL_DEBUG=INFO"
        );
        let own = nccl_log::VARIABLES.map(|name| (name.into(), "/proc/self/fd/7".into()));
        let line = super::line(&peers, 23007, (&[], Some("SHM/direct/direct to 1".to_owned())), own);
        let end = "over NCCL 2.30.7; ; no NCCL_ variable set; NCCL has chosen SHM/direct/direct to 1";
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn adapters_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(adapters(folder.path()), "no InfiniBand adapter");
        for name in ["mlx5_1", "mlx5_0"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(adapters(folder.path()), "InfiniBand mlx5_0 mlx5_1");
        assert_eq!(adapters(&folder.path().join("none")), "no InfiniBand adapter");
    }
}
