//! Faults of the network.

use super::{Drill, Fault};

impl Drill {
    /// Breaks it, waits until writes go on wherever they must, and mends it after a while.
    pub(super) async fn break_network(&self, fault: Fault, primary: u8, others: &[u8]) -> Result<(), String> {
        let (standby, third, survivors) = (others[0], others[1], others);
        match fault {
            Fault::IsolateStandby => {
                self.hosts.isolate(standby);
                let rest: Vec<u8> = self.nodes().into_iter().filter(|number| *number != standby).collect();
                self.writes(&rest).await?;
            }
            Fault::Mute => {
                survivors.iter().for_each(|other| self.hosts.cut(primary, *other));
                self.writes(survivors).await?;
            }
            Fault::Deaf => {
                survivors.iter().for_each(|other| self.hosts.cut(*other, primary));
                self.writes(survivors).await?;
            }
            Fault::MuteToOne => {
                self.hosts.cut(primary, standby);
                self.writes(&[third]).await?;
            }
            Fault::Bridge => {
                self.hosts.cut_both(primary, standby);
                self.writes(&[third]).await?;
            }
            Fault::BridgeByPrimary => {
                self.hosts.cut_both(standby, third);
                self.writes(&[primary]).await?;
            }
            Fault::Flap | Fault::FlapOneWay => {
                for _ in 0..6 {
                    if fault == Fault::Flap {
                        self.hosts.isolate(primary);
                    } else {
                        self.hosts.cut(standby, primary);
                    }
                    self.hold(100..1500).await;
                    self.hosts.mend();
                    self.hold(100..1500).await;
                }
                return self.writes(&self.nodes()).await;
            }
            Fault::SplitWithOne => {
                self.split(&[primary, standby], &others[1..]);
                self.writes(&others[1..]).await?;
            }
            Fault::SplitWithTwo => {
                self.split(&[primary, standby, third], &others[2..]);
                self.writes(&[primary, standby, third]).await?;
            }
            Fault::BridgeOfFive => {
                let (half, bridge) = (&others[1..3], others[3]);
                self.split(&[primary, standby], half);
                self.writes(&[bridge]).await?;
            }
            Fault::Unplug => {
                self.hosts.unplug(primary);
                self.writes(survivors).await?;
            }
            _ => {
                self.hosts.isolate(primary);
                self.writes(survivors).await?;
            }
        }
        self.hold(500..5000).await;
        self.hosts.mend();
        self.hosts.plug(primary);
        Ok(())
    }

    /// The two sides do not hear each other.
    fn split(&self, side: &[u8], other: &[u8]) {
        for (a, b) in side.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.hosts.cut_both(a, b);
        }
    }
}
