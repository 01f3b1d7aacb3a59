//! The states of an execution and the transitions between them (spec/workflows.md, section 2).

use serde::{Deserialize, Serialize};

/// State of an execution, spelt as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionStatus {
    /// Its start lies in the future.
    Scheduled,
    /// Waits for another execution.
    Queued,
    /// Waits for a manager to take it.
    Pending,
    /// Running.
    Started,
    /// A cooperative cancel was asked for.
    Cancelling,
    /// A forced cancel was asked for.
    ForceCancelling,
    /// A kill was asked for.
    KillCancelling,
    /// Ended by a cancel.
    Cancelled,
    /// Ended by an error.
    Failed,
    /// Ended well; clients show "completed".
    Terminated,
}

/// The text names no execution status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no execution status")]
pub struct UnknownExecutionStatus(pub String);

impl ExecutionStatus {
    /// Every status.
    pub const ALL: [Self; 10] = [
        Self::Scheduled,
        Self::Queued,
        Self::Pending,
        Self::Started,
        Self::Cancelling,
        Self::ForceCancelling,
        Self::KillCancelling,
        Self::Cancelled,
        Self::Failed,
        Self::Terminated,
    ];

    /// As stored and as clients spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Pending => "pending",
            Self::Started => "started",
            Self::Cancelling => "cancelling",
            Self::ForceCancelling => "force_cancelling",
            Self::KillCancelling => "kill_cancelling",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
        }
    }

    /// Whether it has ended.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed | Self::Terminated)
    }

    /// Whether a cancel of some kind was asked for.
    pub fn is_cancelling(self) -> bool {
        matches!(self, Self::Cancelling | Self::ForceCancelling | Self::KillCancelling)
    }

    /// Whether a status update may lead from here to `next`. The cancel and resume actions have rules of their own.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            _ if self == next => true,
            Self::Cancelled | Self::Failed | Self::Terminated => false,
            Self::Cancelling | Self::ForceCancelling | Self::KillCancelling => {
                matches!(next, Self::Cancelled | Self::Failed)
            }
            Self::Scheduled | Self::Queued | Self::Pending | Self::Started => true,
        }
    }
}

impl std::fmt::Display for ExecutionStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ExecutionStatus {
    type Err = UnknownExecutionStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| UnknownExecutionStatus(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_reads_back() {
        for status in ExecutionStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert!("running".parse::<ExecutionStatus>().is_err());
    }

    #[test]
    fn ends_are_final_and_a_cancelled_run_cannot_succeed() {
        for end in ExecutionStatus::ALL.into_iter().filter(|status| status.is_end()) {
            for next in ExecutionStatus::ALL {
                assert_eq!(end.may_become(next), end == next);
            }
        }
        assert!(!ExecutionStatus::Cancelling.may_become(ExecutionStatus::Terminated));
        assert!(ExecutionStatus::Cancelling.may_become(ExecutionStatus::Failed));
        assert!(ExecutionStatus::Pending.may_become(ExecutionStatus::Started));
    }
}
