//! The policy on its own thread, and the requests that wait for it.
//!
//! The tasks of the server never run the policy: they leave an observation in a queue and wait for
//! the answer. A client that names itself has at most one request waiting: a newer one takes the
//! older one's place. A request whose client is gone, or whose deadline is over, is not computed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use vla_inference::observation::Observation;
use vla_inference::policy::{Policy, PolicyError};

use crate::error::{Outcome, RequestError};
use crate::metrics::Metrics;

/// An answer of the policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// `[steps][numbers]`, un-normalised.
    pub(crate) actions: Vec<Vec<f64>>,
    /// Seed of the noise, for a policy with noise.
    pub(crate) seed: Option<u64>,
    /// Time in the policy.
    pub(crate) inference: Duration,
}

type Reply = Result<Answer, RequestError>;

struct Job {
    id: u64,
    client: Option<String>,
    observation: Observation,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Reply>,
}

struct Queue {
    waiting: VecDeque<Job>,
    next: u64,
    open: bool,
    /// Whether the thread ended although the queue was open.
    failed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    most: usize,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing below can panic while it holds the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, queue: &Queue) {
        self.metrics.waiting.set(queue.waiting.len() as i64);
    }
}

/// The queue of the policy's thread. Its end ends the thread.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread. `ended` is called when it ends, whatever the reason.
    pub(crate) fn start(
        policy: Box<dyn Policy>,
        restart: bool,
        most: usize,
        metrics: Arc<Metrics>,
        ended: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let queue = Queue { waiting: VecDeque::new(), next: 0, open: true, failed: false };
        let shared =
            Arc::new(Shared { queue: queue.into(), changed: Condvar::new(), most, metrics });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("inference".into()).spawn(move || {
            let _last = Last { shared: Arc::clone(&of_thread), ended: Some(ended) };
            run(policy, restart, &of_thread);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Leaves an observation for the policy.
    pub(crate) fn submit(
        &self,
        observation: Observation,
        client: Option<String>,
        deadline: Option<Instant>,
    ) -> Result<Ticket, RequestError> {
        let (reply, answer) = oneshot::channel();
        let mut queue = self.shared.lock();
        if !queue.open {
            return Err(RequestError::ending());
        }
        let same = |job: &Job| client.is_some() && job.client == client;
        let place = queue.waiting.iter().position(same);
        if let Some(older) = place.and_then(|place| queue.waiting.remove(place)) {
            let line = "a newer request of the same client (X-Client-Id) took its place";
            let _ = older.reply.send(Err(RequestError::new(Outcome::Replaced, line)));
        }
        if queue.waiting.len() >= self.shared.most {
            return Err(RequestError::new(
                Outcome::Busy,
                format!("{} requests are waiting for the policy; try later", self.shared.most),
            ));
        }
        let id = queue.next;
        queue.next += 1;
        queue.waiting.push_back(Job { id, client, observation, deadline, reply });
        self.shared.count(&queue);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(Ticket { id, shared: Arc::clone(&self.shared), answer })
    }

    /// Takes no further requests; what waits is still answered.
    pub(crate) fn close(&self) {
        self.shared.lock().open = false;
        self.shared.changed.notify_one();
    }

    /// Whether the policy's thread ended by itself.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.lock().failed
    }
}

/// Runs at the end of the thread, also when the policy panics.
struct Last<F: FnOnce()> {
    shared: Arc<Shared>,
    ended: Option<F>,
}

impl<F: FnOnce()> Drop for Last<F> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.failed = queue.open;
        queue.open = false;
        // Their tasks answer that the thread has ended.
        queue.waiting.clear();
        drop(queue);
        if let Some(ended) = self.ended.take() {
            ended();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.open = false;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        for job in waiting {
            let _ = job.reply.send(Err(RequestError::ending()));
        }
        self.shared.changed.notify_one();
        // An inference that takes longer than the drain is left to the end of the process.
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

/// A request that waits or is computed; dropping it takes it out of the queue.
pub(crate) struct Ticket {
    id: u64,
    shared: Arc<Shared>,
    answer: oneshot::Receiver<Reply>,
}

impl Ticket {
    /// The answer, at the deadline at the latest.
    pub(crate) async fn answer(mut self, deadline: Option<(Instant, Duration)>) -> Reply {
        let gone =
            |_| RequestError::new(Outcome::Failed, "the inference thread ended; see the server");
        let received = match deadline {
            None => (&mut self.answer).await,
            Some((at, allowed)) => {
                match tokio::time::timeout_at(at.into(), &mut self.answer).await {
                    // The thread drops a request that is overdue, perhaps before this timer fires.
                    Ok(Err(_)) if at <= Instant::now() => {
                        return Err(RequestError::deadline(allowed));
                    }
                    Ok(received) => received,
                    Err(_) => return Err(RequestError::deadline(allowed)),
                }
            }
        };
        received.map_err(gone)?
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.waiting.retain(|job| job.id != self.id);
        self.shared.count(&queue);
    }
}

fn run(mut policy: Box<dyn Policy>, restart: bool, shared: &Shared) {
    loop {
        let mut queue = shared.lock();
        let job = loop {
            if let Some(job) = queue.waiting.pop_front() {
                shared.count(&queue);
                break job;
            }
            if !queue.open {
                return;
            }
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        // Its task answers by itself when the deadline has passed.
        if job.reply.is_closed() || job.deadline.is_some_and(|deadline| Instant::now() >= deadline)
        {
            continue;
        }
        if restart {
            policy.restart();
        }
        let started = Instant::now();
        let decision = policy.act(&job.observation);
        let inference = started.elapsed();
        shared.metrics.inference.observe(inference.as_secs_f64());
        let reply = decision
            .map(|decision| {
                if let Some(remark) = &decision.remark {
                    tracing::info!("{remark}");
                }
                Answer { actions: decision.actions, seed: decision.seed, inference }
            })
            .map_err(|error| failed(&error));
        if let Err(error) = &reply {
            tracing::warn!("{error}");
        }
        let _ = job.reply.send(reply);
    }
}

/// What a client can do something about is its error.
fn failed(error: &PolicyError) -> RequestError {
    let outcome = match error {
        PolicyError::Observation(_)
        | PolicyError::Image(_)
        | PolicyError::Instruction(_)
        | PolicyError::Script(_) => Outcome::Unfit,
        _ => Outcome::Failed,
    };
    RequestError::new(outcome, error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a request that the thread drops with this deadline is answered.
    fn dropped(deadline: Option<Instant>) -> Outcome {
        let queue = Queue { waiting: VecDeque::new(), next: 1, open: true, failed: false };
        let metrics = Arc::new(Metrics::new());
        let shared =
            Arc::new(Shared { queue: queue.into(), changed: Condvar::new(), most: 1, metrics });
        let (reply, answer) = oneshot::channel();
        drop(reply);
        let ticket = Ticket { id: 0, shared, answer };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let allowed = Duration::from_millis(5);
        let replied = runtime.block_on(ticket.answer(deadline.map(|at| (at, allowed))));
        replied.unwrap_err().outcome
    }

    #[test]
    fn an_overdue_request_is_late_and_not_failed() {
        let now = Instant::now();
        assert_eq!(dropped(Some(now)), Outcome::Deadline);
        assert_eq!(dropped(Some(now + Duration::from_secs(600))), Outcome::Failed);
        assert_eq!(dropped(None), Outcome::Failed);
    }
}
