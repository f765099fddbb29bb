//! Policies with action chunks.

use std::path::Path;

use serde::Serialize;

use super::super::{CliError, print, print_json};
use super::Sensitivity;
use vla_inference::golden::{Answers, Inputs, Reaction};
use vla_inference::policy::{FlowOptions, PolicyOptions};

/// Compares the reactions of chunks with the reference's, and fails when one is not like it.
pub(super) fn run(
    options: &Sensitivity,
    (checkpoint, given): (&Path, PolicyOptions),
    inputs: &Inputs,
) -> Result<(), CliError> {
    let folder = options.checkpoint.folder_or(checkpoint.to_owned())?;
    let flow = FlowOptions::from(options.flow.clone());
    let flow = FlowOptions { seed: flow.seed.or(Some(0)), ..flow };
    // A policy file says itself what the kit says otherwise.
    let given = match options.policy_file.policy_file {
        Some(_) => PolicyOptions { flow, ..PolicyOptions::default() },
        None => PolicyOptions { flow, ..given },
    };
    let (reference, rows) = options.rows(|place| {
        let mut policy = options.load(&folder, given.clone(), place)?;
        Ok(inputs.answers(policy.as_mut())?)
    })?;
    let rows: Vec<Compared> =
        rows.iter().map(|row| Compared::new(row, &reference.measured)).collect();
    if options.json {
        print_json(&Summary {
            error_below: Reaction::ERROR_BELOW,
            min_correlation: Reaction::MIN_CORRELATION,
            min_size: Reaction::MIN_SIZE,
            rows: &rows,
        })?;
    } else {
        show(&rows)?;
    }
    let unlike: Vec<String> = rows
        .iter()
        .filter(|row| !row.unlike.is_empty())
        .map(|row| format!("{} {} ({})", row.device, row.precision, row.unlike.join(", ")))
        .collect();
    super::result(&unlike)
}

/// The JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    error_below: f64,
    min_correlation: f64,
    /// The device's change over the reference's.
    min_size: f64,
    rows: &'a [Compared],
}

/// One device in one precision.
#[derive(Serialize)]
struct Compared {
    device: String,
    precision: String,
    like_reference: bool,
    /// Inputs to which it reacts otherwise.
    unlike: Vec<String>,
    reactions: Vec<Reaction>,
}

impl Compared {
    fn new(row: &super::Row<Answers>, reference: &Answers) -> Self {
        let reactions = reference.compare(&row.measured);
        let unlike = reactions.iter().filter(|reaction| !reaction.like_reference());
        let mut unlike: Vec<String> =
            unlike.map(|reaction| reaction.change.input.clone()).collect();
        unlike.dedup();
        Self {
            device: row.device.clone(),
            precision: row.precision.clone(),
            like_reference: unlike.is_empty(),
            unlike,
            reactions,
        }
    }
}

fn show(rows: &[Compared]) -> Result<(), CliError> {
    print(
        "device     precision  input, new value          reference    device   error  correlation",
    )?;
    for row in rows {
        for reaction in &row.reactions {
            let Reaction { change, reference, device, error, correlation } = reaction;
            print(&format!(
                "{:<10} {:<10} {:<25} {reference:>9.4} {device:>9.4} {error:>7.3} \
                {correlation:>12.4}{}",
                row.device,
                row.precision,
                format!("{}, {}", change.input, change.value),
                if reaction.like_reference() { "" } else { "  MISSED" }
            ))?;
        }
        print(&match row.unlike.as_slice() {
            [] => format!("{} {}: reacts as the reference", row.device, row.precision),
            unlike => format!(
                "{} {}: MISSED, reacts otherwise than the reference to {}",
                row.device,
                row.precision,
                unlike.join(", ")
            ),
        })?;
    }
    print(&format!(
        "reference, device: size of the chunk's change (root mean square, normalised actions), the \
        device's at least {} of the reference's; error: of the change, relative to the \
        reference's, below {} (an ignored input has 1); correlation at least {:.2}",
        Reaction::MIN_SIZE,
        Reaction::ERROR_BELOW,
        Reaction::MIN_CORRELATION
    ))
}
