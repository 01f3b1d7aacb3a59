//! The states of a task in a stored graph (spec/workflows.md, section 3).

use serde::{Deserialize, Serialize};

/// State of an operation, spelt as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Not ready, or not yet handed out.
    Pending,
    /// Being handed to a worker.
    Sending,
    /// Handed to a worker.
    Sent,
    /// A worker claimed it and runs it.
    Started,
    /// Failed in a way that a retry follows, under a new id.
    Rescheduled,
    /// Ended well.
    Succeeded,
    /// Ended by an error.
    Failed,
}

/// The text names no operation state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no operation state")]
pub struct UnknownOperationState(pub String);

impl OperationState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Sending,
        Self::Sent,
        Self::Started,
        Self::Rescheduled,
        Self::Succeeded,
        Self::Failed,
    ];

    /// As stored and as clients spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Started => "started",
            Self::Rescheduled => "rescheduled",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// Whether it has ended.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Rescheduled | Self::Succeeded | Self::Failed)
    }
}

impl std::fmt::Display for OperationState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for OperationState {
    type Err = UnknownOperationState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownOperationState(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for state in OperationState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
