//! What the page shows: the newest events and pictures, and the pages that receive them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use hyper::body::{Body, Frame};
use image::codecs::jpeg::JpegEncoder;
use tokio::sync::{mpsc, watch};
use vla_inference::observation::EncodedImage;

/// Cameras that can be shown.
pub const CAMERAS: usize = 4;
/// Pages at a time.
const PAGES: usize = 8;
/// Events that a page may be behind, some seconds; after that it is cut off and connects again.
const BEHIND: usize = 256;
/// Longest edge of a picture, pixels: the page is no wider.
const EDGE: u32 = 640;
/// JPEG quality.
const QUALITY: u8 = 75;
/// A camera that nobody requested a picture of for this time is not encoded.
const WANTED: Duration = Duration::from_secs(2);

/// A picture and its number.
type Picture = Option<(u64, Bytes)>;

/// The newest of everything that is shown. One thread writes; every page reads.
pub struct Board {
    pages: Mutex<Pages>,
    cameras: [Camera; CAMERAS],
}

#[derive(Default)]
struct Pages {
    /// Events that a page that connects later needs as well.
    kept: BTreeMap<&'static str, Bytes>,
    open: Vec<mpsc::Sender<Bytes>>,
    closed: bool,
}

struct Camera {
    picture: watch::Sender<Picture>,
    requested: Mutex<Option<Instant>>,
}

impl Default for Board {
    fn default() -> Self {
        let camera = |_| Camera { picture: watch::Sender::new(None), requested: Mutex::default() };
        Self { pages: Mutex::default(), cameras: std::array::from_fn(camera) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Sends an event, one line of JSON, to every page. With `keep` pages that connect later get
    /// it, too, unless a newer one of this name came.
    pub fn show(&self, name: &'static str, json: &str, keep: bool) {
        debug_assert!(!json.contains('\n'), "{name}: a line break ends an event");
        let event = Bytes::from(format!("event: {name}\ndata: {json}\n\n"));
        let mut pages = lock(&self.pages);
        pages.open.retain(|page| page.try_send(event.clone()).is_ok());
        if keep {
            pages.kept.insert(name, event);
        }
    }

    /// The events from now on; `None` when there are too many pages.
    pub(super) fn subscribe(&self) -> Option<Events> {
        let mut pages = lock(&self.pages);
        pages.open.retain(|page| !page.is_closed());
        if PAGES <= pages.open.len() || pages.closed {
            return None;
        }
        let (sender, receiver) = mpsc::channel(BEHIND);
        for event in pages.kept.values() {
            sender.try_send(event.clone()).ok()?;
        }
        pages.open.push(sender);
        Some(Events(receiver))
    }

    /// Ends the event streams, and begins no others.
    pub(super) fn close(&self) {
        let mut pages = lock(&self.pages);
        pages.closed = true;
        pages.open.clear();
    }

    /// Whether a page is showing this camera.
    #[must_use]
    pub fn is_watched(&self, camera: usize) -> bool {
        self.cameras
            .get(camera)
            .is_some_and(|camera| lock(&camera.requested).is_some_and(|at| at.elapsed() < WANTED))
    }

    /// Shows a camera's picture, scaled down to a bounded size.
    ///
    /// # Errors
    /// Why it cannot be shown, in one line.
    pub fn picture(&self, camera: usize, image: &EncodedImage) -> Result<(), String> {
        let Some(camera) = self.cameras.get(camera) else { return Ok(()) };
        let decoded = image.decode().map_err(|error| error.to_string())?;
        let size = [decoded.width(), decoded.height()].map(|edge| u32::try_from(edge).ok());
        let pixels = decoded.pixels().to_vec();
        let [Some(width), Some(height)] = size else { return Err("it is too large".into()) };
        let picture = image::RgbImage::from_raw(width, height, pixels);
        let mut picture = picture.ok_or("its size is not that of its pixels")?;
        let longest = width.max(height);
        if EDGE < longest {
            let scaled = |edge: u32| (edge * EDGE / longest).max(1);
            picture = image::imageops::thumbnail(&picture, scaled(width), scaled(height));
        }
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
            .encode_image(&picture)
            .map_err(|error| error.to_string())?;
        let jpeg = Bytes::from(jpeg);
        camera.picture.send_modify(|newest| {
            *newest = Some((newest.as_ref().map_or(1, |(number, _)| number + 1), jpeg));
        });
        Ok(())
    }

    /// The newest picture of a camera once it has another number than `after`.
    pub(super) async fn newer(
        &self,
        camera: usize,
        after: u64,
        longest: Duration,
    ) -> Option<(u64, Bytes)> {
        let camera = self.cameras.get(camera)?;
        *lock(&camera.requested) = Some(Instant::now());
        let mut newest = camera.picture.subscribe();
        let other = |picture: &Picture| picture.as_ref().is_some_and(|(n, _)| *n != after);
        let found = tokio::time::timeout(longest, newest.wait_for(other)).await;
        found.ok()?.ok()?.clone()
    }
}

/// The events of one page, as the body of an answer.
pub(super) struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = ready!(self.0.poll_recv(context));
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn next(events: &mut Events) -> Option<String> {
        events.0.try_recv().ok().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn late_pages_get_what_was_kept() {
        let board = Board::default();
        board.show("config", "{}", true);
        board.show("tick", "1", false);
        board.show("config", "{\"a\":1}", true);
        let mut page = board.subscribe().unwrap();
        board.show("tick", "2", false);
        assert_eq!(next(&mut page).unwrap(), "event: config\ndata: {\"a\":1}\n\n");
        assert_eq!(next(&mut page).unwrap(), "event: tick\ndata: 2\n\n");
        assert_eq!(next(&mut page), None);
    }

    #[test]
    fn pages_are_bounded_in_number_and_in_what_waits() {
        let board = Board::default();
        let mut pages: Vec<Events> = (0..PAGES).map(|_| board.subscribe().unwrap()).collect();
        assert!(board.subscribe().is_none());
        pages.pop();
        assert!(board.subscribe().is_some(), "a page that was closed makes room");
        for _ in 0..=BEHIND {
            board.show("tick", "1", false);
        }
        assert!(lock(&board.pages).open.is_empty(), "pages that take nothing are cut off");
    }

    #[test]
    fn large_pictures_are_scaled_down() {
        let board = Board::default();
        let (width, height) = (2000_u32, 100_u32);
        let data = vec![7; (width * height * 3) as usize].into();
        let encoding = "rgb8".to_owned();
        let image = EncodedImage::Raw { width, height, encoding, step: width * 3, data };
        board.picture(1, &image).unwrap();
        let (number, jpeg) = board.cameras[1].picture.borrow().clone().unwrap();
        let shown = image::load_from_memory(&jpeg).unwrap();
        assert_eq!((number, shown.width(), shown.height()), (1, EDGE, 32));
        let encoding = "32FC1".to_owned();
        let data = vec![0; 16].into();
        let depth = EncodedImage::Raw { width: 2, height: 2, encoding, step: 8, data };
        assert!(board.picture(1, &depth).is_err());
        assert!(!board.is_watched(1), "nobody requested it");
    }
}
