//! Progress of an evaluation, for terminals and for the logs of batch jobs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Interval between lines in a log.
const PERIOD: Duration = Duration::from_secs(15);

/// Shows progress on stderr: a bar with the remaining time on a terminal, else one line per
/// [`PERIOD`].
pub struct Progress {
    bar: Option<ProgressBar>,
    total: Option<u64>,
    /// Frames done by earlier runs.
    before: u64,
    done: u64,
    started: Instant,
    /// Time of the newest line.
    printed: Instant,
}

impl Progress {
    /// Of `total` frames, of which earlier runs did `before`.
    pub fn new(total: Option<u64>, before: u64, quiet: bool) -> Progress {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| bar(total, before));
        let now = Instant::now();
        // A quiet run's next line is never due.
        let printed = if quiet { now + Duration::from_secs(u64::from(u32::MAX)) } else { now };
        Progress { bar, total, before, done: before, started: now, printed }
    }

    /// A frame is done.
    pub fn step(&mut self, instruction: &str) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_message(instruction.chars().take(40).collect::<String>());
            bar.inc(1);
        } else if Instant::now().saturating_duration_since(self.printed) >= PERIOD {
            self.printed = Instant::now();
            eprintln!("openvla eval: {}", self.line());
        }
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = (self.done - self.before) as f64 / seconds.max(1e-9);
        match self.total.filter(|total| *total >= self.done) {
            Some(total) => {
                let left = Duration::from_secs_f64((total - self.done) as f64 / rate.max(1e-9));
                format!(
                    "{} of {total} frames, {rate:.2} frames/s, {} left",
                    self.done,
                    indicatif::HumanDuration(left)
                )
            }
            None => format!("{} frames, {rate:.2} frames/s", self.done),
        }
    }
}

fn bar(total: Option<u64>, before: u64) -> ProgressBar {
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match total {
        Some(_) => "{bar:32} {pos}/{len} frames  {per_sec}  {eta} left  {wide_msg}",
        None => "{spinner} {pos} frames  {per_sec}  {wide_msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(before);
    // The rate counts only the frames of this run.
    bar.reset_eta();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_counts_frames_of_earlier_runs() {
        let mut progress = Progress::new(Some(10), 4, true);
        progress.step("go");
        let line = progress.line();
        assert!(line.starts_with("5 of 10 frames") && line.ends_with("left"), "{line}");
        assert!(Progress::new(None, 0, true).line().starts_with("0 frames"));
    }
}
