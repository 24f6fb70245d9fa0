//! A stream whose other end must take what is written to it.
//!
//! The kernel's own bound, TCP_USER_TIMEOUT, would not do: it is reached between two probes of a closed window, which lie ever further apart,
//! by older kernels not at all while the probes are answered, and neither `std` nor a laptop that is no Linux has it.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Ends in [`ErrorKind::TimedOut`] when nothing of what waits to be written is taken for `within`. Whoever takes some has as long again.
pub(super) struct TakenWithin<S> {
    stream: S,
    within: Duration,
    /// Made when somebody is waited for the first time: most never are.
    patience: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<S> TakenWithin<S> {
    pub fn new(stream: S, within: Duration) -> TakenWithin<S> {
        TakenWithin { stream, within, patience: None, waiting: false }
    }

    fn judged<T>(&mut self, context: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.waiting = false;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(self.within)));
        if !self.waiting {
            self.waiting = true;
            patience.as_mut().reset(Instant::now() + self.within);
        }
        patience.as_mut().poll(context).map(|()| Err(Error::new(ErrorKind::TimedOut, "nothing of the answer was taken")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TakenWithin<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TakenWithin<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judged(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.judged(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judged(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judged(context, shut)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    const WITHIN: Duration = Duration::from_secs(20);
    const ANSWER: &[u8] = &[7; 1000];

    /// There is room for a hundred bytes between the two.
    fn stream() -> (TakenWithin<DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(100);
        (TakenWithin::new(ours, WITHIN), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_given_up_when_the_time_is_over() {
        let (mut ours, _theirs) = stream();
        let began = Instant::now();
        let ended = ours.write_all(ANSWER).await.expect_err("nobody reads");
        assert_eq!(ended.kind(), ErrorKind::TimedOut);
        assert!((WITHIN..WITHIN * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_it_slowly_but_steadily_is_served_whole() {
        let (mut ours, mut theirs) = stream();
        let began = Instant::now();
        let writing = tokio::spawn(async move { ours.write_all(ANSWER).await });
        let mut taken = 0;
        while taken < ANSWER.len() {
            tokio::time::sleep(WITHIN / 2).await;
            taken += theirs.read(&mut [0; 50]).await.unwrap();
        }
        writing.await.unwrap().unwrap();
        assert!(began.elapsed() > WITHIN * 5, "it is no total that is bounded: {:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_taken_all_may_rest_for_long_before_the_next_answer() {
        let (mut ours, mut theirs) = stream();
        for _ in 0..3 {
            let mut taken = [0; 1000];
            let (written, read) = tokio::join!(ours.write_all(ANSWER), theirs.read_exact(&mut taken));
            written.unwrap();
            assert_eq!(read.unwrap(), ANSWER.len());
            tokio::time::sleep(WITHIN * 3).await;
        }
    }
}
