//! A blob as a stream that is read, though the store writes it: for content that is not held in memory.
//!
//! The digest is checked at the end, so a reader that stops at the first error has a damaged message only in part, and must
//! not keep it; targets give a file its name after its last byte.

use crossbeam_channel::{Receiver, bounded};
use mailstrata_engine::{Error, View};
use mailstrata_format::Digest;
use std::io::{self, Read};

/// Hands a blob to `use_it` as a stream; a thread of its own reads and verifies. The store's error, when that is why the
/// stream failed, comes beside the outcome.
pub(super) fn with_content<R>(
    view: &View,
    digest: &Digest,
    use_it: &mut dyn FnMut(&mut dyn Read) -> R,
) -> (R, Option<Error>) {
    std::thread::scope(|scope| {
        let (send, receive) = bounded::<Result<Vec<u8>, Error>>(4);
        scope.spawn(move || {
            // A receiver that is gone wants no more: then there is nobody to tell of an error either.
            let gone = |_| Error::Closed;
            if let Err(error) = view.read_blob(digest, &mut |bytes| send.send(Ok(bytes.to_vec())).map_err(gone)) {
                let _ = send.send(Err(error));
            }
        });
        let mut pieces = Pieces { receive, piece: Vec::new(), at: 0, failed: None };
        (use_it(&mut pieces), pieces.failed.take())
    })
}

struct Pieces {
    receive: Receiver<Result<Vec<u8>, Error>>,
    piece: Vec<u8>,
    at: usize,
    failed: Option<Error>,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.piece.get(self.at..).unwrap_or_default();
            if !rest.is_empty() {
                let n = rest.len().min(buf.len());
                for (to, from) in buf.iter_mut().zip(rest) {
                    *to = *from;
                }
                self.at += n;
                return Ok(n);
            }
            match self.receive.recv() {
                Ok(Ok(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Err(error)) => {
                    self.failed = Some(error.clone());
                    return Err(io::Error::other(error));
                }
                Err(_) => return if let Some(e) = &self.failed { Err(io::Error::other(e.clone())) } else { Ok(0) },
            }
        }
    }
}
