//! Beats as bytes: protobuf, sealed.

use std::time::Duration;

use conclave_catalog::NodeId;
use conclave_net::ClusterKey;
use conclave_proto::gossip as proto;
use prost::Message;

use crate::GossipError;
use crate::detector::{Beat, Echo, Facts};

/// A beat of the largest cluster is a small part of this; longer messages are not looked at.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1400;

/// What purpose the key of beats is derived for.
const PURPOSE: &str = "gossip/v1";

/// Seals and opens beats.
#[derive(Clone)]
pub(crate) struct Codec {
    key: ClusterKey,
}

impl Codec {
    pub(crate) fn new(cluster: &ClusterKey) -> Result<Self, GossipError> {
        let derived = hex::decode(cluster.derive(PURPOSE)).unwrap_or_default();
        Ok(Self {
            key: ClusterKey::from_bytes(&derived)?,
        })
    }

    pub(crate) fn encode(&self, beat: &Beat) -> Result<Vec<u8>, GossipError> {
        let message = proto::Beat {
            from: beat.from.0,
            to: beat.to.0,
            incarnation: beat.incarnation,
            sequence: beat.sequence,
            echo: beat.echo.map(|echo| proto::Echo {
                incarnation: echo.incarnation,
                sequence: echo.sequence,
                held_for: u64::try_from(echo.held_for.as_micros()).unwrap_or(u64::MAX),
            }),
            hears: beat.hears.iter().map(|id| id.0).collect(),
            facts: Some(proto::Facts {
                load: beat.facts.load,
                faults: beat.facts.faults,
            }),
        };
        Ok(self.key.seal(&message.encode_to_vec())?)
    }

    pub(crate) fn decode(&self, sealed: &[u8]) -> Result<Beat, GossipError> {
        let beat = proto::Beat::decode(self.key.open(sealed)?.as_slice())?;
        let facts = beat.facts.unwrap_or_default();
        Ok(Beat {
            from: NodeId(beat.from),
            to: NodeId(beat.to),
            incarnation: beat.incarnation,
            sequence: beat.sequence,
            echo: beat.echo.map(|echo| Echo {
                incarnation: echo.incarnation,
                sequence: echo.sequence,
                held_for: Duration::from_micros(echo.held_for),
            }),
            hears: beat.hears.into_iter().map(NodeId).collect(),
            facts: Facts {
                load: facts.load,
                faults: facts.faults,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_opens_with_the_clusters_key_alone() {
        let (ours, theirs) = (ClusterKey::generate().unwrap(), ClusterKey::generate().unwrap());
        let beat = Beat {
            from: NodeId(1),
            to: NodeId(2),
            incarnation: u64::MAX,
            sequence: 7,
            echo: Some(Echo {
                incarnation: 3,
                sequence: 9,
                held_for: Duration::from_micros(250),
            }),
            hears: [NodeId(2), NodeId(3)].into(),
            facts: Facts { load: 130, faults: 1 },
        };
        let codec = Codec::new(&ours).unwrap();
        let sealed = codec.encode(&beat).unwrap();
        assert!(sealed.len() < MESSAGE_BYTES_MAX / 4);
        assert_eq!(codec.decode(&sealed).unwrap(), beat);
        assert!(Codec::new(&theirs).unwrap().decode(&sealed).is_err());
        assert!(codec.decode(&sealed[..20]).is_err());
        assert!(codec.decode(&[]).is_err());
        // The key of beats opens nothing else.
        assert!(ours.open(&sealed).is_err());
    }
}
