//! Real-time chunking: guided and trained mode, and the weights of the rows.

use super::case::steps;
use super::kit::RtcCase;
use super::{CaseReport, Pi0CheckError, Run, failed, flat, narrow};
use crate::backend::Backend;
use crate::models::NoProbe;
use crate::models::pi0::{TimeSteps, times};
use crate::policy::PolicyError;
use crate::policy::pi0::{
    Continuation, ContinuationError, Prepared, Schedule, guidance_weight, prefix_weights,
};

impl<B: Backend> Run<'_, B> {
    pub(super) fn weights(&self) -> CaseReport {
        let cases = &self.kit.rtc.prefix_weights;
        let mut report = CaseReport {
            name: "prefix weights".into(),
            detail: format!("{} of them", cases.len()),
            ..Default::default()
        };
        for case in cases {
            let schedule: Schedule = case.schedule.parse().unwrap_or_default();
            let ours = prefix_weights(schedule, case.start, case.end, case.total);
            let near = ours.len() == case.weights.len()
                && ours.iter().zip(&case.weights).all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-6);
            report.require(near, || {
                format!(
                    "{} from {} to {} of {}: {ours:?}, the reference {:?}",
                    case.schedule, case.start, case.end, case.total, case.weights
                )
            });
        }
        report
    }

    /// Noise and prepared input of a case's base.
    fn base(&self, case: &RtcCase) -> Result<Option<(Prepared, Vec<f32>)>, Pi0CheckError> {
        let Some(base) = self.kit.cases.iter().find(|base| base.id == case.base_case) else {
            return Ok(None);
        };
        let noise = flat(&self.kit.case_tensors(base.id)?, "noise");
        Ok(Some((self.prepared(base)?, noise)))
    }

    fn shape(&self) -> [usize; 2] {
        let config = self.policy.model().config();
        [config.chunk_size, config.max_action_dim]
    }

    pub(super) fn guided(&mut self, case: &RtcCase) -> Result<CaseReport, Pi0CheckError> {
        let mut rows = self.left_over(case)?;
        if case.padded_by_engine {
            rows.resize(case.horizon(), vec![0.0; case.left_over_columns]);
        }
        let schedule: Schedule = case.schedule.parse().unwrap_or_default();
        let place = (case.inference_delay, case.horizon());
        let curve = (schedule, case.max_guidance_weight);
        let continuation = Continuation::guided(&rows, self.shape(), place, curve);
        let mut report = self.continued(("guided", case), continuation)?;
        // Without a rest there is nothing to weigh.
        if rows.is_empty() || case.weights.is_empty() {
            return Ok(report);
        }
        let weights: Vec<f32> = case.weights.iter().map(|&weight| weight as f32).collect();
        let end = case.horizon().min(rows.len());
        let ours = prefix_weights(schedule, case.inference_delay, end, self.shape()[0]);
        report.compare("weights", &ours, &weights, (self.bounds, Some(1e-6)));
        // Of the kit's guided steps, which LeRobot made, whatever wrote the folder.
        let ours: Vec<f32> = times(case.num_steps, TimeSteps::Rounded)
            .into_iter()
            .map(|time| guidance_weight(time, case.max_guidance_weight))
            .collect();
        let wanted: Vec<f32> = case.guidance_weight.iter().map(|&weight| weight as f32).collect();
        report.compare("guidance_weight", &ours, &wanted, (self.bounds, Some(1e-4)));
        Ok(report)
    }

    pub(super) fn trained(&mut self, case: &RtcCase) -> Result<CaseReport, Pi0CheckError> {
        let rows = self.left_over(case)?;
        let most = self.kit.rtc.rtc_training_max_delay;
        let continuation = Continuation::trained(&rows, self.shape(), case.inference_delay, most);
        self.continued(("trained", case), continuation)
    }

    /// Rows of the previous chunk. A case that is refused has none on file; its values are zeros
    /// with the refused one.
    fn left_over(&self, case: &RtcCase) -> Result<Vec<Vec<f32>>, Pi0CheckError> {
        let mut rows = vec![vec![0.0; case.left_over_columns]; case.left_over_rows];
        if let Some(file) = &case.tensors {
            let values = flat(&self.kit.tensors(file)?, "prev_chunk_left_over");
            for (row, values) in rows.iter_mut().zip(values.chunks(case.left_over_columns.max(1))) {
                row.copy_from_slice(values);
            }
        }
        match case.note.as_deref() {
            Some(note) if note.contains("NaN inside") => rows[0][0] = f32::NAN,
            Some(note) if note.contains("NaN") => {
                if let Some(value) = rows.last_mut().and_then(|row| row.last_mut()) {
                    *value = f32::NAN;
                }
            }
            _ => {}
        }
        Ok(rows)
    }

    fn continued(
        &mut self,
        (mode, case): (&str, &RtcCase),
        continuation: Result<Continuation, ContinuationError>,
    ) -> Result<CaseReport, Pi0CheckError> {
        let mut report = CaseReport { name: format!("{mode} {}", case.id), ..Default::default() };
        report.detail = format!(
            "delay {}, {} rows left, {} steps",
            case.inference_delay, case.left_over_rows, case.num_steps
        );
        let continuation = match (continuation, &case.error) {
            (Err(error), Some(_)) => {
                report.detail = format!("refused: {error}");
                return Ok(report);
            }
            (Ok(_), Some(_)) => {
                report.missed.push("accepted what the reference refuses".into());
                return Ok(report);
            }
            (Err(error), None) => {
                report.missed.push(format!("refused: {error}"));
                return Ok(report);
            }
            (Ok(continuation), None) => continuation,
        };
        let Some((prepared, noise)) = self.base(case)? else {
            report.missed.push(format!("the kit has no case {}", case.base_case));
            return Ok(report);
        };
        let golden = match &case.tensors {
            Some(file) => self.kit.tensors(file)?,
            None => Default::default(),
        };
        let run = self
            .integrate(&prepared, (case.num_steps, noise), &continuation, &mut NoProbe)
            .map_err(|source: PolicyError| failed(&report.name)(source))?;
        let bounds = (self.bounds, self.bounds.actions);
        steps(&mut report, "v_base", &run.v, golden.get("v_base"), (self.bounds, None));
        steps(&mut report, "v_guided", &run.guided, golden.get("v_guided"), bounds);
        steps(&mut report, "v", &run.v, golden.get("v"), bounds);
        steps(&mut report, "x", &run.x, golden.get("x"), bounds);
        let last = run.x.last().map(Vec::as_slice).unwrap_or_default();
        let mapping = &self.policy.checkpoint().processors.mapping;
        let actions = self.policy.actions(last, &prepared.state, mapping).concat();
        report.compare("actions", &actions, &narrow(&case.actions), bounds);
        Ok(report)
    }
}
