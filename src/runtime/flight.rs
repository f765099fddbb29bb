//! The flight recorder in the control loop, and the thread that writes its files.

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

/// Two recordings exist, so no more than two can be on their way.
const ON_THE_WAY: usize = 2;

/// The loop's side: a copy into memory that is there already; full recordings go to the writer and
/// come back empty.
struct Flight {
    recorder: Recorder,
    asked: Arc<AtomicBool>,
    to_writer: SyncSender<Box<Recording>>,
    written: Receiver<Box<Recording>>,
}

impl StepObserver for Flight {
    fn observe(&mut self, now: Instant, inputs: &Inputs<'_>, output: &Output) {
        self.recorder.record(now, inputs, output);
        if self.asked.swap(false, Ordering::AcqRel) {
            self.recorder.request(now);
        }
        if self.recorder.due(now)
            && let Some(recording) = self.recorder.take()
        {
            // the writer is gone only when the process ends
            let _ = self.to_writer.try_send(recording);
        }
        if let Ok(recording) = self.written.try_recv() {
            self.recorder.give_back(recording);
        }
    }
}

/// The spinning side's end: asks for recordings and hears of those that were written.
pub struct FlightDesk {
    asked: Arc<AtomicBool>,
    saved: Receiver<Result<Saved, RecorderError>>,
}

impl FlightDesk {
    /// Asks for a recording of the last half minute.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// A recording that was written, or why it could not be.
    #[must_use]
    pub fn saved(&self) -> Option<Result<Saved, RecorderError>> {
        self.saved.try_recv().ok()
    }
}

/// Makes a recorder for a control loop of that period; `keep` files at most stay in `folder`.
///
/// # Errors
/// When the system gives no thread.
pub fn flight_recorder(
    period: Duration,
    folder: PathBuf,
    keep: usize,
) -> std::io::Result<(Box<dyn StepObserver>, FlightDesk)> {
    let (to_writer, to_write) = sync_channel::<Box<Recording>>(ON_THE_WAY);
    let (write_back, written) = sync_channel(ON_THE_WAY);
    let (tell, saved) = sync_channel(16);
    let asked = Arc::new(AtomicBool::new(false));
    // Ends when the control loop, and with it the sender, is gone; what was sent before is still
    // written.
    std::thread::Builder::new().name("recorder".into()).spawn(move || {
        os::step_back(10);
        for recording in to_write {
            let _ = tell.try_send(recording.save(&folder, keep));
            if write_back.send(recording).is_err() {
                return;
            }
        }
    })?;
    let flight =
        Flight { recorder: Recorder::new(period), asked: Arc::clone(&asked), to_writer, written };
    Ok((Box::new(flight), FlightDesk { asked, saved }))
}
