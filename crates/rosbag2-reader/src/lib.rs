//! Reading rosbag2 recordings without ROS: MCAP and sqlite3, plain and compressed.
//!
//! The way of a message: a storage file ([`mcap_file`], [`sqlite_file`]) yields raw payloads,
//! [`reader`] puts the files of a split bag in a row and the messages of a short window in log
//! order, [`cdr`] and [`messages`] turn a payload into a ROS message, and [`align`] says which
//! recorded action belongs to which image.
//!
//! ```no_run
//! # fn main() -> Result<(), crate::BagError> {
//! use crate::{Bag, Selection, messages};
//!
//! let bag = Bag::open("episode_0")?;
//! let topic = bag.topic_of_type("/camera/image", &[messages::IMAGE])?;
//! let mut stream = bag.messages(&Selection::topics([topic.index]))?;
//! for message in &mut stream {
//!     let message = message?;
//!     let image: messages::Image = messages::decode(&message, topic)?;
//!     println!("{} x {}", image.width, image.height);
//! }
//! for warning in stream.warnings() {
//!     eprintln!("{warning}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Bounds
//! Every length that a file states is compared with [`Limits`] before memory is reserved for it. A
//! bag of any size is read in the memory of one storage chunk's record, one reorder window and one
//! message.
//!
//! # Damage
//! What a recorder leaves behind when it dies (a missing footer, a half chunk) is read as far as it
//! goes and named in a
//! [`BagWarning`]. What no recorder writes (a checksum that does not hold, a length that does not fit) is a
//! [`BagError`]; the messages before it have been delivered.

pub mod align;
pub mod cdr;
mod discover;
mod error;
#[doc(hidden)]
pub mod fuzz_entry;
mod limits;
mod mcap_file;
pub mod messages;
mod metadata;
mod order;
mod reader;
mod sqlite_file;
mod unpack;

pub use discover::{Bag, FileState, Topic};
pub use error::{BagError, BagWarning};
pub use limits::Limits;
pub use reader::{Message, Messages, Selection};
