//! Keys, sessions and the service catalog: what Consul's clients see of the state (spec/consul-api.md).
//!
//! The three belong together because they act on one another within one command: a check that turns critical ends
//! sessions, a session that ends lets go of its keys, a node that leaves takes services, checks and sessions along.
//!
//! Invariants: a key is held by one session at most, and by none that has ended; a key's lock index grows with each new
//! holder; a transaction changes everything that it names under one index, or nothing; indexes never fall.

mod apply;
mod checks;
mod command;
mod delays;
mod kv;
mod services;
mod sessions;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use checks::{
    Check, CheckDefinition, CheckKind, CheckSpec, CheckStatus, OUTPUT_BYTES_MAX, SERF_HEALTH, cut_output,
};
pub use command::{
    DirectoryAnswer, DirectoryCommand, DirectoryRefusal, KvOp, KvWrite, NewSession, Registration, TxnError, TxnRow,
};
pub use delays::{LockDelay, LockDelays};
pub use kv::{Kv, KvEntry};
pub use services::{CatalogNode, NodeSpec, Service, ServiceAddress, ServiceEntry, ServiceSpec, Services};
pub use sessions::{Behavior, Session, SessionId, Sessions, Ttl};
pub use value::Value;

use crate::{NodeId, NodeRecord};

/// The name, and id, of the service that every member has.
pub const CONSUL_SERVICE: &str = "consul";

/// The directory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Directory {
    kv: Kv,
    sessions: Sessions,
    delays: LockDelays,
    services: Services,
}

impl Directory {
    /// Keys and values.
    pub fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Keys that nobody may acquire yet.
    pub fn delays(&self) -> &LockDelays {
        &self.delays
    }

    /// Nodes, services and checks.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Applies one command, which is the log's entry `index`.
    ///
    /// # Errors
    /// When the command does not fit; nothing is changed then.
    pub fn apply(&mut self, index: u64, command: DirectoryCommand) -> Result<DirectoryAnswer, DirectoryRefusal> {
        match command {
            DirectoryCommand::Kv(operation) => return self.apply_kv(index, &operation),
            DirectoryCommand::Txn(operations) => return Ok(self.apply_txn(index, &operations)),
            DirectoryCommand::CreateSession(new) => self.create_session(index, new)?,
            DirectoryCommand::EndSessions(ids) => ids.into_iter().for_each(|id| self.end_session(index, id)),
            DirectoryCommand::EndSessionsOfDead { node } => self.end_sessions_of_dead(index, &node),
            DirectoryCommand::EndLockDelays(numbers) => numbers.into_iter().for_each(|number| self.delays.end(number)),
            DirectoryCommand::Register(registration) => self.register(index, *registration)?,
            DirectoryCommand::Deregister { node, service, check } => {
                self.deregister(index, &node, service.as_deref(), check.as_deref())?;
            }
            DirectoryCommand::DeregisterCritical { node, check, since } => {
                self.deregister_critical(index, &node, &check, since)?;
            }
            DirectoryCommand::UpdateCheck {
                node,
                check,
                status,
                output,
            } => {
                let turned = self.services.update_check(index, &node, &check, status, output);
                self.end_sessions_of(index, turned);
            }
            DirectoryCommand::Restore(entries) => self.apply_restore(index, entries),
        }
        Ok(DirectoryAnswer::Done)
    }

    fn create_session(&mut self, index: u64, new: NewSession) -> Result<(), DirectoryRefusal> {
        let node = self.services.node(&new.node).ok_or(DirectoryRefusal::UnknownNode)?;
        for id in new.node_checks.iter().chain(&new.service_checks) {
            let check = node
                .checks
                .get(id.as_str())
                .ok_or_else(|| DirectoryRefusal::UnknownCheck(id.clone()))?;
            if check.status == CheckStatus::Critical {
                return Err(DirectoryRefusal::CriticalCheck(id.clone()));
            }
        }
        let session = Session {
            id: new.id,
            name: new.name,
            node: Arc::clone(&node.name),
            lock_delay_ns: new.lock_delay_ns,
            behavior: new.behavior,
            ttl: new.ttl,
            node_checks: new.node_checks,
            service_checks: new.service_checks,
            create_index: index,
            modify_index: index,
        };
        self.sessions.insert(index, session);
        Ok(())
    }

