//! The frames of an episode: read by one thread, decoded by several, delivered in the recorded
//! order.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use super::episode::Episode;
use super::frames::{Frame, ReadResult};
use super::recorded::Track;
use super::{EvalError, Settings};
use vla_inference::observation::{ImageError, RgbImage};

/// Most decoder threads. Two are faster than any policy; more only hold more images in memory.
const DECODERS: usize = 8;

/// A frame with its decoded images, or the error.
pub struct Decoded {
    pub frame: Frame,
    /// Of each camera; or the camera's index with the error.
    pub images: Result<Vec<RgbImage>, (usize, ImageError)>,
}

/// What to read.
pub struct Source<'a> {
    pub episode: &'a Episode,
    /// Index of the bag in the settings.
    pub bag: usize,
    pub settings: &'a Settings,
    pub track: Option<Track>,
    /// Numbers of the frames that earlier runs have evaluated.
    pub done: &'a HashSet<u64>,
    /// Ends the reading.
    pub stop: &'a AtomicBool,
}

/// A frame to decode, and the channel for the result.
type Job = (Frame, SyncSender<Decoded>);

/// Reads the episode to its end, or until `take` returns false or fails. Decoding overlaps with
/// `take`; at most two decoded images per decoder are queued.
pub fn run(
    source: Source<'_>,
    take: &mut dyn FnMut(Decoded) -> Result<bool, EvalError>,
) -> Result<ReadResult, EvalError> {
    let Source { episode, bag, settings, track, done, stop } = source;
    let decoders = std::thread::available_parallelism().map_or(1, usize::from).min(DECODERS);
    let (jobs, waiting) = sync_channel::<Job>(decoders);
    let (order, ordered) = sync_channel::<Receiver<Decoded>>(decoders);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        for _ in 0..decoders {
            decoder(scope, &waiting)
                .map_err(EvalError::io("start a thread to decode", episode.path()))?;
        }
        let reading = Builder::new().name("eval-read".to_owned()).spawn_scoped(scope, move || {
            episode.read(bag, settings, track, done, &mut |frame| {
                let (result, place) = sync_channel(1);
                !stop.load(Ordering::Relaxed)
                    && order.send(place).is_ok()
                    && jobs.send((frame, result)).is_ok()
            })
        });
        let reading = reading.map_err(EvalError::io("start a thread to read", episode.path()))?;
        let mut result = Ok(());
        // Leaving the loop drops the receiver, which ends the reader at its next frame; the
        // decoders end with the reader.
        for place in ordered {
            // A closed channel means that the decoder panicked; the scope propagates that.
            let Ok(decoded) = place.recv() else { break };
            match take(decoded) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.map(|()| read)
    })
}

fn decoder<'scope>(
    scope: &'scope Scope<'scope, '_>,
    waiting: &'scope Mutex<Receiver<Job>>,
) -> std::io::Result<()> {
    Builder::new().name("eval-decode".to_owned()).spawn_scoped(scope, move || {
        loop {
            // One decoder waits for the next frame while it holds the lock, the others wait for
            // the lock.
            let next = waiting.lock().map(|jobs| jobs.recv());
            let Ok(Ok((frame, result))) = next else { return };
            let images = frame.images.iter().enumerate();
            let images =
                images.map(|(camera, image)| image.decode().map_err(|error| (camera, error)));
            let images = images.collect();
            // The receiver is gone when the evaluation was stopped.
            let _ = result.send(Decoded { frame, images });
        }
    })?;
    Ok(())
}
