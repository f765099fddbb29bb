//! `actions.csv`: every frame with its predicted and recorded action, at full precision. `merge`
//! and `compare` read it back.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use csv::StringRecord;

use super::EvalError;
use super::files::write_file;
use super::step::{Outcome, Paired, Prediction, Recorded, Step, dimension_names};

/// File name in the output folder.
pub const FILE: &str = "actions.csv";

const FIXED: [&str; 12] = [
    "bag",
    "frame",
    "log_time_ns",
    "stamp_ns",
    "width",
    "height",
    "instruction",
    "failure",
    "token_ids",
    "recorded_token_ids",
    "recorded_time_ns",
    "logit_margins",
];
const COLUMNS: [&str; 4] = ["predicted", "recorded", "predicted_normalized", "recorded_normalized"];

/// Writes the table into an output folder. `dimensions`: numbers per action.
pub fn write(out: &Path, pairs: &[Paired], dimensions: usize) -> Result<(), EvalError> {
    let path = out.join(FILE);
    let mut stages: Vec<String> = Vec::new();
    for (name, _) in
        pairs.iter().filter_map(Paired::prediction).flat_map(|prediction| &prediction.stages)
    {
        if !stages.contains(name) {
            stages.push(name.clone());
        }
    }
    let names = dimension_names(dimensions);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header: Vec<String> = FIXED.map(str::to_owned).to_vec();
    header.extend(
        COLUMNS.iter().flat_map(|column| names.iter().map(move |name| format!("{column}_{name}"))),
    );
    header.extend(stages.iter().map(|stage| format!("ms_{stage}")));
    let failed = EvalError::result(&path);
    let result = writer.write_record(&header).and_then(|()| {
        pairs.iter().try_for_each(|pair| writer.write_record(row(pair, dimensions, &stages)))
    });
    result.map_err(failed)?;
    let bytes = writer.into_inner().map_err(EvalError::result(&path))?;
    write_file(&path, &bytes)
}

fn cell(value: Option<impl Display>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

fn join<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn row(pair: &Paired, dimensions: usize, stages: &[String]) -> Vec<String> {
    let (step, recorded) = (&pair.step, pair.recorded.as_ref());
    let prediction = pair.prediction();
    let failure = match &step.outcome {
        Outcome::Failure(reason) => reason.clone(),
        Outcome::Action(_) => String::new(),
    };
    let recorded_ids: Vec<String> = recorded.map_or_else(Vec::new, |recorded| {
        recorded
            .token_ids
            .iter()
            .map(|id| id.map_or_else(|| "-".to_owned(), |id| id.to_string()))
            .collect()
    });
    let mut cells = vec![
        step.bag.to_string(),
        step.frame.to_string(),
        step.log_time.to_string(),
        cell(step.stamp),
        step.size.0.to_string(),
        step.size.1.to_string(),
        step.instruction.clone(),
        failure,
        prediction.map_or_else(String::new, |prediction| join(&prediction.token_ids)),
        recorded_ids.join(" "),
        cell(recorded.map(|recorded| recorded.time)),
        prediction.map_or_else(String::new, |prediction| join(&prediction.logit_margins)),
    ];
    let predicted = |values: fn(&Prediction) -> &Vec<f64>, i| {
        cell(prediction.and_then(|prediction| values(prediction).get(i)))
    };
    let recorded_value = |values: fn(&Recorded) -> &Vec<Option<f64>>, i: usize| {
        cell(recorded.and_then(|recorded| values(recorded).get(i).copied().flatten()))
    };
    cells.extend((0..dimensions).map(|i| predicted(|prediction| &prediction.action, i)));
    cells.extend((0..dimensions).map(|i| recorded_value(|recorded| &recorded.action, i)));
    cells.extend((0..dimensions).map(|i| predicted(|prediction| &prediction.normalized, i)));
    cells.extend((0..dimensions).map(|i| recorded_value(|recorded| &recorded.normalized, i)));
    cells.extend(stages.iter().map(|stage| {
        cell(
            prediction
                .and_then(|prediction| prediction.stages.iter().find(|(name, _)| name == stage))
                .map(|(_, ms)| ms),
        )
    }));
    cells
}

/// Reads the table of an output folder.
pub fn read(out: &Path, dimensions: usize) -> Result<Vec<Paired>, EvalError> {
    let path = out.join(FILE);
    let mut reader = csv::Reader::from_path(&path).map_err(|error| match error.into_kind() {
        csv::ErrorKind::Io(source) => EvalError::io("read", &path)(source),
        other => EvalError::result(&path)(format!("{other:?}")),
    })?;
    let header = reader.headers().map_err(EvalError::result(&path))?.clone();
    let places: BTreeMap<&str, usize> =
        header.iter().enumerate().map(|(place, name)| (name, place)).collect();
    let columns = Columns { path: &path, places, names: dimension_names(dimensions) };
    let stages: Vec<String> =
        header.iter().filter_map(|name| name.strip_prefix("ms_")).map(str::to_owned).collect();
    let mut pairs = Vec::new();
    for record in reader.records() {
        let record = record.map_err(EvalError::result(&path))?;
        pairs.push(columns.pair(&record, &stages)?);
    }
    Ok(pairs)
}

struct Columns<'a> {
    path: &'a Path,
    places: BTreeMap<&'a str, usize>,
    names: Vec<String>,
}

