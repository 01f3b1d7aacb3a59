//! Durations as Go writes and reads them (spec/consul-api.md, section 1).

use std::time::Duration;

const UNITS: [(&str, f64); 7] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads `1m30s`, `15.0s`, `500ms`; `None` when it is malformed or negative.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        // The longer unit first: `ms` is no `m` with an `s` behind it.
        let (unit, worth) = UNITS
            .iter()
            .filter(|(unit, _)| rest.starts_with(unit))
            .max_by_key(|(unit, _)| unit.len())?;
        nanos += number * worth;
        rest = &rest[unit.len()..];
    }
    // An hour in nanoseconds is exact in a float; centuries are not needed.
    (nanos.is_finite() && nanos < 1e18).then(|| Duration::from_nanos(nanos.round() as u64))
}

/// As Go prints it, for whole milliseconds: `18ms`, `1.5s`, `2m0s`.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return if duration.is_zero() {
            "0s".into()
        } else {
            format!("{}µs", duration.as_micros())
        };
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if hours > 0 || minutes > 0 {
        text += &format!("{minutes}m");
    }
    if fraction == 0 {
        return format!("{text}{seconds}s");
    }
    let fraction = format!("{fraction:03}");
    format!("{text}{seconds}.{}s", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_show_as_in_go() {
        let cases = [
            ("10s", 10_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("15.0s", 15_000),
            ("0.001s", 1),
            ("24h", 86_400_000),
            ("0", 0),
            ("1h2m3.5s", 3_723_500),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "10", "-1s", "1x", "1.2.3s", "1 s"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (millis, text) in [
            (0, "0s"),
            (18, "18ms"),
            (1500, "1.5s"),
            (90_000, "1m30s"),
            (86_400_000, "24h0m0s"),
        ] {
            assert_eq!(show(Duration::from_millis(millis)), text);
        }
    }
}
