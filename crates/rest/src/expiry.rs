//! Until when something holds, as clients write it (spec/rest-api.md, section 10.3). Pure.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The time that is meant by `YYYY-MM-DD HH:MM`, by `HH:MM` of today, or by `+1day+2h` from `now` on; all in UTC.
///
/// # Errors
/// What is wrong with it: it is no such text, or its time is over.
pub(crate) fn expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let meant = if text.starts_with('+') {
        relative(text, now)
    } else {
        absolute(text, now)
    };
    let at = meant.ok_or_else(|| {
        format!("{text:?} is no time. Accepted are YYYY-MM-DD HH:MM and HH:MM, in UTC, and times from now such as +10h or +1day+2h")
    })?;
    if at <= now {
        return Err(format!("{at:.0} has passed"));
    }
    Ok(at)
}

fn absolute(text: &str, now: Timestamp) -> Option<Timestamp> {
    let civil = match DateTime::strptime("%Y-%m-%d %H:%M", text) {
        Ok(civil) => civil,
        Err(_) => TimeZone::UTC
            .to_datetime(now)
            .date()
            .to_datetime(Time::strptime("%H:%M", text).ok()?),
    };
    TimeZone::UTC.to_timestamp(civil).ok()
}

fn relative(text: &str, now: Timestamp) -> Option<Timestamp> {
    let mut at = TimeZone::UTC.to_datetime(now);
    for part in text.split('+').skip(1) {
        at = at.checked_add(span(part.trim_end())?).ok()?;
    }
    TimeZone::UTC.to_timestamp(at).ok()
}

/// A number and a unit, such as `2 weeks` or `10min`.
fn span(text: &str) -> Option<Span> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: i64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let span = Span::new();
    match unit.strip_suffix('s').unwrap_or(unit) {
        "min" | "minute" => span.try_minutes(number),
        "h" | "hour" => span.try_hours(number),
        "d" | "day" => span.try_days(number),
        "w" | "week" => span.try_weeks(number),
        "mo" | "month" => span.try_months(number),
        "y" | "year" => span.try_years(number),
        _ => return None,
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let now = "2024-01-31T12:30:40Z".parse().unwrap();
        expiry(text, now).map(|at| at.to_string())
    }

    #[test]
    fn times_are_read_as_clients_write_them() {
        for (text, meant) in [
            ("2121-03-09 14:52", "2121-03-09T14:52:00Z"),
            ("13:05", "2024-01-31T13:05:00Z"),
            ("+10h", "2024-01-31T22:30:40Z"),
            ("+30 minutes", "2024-01-31T13:00:40Z"),
            ("+1 day", "2024-02-01T12:30:40Z"),
            ("+1day+2h", "2024-02-01T14:30:40Z"),
            ("+2 weeks +1min ", "2024-02-14T12:31:40Z"),
            ("+1mo", "2024-02-29T12:30:40Z"),
            ("+1y", "2025-01-31T12:30:40Z"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "+",
            "tomorrow",
            "10h",
            "+h",
            "+10",
            "+10 parsecs",
            "+1day2h",
            "+-1h",
            "+1\u{e4}",
            "2121-02-30 10:00",
            "2121-03-09",
            "24:01",
            "+9999999999999999999h",
            "+9999y",
        ] {
            let reason = read(text).unwrap_err();
            assert!(reason.contains("is no time"), "{text}: {reason}");
        }
    }

    #[test]
    fn what_has_passed_is_refused() {
        for text in ["2001-01-01 00:00", "12:30", "+0h"] {
            let reason = read(text).unwrap_err();
            assert!(reason.contains("has passed"), "{text}: {reason}");
        }
    }
}
