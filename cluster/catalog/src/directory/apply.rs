//! How operations on keys change the directory.

use std::sync::Arc;

use super::command::{DirectoryAnswer, DirectoryRefusal, KvOp, KvWrite, TxnError, TxnRow};
use super::kv::{KvEntry, Lock};
use super::sessions::SessionId;
use super::{Directory, Value};

/// What the values in a transaction's answer may come to, in bytes: answers are remembered for repeated requests.
const TXN_ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why an operation does not do what it is for. The texts are a transaction's answer (spec/consul-api.md, section 5).
#[derive(Debug, thiserror::Error)]
pub(super) enum OpFailure {
    #[error("invalid session \"{0}\"")]
    InvalidSession(SessionId),
    #[error("failed to set key {0:?}, index is stale")]
    StaleSet(Arc<str>),
    #[error("failed to delete key {0:?}, index is stale")]
    StaleDelete(Arc<str>),
    #[error("failed to lock key {0:?}, lock is already held")]
    Held(Arc<str>),
    #[error("failed to lock key {0:?}, lock-delay holds")]
    Delayed(Arc<str>),
    #[error("failed to unlock key {0:?}, lock isn't held, or is held by another session")]
    NotHeld(Arc<str>),
    #[error("key {0:?} doesn't exist")]
    Missing(Arc<str>),
    #[error("key {0:?} exists")]
    Exists(Arc<str>),
    #[error("failed index check for key {key:?}, current modify index {found} != {expected}")]
    OtherIndex { key: Arc<str>, found: u64, expected: u64 },
    #[error("failed session check for key {key:?}, current session \"{found}\" != \"{expected}\"")]
    OtherSession {
        key: Arc<str>,
        found: String,
        expected: SessionId,
    },
    #[error("the transaction reads more than {TXN_ANSWER_BYTES_MAX} bytes")]
    TooLarge,
}

/// What an operation gives.
enum Given {
    Nothing,
    Written(Arc<KvEntry>),
    Read(Vec<Arc<KvEntry>>),
}

impl Directory {
    pub(super) fn apply_kv(&mut self, index: u64, operation: &KvOp) -> Result<DirectoryAnswer, DirectoryRefusal> {
        match self.operate(index, operation) {
            Ok(_) => Ok(DirectoryAnswer::Written(true)),
            Err(OpFailure::InvalidSession(session)) => Err(DirectoryRefusal::InvalidSession(session.to_string())),
            Err(_) => Ok(DirectoryAnswer::Written(false)),
        }
    }

    /// A transaction that changes nothing, on this state.
    ///
    /// # Errors
    /// What did not hold.
    pub fn read_txn(&self, operations: &[KvOp]) -> Result<Vec<TxnRow>, Vec<TxnError>> {
        debug_assert!(operations.iter().all(KvOp::is_read), "only reads come here");
        self.clone().run_txn(0, operations)
    }

    pub(super) fn apply_txn(&mut self, index: u64, operations: &[KvOp]) -> DirectoryAnswer {
        let mut changed = self.clone();
        let outcome = changed.run_txn(index, operations);
        if outcome.is_ok() {
            *self = changed;
        }
        DirectoryAnswer::Txn(outcome)
    }

