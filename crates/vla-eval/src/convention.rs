//! Whether recorded actions are in the units and conventions of the policy: the share outside of
//! the training's quantiles, the factor between recorded and predicted values, their correlation,
//! and a gripper that is the wrong way round. Errors are scored all the same; these lines say why
//! they may mean nothing.

use super::step::{Paired, dimension_names};

/// Fewest frames from which anything is concluded.
const FEWEST: usize = 6;

/// Values of one dimension.
#[derive(Default)]
struct Column {
    /// Predicted and recorded, physical units.
    pairs: Vec<(f64, f64)>,
}

/// What is known of the policy.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// Numbers per action.
    pub dimensions: usize,
    /// 1st and 99th percentile of each dimension; `None` where the value passes through.
    pub ranges: &'a [Option<(f64, f64)>],
    /// Rate of the policy, hertz.
    pub policy_hz: f64,
    /// The gripper is open above this value.
    pub gripper_threshold: f64,
    /// Name of the statistics.
    pub unnorm_key: &'a str,
}

/// A line for each thing that does not fit; none for recordings that do.
pub fn warnings(pairs: &[Paired], known: &Known<'_>) -> Vec<String> {
    let mut columns: Vec<Column> = (0..known.dimensions).map(|_| Column::default()).collect();
    for (predicted, recorded) in pairs.iter().filter_map(Paired::both) {
        for (i, column) in columns.iter_mut().enumerate() {
            let value = recorded.action.get(i).copied().flatten();
            column.pairs.extend(predicted.action.get(i).copied().zip(value));
        }
    }
    let names = dimension_names(known.dimensions);
    let named: Vec<(&str, &Column)> = names
        .iter()
        .map(String::as_str)
        .zip(&columns)
        .filter(|(_, c)| c.pairs.len() >= FEWEST)
        .collect();
    let gripper = (known.dimensions == 7).then_some("gripper");
    let moving = || named.iter().filter(|(name, _)| Some(*name) != gripper);
    let mut lines = Vec::new();
    lines.extend(scale(moving().copied(), &names, known));
    lines.extend(signs(moving().copied()));
    lines.extend(
        named
            .iter()
            .find(|(name, _)| Some(*name) == gripper)
            .and_then(|(_, column)| column.gripper(known.gripper_threshold)),
    );
    lines
}

/// Dimensions whose values lie outside of the quantiles, or are a multiple of the policy's.
fn scale<'a>(
    columns: impl Iterator<Item = (&'a str, &'a Column)>,
    names: &[String],
    known: &Known<'_>,
) -> Option<String> {
    let (mut which, mut outside, mut factors, mut correlations) = (vec![], vec![], vec![], vec![]);
    for (name, column) in columns {
        let index = names.iter().position(|known| known == name)?;
        let share = known.ranges.get(index).copied().flatten().map(|range| column.outside(range));
        let (factor, correlation) = (column.factor(), column.correlation());
        // A policy follows a recording closely or not at all; only then is a small factor a unit.
        let other_scale = factor.is_some_and(|f| !(0.4..=2.5).contains(&f))
            && correlation.is_some_and(|r| r.abs() > 0.8);
        if share.is_some_and(|share| share > 0.5) || other_scale {
            which.push(name);
            outside.push(share.map_or_else(|| "-".to_owned(), |s| format!("{:.0} %", s * 100.0)));
            factors.extend(factor);
            correlations.push(correlation.map_or_else(|| "-".to_owned(), |r| format!("{r:.2}")));
        }
    }
    if which.is_empty() {
        return None;
    }
    factors.sort_by(f64::total_cmp);
    let factor = factors.get(factors.len() / 2).copied();
    let times = factor.map_or_else(String::new, |factor| {
        format!(", they are {} times the policy's", rounded(factor))
    });
    let guess = factor.and_then(|factor| unit(factor, known.policy_hz)).unwrap_or(
        "recorded in other units, in another frame, or of another robot than the statistics?",
    );
    Some(format!(
        "recorded actions do not fit the policy in {}: {} of the values lie outside q01..q99 of \
        '{}'{times} (correlation {}); {guess}",
        which.join(", "),
        outside.join(", "),
        known.unnorm_key,
        correlations.join(", ")
    ))
}

