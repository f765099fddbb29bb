//! Statistics of features as LeRobot keeps them: per episode, and of the whole dataset from those
//! of its episodes. Quantiles of the whole are the episodes' means by their counts, as in LeRobot.

use serde_json::{Value, json};

/// The quantiles and their names.
const QUANTILES: [(&str, f64); 5] =
    [("q01", 0.01), ("q10", 0.10), ("q50", 0.50), ("q90", 0.90), ("q99", 0.99)];

/// Pixels of a side of a picture beyond which not every pixel is counted, and about how many are.
const LARGE_SIDE: usize = 300;
const COUNTED_SIDE: usize = 150;

/// Statistics of one feature, each as long as its vector; of pictures three, from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Smallest value.
    pub min: Vec<f64>,
    /// Largest value.
    pub max: Vec<f64>,
    /// Mean.
    pub mean: Vec<f64>,
    /// Deviation, of the whole and not of a sample.
    pub std: Vec<f64>,
    /// Rows.
    pub count: u64,
    /// One vector for each of [`QUANTILES`].
    pub quantiles: Vec<Vec<f64>>,
}

impl Stats {
    /// Names and values, without the count.
    pub fn named(&self) -> Vec<(&'static str, &Vec<f64>)> {
        let mut list =
            vec![("min", &self.min), ("max", &self.max), ("mean", &self.mean), ("std", &self.std)];
        list.extend(QUANTILES.iter().map(|(name, _)| *name).zip(&self.quantiles));
        list
    }

    /// As in `meta/stats.json`; pictures have their channel in the first of three dimensions.
    pub fn json(&self, is_picture: bool) -> Value {
        let mut map = serde_json::Map::new();
        for (name, values) in self.named() {
            let nested = |value: &f64| if is_picture { json!([[value]]) } else { json!(value) };
            map.insert(name.to_owned(), values.iter().map(nested).collect());
        }
        map.insert("count".to_owned(), json!([self.count]));
        Value::Object(map)
    }
}

/// Statistics of rows of `width` numbers.
pub fn of_rows(values: &[f64], width: usize) -> Stats {
    let rows = values.len() / width.max(1);
    let mut stats = empty(width, rows as u64);
    for column in 0..width {
        let mut own: Vec<f64> = values.iter().skip(column).step_by(width).copied().collect();
        own.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (own.first(), own.last()) else { continue };
        let mean = own.iter().sum::<f64>() / rows as f64;
        let variance = own.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / rows as f64;
        (stats.min[column], stats.max[column]) = (min, max);
        (stats.mean[column], stats.std[column]) = (mean, variance.sqrt());
        for (place, (_, share)) in stats.quantiles.iter_mut().zip(QUANTILES) {
            let at = share * (rows - 1) as f64;
            let below = own[at.floor() as usize];
            let above = own[at.ceil() as usize];
            place[column] = below + (above - below) * at.fract();
        }
    }
    stats
}

fn empty(width: usize, count: u64) -> Stats {
    let zeros = vec![0.0; width];
    Stats {
        min: zeros.clone(),
        max: zeros.clone(),
        mean: zeros.clone(),
        std: zeros.clone(),
        count,
        quantiles: vec![zeros; QUANTILES.len()],
    }
}

/// How often each value of each channel occurred in the pictures of an episode.
#[derive(Clone)]
pub struct Pixels {
    counts: Box<[[u64; 256]; 3]>,
    pictures: u64,
}

impl Pixels {
    pub fn new() -> Pixels {
        Pixels { counts: Box::new([[0; 256]; 3]), pictures: 0 }
    }

    /// Counts a picture's pixels, RGB; of a large one every n-th in both directions.
    pub fn add(&mut self, width: usize, height: usize, rgb: &[u8]) {
        self.pictures += 1;
        let longer = width.max(height);
        let step = if longer < LARGE_SIDE { 1 } else { longer / COUNTED_SIDE };
        for row in rgb.chunks_exact((width * 3).max(1)).step_by(step) {
            for pixel in row.as_chunks::<3>().0.iter().step_by(step) {
                for (counts, value) in self.counts.iter_mut().zip(pixel) {
                    counts[usize::from(*value)] += 1;
                }
            }
        }
    }

