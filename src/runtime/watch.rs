//! A value that others wait to see changed. As `tokio::sync::watch`, but whoever waits is woken in
//! the order in which it began to: tokio asks chance, and a simulation could not repeat what
//! happened.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

#[derive(Debug)]
struct Inner<T> {
    /// The value, and how often it was changed.
    state: Mutex<(T, u64)>,
    news: Notify,
}

impl<T> Inner<T> {
    fn state(&self) -> MutexGuard<'_, (T, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value, for those who change it.
#[derive(Debug)]
pub struct Watched<T>(Arc<Inner<T>>);

/// The value, for one who waits for changes.
#[derive(Debug)]
pub struct Watcher<T> {
    inner: Arc<Inner<T>>,
    seen: u64,
}

impl<T: Clone> Watched<T> {
    /// Begins with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new((value, 0)),
            news: Notify::new(),
        }))
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> T {
        self.0.state().0.clone()
    }

    /// Changes it and wakes everybody who waits; what it was.
    pub fn replace(&self, value: T) -> T {
        let mut state = self.0.state();
        state.1 += 1;
        let was = std::mem::replace(&mut state.0, value);
        drop(state);
        self.0.news.notify_waiters();
        was
    }

    /// One who has seen the value as it is now.
    #[must_use]
    pub fn watch(&self) -> Watcher<T> {
        let seen = self.0.state().1;
        Watcher {
            inner: Arc::clone(&self.0),
            seen,
        }
    }
}

impl<T: Clone> Watcher<T> {
    /// The value; from here on it is seen.
    pub fn get(&mut self) -> T {
        let state = self.inner.state();
        self.seen = state.1;
        state.0.clone()
    }

    /// The value, if it was not seen.
    fn news(&mut self) -> Option<T> {
        let state = self.inner.state();
        let news = state.1 != self.seen;
        self.seen = state.1;
        news.then(|| state.0.clone())
    }

    /// Waits until it is another one than the one seen last; it. Dropping the future loses nothing.
    pub async fn changed(&mut self) -> T {
        let inner = Arc::clone(&self.inner);
        loop {
            let mut news = pin!(inner.news.notified());
            // In line before the value is looked at: no change is missed.
            news.as_mut().enable();
            if let Some(value) = self.news() {
                return value;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Watched;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn a_change_before_the_wait_is_seen_and_one_that_was_seen_is_not() {
        let value = Watched::new(1);
        let mut watcher = value.watch();
        assert_eq!(value.replace(2), 1);
        assert_eq!(watcher.changed().await, 2);
        let changed =
            async { tokio::time::timeout(std::time::Duration::ZERO, watcher.changed()).await };
        assert!(changed.await.is_err());
        assert_eq!((value.get(), watcher.get()), (2, 2));
    }

    #[tokio::test]
    async fn who_waits_is_woken_in_the_order_of_waiting() {
        let value = Arc::new(Watched::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..100 {
            let (mut watcher, order) = (value.watch(), Arc::clone(&order));
            tasks.spawn(async move {
                watcher.changed().await;
                order.lock().unwrap().push(n);
            });
        }
        for _ in 0..10 {
            tokio::task::yield_now().await; // all of them wait before the change
        }
        value.replace(1);
        while tasks.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }
}
