//! Reads rosbag2 recordings without ROS: MCAP and sqlite3, plain and compressed.
//!
//! A storage file (`mcap_file`, `sqlite_file`) yields serialized messages; [`Messages`]
//! concatenates the files of a split bag and sorts messages by log time within a short window;
//! [`messages`] decodes a payload as a ROS message ([`cdr`]); [`align`] matches recorded actions to
//! images.
//!
//! ```no_run
//! # fn main() -> Result<(), rosbag2_reader::BagError> {
//! use rosbag2_reader::{Bag, Selection, messages};
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
//! # Limits
//! Every length in a file is checked against [`Limits`] before memory is allocated for it. Memory
//! use does not depend on the size of the bag: one MCAP record, the messages of the sorting window,
//! and one message.
//!
//! # Damaged bags
//! A file whose recorder was interrupted (no footer, part of a chunk) is read as far as possible
//! and reported as a [`BagWarning`]. Anything that no recorder writes (a wrong checksum, an
//! impossible length) is a [`BagError`]; the messages before it are delivered.

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
mod recover;
mod sniff;
mod sqlite_file;
mod unpack;

pub use discover::{Bag, FileState, Topic};
pub use error::{BagError, BagWarning};
pub use limits::Limits;
pub use reader::{Message, Messages, Selection};
