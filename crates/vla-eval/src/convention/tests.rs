#![allow(clippy::unwrap_used)]
use super::super::step::{Outcome, Prediction, Recorded, Step};
use super::*;

const RANGES: [Option<(f64, f64)>; 7] = [
    Some((-0.05, 0.05)),
    Some((-0.05, 0.05)),
    Some((-0.05, 0.05)),
    Some((-0.2, 0.2)),
    Some((-0.2, 0.2)),
    Some((-0.2, 0.2)),
    None,
];

/// Predictions without a pattern within the ranges.
fn predicted(frame: usize) -> Vec<f64> {
    let mut values: Vec<f64> = (0..6)
        .map(|i| {
            let mix = (frame * 7 + i * 13 + 5).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let unit = (mix >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0;
            unit * RANGES[i].unwrap().1
        })
        .collect();
    values.push([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0][frame % 7]);
    values
}

fn pairs(count: usize, change: impl Fn(usize, f64) -> f64) -> Vec<Paired> {
    let pair = |frame: usize| {
        let action = predicted(frame);
        let recorded = action.iter().enumerate().map(|(i, v)| Some(change(i, *v))).collect();
        let prediction = Prediction {
            token_ids: vec![],
            normalized: vec![0.0; 7],
            action,
            logit_margins: vec![],
            stages: vec![],
        };
        Paired {
            step: Step {
                bag: 0,
                frame: frame as u64,
                log_time: 0,
                stamp: None,
                size: (1, 1),
                instruction: String::new(),
                outcome: Outcome::Action(prediction),
            },
            recorded: Some(Recorded { action: recorded, ..Recorded::default() }),
        }
    };
    (0..count).map(pair).collect()
}

fn lines(pairs: &[Paired]) -> Vec<String> {
    let known = Known {
        dimensions: 7,
        ranges: &RANGES,
        policy_hz: 5.0,
        gripper_threshold: 0.5,
        unnorm_key: "bridge_orig",
    };
    warnings(pairs, &known)
}

fn one_line(count: usize, change: impl Fn(usize, f64) -> f64) -> String {
    let lines = lines(&pairs(count, change));
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
}

#[test]
fn what_fits_is_not_mentioned() {
    assert_eq!(lines(&pairs(20, |_, v| v)), [""; 0]);
    // A policy that is wrong by some noise, and one that says nothing about this recording.
    assert_eq!(lines(&pairs(20, |i, v| if i < 6 { v * 1.3 } else { v })), [""; 0]);
    let shuffled: Vec<Paired> = pairs(20, |_, v| v)
        .into_iter()
        .zip(pairs(21, |_, v| v).into_iter().skip(1))
        .map(|(a, b)| Paired { recorded: b.recorded, ..a })
        .collect();
    assert_eq!(lines(&shuffled), [""; 0]);
    assert_eq!(lines(&pairs(3, |_, v| v * 1000.0)), [""; 0], "too few to say");
}

#[test]
fn units_are_named() {
    let metres = one_line(20, |i, v| if i < 3 { v * 1000.0 } else { v });
    for part in ["dx, dy, dz:", "q01..q99 of 'bridge_orig'", "1000 times", "1.00", "millimetres"] {
        assert!(metres.contains(part), "{part}: {metres}");
    }
    assert!(
        one_line(20, |i, v| if (3..6).contains(&i) { v.to_degrees() } else { v })
            .contains("degrees")
    );
    assert!(one_line(20, |i, v| if i < 6 { v * 5.0 } else { v }).contains("velocities"));
    assert!(
        one_line(20, |i, v| if i < 3 { v / 1000.0 } else { v })
            .contains("statistics in millimetres")
    );
}

#[test]
fn signs_and_grippers_are_named() {
    let sign = one_line(20, |i, v| if i == 1 { -v } else { v });
    assert!(sign.contains("dy (-1.00)"), "{sign}");
    let reversed = one_line(10, |i, v| if i == 6 { 1.0 - v } else { v });
    assert!(reversed.contains("wrong way round") && reversed.contains("0 %"), "{reversed}");
    let wide = one_line(10, |i, v| if i == 6 { v * 255.0 } else { v });
    assert!(wide.contains("from 0 to 255"), "{wide}");
    let narrow = one_line(10, |i, v| if i == 6 { v * 0.04 } else { v });
    assert!(narrow.contains("from 0 to 0.04"), "{narrow}");
}
