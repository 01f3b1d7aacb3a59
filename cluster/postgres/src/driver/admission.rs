//! Who is let in to this node's server as a client, while it is about to be closed as planned.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::watch;

/// Counts the clients that come through the network layer. The server itself does not show those that are still logging in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    admitted: AtomicI64,
    closing: watch::Sender<bool>,
}

/// A client that was let in; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    inner: Arc<Inner>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.inner.admitted.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Admission {
    /// Lets a client in, unless the server is about to be closed: it comes again in a moment, here or where the primary is then.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        // Counted first: whoever sees that nobody is in after it has begun to close may rely on it.
        self.inner.admitted.fetch_add(1, Ordering::SeqCst);
        let admitted = Admitted {
            inner: Arc::clone(&self.inner),
        };
        (!*self.inner.closing.borrow()).then_some(admitted)
    }

    /// Lets nobody in from now on, or anybody again.
    pub(crate) fn set_closing(&self, closing: bool) {
        let changed = |old: &mut bool| std::mem::replace(old, closing) != closing;
        self.inner.closing.send_if_modified(changed);
    }

    /// Whether nobody is let in: whoever is in leaves then, as soon as he has finished.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.inner.closing.subscribe()
    }

    /// How many are in.
    pub(crate) fn admitted(&self) -> i64 {
        self.inner.admitted.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_comes_in_while_it_closes_and_everybody_is_counted() {
        let admission = Admission::default();
        let first = admission.admit();
        assert!(first.is_some());
        admission.set_closing(true);
        assert!(admission.admit().is_none());
        assert_eq!(admission.admitted(), 1);
        drop(first);
        assert_eq!(admission.admitted(), 0);
        admission.set_closing(false);
        assert!(admission.admit().is_some());
    }
}