impl Columns<'_> {
    fn text<'r>(&self, record: &'r StringRecord, name: &str) -> Result<&'r str, EvalError> {
        let cell = self.places.get(name).and_then(|&place| record.get(place));
        cell.ok_or_else(|| EvalError::result(self.path)(format!("it has no column `{name}`")))
    }

    fn value<T: FromStr>(&self, record: &StringRecord, name: &str) -> Result<Option<T>, EvalError> {
        let text = self.text(record, name)?;
        if text.is_empty() {
            return Ok(None);
        }
        let line = record.position().map_or(0, csv::Position::line);
        let wrong =
            || EvalError::result(self.path)(format!("line {line}: `{text}` is not a valid {name}"));
        text.parse().map(Some).map_err(|_| wrong())
    }

    fn required<T: FromStr>(&self, record: &StringRecord, name: &str) -> Result<T, EvalError> {
        self.value(record, name)?
            .ok_or_else(|| EvalError::result(self.path)(format!("a row has no {name}")))
    }

    fn list<T: FromStr>(
        &self,
        record: &StringRecord,
        name: &str,
    ) -> Result<Vec<Option<T>>, EvalError> {
        let wrong = |part: &str| {
            EvalError::result(self.path)(format!("`{part}` in {name} is not a number"))
        };
        let parts = self.text(record, name)?.split_whitespace();
        parts
            .map(|part| {
                if part == "-" { Ok(None) } else { part.parse().map(Some).map_err(|_| wrong(part)) }
            })
            .collect()
    }

    fn columns(&self, record: &StringRecord, column: &str) -> Result<Vec<Option<f64>>, EvalError> {
        self.names.iter().map(|name| self.value(record, &format!("{column}_{name}"))).collect()
    }

    fn pair(&self, record: &StringRecord, stages: &[String]) -> Result<Paired, EvalError> {
        let failure = self.text(record, "failure")?;
        let outcome = if failure.is_empty() {
            let times = stages.iter().map(|stage| {
                Ok(self.value(record, &format!("ms_{stage}"))?.map(|ms| (stage.clone(), ms)))
            });
            let times: Result<Vec<Option<(String, f64)>>, EvalError> = times.collect();
            Outcome::Action(Prediction {
                token_ids: self.list(record, "token_ids")?.into_iter().flatten().collect(),
                normalized: self
                    .columns(record, "predicted_normalized")?
                    .into_iter()
                    .flatten()
                    .collect(),
                action: self.columns(record, "predicted")?.into_iter().flatten().collect(),
                logit_margins: self.list(record, "logit_margins")?.into_iter().flatten().collect(),
                stages: times?.into_iter().flatten().collect(),
            })
        } else {
            Outcome::Failure(failure.to_owned())
        };
        let recorded = match self.value(record, "recorded_time_ns")? {
            None => None,
            Some(time) => Some(Recorded {
                time,
                action: self.columns(record, "recorded")?,
                normalized: self.columns(record, "recorded_normalized")?,
                token_ids: self.list(record, "recorded_token_ids")?,
            }),
        };
        let step = Step {
            bag: self.required(record, "bag")?,
            frame: self.required(record, "frame")?,
            log_time: self.required(record, "log_time_ns")?,
            stamp: self.value(record, "stamp_ns")?,
            size: (self.required(record, "width")?, self.required(record, "height")?),
            instruction: self.text(record, "instruction")?.to_owned(),
            outcome,
        };
        Ok(Paired { step, recorded })
    }
}
