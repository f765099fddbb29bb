//! An episode's frames: read by one thread, decoded by several, handed over in the order in which
//! they were recorded.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use super::frames::{Ending, Episode, Frame};
use super::recorded::Track;
use super::{EvalError, Settings};
use vla_inference::observation::{ImageError, RgbImage};

/// Most threads that decode. A policy is slower than two of them; more would only hold more images
/// in memory.
const DECODERS: usize = 8;

/// A frame with its image, or why there is none.
pub struct Decoded {
    pub frame: Frame,
    pub image: Result<RgbImage, ImageError>,
}

/// What is read, and how far.
pub struct Source<'a> {
    pub episode: &'a Episode,
    /// The bag's place in the settings.
    pub bag: usize,
    pub settings: &'a Settings,
    pub track: Option<Track>,
    /// Numbers of the frames that are not wanted again.
    pub done: &'a HashSet<u64>,
    /// Ends the reading.
    pub stop: &'a AtomicBool,
}

/// A frame on its way, and where its image goes.
type Job = (Frame, SyncSender<Decoded>);

/// Reads the episode to its end, or until `take` returns false or fails. Each frame is decoded
/// before `take` asks for it, so that decoding and inference overlap; at most two images per
/// decoder wait.
pub fn run(
    source: Source<'_>,
    take: &mut dyn FnMut(Decoded) -> Result<bool, EvalError>,
) -> Result<Ending, EvalError> {
    let Source { episode, bag, settings, track, done, stop } = source;
    let decoders = std::thread::available_parallelism().map_or(1, usize::from).min(DECODERS);
    let (jobs, waiting) = sync_channel::<Job>(decoders);
    let (order, ordered) = sync_channel::<Receiver<Decoded>>(decoders);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        for _ in 0..decoders {
            decoder(scope, &waiting)
                .map_err(EvalError::io("start a thread to decode", episode.bag.path()))?;
        }
        let reading = Builder::new().name("eval-read".to_owned()).spawn_scoped(scope, move || {
            episode.read(bag, settings, track, done, &mut |frame| {
                let (result, place) = sync_channel(1);
                !stop.load(Ordering::Relaxed)
                    && order.send(place).is_ok()
                    && jobs.send((frame, result)).is_ok()
            })
        });
        let reading =
            reading.map_err(EvalError::io("start a thread to read", episode.bag.path()))?;
        let mut result = Ok(());
        // Leaving the loop drops the receiver, which ends the reader at its next frame, and that
        // the decoders.
        for place in ordered {
            // A decoder that is gone has panicked; the scope passes that on.
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
        let ending = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        result.map(|()| ending)
    })
}

fn decoder<'scope>(
    scope: &'scope Scope<'scope, '_>,
    waiting: &'scope Mutex<Receiver<Job>>,
) -> std::io::Result<()> {
    Builder::new().name("eval-decode".to_owned()).spawn_scoped(scope, move || {
        loop {
            // One decoder waits for the next frame, the others for the lock: whose turn it is does
            // not matter.
            let next = waiting.lock().map(|jobs| jobs.recv());
            let Ok(Ok((frame, result))) = next else { return };
            let image = frame.image.decode();
            // Nobody listens any more when the evaluation was stopped.
            let _ = result.send(Decoded { frame, image });
        }
    })?;
    Ok(())
}
