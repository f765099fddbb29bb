//! The cameras' newest pictures. Encoded on a thread of their own, at a bounded rate, and only
//! while a page shows them.

use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use r2r::QosProfile;
use r2r::sensor_msgs::msg::{CompressedImage, Image};
use serde_json::{Value, json};
use vla_inference::observation::EncodedImage;
use vla_serve::dash::{Board, CAMERAS};

use crate::ros::NodeError;
use crate::ros::inbox::{Inbox, subscribe};
use crate::ros::messages;

const RAW: &str = "sensor_msgs/msg/Image";
const COMPRESSED: &str = "sensor_msgs/msg/CompressedImage";
/// Shortest time between two pictures of a camera.
const INTERVAL: Duration = Duration::from_millis(100);
/// Alternatives that are named.
const NAMED: usize = 5;

/// A camera's name and its topic, fully qualified.
pub(super) type Named = (String, String);

enum Messages {
    None,
    Raw(Inbox<Image>),
    Compressed(Inbox<CompressedImage>),
}

struct Camera {
    name: String,
    topic: String,
    messages: Messages,
    /// Why there is no topic.
    note: String,
    arrived: Option<Instant>,
    encoded: Option<Instant>,
}

/// The cameras by index.
pub(super) struct Cameras {
    board: Arc<Board>,
    /// Given by the user, in place of the policy file's.
    given: Vec<Named>,
    cameras: Vec<Camera>,
    encoder: SyncSender<(usize, EncodedImage)>,
    /// Why the newest image of a camera cannot be shown.
    refused: Arc<Mutex<[Option<String>; CAMERAS]>>,
}

impl Cameras {
    pub(super) fn new(topics: Vec<String>, board: Arc<Board>) -> Result<Self, NodeError> {
        // One image waits while another one is encoded.
        let (encoder, images) = sync_channel::<(usize, EncodedImage)>(1);
        let refused = Arc::new(Mutex::new([const { None }; CAMERAS]));
        let (notes, shown) = (Arc::clone(&refused), Arc::clone(&board));
        // Ends with its sender.
        let encode = move || {
            for (index, image) in images {
                let outcome = shown.picture(index, &image).err();
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(note) = notes.get_mut(index) {
                    *note = outcome;
                }
            }
        };
        thread::Builder::new()
            .name("dash-camera".into())
            .spawn(encode)
            .map_err(NodeError::Threads)?;
        let given = topics.into_iter().map(|topic| (topic.clone(), topic)).collect();
        Ok(Self { board, given, cameras: Vec::new(), encoder, refused })
    }

    /// Takes what has arrived; the newest image of each camera goes to the encoder.
    pub(super) fn take(&mut self, now: Instant) {
        for (index, camera) in self.cameras.iter_mut().enumerate() {
            let due = camera.encoded.is_none_or(|encoded| INTERVAL <= now - encoded);
            let wanted = due && self.board.is_watched(index);
            let Some(image) = camera.newest(now) else { continue };
            if !wanted {
                continue;
            }
            match self.encoder.try_send((index, image)) {
                Ok(()) => camera.encoded = Some(now),
                // The encoder is busy: the next image is as good.
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }

    /// Subscribes to topics that are there by now. `named` are those of the policy file.
    pub(super) fn look(
        &mut self,
        ros: &mut r2r::Node,
        topics: &HashMap<String, Vec<String>>,
        named: Vec<Named>,
    ) -> Result<(), NodeError> {
        let wanted = if self.given.is_empty() { named } else { self.given.clone() };
        let wanted = wanted.get(..CAMERAS).unwrap_or(&wanted);
        let same = |(camera, (name, topic)): (&Camera, &Named)| {
            camera.name == *name && camera.topic == *topic
        };
        let equal = self.cameras.len() == wanted.len();
        if !equal || !self.cameras.iter().zip(wanted).all(same) {
            let camera = |(name, topic): &Named| Camera {
                name: name.clone(),
                topic: topic.clone(),
                messages: Messages::None,
                note: String::new(),
                arrived: None,
                encoded: None,
            };
            self.cameras = wanted.iter().map(camera).collect();
        }
        for camera in &mut self.cameras {
            if !matches!(camera.messages, Messages::None) {
                continue;
            }
            let (topic, qos) = (&camera.topic, QosProfile::sensor_data().keep_last(1));
            let kind = topics.get(topic).and_then(|types| types.first()).map(String::as_str);
            camera.messages = match kind {
                Some(RAW) => Messages::Raw(subscribe(ros, topic, qos)?),
                Some(COMPRESSED) => Messages::Compressed(subscribe(ros, topic, qos)?),
                _ => {
                    camera.note = absent(topic, topics);
                    continue;
                }
            };
            camera.note.clear();
        }
        Ok(())
    }

    pub(super) fn ages(&self, now: Instant) -> Vec<Option<f64>> {
        let age = |camera: &Camera| camera.arrived.map(|at| (now - at).as_secs_f64());
        self.cameras.iter().map(age).collect()
    }

    pub(super) fn json(&self) -> Value {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let camera = |(camera, refused): (&Camera, &Option<String>)| {
            let note = refused.as_deref().unwrap_or(&camera.note);
            json!({ "name": camera.name, "topic": camera.topic, "note": messages::text(note) })
        };
        self.cameras.iter().zip(refused.iter()).map(camera).collect()
    }
}

impl Camera {
    /// The newest image that has arrived since the last call.
    fn newest(&mut self, now: Instant) -> Option<EncodedImage> {
        let mut newest = None;
        match &mut self.messages {
            Messages::None => {}
            Messages::Raw(inbox) => {
                while let Some(message) = inbox.next() {
                    newest = Some(messages::camera_image(message).1);
                }
            }
            Messages::Compressed(inbox) => {
                while let Some(message) = inbox.next() {
                    newest = Some(messages::compressed_image(message).1);
                }
            }
        }
        if newest.is_some() {
            self.arrived = Some(now);
        }
        newest
    }
}

/// What to do about a topic that is not there.
fn absent(topic: &str, topics: &HashMap<String, Vec<String>>) -> String {
    let is_image = |types: &Vec<String>| types.iter().any(|kind| kind == RAW || kind == COMPRESSED);
    let mut others: Vec<&str> =
        topics.iter().filter(|(_, types)| is_image(types)).map(|(name, _)| name.as_str()).collect();
    others.sort_unstable();
    others.truncate(NAMED);
    match others.as_slice() {
        [] => format!("no images on {topic}, nor on any other topic; start the camera's driver"),
        others => format!(
            "no images on {topic}; there are {}: start openvla dash with --camera TOPIC",
            others.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_are_named() {
        let topic = |name: &str, kind: &str| (name.to_owned(), vec![kind.to_owned()]);
        let topics = HashMap::from([topic("/b", RAW), topic("/a", COMPRESSED), topic("/c", "x")]);
        let text = absent("/image", &topics);
        assert!(text.contains("no images on /image; there are /a, /b:"), "{text}");
        assert!(absent("/image", &HashMap::new()).contains("start the camera's driver"));
    }
}
