//! What the log tells of the ways between ranks.

use std::collections::{BTreeMap, BTreeSet};

use super::OPEN;

/// Whether the log is one that was offered, of no interest to a person.
pub(crate) fn is_own(file: Option<&str>) -> bool {
    file.is_some_and(|file| file.starts_with(OPEN))
}

/// The ways that `rank` sends by: `P2P/CUMEM to 1, 3; NET/IB/0 to 4`. `None` where the log tells of none.
///
/// Each channel has a line, `Channel 00/0 : 0[0] -> 1[0] via P2P/CUMEM` or, between machines, `.. [send] via NET/Socket/0`.
pub(crate) fn ways(log: &str, rank: u32) -> Option<String> {
    let number = |text: &str| text.split('[').next()?.trim().parse::<u32>().ok();
    let channel = |line: &str| {
        let (ranks, way) = line.split_once("Channel ")?.1.split_once(" via ")?;
        let (from, to) = ranks.rsplit_once(" : ")?.1.split_once(" -> ")?;
        let is_sent = number(from)? == rank && !to.contains("[receive]");
        is_sent.then_some((way.split_whitespace().next()?.to_owned(), number(to)?))
    };
    let mut peers = BTreeMap::<String, BTreeSet<u32>>::new();
    for (way, peer) in log.lines().filter_map(channel) {
        peers.entry(way).or_default().insert(peer);
    }
    let listed = |(way, peers): (String, BTreeSet<u32>)| {
        let peers: Vec<String> = peers.iter().map(u32::to_string).collect();
        format!("{way} to {}", peers.join(", "))
    };
    let ways: Vec<String> = peers.into_iter().map(listed).collect();
    (!ways.is_empty()).then(|| ways.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as NCCL 2.18 to 2.28 write them.
    #[test]
    fn each_way_is_told_with_its_peers() {
        let log = "node:7:9 [0] NCCL INFO NCCL_SOCKET_IFNAME set by environment to eth0\n\
            node:7:9 [0] NCCL INFO Channel 00/02 : 0 1 2 3\n\
            node:7:9 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read\n\
            node:7:9 [0] NCCL INFO Channel 01/0 : 0[0] -> 3[3] via P2P/CUMEM/read\n\
            node:7:9 [0] NCCL INFO Channel 00 : 0[0] -> 2[2] via SHM/direct/direct\n\
            node:7:9 [0] NCCL INFO Channel 00/0 : 4[0] -> 0[0] [receive] via NET/IB/0\n\
            node:7:9 [0] NCCL INFO Channel 00/0 : 0[0] -> 4[0] [send] via NET/IB/0/GDRDMA\n";
        let said = ways(log, 0).unwrap();
        assert_eq!(said, "NET/IB/0/GDRDMA to 4; P2P/CUMEM/read to 1, 3; SHM/direct/direct to 2");
        assert_eq!(ways(log, 4), None, "what it receives is its peer's to tell");
        assert_eq!(ways("", 0), None);
    }

    #[test]
    fn somebody_elses_log_is_left_alone() {
        assert!(is_own(Some("/proc/self/fd/7")) && !is_own(Some("/tmp/nccl.log")) && !is_own(None));
    }
}
