//! What a plain scalar means by the rules of YAML 1.1 (spec/dsl.md, section 1).

use crate::Kind;
use crate::timestamp::timestamp;

/// Resolves a plain scalar; none for a text.
///
/// # Errors
/// When it has the form of a number or date and is none.
pub(crate) fn resolve(text: &str) -> Result<Option<Kind>, String> {
    let Some(first) = text.as_bytes().first() else {
        return Ok(Some(Kind::Null));
    };
    match first {
        b'~' | b'n' | b'N' | b'y' | b'Y' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' => Ok(word(text)),
        b'0'..=b'9' | b'+' | b'-' | b'.' => number(text),
        _ => Ok(None),
    }
}

fn word(text: &str) -> Option<Kind> {
    match text {
        "~" | "null" | "Null" | "NULL" => Some(Kind::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(Kind::Bool(true)),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(Kind::Bool(false)),
        _ => None,
    }
}

fn number(text: &str) -> Result<Option<Kind>, String> {
    if let Some(kind) = integer(text)? {
        return Ok(Some(kind));
    }
    if let Some(value) = float(text) {
        return Ok(Some(Kind::Float(value)));
    }
    Ok(timestamp(text)?.map(|text| Kind::Timestamp(text.into())))
}

/// What the tag `!!int` makes of a text.
///
/// # Errors
/// When it is no whole number.
pub(crate) fn forced_integer(text: &str) -> Result<Kind, String> {
    integer(text)?.ok_or_else(|| format!("{text:?} is no whole number"))
}

/// What the tag `!!float` makes of a text.
///
/// # Errors
/// When it is no number.
pub(crate) fn forced_float(text: &str) -> Result<Kind, String> {
    let plain = text.replace('_', "").to_lowercase();
    float(text)
        .or_else(|| {
            plain
                .parse::<f64>()
                .ok()
                .filter(|_| plain.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)))
        })
        .map(Kind::Float)
        .ok_or_else(|| format!("{text:?} is no number"))
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn integer(text: &str) -> Result<Option<Kind>, String> {
    let (negative, digits) = split_sign(text);
    let all = |digits: &str, allowed: fn(u8) -> bool| digits.bytes().all(|byte| byte == b'_' || allowed(byte));
    let binary: fn(u8) -> bool = |byte| matches!(byte, b'0' | b'1');
    let octal: fn(u8) -> bool = |byte| matches!(byte, b'0'..=b'7');
    let decimal: fn(u8) -> bool = |byte| byte.is_ascii_digit();
    let hexadecimal: fn(u8) -> bool = |byte| byte.is_ascii_hexdigit();
    let (rest, radix, allowed) = if let Some(rest) = digits.strip_prefix("0b") {
        (rest, 2, binary)
    } else if let Some(rest) = digits.strip_prefix("0x") {
        (rest, 16, hexadecimal)
    } else if let Some(rest) = digits.strip_prefix('0') {
        match rest {
            "" => return Ok(Some(Kind::Int(0))),
            rest => (rest, 8, octal),
        }
    } else {
        (digits, 10, decimal)
    };
    if rest.is_empty() {
        return Ok(None);
    }
    if radix == 10 {
        if !rest.as_bytes()[0].is_ascii_digit() {
            return Ok(None);
        }
        if rest.contains(':') {
            return Ok(sexagesimal(rest).map(|value| Kind::Int(if negative { -value } else { value })));
        }
    }
    if !all(rest, allowed) {
        return Ok(None);
    }
    let plain = rest.replace('_', "");
    if plain.is_empty() {
        // `0_` is zero, `0b_` and `0x_` are nothing at all.
        return if radix == 8 {
            Ok(Some(Kind::Int(0)))
        } else {
            Err(format!("{text:?} is no number"))
        };
    }
    Ok(Some(match i64::from_str_radix(&plain, radix) {
        Ok(value) => Kind::Int(if negative { -value } else { value }),
        Err(_) => Kind::BigInt(format!("{}{}", if negative { "-" } else { "" }, decimal_digits(&plain, radix)).into()),
    }))
}

