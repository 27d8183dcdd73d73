//! Who sums with whom, in a line for people.

use std::collections::BTreeMap;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_by_host() {
        let peers = ["10.0.0.1:4000", "10.0.0.2:4000", "10.0.0.1:4001", "[fe80::1]:4000"].map(str::to_owned);
        assert_eq!(ranks(&peers), "4 ranks on 3 hosts (10.0.0.1: 2, 10.0.0.2: 1, [fe80::1]: 1)");
        assert_eq!(ranks(&peers[..1]), "1 rank on 1 host (10.0.0.1: 1)");
    }
}