    fn run_txn(&mut self, index: u64, operations: &[KvOp]) -> Result<Vec<TxnRow>, Vec<TxnError>> {
        let (mut rows, mut errors, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (operation, op) in operations.iter().enumerate() {
            let given = self.operate(index, op).and_then(|given| {
                if let Given::Read(entries) = &given {
                    bytes += entries.iter().map(|entry| entry.value.bytes().len()).sum::<usize>();
                }
                // A transaction of reads alone is answered by the reading node, and remembered by nobody.
                let remembered = index > 0;
                if remembered && bytes > TXN_ANSWER_BYTES_MAX {
                    return Err(OpFailure::TooLarge);
                }
                Ok(given)
            });
            match given {
                Ok(Given::Nothing) => {}
                Ok(Given::Written(entry)) => rows.push(TxnRow {
                    entry,
                    with_value: false,
                }),
                Ok(Given::Read(entries)) => rows.extend(entries.into_iter().map(|entry| TxnRow {
                    entry,
                    with_value: true,
                })),
                Err(failure) => errors.push(TxnError {
                    operation,
                    what: failure.to_string(),
                }),
            }
        }
        if errors.is_empty() { Ok(rows) } else { Err(errors) }
    }

    pub(super) fn apply_restore(&mut self, index: u64, entries: Vec<KvWrite>) {
        self.kv.delete_tree(index, "");
        for KvWrite { key, value, flags } in entries {
            self.kv.store(index, &key, value, flags, Lock::Keep);
        }
    }

    fn operate(&mut self, index: u64, operation: &KvOp) -> Result<Given, OpFailure> {
        match operation {
            KvOp::Set(write) => Ok(self.write(index, write, Lock::Keep)),
            KvOp::Cas { write, index: expected } => {
                // An absent key was last changed at 0; no key that is there was.
                if self.kv.get(&write.key).map_or(0, |entry| entry.modify_index) != *expected {
                    return Err(OpFailure::StaleSet(Arc::clone(&write.key)));
                }
                Ok(self.write(index, write, Lock::Keep))
            }
            KvOp::Lock { write, session } => self.lock(index, write, *session),
            KvOp::Unlock { write, session } => {
                if self.holder(&write.key) != Some(*session) {
                    return Err(OpFailure::NotHeld(Arc::clone(&write.key)));
                }
                Ok(self.write(index, write, Lock::Free))
            }
            KvOp::Delete { key } => {
                self.kv.delete(index, key);
                Ok(Given::Nothing)
            }
            KvOp::DeleteCas { key, index: expected } => {
                if let Some(entry) = self.kv.get(key) {
                    if entry.modify_index != *expected {
                        return Err(OpFailure::StaleDelete(Arc::clone(key)));
                    }
                    self.kv.delete(index, key);
                }
                Ok(Given::Nothing)
            }
            KvOp::DeleteTree { prefix } => {
                self.kv.delete_tree(index, prefix);
                Ok(Given::Nothing)
            }
            KvOp::Get { key } => Ok(Given::Read(vec![self.present(key)?])),
            KvOp::GetTree { prefix } => Ok(Given::Read(self.kv.list(prefix).cloned().collect())),
            KvOp::CheckIndex { key, index: expected } => {
                let entry = self.present(key)?;
                if entry.modify_index != *expected {
                    return Err(OpFailure::OtherIndex {
                        key: Arc::clone(key),
                        found: entry.modify_index,
                        expected: *expected,
                    });
                }
                Ok(Given::Written(entry))
            }
            KvOp::CheckSession { key, session } => {
                let entry = self.present(key)?;
                if entry.session != Some(*session) {
                    return Err(OpFailure::OtherSession {
                        key: Arc::clone(key),
                        found: entry.session.map(|session| session.to_string()).unwrap_or_default(),
                        expected: *session,
                    });
                }
                Ok(Given::Written(entry))
            }
            KvOp::CheckNotExists { key } => match self.kv.get(key) {
                None => Ok(Given::Nothing),
                Some(_) => Err(OpFailure::Exists(Arc::clone(key))),
            },
        }
    }

    fn lock(&mut self, index: u64, write: &KvWrite, session: SessionId) -> Result<Given, OpFailure> {
        if self.sessions.get(&session).is_none() {
            return Err(OpFailure::InvalidSession(session));
        }
        let holder = self.holder(&write.key);
        if holder.is_some_and(|holder| holder != session) {
            return Err(OpFailure::Held(Arc::clone(&write.key)));
        }
        if holder.is_none() && self.delays.holds_for(&write.key) {
            return Err(OpFailure::Delayed(Arc::clone(&write.key)));
        }
        Ok(self.write(index, write, Lock::Hold(session)))
    }

    fn holder(&self, key: &str) -> Option<SessionId> {
        self.kv.get(key).and_then(|entry| entry.session)
    }

    fn present(&self, key: &Arc<str>) -> Result<Arc<KvEntry>, OpFailure> {
        self.kv
            .get(key)
            .cloned()
            .ok_or_else(|| OpFailure::Missing(Arc::clone(key)))
    }

    fn write(&mut self, index: u64, write: &KvWrite, lock: Lock) -> Given {
        let value: Value = write.value.clone();
        self.kv.store(index, &write.key, value, write.flags, lock);
        self.kv
            .get(&write.key)
            .map_or(Given::Nothing, |entry| Given::Written(Arc::clone(entry)))
    }
}
