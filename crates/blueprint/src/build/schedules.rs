//! Settings of deployments, and times of schedules (spec/dsl.md, section 13).

use conclave_yaml::{Node, Text};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Disambiguation, TimeZone, TimeZoneDatabase};

use super::context::Context;
use crate::{Class, Fault, Map, Value};

const SECTION: &str = "deployment_settings";

/// What a time without a date belongs to; the language has no clock of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Today {
    pub(crate) date: Date,
    /// Where a schedule names no zone.
    pub(crate) zone: TimeZone,
}

impl Default for Today {
    fn default() -> Self {
        Self {
            date: Date::constant(1970, 1, 1),
            zone: TimeZone::UTC,
        }
    }
}

/// Reads the settings.
pub(super) fn settings(context: &mut Context<'_>, today: &Today) -> Map {
    let Some(section) = context.document.section(SECTION) else {
        return Map::new();
    };
    if context.is_broken(SECTION, SECTION) {
        return Map::new();
    }
    let node = section.to_node();
    let Value::Map(mut settings) = Value::from(&node) else {
        return Map::new();
    };
    let mut schedules = Map::new();
    let written = node.get("default_schedules");
    for (key, schedule) in written.and_then(Node::as_map).unwrap_or_default() {
        let Some(name) = key.as_text() else { continue };
        let path = format!("{SECTION}.default_schedules.{name}");
        if schedule.is_null() {
            let message = format!("the schedule '{name}' is expected to be a dictionary");
            context.fail(Fault::new(Class::Type, message, path), key.place);
            continue;
        }
        let schedule = read(context, schedule, &path, today);
        schedules.insert(name.clone(), schedule);
    }
    settings.insert("default_schedules", schedules);
    settings
}

fn read(context: &mut Context<'_>, node: &Node, path: &str, today: &Today) -> Map {
    let Value::Map(mut schedule) = Value::from(node) else {
        return context.empty.clone();
    };
    let zone = node
        .get("timezone")
        .and_then(Node::as_str)
        .filter(|zone| !zone.is_empty());
    for key in ["since", "until"] {
        let Some(written) = node.get(key) else { continue };
        let Some(text) = written.as_str().filter(|text| key == "since" || !text.is_empty()) else {
            continue;
        };
        match moment(text, zone, today) {
            Ok(time) => {
                schedule.insert(key, time);
            }
            Err(message) => context.fail(
                Fault::new(Class::NonRecoverable, message, format!("{path}.{key}")),
                written.place,
            ),
        }
    }
    schedule.remove("timezone");
    if let Some(recurrence) = node.get("recurrence") {
        let text = recurrence.as_str().unwrap_or_default();
        if !text.is_empty() && !is_delta(text) {
            let message = format!("{text} is not a legal time delta");
            context.fail(
                Fault::new(Class::NonRecoverable, message, format!("{path}.recurrence")),
                recurrence.place,
            );
        }
    }
    check_weekdays(context, node, path);
    check_parameters(context, node, path);
    schedule
}

fn check_weekdays(context: &mut Context<'_>, node: &Node, path: &str) {
    const DAYS: [&str; 7] = ["su", "mo", "tu", "we", "th", "fr", "sa"];
    for day in node.get("weekdays").and_then(Node::as_seq).unwrap_or_default() {
        let Some(text) = day.as_str() else {
            let message = "a weekday is a text";
            context.fail(Fault::new(Class::Type, message, format!("{path}.weekdays")), day.place);
            continue;
        };
        let lower = text.to_lowercase();
        let start = lower.char_indices().rev().nth(1).map_or(0, |(at, _)| at);
        if !DAYS.contains(&&lower[start..]) {
            let message = format!(
                "{text} is not a valid weekday value. Accepted values: {}",
                DAYS.join(", ")
            );
            context.fail(
                Fault::coded(Class::Parsing, 1, message, format!("{path}.weekdays")),
                day.place,
            );
        }
    }
}

/// Parameters are fixed when a deployment is made, before there are attributes.
fn check_parameters(context: &mut Context<'_>, node: &Node, path: &str) {
    let Some(parameters) = node.get("workflow_parameters") else {
        return;
    };
    let calls = |value: &Node| value.get("get_attribute").is_some();
    if calls(parameters)
        || parameters
            .as_map()
            .unwrap_or_default()
            .iter()
            .any(|(_, value)| calls(value))
    {
        let message =
            "`workflow_parameters` cannot contain a runtime property. Please remove the `get_attribute` function";
        let path = format!("{path}.workflow_parameters");
        context.fail(Fault::coded(Class::Parsing, 1, message, path), parameters.place);
    }
}

