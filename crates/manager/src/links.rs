//! What is wrong with the links of this node, in words; and its load.

use std::collections::BTreeMap;

use conclave_catalog::NodeId;
use conclave_gossip::detector::{PeerView, Verdict};

/// Why the links are not well, if they are not.
///
/// A peer that nobody hears is no matter of this node's links: the peer itself is what is unwell then.
pub(crate) fn cause(view: &BTreeMap<NodeId, PeerView>, name: impl Fn(NodeId) -> String) -> Option<String> {
    let faults: Vec<String> = view
        .iter()
        .filter_map(|(id, peer)| fault(*id, peer, view, &name))
        .collect();
    (!faults.is_empty()).then(|| faults.join("; "))
}

fn fault(
    id: NodeId,
    peer: &PeerView,
    view: &BTreeMap<NodeId, PeerView>,
    name: &impl Fn(NodeId) -> String,
) -> Option<String> {
    let who = name(id);
    match peer.verdict {
        Verdict::Unknown | Verdict::Gone => None,
        Verdict::Lossy => Some(format!(
            "datagrams of {who} do not arrive, though it answers over TCP: UDP is lost on the way"
        )),
        Verdict::Suspected => {
            let hears_it = |other: &PeerView| other.verdict == Verdict::Alive && other.hears.contains(&id);
            let (witness, _) = view.iter().find(|(_, other)| hears_it(other))?;
            Some(format!(
                "{who} is not heard here, but {} hears it: the way from it is cut",
                name(*witness)
            ))
        }
        Verdict::Alive if peer.hears_us == Some(false) => Some(format!(
            "{who} is heard, but does not hear this node: the way to it is cut"
        )),
        Verdict::Alive => None,
    }
}

/// The load average of the last minute in hundredths; 0 where the system does not tell.
pub(crate) fn load() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    // "1.25" is 125: the system gives two decimals.
    first.replacen('.', "", 1).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use conclave_gossip::detector::Facts;

    use super::*;

    fn peer(verdict: Verdict, hears_us: Option<bool>, hears: &[u64]) -> PeerView {
        PeerView {
            verdict,
            stood_for: Duration::ZERO,
            hears_us,
            hears: hears.iter().copied().map(NodeId).collect::<BTreeSet<_>>(),
            round_trip: None,
            facts: Facts::default(),
        }
    }

    fn of(two: PeerView, three: PeerView) -> Option<String> {
        cause(&[(NodeId(2), two), (NodeId(3), three)].into(), |id| format!("node{id}"))
    }

    #[test]
    fn only_what_is_wrong_with_links_is_told() {
        let well = || peer(Verdict::Alive, Some(true), &[1, 3]);
        let alone = || peer(Verdict::Alive, Some(true), &[1]);
        assert_eq!(of(well(), peer(Verdict::Alive, Some(true), &[1, 2])), None);
        assert_eq!(of(alone(), peer(Verdict::Gone, None, &[])), None);
        assert_eq!(of(alone(), peer(Verdict::Suspected, None, &[])), None);
        assert_eq!(of(well(), peer(Verdict::Gone, None, &[])), None);
        let cut = of(well(), peer(Verdict::Suspected, None, &[])).unwrap();
        assert_eq!(
            cut,
            "node3 is not heard here, but node2 hears it: the way from it is cut"
        );
        assert!(
            of(well(), peer(Verdict::Lossy, Some(true), &[]))
                .unwrap()
                .contains("UDP")
        );
        assert!(
            of(well(), peer(Verdict::Alive, Some(false), &[2]))
                .unwrap()
                .contains("does not hear this node")
        );
    }

    #[test]
    fn the_load_is_read() {
        assert!(load() < 1_000_000);
    }
}
