//! Which paths there are, what they take, and what they need (spec/consul-api.md, sections 3 to 9).

use http::Method;

use super::access::Need;
use super::error::BODY_BYTES_MAX;
use super::snapshot::ARCHIVE_BYTES_MAX;

/// A path and a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    KvGet,
    KvPut,
    KvDelete,
    Txn,
    SessionCreate,
    SessionDestroy,
    SessionRenew,
    SessionInfo,
    SessionList,
    SessionNode,
    StatusLeader,
    StatusPeers,
    AgentSelf,
    AgentMembers,
    AgentVersion,
    AgentMetrics,
    AgentMembership,
    AgentReload,
    AgentMaintenance,
    AgentServices,
    AgentService,
    ServiceRegister,
    ServiceDeregister,
    ServiceMaintenance,
    ServiceHealthById,
    ServiceHealthByName,
    AgentChecks,
    CheckRegister,
    CheckDeregister,
    CheckPass,
    CheckWarn,
    CheckFail,
    CheckUpdate,
    Datacenters,
    CatalogNodes,
    CatalogServices,
    CatalogService,
    CatalogNode,
    CatalogRegister,
    CatalogDeregister,
    HealthNode,
    HealthChecks,
    HealthState,
    HealthService,
    RaftConfiguration,
    RaftRemovePeer,
    RaftTransferLeader,
    AutopilotHealth,
    AutopilotConfiguration,
    SnapshotSave,
    SnapshotRestore,
    TokenSelf,
    Acl,
    EmptyList,
}

impl Endpoint {
    /// What a caller needs.
    pub(super) fn need(self) -> Need {
        match self {
            // What the cluster's own status shows to everybody.
            Self::StatusLeader
            | Self::StatusPeers
            | Self::AgentSelf
            | Self::AgentMembers
            | Self::AgentVersion
            | Self::AgentMetrics
            | Self::Datacenters
            | Self::RaftConfiguration
            | Self::AutopilotHealth
            | Self::AutopilotConfiguration
            | Self::EmptyList
            | Self::TokenSelf
            | Self::Acl => Need::Nothing,
            // A key alone is refused where it is read.
            Self::KvGet
            | Self::SessionInfo
            | Self::SessionList
            | Self::SessionNode
            | Self::AgentServices
            | Self::AgentService
            | Self::AgentChecks
            | Self::ServiceHealthById
            | Self::ServiceHealthByName
            | Self::CatalogNodes
            | Self::CatalogServices
            | Self::CatalogService
            | Self::CatalogNode
            | Self::HealthNode
            | Self::HealthChecks
            | Self::HealthState
            | Self::HealthService => Need::Filtered,
            Self::KvPut
            | Self::KvDelete
            | Self::Txn
            | Self::SessionCreate
            | Self::SessionDestroy
            | Self::SessionRenew
            | Self::AgentMembership
            | Self::AgentReload
            | Self::AgentMaintenance
            | Self::ServiceRegister
            | Self::ServiceDeregister
            | Self::ServiceMaintenance
            | Self::CheckRegister
            | Self::CheckDeregister
            | Self::CheckPass
            | Self::CheckWarn
            | Self::CheckFail
            | Self::CheckUpdate
            | Self::CatalogRegister
            | Self::CatalogDeregister
            | Self::RaftRemovePeer
            | Self::RaftTransferLeader
            | Self::SnapshotSave
            | Self::SnapshotRestore => Need::Token,
        }
    }

    /// How large a body it takes.
    pub(super) fn body_bytes_max(self) -> usize {
        match self {
            Self::SnapshotRestore => ARCHIVE_BYTES_MAX,
            // Values are in base64 there.
            Self::Txn => 2 * BODY_BYTES_MAX,
            _ => BODY_BYTES_MAX,
        }
    }
}

/// A path below `/v1/`. One that ends in a slash takes whatever stands behind it.
type Route = (&'static str, &'static [(Method, Endpoint)]);

