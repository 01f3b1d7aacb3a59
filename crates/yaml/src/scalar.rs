//! What a plain scalar means by the rules of YAML 1.1 (spec/dsl.md, section 1).

use crate::Kind;

/// Resolves a plain scalar; whatever fits no other rule is a text.
pub(crate) fn resolve(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Kind::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Kind::Bool(false),
        _ => {}
    }
    // Numbers, infinities and dates begin with one of these; most texts do not.
    let first = text.as_bytes()[0];
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return Kind::Str(text.to_owned());
    }
    integer(text)
        .or_else(|| float(text))
        .or_else(|| is_timestamp(text).then(|| Kind::Timestamp(text.to_owned())))
        .unwrap_or_else(|| Kind::Str(text.to_owned()))
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn integer(text: &str) -> Option<Kind> {
    let (negative, digits) = split_sign(text);
    let of = |digits: &str, radix: u32| {
        let plain: String = digits.chars().filter(|c| *c != '_').collect();
        let valid = !plain.is_empty() && plain.chars().all(|c| c.is_digit(radix));
        valid.then(|| match i64::from_str_radix(&plain, radix) {
            Ok(value) => Kind::Int(if negative { -value } else { value }),
            Err(_) => Kind::BigInt(format!("{}{plain}", if negative { "-" } else { "" })),
        })
    };
    if let Some(rest) = digits.strip_prefix("0b") {
        return of(rest, 2);
    }
    if let Some(rest) = digits.strip_prefix("0x") {
        return of(rest, 16);
    }
    if digits == "0" {
        return Some(Kind::Int(0));
    }
    let first = digits.as_bytes().first()?;
    if *first == b'0' {
        return digits[1..]
            .chars()
            .all(|c| c.is_digit(8) || c == '_')
            .then(|| of(&digits[1..], 8))
            .flatten();
    }
    if !first.is_ascii_digit() {
        return None;
    }
    if digits.contains(':') {
        return sexagesimal(digits).map(|value| Kind::Int(if negative { -value } else { value }));
    }
    of(digits, 10)
}

/// `190:20:30` is base 60: hours, minutes, seconds.
fn sexagesimal(digits: &str) -> Option<i64> {
    let mut parts = digits.split(':');
    let mut value: i64 = parts.next()?.replace('_', "").parse().ok()?;
    for part in parts {
        value = value
            .checked_mul(60)?
            .checked_add(i64::try_from(below_sixty(part)?).ok()?)?;
    }
    Some(value)
}

fn below_sixty(part: &str) -> Option<u64> {
    let fits = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    part.parse().ok().filter(|value| fits && *value < 60)
}

fn float(text: &str) -> Option<Kind> {
    let (negative, body) = split_sign(text);
    let signed = |value: f64| Some(Kind::Float(if negative { -value } else { value }));
    match body {
        ".inf" | ".Inf" | ".INF" => return signed(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if text == body => return Some(Kind::Float(f64::NAN)),
        _ => {}
    }
    if body.contains(':') {
        let (whole, fraction) = body.split_once('.')?;
        let value = sexagesimal(whole)? as f64;
        let fraction: String = fraction.chars().filter(|c| *c != '_').collect();
        if !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        return signed(value + format!("0.{fraction}0").parse::<f64>().ok()?);
    }
    // A float needs its dot, and a sign in its exponent: `1e3` is a text.
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let starts_with_digit = whole.as_bytes().first().is_some_and(u8::is_ascii_digit);
    let fits = digits(whole) && digits(fraction) && (starts_with_digit || (whole.is_empty() && !fraction.is_empty()));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let (sign, digits) = exponent.split_at_checked(1).unwrap_or(("", ""));
        matches!(sign, "+" | "-") && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    if !fits || !exponent_fits {
        return None;
    }
    let plain: String = body.chars().filter(|c| *c != '_').collect();
    signed(plain.parse().ok()?)
}

/// `2001-12-14`, or a date with a time in the forms of YAML 1.1.
fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    if !digits(0..4) || bytes.get(4) != Some(&b'-') {
        return false;
    }
    if bytes.len() == 10 {
        return digits(5..7) && bytes[7] == b'-' && digits(8..10);
    }
    let Some((date, time)) = text.split_once(['T', 't', ' ', '\t']) else {
        return false;
    };
    let mut parts = date[5..].split('-');
    let short = |part: Option<&str>| {
        part.is_some_and(|part| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()))
    };
    if !(short(parts.next()) && short(parts.next()) && parts.next().is_none()) {
        return false;
    }
    let clock = time.trim_start().split(['.', 'Z', '+', '-', ' ']).next().unwrap_or("");
    let fields: Vec<&str> = clock.split(':').collect();
    fields.len() == 3 && fields.iter().all(|field| short(Some(field)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_many_and_letters_are_texts() {
        assert_eq!(resolve("Yes"), Kind::Bool(true));
        assert_eq!(resolve("off"), Kind::Bool(false));
        assert_eq!(resolve("y"), Kind::Str("y".into()));
        assert_eq!(resolve("tRue"), Kind::Str("tRue".into()));
    }

    #[test]
    fn integers_have_bases() {
        for (text, value) in [
            ("0777", 511),
            ("0x1F", 31),
            ("0b101", 5),
            ("1_000", 1000),
            ("190:20:30", 685_230),
            ("-12", -12),
            ("0", 0),
        ] {
            assert_eq!(resolve(text), Kind::Int(value), "{text}");
        }
        for text in ["0o777", "08", "1:99", "_1"] {
            assert_eq!(resolve(text), Kind::Str(text.into()), "{text}");
        }
    }

    #[test]
    fn floats_need_a_dot() {
        assert_eq!(resolve("1.5"), Kind::Float(1.5));
        assert_eq!(resolve("1:30.5"), Kind::Float(90.5));
        assert_eq!(resolve("1.0e+3"), Kind::Float(1000.0));
        assert_eq!(resolve("-.inf"), Kind::Float(f64::NEG_INFINITY));
        assert_eq!(resolve(".5"), Kind::Float(0.5));
        for text in ["1e3", "1.0e3", ".", "1.2.3", "-"] {
            assert_eq!(resolve(text), Kind::Str(text.into()), "{text}");
        }
    }

    #[test]
    fn dates_are_no_texts() {
        assert_eq!(resolve("2001-12-14"), Kind::Timestamp("2001-12-14".into()));
        assert!(matches!(resolve("2001-12-14t21:59:43.10-05:00"), Kind::Timestamp(_)));
        assert_eq!(resolve("2001-12-1"), Kind::Str("2001-12-1".into()));
    }
}
