//! Questions to the record that several callers have at the same time, asked once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conclave_store::StoreError;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

type Answer<T> = Result<T, StoreError>;
type Round<T> = Shared<BoxFuture<'static, Answer<T>>>;

/// The answers, by what is asked about.
///
/// Invariant: nobody gets the answer to a question that was put before he came, so that what is changed or deleted counts for every
/// request that comes later. Whoever comes while a question is under way waits for the next one, with all who come until it is put.
pub(crate) struct Together<T: Clone> {
    patience: Duration,
    asked: Mutex<HashMap<String, Asked<T>>>,
}

struct Asked<T: Clone> {
    running: Round<T>,
    /// It is put when `running` is over.
    next: Option<Round<T>>,
    /// Those who wait for one of them.
    callers: usize,
}

/// One who waits.
struct Caller<'a, T: Clone> {
    together: &'a Together<T>,
    key: &'a str,
}

impl<T: Clone> Drop for Caller<'_, T> {
    fn drop(&mut self) {
        let mut asked = self.together.lock();
        if let Some(of_key) = asked.get_mut(self.key) {
            of_key.callers = of_key.callers.saturating_sub(1);
            // Also when they have given up: nothing is kept of what strangers ask about.
            if of_key.callers == 0 {
                asked.remove(self.key);
            }
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Together<T> {
    /// Each caller waits for `patience` at most.
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            asked: Mutex::default(),
        }
    }

    /// The answer about `key`. Cancellation-safe.
    ///
    /// # Errors
    /// What `question` says, and [`StoreError::Unavailable`] when the patience is over.
    pub(crate) async fn ask<F>(&self, key: &str, question: impl FnOnce() -> F + Send + 'static) -> Answer<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let round = self.join(key, question);
        let _caller = Caller { together: self, key };
        let late = |_| StoreError::Unavailable("no answer in time".into());
        tokio::time::timeout(self.patience, round).await.map_err(late)?
    }

    fn join<F>(&self, key: &str, question: impl FnOnce() -> F + Send + 'static) -> Round<T>
    where
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let put = async move { question().await };
        let mut asked = self.lock();
        let Some(of_key) = asked.get_mut(key) else {
            let first = Asked {
                running: put.boxed().shared(),
                next: None,
                callers: 1,
            };
            let running = first.running.clone();
            asked.insert(key.to_owned(), first);
            return running;
        };
        of_key.callers += 1;
        // When the running one is over the next may have been put already.
        if of_key.running.peek().is_some()
            && let Some(next) = of_key.next.take()
        {
            of_key.running = next;
        }
        let before = of_key.running.clone();
        let next = of_key.next.get_or_insert_with(|| {
            let in_turn = async move {
                // Whoever has put it is told how it went.
                let _over = before.await;
                put.await
            };
            in_turn.boxed().shared()
        });
        next.clone()
    }
}

impl<T: Clone> Together<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Asked<T>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A record that answers with what it holds when it is asked, as often as it is let.
    #[derive(Clone)]
    struct Record {
        held: Arc<AtomicU32>,
        asked: Arc<AtomicU32>,
        let_go: Arc<Semaphore>,
    }

    impl Record {
        fn new() -> Self {
            Self {
                held: Arc::default(),
                asked: Arc::default(),
                let_go: Arc::new(Semaphore::new(0)),
            }
        }

        async fn ask(self) -> Answer<u32> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let answer = self.held.load(Ordering::SeqCst);
            self.let_go.acquire().await.unwrap().forget();
            Ok(answer)
        }
    }

    fn call(together: &Arc<Together<u32>>, record: &Record) -> tokio::task::JoinHandle<Answer<u32>> {
        let (together, record) = (Arc::clone(together), record.clone());
        #[allow(clippy::disallowed_methods, reason = "a test that ends with its runtime")]
        tokio::spawn(async move { together.ask("a", move || record.ask()).await })
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_older_than_its_caller() {
        let (together, record) = (Arc::new(Together::new(Duration::from_secs(10))), Record::new());
        let first = call(&together, &record);
        settle().await;
        record.held.store(1, Ordering::SeqCst);
        let late: Vec<_> = (0..5).map(|_| call(&together, &record)).collect();
        settle().await;
        assert_eq!(record.asked.load(Ordering::SeqCst), 1, "the others wait for the next");
        record.let_go.add_permits(1);
        assert_eq!(first.await.unwrap().unwrap(), 0);
        settle().await;
        record.held.store(2, Ordering::SeqCst);
        let later = call(&together, &record);
        settle().await;
        record.let_go.add_permits(1);
        for call in late {
            assert_eq!(call.await.unwrap().unwrap(), 1);
        }
        record.let_go.add_permits(1);
        assert_eq!(later.await.unwrap().unwrap(), 2);
        assert_eq!(record.asked.load(Ordering::SeqCst), 3);
        assert!(together.lock().is_empty(), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_leaves_nothing_behind() {
        let (together, record) = (Arc::new(Together::new(Duration::from_secs(10))), Record::new());
        let (first, second) = (call(&together, &record), call(&together, &record));
        settle().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        record.let_go.add_permits(2);
        assert_eq!(
            second.await.unwrap().unwrap(),
            0,
            "the second carries on what the first had begun"
        );
        let third = call(&together, &record);
        let refused = third.await.unwrap();
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        assert!(together.lock().is_empty());
    }
}
