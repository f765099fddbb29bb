//! Limits on resources.

/// Limits on the sizes stated in a bag. A larger size is an error before memory is allocated for
/// it.
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
    /// Bytes of the temporary file for the content of a zstd-compressed sqlite file.
    pub temporary_bytes: u64,
    /// Sorting window, nanoseconds of log time.
    pub order_window_ns: i64,
    /// Bytes of messages in the sorting window.
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
