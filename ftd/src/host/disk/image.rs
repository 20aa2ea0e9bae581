//! What a format has to be able to do.

use std::io;

/// An image of any format. Ranges were checked against `capacity` by the caller.
pub(super) trait Image: Send + Sync {
    /// Size as the guest sees it, in bytes.
    fn capacity(&self) -> u64;

    /// Unit of the layer below, in bytes, a power of two: a write to a part of it reads and writes
    /// the whole, so requests that meet in one unit must not run at once.
    fn granule(&self) -> u64;

    /// How many threads can usefully work on it at once.
    fn workers(&self) -> usize;

    /// Fills `buf` from `offset`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes every completed write durable.
    fn flush(&self) -> io::Result<()>;

    /// Writes nothing more, not even when dropped. Doesn't wait for what is running.
    fn abandon(&self) {}

    /// Gives a range back; [`io::ErrorKind::Unsupported`] where there is no such thing.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
}