    /// The statistics, from 0 to 1.
    pub fn stats(&self) -> Stats {
        let mut stats = empty(3, self.pictures);
        for (channel, counts) in self.counts.iter().enumerate() {
            let total: u64 = counts.iter().sum();
            if total == 0 {
                continue;
            }
            let values = || counts.iter().enumerate().filter(|(_, count)| 0 < **count);
            let mean = values().map(|(v, n)| v as f64 * *n as f64).sum::<f64>() / total as f64;
            let squares = values().map(|(v, n)| (v as f64 - mean).powi(2) * *n as f64);
            let variance = squares.sum::<f64>() / total as f64;
            let at = |share: f64| {
                let rank = (share * (total - 1) as f64).round() as u64;
                let mut before = 0;
                for (value, count) in counts.iter().enumerate() {
                    before += count;
                    if rank < before {
                        return value as f64;
                    }
                }
                255.0
            };
            stats.min[channel] = at(0.0) / 255.0;
            stats.max[channel] = at(1.0) / 255.0;
            stats.mean[channel] = mean / 255.0;
            stats.std[channel] = variance.sqrt() / 255.0;
            for (place, (_, share)) in stats.quantiles.iter_mut().zip(QUANTILES) {
                place[channel] = at(share) / 255.0;
            }
        }
        stats
    }
}

/// Adds the statistics of one more episode to those of the episodes before.
pub fn join(whole: &mut Option<Stats>, episode: &Stats) {
    let Some(whole) = whole else {
        *whole = Some(episode.clone());
        return;
    };
    let (a, b) = (whole.count as f64, episode.count as f64);
    let total = (a + b).max(1.0);
    for i in 0..whole.mean.len() {
        whole.min[i] = whole.min[i].min(episode.min[i]);
        whole.max[i] = whole.max[i].max(episode.max[i]);
        let apart = episode.mean[i] - whole.mean[i];
        let (va, vb) = (whole.std[i] * whole.std[i], episode.std[i] * episode.std[i]);
        let variance = (va * a + vb * b + apart * apart * a * b / total) / total;
        whole.std[i] = variance.sqrt();
        whole.mean[i] += apart * b / total;
    }
    for (whole, episode) in whole.quantiles.iter_mut().zip(&episode.quantiles) {
        for (whole, episode) in whole.iter_mut().zip(episode) {
            *whole = (*whole * a + episode * b) / total;
        }
    }
    whole.count += episode.count;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_by_hand() {
        let stats = of_rows(&[1.0, -1.0, 2.0, -1.0, 3.0, -1.0, 6.0, -1.0], 2);
        assert_eq!((stats.count, &stats.min, &stats.max), (4, &vec![1.0, -1.0], &vec![6.0, -1.0]));
        assert_eq!(stats.mean, [3.0, -1.0]);
        assert_eq!(stats.std, [3.5_f64.sqrt(), 0.0]);
        // numpy.quantile([1, 2, 3, 6], [0.5, 0.9]) is 2.5 and 5.1.
        assert_eq!(stats.quantiles[2], [2.5, -1.0]);
        assert!((stats.quantiles[3][0] - 5.1).abs() < 1e-12);
    }

    #[test]
    fn pixels_by_hand() {
        let mut pixels = Pixels::new();
        pixels.add(2, 1, &[0, 255, 51, 255, 255, 51]);
        let stats = pixels.stats();
        assert_eq!((stats.count, &stats.min), (1, &vec![0.0, 1.0, 0.2]));
        assert_eq!(stats.max, [1.0, 1.0, 0.2]);
        assert_eq!((stats.mean[0], stats.std[0], stats.std[1]), (0.5, 0.5, 0.0));
        // 600 x 400 counts every fourth pixel in both directions.
        pixels.add(600, 400, &[7; 600 * 400 * 3]);
        assert_eq!(pixels.counts[0][7], 150 * 100);
    }

    proptest! {
        #[test]
        fn joined_episodes_have_the_mean_and_deviation_of_all(
            values in prop::collection::vec(-1e3..1e3_f64, 2..60), cut in 1_usize..59,
        ) {
            let cut = cut.min(values.len() - 1);
            let mut joined = None;
            join(&mut joined, &of_rows(&values[..cut], 1));
            join(&mut joined, &of_rows(&values[cut..], 1));
            let (joined, whole) = (joined.unwrap(), of_rows(&values, 1));
            prop_assert_eq!(joined.count, whole.count);
            prop_assert_eq!((&joined.min, &joined.max), (&whole.min, &whole.max));
            prop_assert!((joined.mean[0] - whole.mean[0]).abs() < 1e-9);
            prop_assert!((joined.std[0] - whole.std[0]).abs() < 1e-6);
        }
    }
}
