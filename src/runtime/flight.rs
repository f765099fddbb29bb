//! The flight recorder as an observer of the control loop, and the thread that writes its files.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use super::{control_loop::StepObserver, os};
use flight_recorder::{Recorder, RecorderError, Recording, Saved};
use vla_control::time::Instant;
use vla_control::{Inputs, Output};

/// The recorder owns two recordings, so at most two are in the queue to the writer.
const QUEUE: usize = 2;

/// Runs on the control thread: copies each step into preallocated memory. Full recordings go to
/// the writer thread and come back empty.
struct RecorderObserver {
    recorder: Recorder,
    requested: Arc<AtomicBool>,
    to_writer: SyncSender<Box<Recording>>,
    written: Receiver<Box<Recording>>,
}

impl StepObserver for RecorderObserver {
    fn observe(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output) {
        self.recorder.record(now, inputs, output);
        if self.requested.swap(false, Ordering::AcqRel) {
            self.recorder.request(now);
        }
        if self.recorder.due(now)
            && let Some(recording) = self.recorder.take()
        {
            // The writer is gone only when the process ends.
            let _ = self.to_writer.try_send(recording);
        }
        if let Ok(recording) = self.written.try_recv() {
            self.recorder.give_back(recording);
        }
    }
}

/// The executor thread's end of the recorder: requests recordings and receives the results.
pub struct FlightRecorderHandle {
    requested: Arc<AtomicBool>,
    saved: Receiver<Result<Saved, RecorderError>>,
}

impl FlightRecorderHandle {
    /// Requests a recording of the last half minute.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// The oldest result not fetched yet: a written file, or the error.
    #[must_use]
    pub fn saved(&self) -> Option<Result<Saved, RecorderError>> {
        self.saved.try_recv().ok()
    }
}

/// Creates a recorder for a control loop of that period. At most `keep` files are kept in
/// `folder`; the oldest are deleted first.
///
/// # Errors
/// When the system refuses to create a thread.
pub fn flight_recorder(
    period: Duration,
    folder: PathBuf,
    keep: usize,
) -> std::io::Result<(Box<dyn StepObserver>, FlightRecorderHandle)> {
    let (to_writer, to_write) = sync_channel::<Box<Recording>>(QUEUE);
    let (return_empty, written) = sync_channel(QUEUE);
    let (send_result, saved) = sync_channel(16);
    let requested = Arc::new(AtomicBool::new(false));
    // The thread ends when the control loop has dropped its sender; recordings sent before that
    // are still written.
    std::thread::Builder::new().name("recorder".into()).spawn(move || {
        os::lower_priority(10);
        for recording in to_write {
            let _ = send_result.try_send(recording.save(&folder, keep));
            if return_empty.send(recording).is_err() {
                return;
            }
        }
    })?;
    let observer = RecorderObserver {
        recorder: Recorder::new(period),
        requested: Arc::clone(&requested),
        to_writer,
        written,
    };
    Ok((Box::new(observer), FlightRecorderHandle { requested, saved }))
}
