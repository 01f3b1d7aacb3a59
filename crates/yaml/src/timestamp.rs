//! Dates and times of YAML 1.1.

/// Reads a date, or a date with a time, in the one form that [`crate::Kind::Timestamp`] has. None if the text is no date.
///
/// # Errors
/// When it looks like a date and is none: the 13th month.
pub(crate) fn timestamp(text: &str) -> Result<Option<String>, String> {
    let Some(parts) = split(text) else { return Ok(None) };
    let wrong = || format!("{text:?} is no date");
    let month_days = match parts.month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if parts.year % 4 == 0 && (parts.year % 100 != 0 || parts.year % 400 == 0) => 29,
        2 => 28,
        _ => return Err(wrong()),
    };
    if parts.year == 0 || parts.day == 0 || parts.day > month_days {
        return Err(wrong());
    }
    let date = format!("{:04}-{:02}-{:02}", parts.year, parts.month, parts.day);
    let Some(time) = parts.time else { return Ok(Some(date)) };
    if time.hour > 23 || time.minute > 59 || time.second > 59 {
        return Err(wrong());
    }
    let mut result = format!("{date} {:02}:{:02}:{:02}", time.hour, time.minute, time.second);
    if time.micros > 0 {
        result += &format!(".{:06}", time.micros);
    }
    if let Some((negative, hours, minutes)) = time.zone {
        if hours > 23 {
            return Err(wrong());
        }
        let sign = if negative && (hours, minutes) != (0, 0) {
            '-'
        } else {
            '+'
        };
        result += &format!("{sign}{hours:02}:{minutes:02}");
    }
    Ok(Some(result))
}

struct Parts {
    year: u32,
    month: u32,
    day: u32,
    time: Option<Time>,
}

struct Time {
    hour: u32,
    minute: u32,
    second: u32,
    micros: u32,
    zone: Option<(bool, u32, u32)>,
}

/// Takes between `min` and `max` digits from the front.
fn digits(text: &str, min: usize, max: usize) -> Option<(u32, &str)> {
    let count = text.bytes().take(max).take_while(u8::is_ascii_digit).count();
    if count < min {
        return None;
    }
    let (number, rest) = text.split_at(count);
    Some((number.parse().ok()?, rest))
}

fn split(text: &str) -> Option<Parts> {
    let (year, rest) = digits(text, 4, 4)?;
    let (month, rest) = digits(rest.strip_prefix('-')?, 1, 2)?;
    let (day, rest) = digits(rest.strip_prefix('-')?, 1, 2)?;
    if rest.is_empty() {
        // A date alone has two digits for month and day.
        return (text.len() == 10).then_some(Parts {
            year,
            month,
            day,
            time: None,
        });
    }
    let clock = rest.strip_prefix(['T', 't']).or_else(|| {
        rest.starts_with([' ', '\t'])
            .then(|| rest.trim_start_matches([' ', '\t']))
    })?;
    let (hour, rest) = digits(clock, 1, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2, 2)?;
    let (micros, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let count = rest.bytes().take_while(u8::is_ascii_digit).count();
            let fraction: String = rest[..count].chars().chain("000000".chars()).take(6).collect();
            (fraction.parse().ok()?, &rest[count..])
        }
        None => (0, rest),
    };
    let zone = match rest.trim_start_matches([' ', '\t']) {
        "" if rest.is_empty() => None,
        "Z" => Some((false, 0, 0)),
        zone => {
            let (negative, zone) = match zone.strip_prefix('-') {
                Some(zone) => (true, zone),
                None => (false, zone.strip_prefix('+')?),
            };
            let (hours, rest) = digits(zone, 1, 2)?;
            let minutes = match rest.strip_prefix(':') {
                Some(rest) => digits(rest, 2, 2).filter(|(_, rest)| rest.is_empty())?.0,
                None if rest.is_empty() => 0,
                None => return None,
            };
            Some((negative, hours, minutes))
        }
    };
    Some(Parts {
        year,
        month,
        day,
        time: Some(Time {
            hour,
            minute,
            second,
            micros,
            zone,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_one_form() {
        for (text, expected) in [
            ("2001-12-14", "2001-12-14"),
            ("2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43.100000-05:00"),
            ("2001-1-4 1:59:43", "2001-01-04 01:59:43"),
            ("2001-12-14 21:59:43 Z", "2001-12-14 21:59:43+00:00"),
            ("2001-12-14  21:59:43.1234567 +5", "2001-12-14 21:59:43.123456+05:00"),
        ] {
            assert_eq!(timestamp(text).unwrap().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_dates_and_bad_dates_are_faults() {
        for text in [
            "2001-12-1",
            "2001-12",
            "20011-12-14",
            "2001-12-14 21:59",
            "2001-12-14x",
            "2001-12-14 21:59:43 +",
        ] {
            assert_eq!(timestamp(text), Ok(None), "{text}");
        }
        for text in ["2001-13-14", "2001-02-29", "2001-12-14 25:00:00"] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }
}