const ROUTES: [Route; 57] = [
    (
        "kv",
        &[
            (Method::GET, Endpoint::KvGet),
            (Method::PUT, Endpoint::KvPut),
            (Method::DELETE, Endpoint::KvDelete),
        ],
    ),
    (
        "kv/",
        &[
            (Method::GET, Endpoint::KvGet),
            (Method::PUT, Endpoint::KvPut),
            (Method::DELETE, Endpoint::KvDelete),
        ],
    ),
    ("txn", &[(Method::PUT, Endpoint::Txn)]),
    ("session/create", &[(Method::PUT, Endpoint::SessionCreate)]),
    ("session/destroy/", &[(Method::PUT, Endpoint::SessionDestroy)]),
    ("session/renew/", &[(Method::PUT, Endpoint::SessionRenew)]),
    ("session/info/", &[(Method::GET, Endpoint::SessionInfo)]),
    ("session/list", &[(Method::GET, Endpoint::SessionList)]),
    ("session/node/", &[(Method::GET, Endpoint::SessionNode)]),
    ("status/leader", &[(Method::GET, Endpoint::StatusLeader)]),
    ("status/peers", &[(Method::GET, Endpoint::StatusPeers)]),
    ("agent/self", &[(Method::GET, Endpoint::AgentSelf)]),
    ("agent/members", &[(Method::GET, Endpoint::AgentMembers)]),
    ("agent/version", &[(Method::GET, Endpoint::AgentVersion)]),
    ("agent/metrics", &[(Method::GET, Endpoint::AgentMetrics)]),
    ("agent/join/", &[(Method::PUT, Endpoint::AgentMembership)]),
    ("agent/leave", &[(Method::PUT, Endpoint::AgentMembership)]),
    ("agent/force-leave/", &[(Method::PUT, Endpoint::AgentMembership)]),
    ("agent/reload", &[(Method::PUT, Endpoint::AgentReload)]),
    ("agent/maintenance", &[(Method::PUT, Endpoint::AgentMaintenance)]),
    ("agent/services", &[(Method::GET, Endpoint::AgentServices)]),
    ("agent/service/register", &[(Method::PUT, Endpoint::ServiceRegister)]),
    (
        "agent/service/deregister/",
        &[(Method::PUT, Endpoint::ServiceDeregister)],
    ),
    (
        "agent/service/maintenance/",
        &[(Method::PUT, Endpoint::ServiceMaintenance)],
    ),
    ("agent/service/", &[(Method::GET, Endpoint::AgentService)]),
    (
        "agent/health/service/id/",
        &[(Method::GET, Endpoint::ServiceHealthById)],
    ),
    (
        "agent/health/service/name/",
        &[(Method::GET, Endpoint::ServiceHealthByName)],
    ),
    ("agent/checks", &[(Method::GET, Endpoint::AgentChecks)]),
    ("agent/check/register", &[(Method::PUT, Endpoint::CheckRegister)]),
    ("agent/check/deregister/", &[(Method::PUT, Endpoint::CheckDeregister)]),
    ("agent/check/pass/", &[(Method::PUT, Endpoint::CheckPass)]),
    ("agent/check/warn/", &[(Method::PUT, Endpoint::CheckWarn)]),
    ("agent/check/fail/", &[(Method::PUT, Endpoint::CheckFail)]),
    ("agent/check/update/", &[(Method::PUT, Endpoint::CheckUpdate)]),
    ("catalog/datacenters", &[(Method::GET, Endpoint::Datacenters)]),
    ("catalog/nodes", &[(Method::GET, Endpoint::CatalogNodes)]),
    ("catalog/services", &[(Method::GET, Endpoint::CatalogServices)]),
    ("catalog/service/", &[(Method::GET, Endpoint::CatalogService)]),
    ("catalog/node/", &[(Method::GET, Endpoint::CatalogNode)]),
    ("catalog/register", &[(Method::PUT, Endpoint::CatalogRegister)]),
    ("catalog/deregister", &[(Method::PUT, Endpoint::CatalogDeregister)]),
    ("health/node/", &[(Method::GET, Endpoint::HealthNode)]),
    ("health/checks/", &[(Method::GET, Endpoint::HealthChecks)]),
    ("health/state/", &[(Method::GET, Endpoint::HealthState)]),
    ("health/service/", &[(Method::GET, Endpoint::HealthService)]),
    (
        "operator/raft/configuration",
        &[(Method::GET, Endpoint::RaftConfiguration)],
    ),
    ("operator/raft/peer", &[(Method::DELETE, Endpoint::RaftRemovePeer)]),
    (
        "operator/raft/transfer-leader",
        &[(Method::POST, Endpoint::RaftTransferLeader)],
    ),
    ("operator/autopilot/health", &[(Method::GET, Endpoint::AutopilotHealth)]),
    (
        "operator/autopilot/configuration",
        &[(Method::GET, Endpoint::AutopilotConfiguration)],
    ),
    (
        "snapshot",
        &[
            (Method::GET, Endpoint::SnapshotSave),
            (Method::PUT, Endpoint::SnapshotRestore),
        ],
    ),
    ("acl/token/self", &[(Method::GET, Endpoint::TokenSelf)]),
    (
        "acl/",
        &[
            (Method::GET, Endpoint::Acl),
            (Method::PUT, Endpoint::Acl),
            (Method::POST, Endpoint::Acl),
            (Method::DELETE, Endpoint::Acl),
        ],
    ),
    ("query", &[(Method::GET, Endpoint::EmptyList)]),
    ("coordinate/datacenters", &[(Method::GET, Endpoint::EmptyList)]),
    ("coordinate/nodes", &[(Method::GET, Endpoint::EmptyList)]),
    ("event/list", &[(Method::GET, Endpoint::EmptyList)]),
];

