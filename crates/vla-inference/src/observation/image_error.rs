//! Why images are refused, in words for the place where they were found.

use super::{MAX_COMPRESSED_BYTES, MAX_SIDE, Size};

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// An encoding of `sensor_msgs/image_encodings.hpp` that is not handled.
    #[error(
        "image encoding '{0}' is not read; read are those of 8 bits: rgb8, bgr8, rgba8, bgra8, \
        mono8, uyvy, yuyv, nv12, nv21, nv24 and bayer_*8"
    )]
    Encoding(String),
    /// No pixels, or more than [`MAX_SIDE`] in a direction.
    #[error(
        "image of {width} x {height} pixels; between 1 and {MAX_SIDE} in each direction are \
        accepted"
    )]
    Side {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
    },
    /// A Bayer pattern without a pixel that has neighbours on all sides.
    #[error("Bayer image of {width} x {height} pixels; at least 3 in each direction are needed")]
    BayerSide {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
    },
    /// Rows that are shorter than their pixels.
    #[error("image rows have step {step} but {width} pixels of {encoding} take {needed} bytes")]
    Step {
        /// Bytes between rows, as sent.
        step: usize,
        /// Pixels of a row.
        width: usize,
        /// Encoding, as sent.
        encoding: &'static str,
        /// Bytes a row needs.
        needed: usize,
    },
    /// Fewer or more bytes than the rows take.
    #[error("image data has {bytes} bytes but {height} rows of step {step} take {needed}")]
    Bytes {
        /// Bytes sent.
        bytes: usize,
        /// Rows.
        height: usize,
        /// Bytes between rows.
        step: usize,
        /// Bytes the rows take.
        needed: usize,
    },
    /// A compressed image that does not decode.
    #[error("{format} image of {bytes} bytes does not decode: {reason}")]
    Compressed {
        /// Format as recognised.
        format: &'static str,
        /// Bytes given.
        bytes: usize,
        /// The decoder's message.
        reason: String,
    },
    /// A compressed image of which a part is missing.
    #[error("{format} image of {bytes} bytes is incomplete: {reason}")]
    Incomplete {
        /// Format as recognised.
        format: &'static str,
        /// Bytes given.
        bytes: usize,
        /// What is missing.
        reason: String,
    },
    /// A compressed image that needs more memory than the decoder may take.
    #[error(
        "{format} image of {bytes} bytes is too large: at most {MAX_SIDE} pixels in each \
        direction are read"
    )]
    Limits {
        /// Format as recognised.
        format: &'static str,
        /// Bytes given.
        bytes: usize,
    },
    /// A compressed image that is neither JPEG nor PNG.
    #[error("compressed image of {bytes} bytes is neither JPEG nor PNG (found: {found})")]
    Format {
        /// Bytes given.
        bytes: usize,
        /// What they look like.
        found: &'static str,
    },
    /// More compressed bytes than any sensible camera sends.
    #[error("compressed image of {0} bytes; at most {MAX_COMPRESSED_BYTES} are read")]
    TooLarge(usize),
    /// Distances, not brightness.
    #[error("this is a depth image, not a picture: {0}")]
    Depth(String),
    /// Frames that depend on the frames before.
    #[error("format '{0}' is a video, whose frames cannot be decoded one by one")]
    Video(String),
    /// Grey from a camera with colour: a fault of the compressing node.
    #[error(
        "the picture is grey although the camera sends '{0}': its colour was lost in compression"
    )]
    Grey(String),
    /// `INTER_AREA` to a larger size.
    #[error(
        "image of {from} pixels is smaller than {to}: the step 'area' only reduces, larger images \
        are needed"
    )]
    Enlarge {
        /// Size of the image.
        from: Size,
        /// Size it is to be reduced to.
        to: Size,
    },
    /// Nothing would be left of a side after resizing with margins.
    #[error("image of {from} pixels is too narrow: resized into {to}, a side has no pixel left")]
    TooNarrow {
        /// Size of the image.
        from: Size,
        /// Size with margins.
        to: Size,
    },
    /// Bytes were asked for where there are only floats.
    #[error(
        "the step 'torch_bilinear_pad' gives floating-point pixels; this model takes 8-bit pixels"
    )]
    FloatPixels,
    /// A file that cannot be read.
    #[error("{path}: cannot read the image: {reason}")]
    File {
        /// Path as given.
        path: String,
        /// The operating system's message.
        reason: String,
    },
}

/// Where an image was found; remedies depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File,
    /// A topic of the running system.
    Topic,
    /// A recorded topic.
    Recording,
}

impl ImageError {
    /// The error with what to do about it there.
    #[must_use]
    pub fn at(&self, place: Place) -> String {
        match self.remedy(place) {
            Some(remedy) => format!("{self}; {remedy}"),
            None => self.to_string(),
        }
    }

    /// Whether every image of this camera will be refused for the same reason.
    #[must_use]
    pub fn concerns_every_image(&self) -> bool {
        matches!(
            self,
            Self::Encoding(_)
                | Self::Format { .. }
                | Self::Side { .. }
                | Self::Limits { .. }
                | Self::Depth(_)
                | Self::Video(_)
                | Self::Grey(_)
        )
    }

    fn remedy(&self, place: Place) -> Option<&'static str> {
        let [file, topic, recording] = match self {
            Self::Encoding(_) => [
                "save it with 8 bits",
                "have the camera publish one of these",
                "evaluate another topic, or record one of these",
            ],
            Self::Side { .. } | Self::Limits { .. } | Self::TooLarge(_) => [
                "save a smaller picture",
                "have the camera publish smaller images",
                "record smaller images",
            ],
            Self::Step { .. } | Self::Bytes { .. } => [
                "save it again",
                "check the camera's driver",
                "it was recorded so: check the driver",
            ],
            Self::Compressed { .. } | Self::Incomplete { .. } => [
                "save or copy it again",
                "check the camera's driver and the network",
                "it was recorded so: check the driver and the network",
            ],
            Self::Format { .. } => [
                "save it as JPEG or PNG",
                "have the camera publish JPEG or PNG",
                "record JPEG, PNG or raw images",
            ],
            Self::Depth(_) => [
                "give the colour picture",
                "use the topic of the colour camera",
                "use the topic of the colour camera",
            ],
            Self::Video(_) => [
                "save single pictures as JPEG or PNG",
                "have it republished as raw, JPEG or PNG, or use the raw topic",
                "decode the recording to raw, JPEG or PNG images first",
            ],
            Self::Grey(_) => [
                "save it in colour",
                "use the raw topic, or have the camera publish rgb8",
                "use the raw topic, or record it again with a camera that publishes rgb8",
            ],
            Self::BayerSide { .. }
            | Self::Enlarge { .. }
            | Self::TooNarrow { .. }
            | Self::FloatPixels
            | Self::File { .. } => return None,
        };
        Some(match place {
            Place::File => file,
            Place::Topic => topic,
            Place::Recording => recording,
        })
    }
}
