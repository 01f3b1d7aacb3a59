//! Where work that blocks is done.

use std::io;

use tokio::sync::oneshot;

/// How the group's storage does what blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offload {
    /// On threads of its own, never on a runtime worker.
    Threads,
    /// Where it is asked for: the simulator's disk does not block, and threads would make its order a matter of chance.
    #[cfg(test)]
    Inline,
}

impl Offload {
    /// Does `work` and waits for what it gives.
    pub(crate) async fn run<T, F>(self, name: &str, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        match self {
            #[cfg(test)]
            Self::Inline => work(),
            Self::Threads => {
                let (done, outcome) = oneshot::channel();
                std::thread::Builder::new().name(name.into()).spawn(move || {
                    // Nobody waits any more when the node is stopping.
                    let _stopping = done.send(work());
                })?;
                outcome
                    .await
                    .map_err(|_| io::Error::other("the thread that did the work panicked"))?
            }
        }
    }
}