    fn end_session(&mut self, index: u64, id: SessionId) {
        let Some(session) = self.sessions.remove(index, &id) else {
            return;
        };
        let keys = self.kv.release_all(index, id, session.behavior);
        self.delays.begin(session.lock_delay_ns, keys);
    }

    /// Ends the sessions that depend on the check. That a member's manager is silent is no proof of its clients' death:
    /// a restart of it ends no session, longer silence does, by a command of its own.
    fn end_sessions_of(&mut self, index: u64, turned: Option<services::TurnedCritical>) {
        let Some(turned) = turned.filter(|turned| &*turned.check != SERF_HEALTH) else {
            return;
        };
        for id in self.sessions.ended_by(&turned.node, Some(&turned.check)) {
            self.end_session(index, id);
        }
    }

    fn end_sessions_of_dead(&mut self, index: u64, node: &str) {
        let health = self.services.node(node).and_then(|node| node.checks.get(SERF_HEALTH));
        if health.is_some_and(|check| check.status == CheckStatus::Critical) {
            for id in self.sessions.ended_by(node, Some(SERF_HEALTH)) {
                self.end_session(index, id);
            }
        }
    }

    fn register(&mut self, index: u64, registration: Registration) -> Result<(), DirectoryRefusal> {
        let Registration {
            node,
            facts,
            service,
            checks,
            replace_checks,
        } = registration;
        let known = self.services.node(&node);
        if known.is_none() && facts.is_none() {
            return Err(DirectoryRefusal::UnknownNode);
        }
        let new_service = service.as_ref().map(|service| service.id.clone());
        for check in &checks {
            if let Some(id) = &check.service_id {
                let there = known.is_some_and(|node| node.services.contains_key(id.as_str()));
                if !there && new_service.as_ref() != Some(id) {
                    return Err(DirectoryRefusal::UnknownService(id.clone()));
                }
            }
        }
        let is_member = known.is_some_and(|node| node.member.is_some());
        if is_member && checks.iter().any(|check| check.id == SERF_HEALTH) {
            return Err(DirectoryRefusal::OfMember(SERF_HEALTH.into()));
        }
        if is_member && new_service.as_deref() == Some(CONSUL_SERVICE) {
            return Err(DirectoryRefusal::OfMember(CONSUL_SERVICE.into()));
        }
        if let Some(facts) = facts.filter(|_| !is_member) {
            self.services.put_node(index, &node, facts, None);
        }
        if let Some(service) = service {
            self.services.put_service(index, &node, service);
        }
        if let Some(id) = new_service.filter(|_| replace_checks) {
            let kept = |own: &str| checks.iter().any(|check| check.id == own);
            let old = self
                .services
                .node(&node)
                .into_iter()
                .flat_map(|node| node.checks.values());
            let others: Vec<_> = old
                .filter(|check| check.service_id.as_deref() == Some(id.as_str()) && !kept(&check.id))
                .map(|check| Arc::clone(&check.id))
                .collect();
            for other in others {
                self.remove_check(index, &node, &other);
            }
        }
        for check in checks {
            let turned = self.services.put_check(index, &node, check);
            self.end_sessions_of(index, turned);
        }
        Ok(())
    }

