//! When a watch that broke off is taken up again.

use kube::runtime::utils::Backoff;
use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(200);
/// Whoever asks for a switch waits no longer than this once the API server is back.
const LONGEST: Duration = Duration::from_secs(5);
/// A watch that has lasted so long is a good one.
const GOOD: Duration = Duration::from_secs(30);

/// Soon at first, for each watch by itself. kube's own pauses grow to half a minute, are forgotten after two minutes only, and are one for all
/// watches of a controller, so that each of them that breaks off keeps all the others waiting longer.
pub struct Again {
    pause: Duration,
    failed: Option<Instant>,
}

/// Between two failures of several watches that have their own pauses already.
pub struct AtOnce;

impl Again {
    pub fn soon() -> Again {
        Again { pause: FIRST, failed: None }
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.failed.replace(now).is_none_or(|failed| now - failed > GOOD + self.pause) {
            self.pause = FIRST;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        Some(pause)
    }
}

impl Backoff for Again {
    /// What a watch tells is not yet a sign of health: that a list begins is told as well, whether or not it succeeds.
    fn reset(&mut self) {}
}

impl Iterator for AtOnce {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }
}

impl Backoff for AtOnce {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_watch_is_taken_up_again_soon_and_never_much_later() {
        let mut again = Again::soon();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let pause = again.next().unwrap_or_default();
            again.reset();
            pauses.push(pause.as_millis());
            advance(pause).await;
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        advance(GOOD + LONGEST).await;
        assert_eq!(again.next(), Some(FIRST));
    }
}
