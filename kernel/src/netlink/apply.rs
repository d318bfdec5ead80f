//! Carries out operations: up to 256 messages in one write, one acknowledgement, errors by sequence number.

use nix::errno::Errno;

use super::socket::RequestError;
use super::{Kernel, Op, OpError, SocketError, encode};

/// More than 32 gain nothing; 256 acknowledgements, should all fail, still fit in a default receive buffer.
const BATCH: usize = 256;

impl Kernel {
    /// Carries out the operations in order and tells what became of each. One that is refused does not stop
    /// those behind it.
    ///
    /// # Errors
    ///
    /// When the exchange fails as a whole; any part may have been carried out.
    pub fn apply(&mut self, ops: &[Op]) -> Result<Vec<Result<(), OpError>>, SocketError> {
        let mut results = Vec::with_capacity(ops.len());
        for chunk in ops.chunks(BATCH) {
            self.batch.clear();
            for op in chunk {
                encode::op(&mut self.batch, op);
            }
            let answers = self.socket.send(&mut self.batch)?;
            results.extend(answers.results.into_iter().map(|result| result.map_err(OpError::from)));
        }
        Ok(results)
    }
}

impl From<RequestError> for OpError {
    fn from(error: RequestError) -> Self {
        match error.errno {
            Errno::EEXIST => Self::Exists,
            Errno::ESRCH | Errno::ENOENT => Self::Missing,
            Errno::ENODEV | Errno::ENXIO | Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EHOSTUNREACH => {
                Self::NoPath(error.to_string())
            }
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
                Self::Unsupported(error.to_string())
            }
            _ => Self::Refused(error.to_string()),
        }
    }
}
