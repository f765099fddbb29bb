//! When control lets a chunk take over, as far as the inference thread can tell.

/// Steps that begin between an observation and the takeover by its chunk, at least, whatever the
/// inference takes: control executes `execute` steps of each chunk before a newer one takes over.
///
/// Counts of begun steps: `observed` at the observation, `taken_over` when the executed chunk took
/// over, `decided` when the newest chunk was passed to control. That one still waits for its own
/// takeover if the executed chunk took over before.
pub(super) fn least_delay(observed: u64, taken_over: u64, decided: u64, execute: u64) -> usize {
    let chunks = if taken_over < decided { 2 } else { 1 };
    let next = taken_over.saturating_add(execute.saturating_mul(chunks));
    usize::try_from(next.saturating_sub(observed)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::least_delay;

    #[test]
    fn the_executed_chunk_has_its_steps_first() {
        // Observed every 5 steps; taken over 4 steps after its observation, when it was decided.
        assert_eq!(least_delay(105, 104, 104, 5), 4);
        // An inference that was late by two steps, once: the next takeover is as late.
        assert_eq!(least_delay(105, 106, 106, 5), 6);
        // Decided at 104, but the chunk before took over at 101 and is executed until 106; its
        // successor is until 111.
        assert_eq!(least_delay(105, 101, 104, 5), 6);
    }

    #[test]
    fn a_chunk_that_has_had_its_steps_is_no_delay() {
        assert_eq!(least_delay(105, 100, 100, 5), 0);
        assert_eq!(least_delay(400, 100, 100, 5), 0);
        assert_eq!(least_delay(0, 0, 0, 1), 1);
        assert_eq!(least_delay(0, u64::MAX, 0, u64::MAX), usize::MAX);
    }
}
