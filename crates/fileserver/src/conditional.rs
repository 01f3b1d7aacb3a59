//! Conditions and ranges of a request (RFC 9110, sections 13 and 14): what is to be sent. Pure.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header};

/// The version of a file that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selected {
    /// A strong entity tag, in its quotes.
    pub(crate) tag: String,
    /// In whole seconds, as HTTP tells time.
    pub(crate) modified: SystemTime,
    /// In bytes.
    pub(crate) size: u64,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// 200 with all of it.
    Whole,
    /// 206 with these bytes; never empty.
    Part(Range<u64>),
    /// 304: the client has it.
    NotModified,
    /// 412: the client wanted another version.
    OtherVersion,
    /// 416: the file has no such bytes.
    OutOfRange,
}

/// Judges a GET or HEAD, in the order of RFC 9110, section 13.2.2.
pub(crate) fn judge(headers: &HeaderMap, selected: &Selected) -> Verdict {
    if let Some(wanted) = list_of(headers, &header::IF_MATCH) {
        if !wanted.iter().any(|tag| tag == "*" || *tag == selected.tag) {
            return Verdict::OtherVersion;
        }
    } else if let Some(since) = date(headers, &header::IF_UNMODIFIED_SINCE)
        && selected.modified > since
    {
        return Verdict::OtherVersion;
    }
    if let Some(known) = list_of(headers, &header::IF_NONE_MATCH) {
        // A weak tag of the same content fits as well: compared weakly.
        let fits = |tag: &String| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == selected.tag;
        if known.iter().any(fits) {
            return Verdict::NotModified;
        }
    } else if let Some(since) = date(headers, &header::IF_MODIFIED_SINCE)
        && selected.modified <= since
    {
        return Verdict::NotModified;
    }
    match text(headers, &header::RANGE) {
        Some(wanted) if range_still_holds(headers, selected) => range(wanted, selected.size),
        _ => Verdict::Whole,
    }
}

/// A part of another version would be joined to the wrong rest: whoever says what it has gets all of what it has not.
fn range_still_holds(headers: &HeaderMap, selected: &Selected) -> bool {
    match text(headers, &header::IF_RANGE) {
        None => true,
        Some(tag) if tag.starts_with('"') => tag == selected.tag,
        Some(weak) if weak.starts_with("W/") => false,
        Some(date) => httpdate::parse_http_date(date).is_ok_and(|date| date == selected.modified),
    }
}

/// One range of bytes. Whatever is no range, or several of them, is as if it had not been asked for (section 14.2 allows it).
fn range(wanted: &str, size: u64) -> Verdict {
    let Some((unit, set)) = wanted.split_once('=') else {
        return Verdict::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Verdict::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Verdict::Whole;
    }
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // What does not fit a number is beyond the end of any file.
        plain.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    let part = match (first.trim(), last.trim()) {
        ("", suffix) => number(suffix).map(|suffix| size.saturating_sub(suffix)..size),
        (first, "") => number(first).map(|first| first..size),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
            _ => None,
        },
    };
    match part {
        None => Verdict::Whole,
        Some(part) if part.start < part.end => Verdict::Part(part),
        Some(_) => Verdict::OutOfRange,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    text(headers, name).and_then(|date| httpdate::parse_http_date(date).ok())
}

