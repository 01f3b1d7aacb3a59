//! The cluster's own status API: for operators, dashboards and load balancers. It needs no credentials and shows no
//! secrets.

mod collect;
mod events;
mod feed;
mod report;
mod router;
mod status;

pub use collect::collect;
pub use events::ClusterEvent;
pub use feed::Feed;
pub use report::{NodeReport, Part};
pub(crate) use router::router;
pub use status::{Cause, ClusterStatus, Health, LeaderStatus, NodeStatus};
