//! What can go wrong.

/// What goes wrong. Where a node is meant and not named, it is the primary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of PostgreSQL.
    KillPostgres,
    /// SIGKILL of the manager.
    KillManager,
    /// SIGKILL of all that runs on the node.
    KillNode,
    /// The same of a standby.
    KillStandby,
    /// The same of all three nodes.
    KillAll,
    /// The node is killed, and its successor as soon as it has acknowledged a write.
    KillSuccessor,
    /// PostgreSQL is killed, and its successor's as soon as that has acknowledged a write.
    KillSuccessorPostgres,
    /// The node is killed, and its successor when its database has been promoted and nothing has been written to it yet.
    KillCandidate,
    /// SIGSTOP of the manager for seconds.
    PauseManager,
    /// SIGSTOP of the manager for a minute.
    PauseManagerForLong,
    /// SIGSTOP of the manager for a moment.
    BlinkManager,
    /// SIGSTOP of a standby's manager.
    PauseStandbyManager,
    /// SIGSTOP of PostgreSQL for seconds.
    PausePostgres,
    /// SIGSTOP of PostgreSQL for a minute.
    PausePostgresForLong,
    /// SIGSTOP of the manager and of PostgreSQL: a machine that stands still for seconds.
    PauseNode,
    /// SIGSTOP of a standby's PostgreSQL.
    PauseStandbyPostgres,
    /// The node and the others do not hear each other.
    Isolate,
    /// The same with a standby.
    IsolateStandby,
    /// The node hears the others, and they do not hear it.
    Mute,
    /// The node hears nobody, and is heard.
    Deaf,
    /// One standby does not hear the node.
    MuteToOne,
    /// The node and one standby do not hear each other; both see the third.
    Bridge,
    /// The standbys do not hear each other; both see the primary.
    BridgeByPrimary,
    /// The node is cut off and mended, again and again.
    Flap,
    /// One direction of one link comes and goes.
    FlapOneWay,
    /// The network cable is pulled: clients do not reach the node either.
    Unplug,
    /// A standby's data directory is gone.
    WipeStandby,
    /// A standby's data directory is damaged.
    DamageStandby,
    /// No space is left on the node.
    FillDisk,
    /// No space is left on a standby's node.
    FillStandbyDisk,
    /// The node's clock jumps an hour ahead, and back.
    ClockAhead,
    /// The node's clock jumps an hour back, and ahead again.
    ClockBehind,
    /// A standby's clock jumps an hour ahead, and back.
    StandbyClockAhead,
    /// A standby becomes primary as planned: nothing fails.
    Switchover,
    /// Of five: the node with one standby on one side, three standbys on the other.
    SplitWithOne,
    /// Of five: the node with two standbys on one side, two on the other.
    SplitWithTwo,
    /// Of five: two halves that do not hear each other, the node in one of them, and one standby that hears everybody.
    BridgeOfFive,
    /// Of five: SIGKILL of all that runs on the node and on its successor, as soon as that has acknowledged a write.
    KillTwo,
}

/// Every fault.
pub const ALL: [Fault; 34] = [
    Fault::KillPostgres,
    Fault::KillManager,
    Fault::KillNode,
    Fault::KillStandby,
    Fault::KillAll,
    Fault::KillSuccessor,
    Fault::KillSuccessorPostgres,
    Fault::KillCandidate,
    Fault::PauseManager,
    Fault::PauseManagerForLong,
    Fault::BlinkManager,
    Fault::PauseStandbyManager,
    Fault::PausePostgres,
    Fault::PausePostgresForLong,
    Fault::PauseNode,
    Fault::PauseStandbyPostgres,
    Fault::Isolate,
    Fault::IsolateStandby,
    Fault::Mute,
    Fault::Deaf,
    Fault::MuteToOne,
    Fault::Bridge,
    Fault::BridgeByPrimary,
    Fault::Flap,
    Fault::FlapOneWay,
    Fault::Unplug,
    Fault::WipeStandby,
    Fault::DamageStandby,
    Fault::FillDisk,
    Fault::FillStandbyDisk,
    Fault::ClockAhead,
    Fault::ClockBehind,
    Fault::StandbyClockAhead,
    Fault::Switchover,
];

/// What a cluster of five is tried with: a majority of it may lack two nodes.
pub const OF_FIVE: [Fault; 7] = [
    Fault::SplitWithOne,
    Fault::SplitWithTwo,
    Fault::BridgeOfFive,
    Fault::Isolate,
    Fault::KillTwo,
    Fault::KillNode,
    Fault::Flap,
];

/// What a change that every push has to pass is tried with.
pub const SELECTION: [Fault; 7] = [
    Fault::KillPostgres,
    Fault::KillNode,
    Fault::PauseManager,
    Fault::Isolate,
    Fault::Mute,
    Fault::Bridge,
    Fault::WipeStandby,
];

impl Fault {
    /// Whether another node must have become primary.
    pub(super) fn deposes(self) -> bool {
        use Fault::{
            Deaf, Isolate, KillManager, KillNode, KillTwo, Mute, PauseManager, PauseManagerForLong, PauseNode,
            PausePostgres, PausePostgresForLong, SplitWithOne, Switchover, Unplug,
        };
        matches!(
            self,
            KillManager
                | KillNode
                | KillTwo
                | PauseManager
                | PauseManagerForLong
                | PausePostgres
                | PausePostgresForLong
                | PauseNode
                | Isolate
                | Mute
                | Deaf
                | SplitWithOne
                | Switchover
                | Unplug
        )
    }
}
