//! The header `Server-Timing` (W3C), in which a server states how long it has taken:
//! `infer;dur=12.5, total;dur=14.1`.

/// Longest duration that is accepted, milliseconds.
const LONGEST_MS: f64 = 1e9;

/// The server's duration in milliseconds: that of the metric `total`, else that of `infer`. Other
/// metrics are a proxy's or a part of the whole; one that is no duration is left aside, since
/// nothing moves by it.
pub(crate) fn duration_ms(header: &str) -> Option<f64> {
    let named = |wanted: &str| header.split(',').find_map(|metric| duration_of(metric, wanted));
    named("total").or_else(|| named("infer"))
}

/// The duration of one metric, if it has this name.
fn duration_of(metric: &str, wanted: &str) -> Option<f64> {
    let mut parts = metric.split(';').map(str::trim);
    if parts.next() != Some(wanted) {
        return None;
    }
    let duration = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("dur").then(|| value.trim().trim_matches('"'))
    });
    duration?.parse().ok().filter(|ms| (0.0..LONGEST_MS).contains(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_duration_is_preferred() {
        for (header, wanted) in [
            ("infer;dur=12.500, total;dur=14.125", Some(14.125)),
            ("total;dur=3,infer;dur=2", Some(3.0)),
            ("infer;dur=0", Some(0.0)),
            (" infer ; desc=\"the policy\" ; DUR = \"7.5\" ", Some(7.5)),
            ("cache;desc=hit, infer;dur=1e1", Some(10.0)),
            ("total;dur=fast, infer;dur=2", Some(2.0)),
        ] {
            assert_eq!(duration_ms(header), wanted, "{header}");
        }
    }

    #[test]
    fn what_is_no_duration_is_left_aside() {
        for header in [
            "",
            ",;,=",
            "total",
            "total;dur",
            "total;dur=",
            "db;dur=53",
            "total;dur=-1",
            "total;dur=NaN",
            "total;dur=inf",
            "total;dur=1e9",
            "totals;dur=1",
        ] {
            assert_eq!(duration_ms(header), None, "{header}");
        }
    }
}