/// What a factor between recorded and predicted values is the mark of.
fn unit(factor: f64, policy_hz: f64) -> Option<&'static str> {
    let near = |value: f64, share: f64| (value / share..value * share).contains(&factor);
    if near(1000.0, 2.0) {
        Some("recorded in millimetres instead of metres?")
    } else if near(0.001, 2.0) {
        Some("recorded in metres, and the statistics in millimetres?")
    } else if near(policy_hz, 1.3) && policy_hz > 2.0 {
        Some("velocities per second instead of steps of the policy's period?")
    } else if near(1.0 / policy_hz, 1.3) && policy_hz > 2.0 {
        Some("steps of a higher rate than --policy-hz?")
    } else if near(57.3, 1.3) {
        Some("recorded in degrees instead of radians?")
    } else if near(100.0, 1.3) {
        Some("recorded in centimetres instead of metres?")
    } else {
        None
    }
}

/// Dimensions that are recorded with the other sign.
fn signs<'a>(columns: impl Iterator<Item = (&'a str, &'a Column)>) -> Option<String> {
    let reversed: Vec<String> = columns
        .filter(|(_, column)| column.is_reversed())
        .map(|(name, column)| format!("{name} ({:.2})", column.correlation().unwrap_or(0.0)))
        .collect();
    (!reversed.is_empty()).then(|| {
        format!(
            "recorded actions run against the policy's in {}: the correlation is negative; \
            recorded with another sign or in another frame?",
            reversed.join(", ")
        )
    })
}

/// A number with two digits that count.
fn rounded(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2e}").replace("e0", "") }
}

impl Column {
    fn recorded(&self) -> impl Iterator<Item = f64> {
        self.pairs.iter().map(|(_, recorded)| *recorded)
    }

    /// Share of the recorded values outside of a range.
    fn outside(&self, (low, high): (f64, f64)) -> f64 {
        let slack = 1e-6 * (high - low).abs();
        let out = self.recorded().filter(|v| *v < low - slack || *v > high + slack).count();
        out as f64 / self.pairs.len() as f64
    }

    /// Root mean squares of recorded by predicted values.
    fn factor(&self) -> Option<f64> {
        let squares =
            |of: fn(&(f64, f64)) -> f64| self.pairs.iter().map(of).map(|v| v * v).sum::<f64>();
        let (predicted, recorded) = (squares(|p| p.0), squares(|p| p.1));
        (predicted > 0.0 && recorded > 0.0).then(|| (recorded / predicted).sqrt())
    }

    /// `None` also where a side is constant up to rounding.
    fn correlation(&self) -> Option<f64> {
        let varies = |of: fn(&(f64, f64)) -> f64| {
            let values: Vec<f64> = self.pairs.iter().map(of).collect();
            let largest = values.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
            super::stats::deviation(&values).is_some_and(|spread| spread > 1e-6 * largest)
        };
        let both = varies(|pair| pair.0) && varies(|pair| pair.1);
        both.then(|| super::stats::correlation(&self.pairs)).flatten()
    }

    /// Whether the correlation is negative beyond chance: t above 5.
    fn is_reversed(&self) -> bool {
        let freedom = self.pairs.len() as f64 - 2.0;
        self.correlation()
            .is_some_and(|r| r < -0.5 && -r * freedom.sqrt() > 5.0 * (1.0 - r * r).max(0.0).sqrt())
    }

    /// What does not fit in the gripper's values.
    fn gripper(&self, threshold: f64) -> Option<String> {
        let (low, high) = self
            .recorded()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let open = |value: f64| value > threshold;
        let equal = self.pairs.iter().filter(|(p, r)| open(*p) == open(*r)).count();
        let accuracy = equal as f64 / self.pairs.len() as f64;
        let varies = |of: fn(&(f64, f64)) -> f64| {
            let opened = self.pairs.iter().map(of).filter(|value| open(*value)).count();
            (1..self.pairs.len()).contains(&opened)
        };
        let far_below_chance = accuracy <= 0.3 && varies(|p| p.0) && varies(|p| p.1);
        if far_below_chance || self.is_reversed() {
            let correlation = self.correlation().unwrap_or(0.0);
            return Some(format!(
                "recorded gripper is the wrong way round: it agrees with the policy in {:.0} % of \
                the frames, less than by chance (correlation {correlation:.2}); 1 is open here, \
                the recording seems to have 1 for closed",
                accuracy * 100.0
            ));
        }
        let never_open = high < threshold && high - low > 1e-6 && high < 0.2;
        // What the policy answers itself is no other convention.
        let own = |bound: f64, nearer: fn(f64, f64) -> f64| {
            self.pairs.iter().map(|(predicted, _)| *predicted).fold(bound, nearer)
        };
        let (least, most) = (own(0.0, f64::min) - 0.1, own(1.0, f64::max) + 0.1);
        (low < least || high > most || never_open).then(|| {
            format!(
                "recorded gripper runs from {low} to {high}, not from 0 (closed) to 1 (open): set \
                --gripper-threshold between its values, or record it from 0 to 1"
            )
        })
    }
}

#[cfg(test)]
mod tests;
