//! `openvla eval merge`: joins the shards of one evaluation.

use std::path::{Path, PathBuf};

use super::report::{EpisodeNotes, Report};
use super::settings::Shard;
use super::step::Paired;
use super::{EvalError, Settings, gallery, table, write_all};

/// Merges the shards in `parts` into `out`. They must belong to one evaluation; missing and
/// incomplete shards are errors unless `partial`.
pub fn merge(parts: &[PathBuf], out: &Path, partial: bool) -> Result<Report, EvalError> {
    let Some(first_path) = parts.first() else {
        return Err(EvalError::Usage("merge needs the folders of the shards".to_owned()));
    };
    let reports = parts.iter().map(|part| Report::read(part)).collect::<Result<Vec<_>, _>>()?;
    let first = &reports[0];
    let count = first.settings.shard.count;
    let mut seen: Vec<Option<&PathBuf>> =
        vec![None; usize::try_from(count).unwrap_or(usize::MAX).min(1 << 20)];
    for (path, report) in parts.iter().zip(&reports) {
        let mismatch = |what: String| EvalError::Mismatch {
            first: first_path.clone(),
            second: path.clone(),
            what,
        };
        let mut differing = first.settings.differences(&report.settings, true);
        if report.settings.shard.count != count {
            differing.push(format!(
                "shard ({} here, {} there)",
                first.settings.shard, report.settings.shard
            ));
        }
        if report.action_tokens != first.action_tokens {
            differing.push("action_tokens".to_owned());
        }
        if !differing.is_empty() {
            return Err(mismatch(format!("other {}", differing.join(", "))));
        }
        let slot = seen.get_mut(report.settings.shard.index as usize);
        if let Some(other) = slot.and_then(|slot| slot.replace(path)) {
            return Err(mismatch(format!(
                "both are shard {}, as is {}",
                report.settings.shard,
                other.display()
            )));
        }
    }
    let missing: Vec<String> = (0..count)
        .zip(&seen)
        .filter(|(_, path)| path.is_none())
        .map(|(index, _)| format!("{index}/{count}"))
        .collect();
    let mut incomplete: Vec<String> =
        reports.iter().flat_map(|report| report.incomplete.clone()).collect();
    if !missing.is_empty() {
        incomplete.push(format!("shards {} are missing", missing.join(", ")));
    }
    if !partial && !incomplete.is_empty() {
        return Err(EvalError::Usage(format!(
            "{}; evaluate them, or merge what is there with --partial",
            incomplete.join("; ")
        )));
    }
    incomplete.dedup();

    let dimensions = first.settings.policy.action_dim;
    let (mut pairs, mut warnings): (Vec<Paired>, Vec<String>) = (Vec::new(), Vec::new());
    for (part, report) in parts.iter().zip(&reports) {
        let own = table::read(part, dimensions)?;
        // Judged again over all frames.
        let conventions = report.conventions(&own);
        let others = report.warnings.iter().filter(|line| !conventions.contains(line));
        warnings.extend(others.cloned());
        pairs.extend(own);
    }
    pairs.sort_by_key(|pair| (pair.step.bag, pair.step.frame));
    copy_images(parts, out, &pairs)?;
    let settings = Settings { shard: Shard::default(), ..first.settings.clone() };
    warnings.sort();
    warnings.dedup();
    let report =
        Report::of(settings, first.action_tokens, notes(&reports), &pairs, incomplete, warnings)
            .with_conventions(first.ranges.clone(), &pairs);
    write_all(out, &report, &pairs)?;
    Ok(report)
}

/// Every shard reads all images of a bag and counts the skipped frames of its own part.
fn notes(reports: &[Report]) -> Vec<EpisodeNotes> {
    let bags = reports.first().map_or(0, |report| report.settings.bags.len());
    let mut notes = vec![EpisodeNotes::default(); bags];
    for report in reports {
        for (note, episode) in notes.iter_mut().zip(&report.episodes) {
            note.images = note.images.max(episode.frames.images);
            for (reason, count) in &episode.frames.skipped {
                *note.skipped.entry(reason.clone()).or_default() += count;
            }
        }
    }
    notes
}

/// Copies the images of the worst frames from the shards; the bags may be on another machine.
fn copy_images(parts: &[PathBuf], out: &Path, pairs: &[Paired]) -> Result<(), EvalError> {
    gallery::clear(out)?;
    let folder = out.join(gallery::FOLDER);
    std::fs::create_dir_all(&folder).map_err(EvalError::io("create", &folder))?;
    for place in gallery::worst(pairs, gallery::SHOWN) {
        let name = gallery::file(pairs[place].step.bag, pairs[place].step.frame);
        let found = parts
            .iter()
            .map(|part| part.join(gallery::FOLDER).join(&name))
            .find(|path| path.exists());
        if let Some(path) = found {
            let target = folder.join(&name);
            std::fs::copy(&path, &target).map_err(EvalError::io("copy", &path))?;
        }
    }
    Ok(())
}
