//! Versions of Python packages and what may be asked of them (PEP 440), as `plugin:` imports use them.

use std::cmp::Ordering;

/// A version, in the parts that decide about order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    epoch: u64,
    release: Vec<u64>,
    /// Letter (`a`, `b`, `rc`) and number.
    pre: Option<(u8, u64)>,
    post: Option<u64>,
    dev: Option<u64>,
    local: Vec<LocalPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum LocalPart {
    Text(String),
    Number(u64),
}

/// Reads letters and digits from the front of a text.
struct Reader<'t>(&'t str);

impl<'t> Reader<'t> {
    fn number(&mut self) -> Option<u64> {
        let count = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(count);
        let number = digits.parse().ok()?;
        self.0 = rest;
        Some(number)
    }

    fn take(&mut self, prefix: &str) -> bool {
        let rest = self.0.strip_prefix(prefix);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn separator(&mut self) -> bool {
        self.take(".") || self.take("-") || self.take("_")
    }

    /// A word of several spellings, with a number behind it or 0.
    fn labelled(&mut self, words: &[&str]) -> Option<u64> {
        let mut ahead = Reader(self.0);
        ahead.separator();
        words.iter().find(|word| ahead.take(word))?;
        let mut behind = Reader(ahead.0);
        behind.separator();
        let number = match behind.number() {
            Some(number) => {
                ahead = behind;
                number
            }
            None => 0,
        };
        self.0 = ahead.0;
        Some(number)
    }
}

impl Version {
    /// Reads a version; none when it is no version.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let mut reader = Reader(&text);
        reader.take("v");
        let mut release = vec![reader.number()?];
        let epoch = if reader.take("!") {
            std::mem::replace(&mut release[0], reader.number()?)
        } else {
            0
        };
        while reader.0.starts_with('.') && reader.0[1..].starts_with(|c: char| c.is_ascii_digit()) {
            reader.take(".");
            release.push(reader.number()?);
        }
        let pre = [
            (b'a', &["alpha", "a"][..]),
            (b'b', &["beta", "b"][..]),
            (b'r', &["rc", "preview", "pre", "c"][..]),
        ]
        .into_iter()
        .find_map(|(letter, words)| reader.labelled(words).map(|number| (letter, number)));
        let mut post = reader.labelled(&["post", "rev", "r"]);
        if post.is_none() && reader.0.starts_with('-') {
            reader.take("-");
            post = Some(reader.number()?);
        }
        let dev = reader.labelled(&["dev"]);
        let mut local = Vec::new();
        if reader.take("+") {
            for part in std::mem::take(&mut reader.0).split(['.', '-', '_']) {
                if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    return None;
                }
                local.push(
                    part.parse()
                        .map_or_else(|_| LocalPart::Text(part.to_owned()), LocalPart::Number),
                );
            }
        }
        reader.0.is_empty().then_some(Self {
            epoch,
            release,
            pre,
            post,
            dev,
            local,
        })
    }

    fn part(&self, at: usize) -> u64 {
        self.release.get(at).copied().unwrap_or(0)
    }

    fn compare_release(&self, other: &Self) -> Ordering {
        let length = self.release.len().max(other.release.len());
        self.epoch.cmp(&other.epoch).then_with(|| {
            (0..length)
                .map(|at| self.part(at))
                .cmp((0..length).map(|at| other.part(at)))
        })
    }

    /// Development before alpha before the release before what is posted later.
    fn stage(&self) -> (u8, u8, u64, i128, i128) {
        let dev = self.dev.map_or(i128::MAX, i128::from);
        let post = self.post.map_or(-1, i128::from);
        match self.pre {
            Some((letter, number)) => (1, letter, number, post, dev),
            None if self.post.is_none() && self.dev.is_some() => (0, 0, 0, post, dev),
            None => (2, 0, 0, post, dev),
        }
    }

    fn public(&self) -> Self {
        Self {
            local: Vec::new(),
            ..self.clone()
        }
    }

    fn is_prerelease(&self) -> bool {
        self.pre.is_some() || self.dev.is_some()
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare_release(other)
            .then_with(|| self.stage().cmp(&other.stage()))
            .then_with(|| self.local.cmp(&other.local))
    }
}

/// One condition on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Specifier {
    operator: &'static str,
    text: String,
}