/// The tags of a list, over all headers of the name; `None` without any.
fn list_of(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<String>> {
    let values: Vec<_> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let tags = || values.iter().flat_map(|value| value.split(','));
    // The tags of this server have no comma in them: cutting a stranger's in two makes two that fit nothing.
    (!values.is_empty()).then(|| tags().map(|tag| tag.trim().to_owned()).collect())
}

/// A time as HTTP tells it. Before 1970 there is none.
pub(crate) fn whole_seconds(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn selected(size: u64) -> Selected {
        Selected {
            tag: "\"abc\"".into(),
            modified: whole_seconds(1_000_000),
            size,
        }
    }

    fn asked(pairs: &[(HeaderName, &str)], size: u64) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        judge(&headers, &selected(size))
    }

    const LATER: &str = "Mon, 12 Jan 1970 13:46:41 GMT";
    const SAME: &str = "Mon, 12 Jan 1970 13:46:40 GMT";
    const EARLIER: &str = "Mon, 12 Jan 1970 13:46:39 GMT";

    #[test]
    fn ranges() {
        let part = |wanted: &str| asked(&[(header::RANGE, wanted)], 10);
        assert_eq!(part("bytes=0-3"), Verdict::Part(0..4));
        assert_eq!(part("bytes=4-"), Verdict::Part(4..10));
        assert_eq!(part("bytes=-3"), Verdict::Part(7..10));
        assert_eq!(part("bytes=-30"), Verdict::Part(0..10));
        assert_eq!(part("bytes=9-99999999999999999999999"), Verdict::Part(9..10));
        assert_eq!(part("bytes=10-"), Verdict::OutOfRange);
        assert_eq!(part("bytes=-0"), Verdict::OutOfRange);
        for none in [
            "bytes=3-2",
            "bytes=a-b",
            "bytes",
            "lines=0-1",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=-",
        ] {
            assert_eq!(part(none), Verdict::Whole, "{none}");
        }
        assert_eq!(asked(&[(header::RANGE, "bytes=0-")], 0), Verdict::OutOfRange);
    }

    #[test]
    fn what_the_client_has_is_not_sent() {
        let none = |tag: &str| asked(&[(header::IF_NONE_MATCH, tag)], 10);
        assert_eq!(none("\"abc\""), Verdict::NotModified);
        assert_eq!(none("\"x\", W/\"abc\""), Verdict::NotModified);
        assert_eq!(none("*"), Verdict::NotModified);
        assert_eq!(none("\"x\""), Verdict::Whole);
        assert_eq!(asked(&[(header::IF_MODIFIED_SINCE, SAME)], 10), Verdict::NotModified);
        assert_eq!(asked(&[(header::IF_MODIFIED_SINCE, EARLIER)], 10), Verdict::Whole);
        assert_eq!(asked(&[(header::IF_MODIFIED_SINCE, "yesterday")], 10), Verdict::Whole);
        // The tag is the better witness.
        let both = [(header::IF_NONE_MATCH, "\"x\""), (header::IF_MODIFIED_SINCE, LATER)];
        assert_eq!(asked(&both, 10), Verdict::Whole);
    }

    #[test]
    fn another_version_than_wanted() {
        assert_eq!(asked(&[(header::IF_MATCH, "\"x\"")], 10), Verdict::OtherVersion);
        assert_eq!(asked(&[(header::IF_MATCH, "W/\"abc\"")], 10), Verdict::OtherVersion);
        assert_eq!(
            asked(&[(header::IF_MATCH, "\"x\""), (header::IF_MATCH, "\"abc\"")], 10),
            Verdict::Whole
        );
        assert_eq!(
            asked(&[(header::IF_UNMODIFIED_SINCE, EARLIER)], 10),
            Verdict::OtherVersion
        );
        assert_eq!(asked(&[(header::IF_UNMODIFIED_SINCE, SAME)], 10), Verdict::Whole);
    }

    #[test]
    fn a_part_is_of_the_version_that_the_client_has() {
        let if_range = |value: &str| asked(&[(header::RANGE, "bytes=2-"), (header::IF_RANGE, value)], 10);
        assert_eq!(if_range("\"abc\""), Verdict::Part(2..10));
        assert_eq!(if_range("\"x\""), Verdict::Whole);
        assert_eq!(if_range("W/\"abc\""), Verdict::Whole);
        assert_eq!(if_range(SAME), Verdict::Part(2..10));
        assert_eq!(if_range(LATER), Verdict::Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_within(wanted in "[a-z]{0,5}=?[0-9]{0,25}-?[0-9,-]{0,25}", size in 0u64..100) {
            if let Verdict::Part(part) = asked(&[(header::RANGE, &wanted)], size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }
    }
}
