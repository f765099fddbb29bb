//! What a bag may ask of this machine.

/// Bounds on what a bag states about itself. A length above its bound is an error before memory is
/// reserved for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one storage record or message, before and after decompression. An uncompressed 4K
    /// image has 25 MB.
    pub message_bytes: usize,
    /// Bytes of `metadata.yaml`.
    pub metadata_bytes: u64,
    /// Files of a split bag.
    pub files: usize,
    /// Topics of a bag.
    pub topics: usize,
    /// Bytes of the temporary file that a zstd-compressed sqlite file is unpacked to.
    pub temporary_bytes: u64,
    /// Nanoseconds of log time within which messages are put in order.
    pub order_window_ns: i64,
    /// Bytes of messages that may wait to be put in order.
    pub order_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: 256 << 20,
            metadata_bytes: 16 << 20,
            files: 16_384,
            topics: 16_384,
            temporary_bytes: 256 << 30,
            order_window_ns: 500_000_000,
            order_bytes: 64 << 20,
        }
    }
}
