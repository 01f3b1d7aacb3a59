//! The signal that asks tasks to end.

use tokio_util::sync::CancellationToken;

/// The side that asks for the end.
#[derive(Debug, Clone, Default)]
pub struct ShutdownTrigger {
    token: CancellationToken,
}

impl ShutdownTrigger {
    /// A trigger that has not fired.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every holder of a [`Shutdown`] of this trigger to end. Repeating it changes nothing.
    pub fn fire(&self) {
        self.token.cancel();
    }

    /// The listening side.
    pub fn signal(&self) -> Shutdown {
        Shutdown {
            token: self.token.clone(),
        }
    }
}

/// The listening side: cheap to clone, given to every task.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A signal that never comes, for tests and one-shot commands.
    pub fn never() -> Self {
        Self {
            token: CancellationToken::new(),
        }
    }

    /// Resolves when the end has been asked for. Cancellation-safe.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether the end has been asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// A trigger that fires with this signal, or on its own before it.
    pub fn child(&self) -> ShutdownTrigger {
        ShutdownTrigger {
            token: self.token.child_token(),
        }
    }

    /// Runs `work` until it is finished or the end is asked for; `None` in the second case, with `work` dropped.
    pub async fn run_until<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            output = work => Some(output),
        }
    }

    /// Waits for `duration`; `false` when the end was asked for first.
    pub async fn sleep(&self, duration: std::time::Duration) -> bool {
        self.run_until(tokio::time::sleep(duration)).await.is_some()
    }
}
