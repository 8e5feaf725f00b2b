//! Waiting for a model that another clip has.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use leoma_models::{Error, Result};

/// Between two looks at whether it is free.
const LOOK: Duration = Duration::from_millis(20);

/// What the lock guards, once it is free. Every waiting clip keeps its frames in memory, so nobody waits for longer
/// than `go_on` says: else clips pile up behind one that overruns its deadline.
///
/// # Errors
/// [`Error::Cancelled`] when the time is over first.
pub(super) fn wait<'a, T>(
    lock: &'a Mutex<T>,
    go_on: &dyn Fn() -> bool,
) -> Result<MutexGuard<'a, T>> {
    loop {
        match lock.try_lock() {
            Ok(guard) => return Ok(guard),
            // A judge that broke down in the middle left nothing behind in the model: it is only read.
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if !go_on() => return Err(Error::Cancelled),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;

    #[test]
    fn nobody_waits_for_longer_than_there_is_time() {
        let lock = Mutex::new(7);
        assert_eq!(*wait(&lock, &|| false).unwrap(), 7, "it is free");
        let taken = lock.lock().unwrap();
        let start = Instant::now();
        let patient = || start.elapsed() < Duration::from_millis(50);
        assert!(matches!(wait(&lock, &patient), Err(Error::Cancelled)));
        drop(taken);
        assert_eq!(*wait(&lock, &patient).unwrap(), 7);
    }

    #[test]
    fn a_judge_that_broke_down_keeps_nobody_out() {
        let lock = Mutex::new(7);
        std::thread::scope(|scope| {
            let broken = scope.spawn(|| {
                let _guard = lock.lock().unwrap();
                panic!("on purpose");
            });
            assert!(broken.join().is_err());
        });
        assert!(lock.is_poisoned());
        assert_eq!(*wait(&lock, &|| false).unwrap(), 7);
    }
}
