//! `~/debug_image`: the cameras with instruction, state and reason, desired and executed motion
//! within their limits, and times, in one picture for people. Off without the parameter
//! `debug_image_hz`.
//!
//! The executor thread collects pointers, numbers and texts; a thread of its own, of low priority,
//! decodes, draws and publishes. One picture is in work at a time and none waits: what is collected
//! while the thread is busy is dropped. Without a subscriber nothing is collected.

mod canvas;
mod content;
mod draw;

use std::{
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use r2r::{
    QosProfile, openvla_tt_msgs::msg::Status, sensor_msgs::msg::Image, std_msgs::msg::Header,
};
use vla_control::time::{Instant, Stamp};

use super::{
    NodeError, ResolvedConfig,
    inbox::publish,
    log::{self, Severity},
    messages,
    shared::Shared,
};
use crate::runtime::lower_priority;
use content::Content;

/// Niceness of the thread that draws: behind inference, and still drawing beside an inference that
/// uses every core.
const NICENESS: i32 = 15;

/// The thread, and when the last picture was begun.
struct Drawer {
    interval: Duration,
    last: Option<Instant>,
    publisher: r2r::Publisher<Image>,
    /// `None` only while this is dropped.
    work: Option<SyncSender<(Stamp, Content)>>,
    thread: Option<JoinHandle<()>>,
}

/// The pictures; nothing where they are off.
pub(super) struct DebugImages(Option<Drawer>);

impl DebugImages {
    pub fn create(ros: &mut r2r::Node, parameters: &ResolvedConfig) -> Result<Self, NodeError> {
        let Some(interval) = parameters.debug_image_interval else { return Ok(Self(None)) };
        let qos = QosProfile::default().keep_last(1).reliable();
        let publisher = publish::<Image>(ros, "~/debug_image", qos)?;
        // Without a buffer: only a thread that waits is given work.
        let (work, received) = sync_channel::<(Stamp, Content)>(0);
        let to = publisher.clone();
        let draw = move || {
            lower_priority(NICENESS);
            for (stamp, content) in received {
                if let Err(error) = to.publish(&message(stamp, &content)) {
                    let line = format!("~/debug_image: {error}");
                    log::limited(Severity::Warn, "publish", line);
                }
            }
        };
        let thread = std::thread::Builder::new().name("debug-image".into()).spawn(draw);
        let thread = Some(thread.map_err(NodeError::Threads)?);
        let work = Some(work);
        Ok(Self(Some(Drawer { interval, last: None, publisher, work, thread })))
    }

    /// Begins a picture when it is due, wanted and possible.
    pub fn poll(&mut self, shared: &mut Shared, status: Option<&Status>) {
        let Some(drawer) = &mut self.0 else { return };
        let now = shared.now();
        if drawer.last.is_some_and(|last| now.since(last).get() < drawer.interval) {
            return;
        }
        drawer.last = Some(now);
        // An error of the middleware counts as no subscriber.
        if drawer.publisher.get_inter_process_subscription_count().unwrap_or(0) == 0 {
            return;
        }
        let (Some(work), Some(status)) = (&drawer.work, status) else { return };
        let content = Content::collect(shared, status);
        match work.try_send((shared.ros_now(), content)) {
            // Drawing takes longer than the interval: the next one.
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => {
                log::error("~/debug_image ends: its thread has failed; nothing else is affected");
                self.0 = None;
            }
        }
    }
}

impl Drop for Drawer {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[allow(clippy::cast_possible_truncation)] // a picture of some hundred pixels
fn message(stamp: Stamp, content: &Content) -> Image {
    let picture = draw::draw(content);
    let (width, height) = (picture.width(), picture.height());
    Image {
        header: Header { stamp: messages::time(stamp), frame_id: String::new() },
        height: height as u32,
        width: width as u32,
        encoding: "rgb8".into(),
        is_bigendian: 0,
        step: 3 * width as u32,
        data: picture.into_pixels(),
    }
}