    fn deregister(
        &mut self,
        index: u64,
        node: &str,
        service: Option<&str>,
        check: Option<&str>,
    ) -> Result<(), DirectoryRefusal> {
        let is_member = self.services.node(node).is_some_and(|node| node.member.is_some());
        let own = [service, check, (service.is_none() && check.is_none()).then_some(node)];
        let own = own.into_iter().flatten();
        if let Some(own) = own
            .filter(|own| [CONSUL_SERVICE, SERF_HEALTH, node].contains(own))
            .find(|_| is_member)
        {
            return Err(DirectoryRefusal::OfMember(own.into()));
        }
        match (service, check) {
            (None, None) => self.remove_node(index, node),
            (Some(service), _) => self.remove_service(index, node, service),
            (None, Some(check)) => self.remove_check(index, node, check),
        }
        Ok(())
    }

    fn deregister_critical(&mut self, index: u64, node: &str, id: &str, since: u64) -> Result<(), DirectoryRefusal> {
        let check = self.services.node(node).and_then(|node| node.checks.get(id));
        let still = check.filter(|check| check.status == CheckStatus::Critical && check.status_index == since);
        match still.and_then(|check| check.service_id.clone()) {
            Some(service) => self.deregister(index, node, Some(&service), None),
            None => Ok(()),
        }
    }

    fn remove_node(&mut self, index: u64, node: &str) {
        self.services.remove_node(index, node);
        for id in self.sessions.ended_by(node, None) {
            self.end_session(index, id);
        }
    }

    /// A check that is gone vouches for nobody.
    fn remove_check(&mut self, index: u64, node: &str, check: &str) {
        if self.services.remove_check(index, node, check) {
            for id in self.sessions.ended_by(node, Some(check)) {
                self.end_session(index, id);
            }
        }
    }

    fn remove_service(&mut self, index: u64, node: &str, service: &str) {
        let checks = self
            .services
            .node(node)
            .into_iter()
            .flat_map(|node| node.checks.values());
        let own: Vec<Arc<str>> = checks
            .filter(|check| check.service_id.as_deref() == Some(service))
            .map(|check| Arc::clone(&check.id))
            .collect();
        for check in own {
            self.remove_check(index, node, &check);
        }
        self.services.remove_service(index, node, service);
    }

    pub(crate) fn member_joined(&mut self, index: u64, record: &NodeRecord) {
        let addresses = ["lan", "lan_ipv4", "wan", "wan_ipv4"];
        let facts = NodeSpec {
            id: member_uuid(record.id),
            address: record.address.clone(),
            tagged_addresses: addresses.map(|name| (name.to_owned(), record.address.clone())).into(),
            meta: [("consul-network-segment".to_owned(), String::new())].into(),
        };
        self.services.put_node(index, &record.name, facts, Some(record.id));
        let service = ServiceSpec {
            id: CONSUL_SERVICE.into(),
            name: CONSUL_SERVICE.into(),
            port: record.ports.peer,
            weights: (1, 1),
            ..ServiceSpec::default()
        };
        self.services.put_service(index, &record.name, service);
        let check = CheckSpec {
            id: SERF_HEALTH.into(),
            name: "Serf Health Status".into(),
            notes: String::new(),
            status: Some(CheckStatus::Passing),
            output: "Agent alive and reachable".into(),
            service_id: None,
            definition: CheckDefinition::default(),
        };
        self.services.put_check(index, &record.name, check);
    }

    pub(crate) fn member_left(&mut self, index: u64, name: &str) {
        self.remove_node(index, name);
    }

    pub(crate) fn member_declared(&mut self, index: u64, name: &str, alive: bool) {
        let (status, output) = if alive {
            (CheckStatus::Passing, "Agent alive and reachable")
        } else {
            (CheckStatus::Critical, "Agent not live or unreachable")
        };
        self.services
            .update_check(index, name, SERF_HEALTH, status, output.into());
    }
}

/// A member's number in the form that Consul's clients expect of a node's id.
pub fn member_uuid(id: NodeId) -> String {
    uuid::Uuid::from_u64_pair(0x4000, 0x8000_0000_0000_0000 | id.0).to_string()
}
