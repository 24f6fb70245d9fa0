//! Follows what may change outside of the process: mounted Secrets.

use std::time::Duration;

/// Reads something again and again and hands on each new value. What cannot be read, or is not taken up, is said once, and the last
/// good value goes on. Never ends.
pub async fn follow<T: PartialEq>(
    every: Duration,
    mut last: T,
    read: impl Fn() -> Result<T, String>,
    mut take_up: impl FnMut(&T) -> Result<(), String>,
) {
    let mut complained = String::new();
    loop {
        tokio::time::sleep(every).await;
        let outcome = match read() {
            Ok(new) if new == last => Ok(()),
            Ok(new) => take_up(&new).map(|()| last = new),
            Err(reason) => Err(reason),
        };
        match outcome {
            Ok(()) => complained.clear(),
            // Once for each new reason, not every few seconds.
            Err(reason) if reason != complained => {
                tracing::warn!(reason, "what has changed is not taken up; what was read before goes on being used");
                complained = reason;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn each_new_value_is_handed_on_once_and_an_unreadable_one_never() {
        let values = [Ok(1), Ok(1), Err("gone".to_owned()), Ok(2), Ok(2), Ok(1)];
        let next = AtomicUsize::new(0);
        let read = || values[next.fetch_add(1, Ordering::Relaxed).min(values.len() - 1)].clone();
        let (sender, mut seen) = mpsc::unbounded_channel();
        let following = follow(Duration::from_millis(1), 0, read, move |new: &i32| sender.send(*new).map_err(|e| e.to_string()));
        let heard = async { [seen.recv().await, seen.recv().await, seen.recv().await] };
        tokio::select! {
            () = following => {}
            heard = heard => assert_eq!(heard, [Some(1), Some(2), Some(1)]),
        }
    }
}