impl Specifier {
    /// Reads a condition; a bare version asks for just that. None when it is no condition.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let operators = ["===", "~=", "==", "!=", "<=", ">=", "<", ">"];
        let (operator, rest) = operators
            .into_iter()
            .find_map(|operator| text.strip_prefix(operator).map(|rest| (operator, rest.trim())))
            .unwrap_or(("===", text));
        let wildcard = matches!(operator, "==" | "!=")
            .then(|| rest.strip_suffix(".*"))
            .flatten();
        let version = Version::parse(wildcard.unwrap_or(rest));
        let is_known = match operator {
            "===" => !rest.is_empty() && !rest.contains(char::is_whitespace),
            "~=" => version.is_some_and(|version| version.release.len() > 1),
            _ => version.is_some(),
        };
        is_known.then(|| Self {
            operator,
            text: rest.to_owned(),
        })
    }

    /// Whether a version fulfils the condition.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        if self.operator == "===" {
            return text.trim().eq_ignore_ascii_case(&self.text);
        }
        let Some(version) = Version::parse(text) else {
            return false;
        };
        if let Some(prefix) = self.text.strip_suffix(".*") {
            let Some(prefix) = Version::parse(prefix) else {
                return false;
            };
            return has_prefix(&version, &prefix) == (self.operator == "==");
        }
        let Some(wanted) = Version::parse(&self.text) else {
            return false;
        };
        let own = if wanted.local.is_empty() {
            version.public()
        } else {
            version.clone()
        };
        match self.operator {
            "==" => own == wanted || own.cmp(&wanted) == Ordering::Equal,
            "!=" => own.cmp(&wanted) != Ordering::Equal,
            "<=" => version.public() <= wanted,
            ">=" => version.public() >= wanted,
            // Before 1.0 means neither its pre-releases nor, after 1.0, what is posted later or local.
            "<" => {
                version < wanted
                    && (wanted.is_prerelease()
                        || !version.is_prerelease()
                        || version.compare_release(&wanted) != Ordering::Equal)
            }
            ">" => {
                version > wanted
                    && (wanted.post.is_some()
                        || version.post.is_none()
                        || version.compare_release(&wanted) != Ordering::Equal)
                    && (version.local.is_empty() || version.compare_release(&wanted) != Ordering::Equal)
            }
            _ => {
                let mut prefix = wanted.public();
                (prefix.pre, prefix.post, prefix.dev) = (None, None, None);
                prefix.release.pop();
                version.public() >= wanted && has_prefix(&version, &prefix)
            }
        }
    }
}

fn has_prefix(version: &Version, prefix: &Version) -> bool {
    version.epoch == prefix.epoch && (0..prefix.release.len()).all(|at| version.part(at) == prefix.part(at))
}

/// Whether a version fulfils all conditions; where several do, the highest is taken, which [`Version`]'s order tells.
pub(crate) fn accepts_all(specifiers: &[Specifier], version: &str) -> bool {
    specifiers.iter().all(|specifier| specifier.accepts(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let ordered = [
            "0.9",
            "1.0.dev1",
            "1.0a1.dev1",
            "1.0a1",
            "1.0b2",
            "1.0rc1",
            "1.0",
            "1.0+local.1",
            "1.0.post1",
            "1.0.1",
            "1.2",
            "1.10",
            "1!0.1",
        ];
        for pair in ordered.windows(2) {
            assert!(
                Version::parse(pair[0]).unwrap() < Version::parse(pair[1]).unwrap(),
                "{pair:?}"
            );
        }
        assert_eq!(
            Version::parse("1.0").unwrap().cmp(&Version::parse("v1.0.0").unwrap()),
            Ordering::Equal
        );
        for text in ["", "x", "1.x", "1..2", "1.0+", "1.0 2"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn conditions_are_checked() {
        for (specifier, version, expected) in [
            ("1.0", "1.0", true),
            ("1.0", "1.0.0", false),
            ("==1.0", "1.0.0", true),
            ("==1.*", "1.9.2", true),
            ("!=1.*", "1.9.2", false),
            ("!=1.0", "1.1", true),
            (">=1.2", "1.10", true),
            ("<2", "2.0a1", false),
            ("<2", "1.9", true),
            (">1.0", "1.0.post1", false),
            (">1.0", "1.1", true),
            ("<=1.0", "1.0+x", true),
            ("~=1.4", "1.9", true),
            ("~=1.4", "2.0", false),
            ("~=1.4.2", "1.5", false),
            ("~= 1.4.2", "1.4.9", true),
        ] {
            assert_eq!(
                Specifier::parse(specifier).unwrap().accepts(version),
                expected,
                "{specifier} {version}"
            );
        }
        for text in ["", "==", ">=x", "~=1", "=>1"] {
            let specifier = Specifier::parse(text);
            assert!(specifier.is_none() || text == "=>1", "{text}");
        }
    }
}
