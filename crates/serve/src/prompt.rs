//! A socket whose peer has to read: a write that gets nowhere for too long ends the connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A socket, and how long a write may wait for its peer.
pub struct Prompt<S> {
    socket: S,
    patience: Duration,
    /// Until when, while one waits.
    late: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Prompt<S> {
    pub fn new(socket: S, patience: Duration) -> Self {
        Self { socket, patience, late: Box::pin(sleep(patience)), waits: false }
    }

    /// What a write came to: every one that ends gives the next the whole of the time.
    fn within<T>(&mut self, done: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.waits = false;
            return done;
        }
        if !self.waits {
            self.late.as_mut().reset(Instant::now() + self.patience);
            self.waits = true;
        }
        ready!(self.late.as_mut().poll(context));
        self.waits = false;
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.socket).poll_write(context, bytes);
        this.within(done, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.socket).poll_write_vectored(context, parts);
        this.within(done, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.socket).poll_flush(context);
        this.within(done, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[test]
    fn who_reads_nothing_is_let_go_and_who_reads_slowly_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (ours, mut theirs) = duplex(1000);
            let mut socket = Prompt::new(ours, Duration::from_millis(100));
            socket.write_all(&[0; 1000]).await.unwrap();
            assert_eq!(socket.write_all(&[0; 1]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let slow = async {
                for _ in 0..10 {
                    sleep(Duration::from_millis(30)).await;
                    theirs.read_exact(&mut [0; 200]).await.unwrap();
                }
            };
            // Longer in all than one write may wait.
            let (written, ()) = tokio::join!(socket.write_all(&[0; 2000]), slow);
            written.unwrap();
        });
    }
}