/// Decimal digits of a number in any base.
fn decimal_digits(digits: &str, radix: u32) -> String {
    // Limbs of nine decimal digits, the lowest first.
    const LIMB: u64 = 1_000_000_000;
    if radix == 10 {
        return digits.trim_start_matches('0').to_owned();
    }
    let mut limbs: Vec<u64> = vec![0];
    for digit in digits.chars().filter_map(|c| c.to_digit(radix)) {
        let mut carry = u64::from(digit);
        for limb in &mut limbs {
            let value = *limb * u64::from(radix) + carry;
            *limb = value % LIMB;
            carry = value / LIMB;
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let mut result = limbs.pop().unwrap_or(0).to_string();
    for limb in limbs.iter().rev() {
        result += &format!("{limb:09}");
    }
    result
}

/// `190:20:30` is base 60: hours, minutes, seconds.
fn sexagesimal(digits: &str) -> Option<i64> {
    let mut parts = digits.split(':');
    let first = parts.next()?;
    let fits = first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let mut value: i64 = first.replace('_', "").parse().ok().filter(|_| fits)?;
    for part in parts {
        value = value.checked_mul(60)?.checked_add(below_sixty(part)?)?;
    }
    Some(value)
}

fn below_sixty(part: &str) -> Option<i64> {
    let fits = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    part.parse().ok().filter(|value| fits && *value < 60)
}

fn float(text: &str) -> Option<f64> {
    let (negative, body) = split_sign(text);
    let signed = |value: f64| Some(if negative { -value } else { value });
    match body {
        ".inf" | ".Inf" | ".INF" => return signed(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if text == body => return Some(f64::NAN),
        _ => {}
    }
    if body.contains(':') {
        let (whole, fraction) = body.split_once('.')?;
        let value = sexagesimal(whole)? as f64;
        if !fraction.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_') {
            return None;
        }
        let fraction = fraction.replace('_', "");
        return signed(value + format!("0.{fraction}0").parse::<f64>().ok()?);
    }
    // A float needs its dot, and a sign in its exponent: `1e3` is a text.
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let begins_with_digit = |part: &str| part.as_bytes().first().is_some_and(u8::is_ascii_digit);
    // What begins with the dot has no sign.
    let fits = digits(whole)
        && digits(fraction)
        && (begins_with_digit(whole) || (whole.is_empty() && text == body && begins_with_digit(fraction)));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let (sign, digits) = exponent.split_at_checked(1).unwrap_or(("", ""));
        matches!(sign, "+" | "-") && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    if !fits || !exponent_fits {
        return None;
    }
    signed(body.replace('_', "").parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<Kind> {
        resolve(text).unwrap()
    }

    #[test]
    fn booleans_are_many_and_letters_are_texts() {
        assert_eq!(kind("Yes"), Some(Kind::Bool(true)));
        assert_eq!(kind("off"), Some(Kind::Bool(false)));
        assert_eq!(kind("y"), None);
        assert_eq!(kind("tRue"), None);
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
            ("+12", 12),
            ("0", 0),
            ("0_", 0),
            ("-0", 0),
        ] {
            assert_eq!(kind(text), Some(Kind::Int(value)), "{text}");
        }
        for text in ["0o777", "08", "1:99", "_1", "+", "-", "0x", "0b"] {
            assert_eq!(kind(text), None, "{text}");
        }
        assert!(resolve("0b_").is_err());
        assert_eq!(
            kind("0x10000000000000000"),
            Some(Kind::BigInt("18446744073709551616".into()))
        );
    }

    #[test]
    fn floats_need_a_dot() {
        for (text, value) in [
            ("1.5", 1.5),
            ("1:30.5", 90.5),
            ("1.0e+3", 1000.0),
            ("-.inf", f64::NEG_INFINITY),
            (".5", 0.5),
            ("1.", 1.0),
            ("1_000.5", 1000.5),
        ] {
            assert_eq!(kind(text), Some(Kind::Float(value)), "{text}");
        }
        for text in ["1e3", "1.0e3", ".", "1.2.3", "-", "-.5", "._1"] {
            assert_eq!(kind(text), None, "{text}");
        }
    }
}
