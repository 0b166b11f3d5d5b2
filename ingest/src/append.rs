//! The side of the log that this tier needs, small enough that a test can make it fail.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use eventlog::{Appended, Error, Log, PartitionId};

/// Resolves when the records are durable, or have failed.
pub type Appending = Pin<Box<dyn Future<Output = Result<Appended, Error>> + Send>>;

/// Takes records for partitions. The embedded log does; a replicated one would.
pub trait Append: Send + Sync + 'static {
    /// How many partitions there are.
    fn partitions(&self) -> u16;

    /// Ingest time of the newest block of a partition, microseconds UTC.
    fn last_ingest_time(&self, partition: u16) -> Option<i64>;

    /// Queues records without waiting.
    ///
    /// **Errors**: [`Error::QueueFull`] if there is no room now; the other errors mean that nothing
    /// of it will be stored.
    fn try_append(&self, partition: u16, records: Vec<Bytes>) -> Result<Appending, Error>;
}

impl Append for Log {
    fn partitions(&self) -> u16 {
        Log::partitions(self)
    }

    fn last_ingest_time(&self, partition: u16) -> Option<i64> {
        Log::last_ingest_time(self, PartitionId(partition))
    }

    fn try_append(&self, partition: u16, records: Vec<Bytes>) -> Result<Appending, Error> {
        Ok(Box::pin(Log::try_append(
            self,
            PartitionId(partition),
            records,
        )?))
    }
}

/// Whether the same append may succeed later without anybody touching the program.
pub(crate) fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Full { .. } | Error::Io { .. } | Error::QueueFull { .. }
    )
}

/// One sentence about a failed append, with its cause.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