/// What a path leads to.
pub(super) struct Found<'a> {
    pub(super) methods: &'static [(Method, Endpoint)],
    /// What stands behind it, as it was written.
    pub(super) rest: &'a str,
}

/// Looks a path up; it begins with `/v1/`.
pub(super) fn find(path: &str) -> Option<Found<'_>> {
    let path = path.strip_prefix("/v1/")?;
    let exact = ROUTES
        .iter()
        .find(|(own, _)| *own == path)
        .map(|(_, methods)| (methods, ""));
    let longer = || {
        let fitting = ROUTES
            .iter()
            .filter(|(own, _)| own.ends_with('/') && path.starts_with(own));
        let (own, methods) = fitting.max_by_key(|(own, _)| own.len())?;
        Some((methods, &path[own.len()..]))
    };
    let (methods, rest) = exact.or_else(longer)?;
    Some(Found { methods, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_they_should() {
        let lead = |path, method: Method| {
            let found = find(path)?;
            let endpoint = found.methods.iter().find(|(own, _)| *own == method)?.1;
            Some((endpoint, found.rest))
        };
        assert_eq!(lead("/v1/kv//a//b/", Method::PUT), Some((Endpoint::KvPut, "/a//b/")));
        assert_eq!(lead("/v1/kv/", Method::GET), Some((Endpoint::KvGet, "")));
        assert_eq!(
            lead("/v1/agent/service/register", Method::PUT),
            Some((Endpoint::ServiceRegister, ""))
        );
        assert_eq!(
            lead("/v1/agent/service/a%2Fb", Method::GET),
            Some((Endpoint::AgentService, "a%2Fb"))
        );
        assert_eq!(
            lead("/v1/agent/service/deregister/scope/name", Method::PUT),
            Some((Endpoint::ServiceDeregister, "scope/name"))
        );
        assert_eq!(lead("/v1/acl/token/self", Method::GET), Some((Endpoint::TokenSelf, "")));
        assert!(find("/v1/nothing").is_none());
        assert!(find("/v2/kv/a").is_none());
    }
}
