//! The state and how proposals change it.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::database::DatabaseState;
use crate::directory::Directory;
use crate::files::Manifest;
use crate::{Command, JoinToken, NodeId, NodePorts, NodeRecord, Proposal, Refusal, RequestId, Response, TokenId};

/// How many answers are remembered for repeated requests: as many as are applied in about a second under the heaviest load.
/// A repetition that comes later is refused ([`Refusal::TooLate`]), never carried out a second time.
const REMEMBERED_REQUESTS: usize = 1 << 15;

/// What was settled when the cluster was founded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFacts {
    /// Identity of the cluster.
    pub cluster_id: String,
    /// PEM.
    pub ca_certificate: String,
    /// The CA's private key, sealed with the cluster key.
    pub sealed_ca_key: Vec<u8>,
}

/// Everything that the Raft group agrees on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterState {
    facts: Option<ClusterFacts>,
    nodes: OrdMap<NodeId, NodeRecord>,
    last_node_id: u64,
    tokens: OrdMap<TokenId, JoinToken>,
    database: DatabaseState,
    files: Manifest,
    settings: OrdMap<String, serde_json::Value>,
    certificate_generation: u64,
    #[serde(default)]
    directory: Directory,
    answered: OrdMap<RequestId, Response>,
    answered_order: imbl::Vector<RequestId>,
}

impl ClusterState {
    /// What was settled at the founding; `None` before it.
    pub fn facts(&self) -> Option<&ClusterFacts> {
        self.facts.as_ref()
    }

    /// The nodes, by id.
    pub fn nodes(&self) -> &OrdMap<NodeId, NodeRecord> {
        &self.nodes
    }

    /// Whether a node was in the cluster once and is no longer. A node of which this copy of the state has not heard yet has not
    /// left: the copy may be catching up.
    pub fn has_left(&self, id: NodeId) -> bool {
        id.0 <= self.last_node_id && !self.nodes.contains_key(&id)
    }

    /// The unused join tokens.
    pub fn tokens(&self) -> &OrdMap<TokenId, JoinToken> {
        &self.tokens
    }

    /// The PostgreSQL rule and its history.
    pub fn database(&self) -> &DatabaseState {
        &self.database
    }

    /// The resource files.
    pub fn files(&self) -> &Manifest {
        &self.files
    }

    /// The cluster's settings.
    pub fn settings(&self) -> &OrdMap<String, serde_json::Value> {
        &self.settings
    }

    /// How often new certificates were ordered. A node whose own come from an earlier order makes itself new ones.
    pub fn certificate_generation(&self) -> u64 {
        self.certificate_generation
    }

    /// Keys, sessions and the service catalog.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Applies one proposal, which is the log's entry `index`. A repeated request gets its first answer and changes
    /// nothing.
    pub fn apply(&mut self, index: u64, proposal: Proposal) -> Response {
        if let Some(answer) = self.answered.get(&proposal.request) {
            return answer.clone();
        }
        // An earlier attempt, if there was one, was applied after `after`; as many entries back everything is remembered.
        if let Some(after) = proposal.after
            && index.saturating_sub(after) > REMEMBERED_REQUESTS as u64
        {
            return Response::Refused(Refusal::TooLate);
        }
        let request = proposal.request;
        let response = match self.change(index, proposal) {
            Ok(response) => response,
            Err(refusal) => Response::Refused(refusal),
        };
        self.remember(request, response.clone());
        response
    }

    fn remember(&mut self, request: RequestId, response: Response) {
        self.answered.insert(request, response);
        self.answered_order.push_back(request);
        if self.answered_order.len() > REMEMBERED_REQUESTS
            && let Some(oldest) = self.answered_order.pop_front()
        {
            self.answered.remove(&oldest);
        }
    }