/// A time as plans show it: relative ones as they are, absolute ones in UTC.
fn moment(text: &str, zone: Option<&str>, today: &Today) -> Result<Text, String> {
    if text.starts_with('+') {
        return match deltas(text).find(|delta| !is_delta(delta)) {
            Some(wrong) => Err(format!("{wrong} is not a legal time delta")),
            None => Ok(text.into()),
        };
    }
    let time = absolute(text, today.date)
        .ok_or_else(|| format!("{text} is not a legal time format. accepted formats are YYYY-MM-DD HH:MM | HH:MM"))?;
    let zone = match zone {
        Some(name) => TimeZoneDatabase::bundled()
            .get(name)
            .ok()
            .filter(|zone| zone.iana_name() == Some(name))
            .ok_or_else(|| format!("{name} is not a recognized timezone"))?,
        None => today.zone.clone(),
    };
    let instant = zone
        .to_ambiguous_timestamp(time)
        .disambiguate(Disambiguation::Later)
        .map_err(|error| error.to_string())?;
    let utc = TimeZone::UTC.to_datetime(instant);
    Ok(utc.strftime("%Y-%m-%d %H:%M:%S").to_string().into())
}

/// `YYYY-MM-DD HH:MM`, or `HH:MM` of today.
fn absolute(text: &str, today: Date) -> Option<DateTime> {
    let clock = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        Time::new(number(hour, 2)?, number(minute, 2)?, 0, 0).ok()
    };
    match text.split_once(char::is_whitespace) {
        None => Some(DateTime::from_parts(today, clock(text)?)),
        Some((date, time)) => {
            let mut parts = date.splitn(3, '-');
            let mut part = |length| parts.next().and_then(|part| number::<i16>(part, length));
            let (year, month, day) = (part(4).filter(|_| date.find('-') == Some(4))?, part(2)?, part(2)?);
            let date = Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
            Some(DateTime::from_parts(date, clock(time.trim_start())?))
        }
    }
}

fn number<N: std::str::FromStr>(text: &str, length_max: usize) -> Option<N> {
    let fits = (1..=length_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

/// The parts of `+1 day+2h`, without their signs; a blank that stands behind a part belongs to it.
fn deltas(text: &str) -> impl Iterator<Item = &str> {
    text.split('+').skip(1).filter_map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = digits;
        end += usize::from(part[end..].starts_with(' '));
        let letters = part[end..].bytes().take_while(u8::is_ascii_lowercase).count();
        if digits == 0 || letters == 0 {
            return None;
        }
        end += letters;
        end += usize::from(part[end..].starts_with(' '));
        Some(&part[..end])
    })
}

/// A number and a unit, such as `2 weeks` or `10min`.
fn is_delta(text: &str) -> bool {
    const UNITS: [&str; 12] = [
        "min", "minute", "h", "hour", "d", "day", "w", "week", "mo", "month", "y", "year",
    ];
    let text = text.strip_suffix('\n').unwrap_or(text);
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    if unit.len() == text.len() {
        return false;
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    UNITS.contains(&unit) || unit.strip_suffix('s').is_some_and(|unit| UNITS.contains(&unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, zone: Option<&str>) -> Result<String, ()> {
        let today = Today {
            date: Date::constant(2024, 5, 6),
            ..Today::default()
        };
        moment(text, zone, &today).map(|time| time.to_string()).map_err(|_| ())
    }

    #[test]
    fn absolute_times_are_in_utc() {
        assert_eq!(at("2024-01-02 03:04", None), Ok("2024-01-02 03:04:00".into()));
        assert_eq!(at("3:04", None), Ok("2024-05-06 03:04:00".into()));
        assert_eq!(
            at("2024-07-02 03:04", Some("Asia/Jerusalem")),
            Ok("2024-07-02 00:04:00".into())
        );
        assert_eq!(at("2024-01-02 03:04", Some("EST")), Ok("2024-01-02 08:04:00".into()));
        assert_eq!(at("2024-01-02 03:04", Some("Nowhere/City")), Err(()));
        // The hour that comes twice is the second one, in standard time.
        assert_eq!(
            at("2024-11-03 01:30", Some("America/New_York")),
            Ok("2024-11-03 06:30:00".into())
        );
        assert_eq!(
            at("2024-03-10 02:30", Some("America/New_York")),
            Ok("2024-03-10 07:30:00".into())
        );
        for text in [
            "2024-13-02 03:04",
            "24:00",
            "tomorrow",
            "2024-01-02",
            "",
            "24-01-02 03:04",
        ] {
            assert_eq!(at(text, None), Err(()), "{text}");
        }
    }

    #[test]
    fn relative_times_stay() {
        for text in ["+1 day", "+2weeks", "+1h+30min", "+10 minutes", "+x"] {
            assert_eq!(at(text, None), Ok(text.into()));
        }
        for text in ["+1 day +2h", "+1 parsec", "+1 dayss"] {
            assert_eq!(at(text, None), Err(()), "{text}");
        }
        assert!(is_delta("2 weeks") && is_delta("1mo") && !is_delta("+1 day") && !is_delta("day"));
    }
}