    fn change(&mut self, index: u64, proposal: Proposal) -> Result<Response, Refusal> {
        let at = proposal.at;
        match proposal.command {
            Command::Found {
                cluster_id,
                ca_certificate,
                sealed_ca_key,
                node_name,
                address,
                ports,
                settings,
            } => {
                if let Some(facts) = &self.facts {
                    return Err(Refusal::AlreadyFounded(facts.cluster_id.clone()));
                }
                self.settings.extend(settings);
                self.facts = Some(ClusterFacts {
                    cluster_id,
                    ca_certificate,
                    sealed_ca_key,
                });
                Ok(Response::Registered(
                    self.add_node(index, node_name, address, ports, at),
                ))
            }
            Command::CreateToken(token) => {
                self.tokens = self
                    .tokens
                    .iter()
                    .filter(|(_, other)| other.expires_at > at)
                    .map(clone_pair)
                    .collect();
                self.tokens.insert(token.id.clone(), token);
                Ok(Response::Done)
            }
            Command::RevokeToken(id) => match self.tokens.remove(&id) {
                Some(_) => Ok(Response::Done),
                None => Err(Refusal::UnknownToken(id.0)),
            },
            Command::RegisterNode {
                token,
                secret_hash,
                node_name,
                address,
                ports,
            } => {
                self.check_token(&token, &secret_hash, at)?;
                if self.nodes.values().any(|node| node.name == node_name) {
                    return Err(Refusal::NameTaken(node_name));
                }
                self.tokens.remove(&token);
                Ok(Response::Registered(
                    self.add_node(index, node_name, address, ports, at),
                ))
            }
            Command::RemoveNode(id) => self.remove_node(index, id),
            Command::RotateCertificates => {
                self.certificate_generation += 1;
                Ok(Response::Done)
            }
            Command::DeclareNode { node, alive } => {
                let record = self.nodes.get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
                if record.alive != alive {
                    record.alive = alive;
                    record.down_since = if alive { None } else { Some(at) };
                    self.directory.member_declared(index, &record.name, alive);
                }
                Ok(Response::Done)
            }
            Command::Database(command) => {
                self.database.apply(command).map_err(Refusal::Database)?;
                Ok(Response::Done)
            }
            Command::Files(command) => {
                let version = self.files.apply(index, command).map_err(Refusal::Files)?;
                Ok(Response::FilesChanged(version))
            }
            Command::Directory(command) => {
                let answer = self.directory.apply(index, command).map_err(Refusal::Directory)?;
                Ok(Response::Directory(answer))
            }
            Command::PutSetting { key, value } => {
                self.settings.insert(key, value);
                Ok(Response::Done)
            }
        }
    }

    fn remove_node(&mut self, index: u64, id: NodeId) -> Result<Response, Refusal> {
        if !self.nodes.contains_key(&id) {
            return Err(Refusal::UnknownNode(id));
        }
        if self.nodes.len() == 1 {
            return Err(Refusal::LastNode(id));
        }
        if self.database.rule.as_ref().is_some_and(|rule| rule.primary == id) {
            return Err(Refusal::HoldsPrimary(id));
        }
        if let Some(record) = self.nodes.remove(&id) {
            self.directory.member_left(index, &record.name);
        }
        Ok(Response::Done)
    }

    /// What is left when the other nodes are lost for ever and `me` goes on alone: they are taken out, their tokens hold no more,
    /// and the database's rule is that this node alone holds what was acknowledged. Whatever they alone had is given up. Not
    /// a command: no majority is left to agree on one. `false` when this node is not in the state; nothing is changed then.
    pub fn carry_on_alone(&mut self, me: NodeId, index: u64) -> bool {
        if !self.nodes.contains_key(&me) {
            return false;
        }
        let lost: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != me).collect();
        for id in lost {
            if let Some(record) = self.nodes.remove(&id) {
                self.directory.member_left(index, &record.name);
            }
        }
        if let Some(record) = self.nodes.get_mut(&me) {
            (record.alive, record.down_since) = (true, None);
            self.directory.member_declared(index, &record.name, true);
        }
        self.tokens = OrdMap::new();
        self.database.carry_on_alone(me);
        true
    }

    /// The database was brought back from a backup on `me`, which is the only node.
    pub fn database_restored(&mut self, me: NodeId, system_id: String, timeline: u32) {
        self.database.restored(me, system_id, timeline);
    }

    /// What a state becomes that is brought back on a new node after all nodes were lost: that node is the only one, under a number
    /// that was never used. The database begins anew, for its data were the lost nodes' own.
    pub fn bring_back(
        &mut self,
        index: u64,
        name: String,
        address: String,
        ports: NodePorts,
        at: jiff::Timestamp,
    ) -> NodeId {
        let lost: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in lost {
            if let Some(record) = self.nodes.remove(&id) {
                self.directory.member_left(index, &record.name);
            }
        }
        self.tokens = OrdMap::new();
        self.database = DatabaseState::default();
        self.add_node(index, name, address, ports, at)
    }

    fn check_token(&self, id: &TokenId, secret_hash: &str, at: jiff::Timestamp) -> Result<(), Refusal> {
        let token = self.tokens.get(id).ok_or_else(|| Refusal::UnknownToken(id.0.clone()))?;
        if token.secret_hash != secret_hash {
            return Err(Refusal::WrongSecret(id.0.clone()));
        }
        if token.expires_at <= at {
            return Err(Refusal::ExpiredToken(id.0.clone(), token.expires_at));
        }
        Ok(())
    }

    fn add_node(&mut self, index: u64, name: String, address: String, ports: NodePorts, at: jiff::Timestamp) -> NodeId {
        self.last_node_id += 1;
        let id = NodeId(self.last_node_id);
        let record = NodeRecord {
            id,
            name,
            address,
            ports,
            joined_at: at,
            alive: true,
            down_since: None,
        };
        self.directory.member_joined(index, &record);
        self.nodes.insert(id, record);
        id
    }
}

fn clone_pair<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(request: u128, after: u64, value: u64) -> Proposal {
        let command = Command::PutSetting {
            key: "key".into(),
            value: value.into(),
        };
        Proposal {
            after: Some(after),
            ..Proposal::new(
                RequestId(uuid::Uuid::from_u128(request)),
                jiff::Timestamp::UNIX_EPOCH,
                command,
            )
        }
    }

    #[test]
    fn a_restored_database_begins_a_rule_of_its_own() {
        let mut state = ClusterState::default();
        state.database.last_epoch = 9;
        state.database.last_timeline = 6;
        state.database_restored(NodeId(4), "77".into(), 8);
        let rule = state.database.rule.clone().unwrap();
        assert_eq!((rule.epoch, rule.primary, rule.timeline), (10, NodeId(4), 8));
        assert_eq!((state.database.last_epoch, state.database.last_timeline), (10, 8));
        assert_eq!(state.database.system_id.as_deref(), Some("77"));
    }

    #[test]
    fn a_repetition_changes_nothing_however_late_it_comes() {
        let mut state = ClusterState::default();
        let window = REMEMBERED_REQUESTS as u64;
        assert_eq!(state.apply(1, put(1, 0, 100)), Response::Done);
        assert_eq!(state.apply(2, put(2, 0, 200)), Response::Done);
        assert_eq!(state.apply(3, put(1, 0, 100)), Response::Done);
        assert_eq!(
            state.settings()["key"],
            200,
            "a remembered request is answered, not repeated"
        );
        for index in 4..=window + 10 {
            state.apply(index, put(u128::from(index), index - 1, 300));
        }
        let late = state.apply(window + 11, put(1, 0, 100));
        assert_eq!(late, Response::Refused(Refusal::TooLate));
        assert_eq!(state.settings()["key"], 300);
        assert_eq!(
            state.apply(window + 12, put(9, 12, 400)),
            Response::Done,
            "the window is whole"
        );
    }
}
