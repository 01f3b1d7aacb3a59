//! Whether something on disk that is neither as the manifest has it nor as it had it was put there by a person.
//!
//! A node that was away for long may show what the manifest has forgotten. To publish that as an edit would bring back what others replaced
//! long ago; to take an edit for that would lose it. Only the first can be decided: what is not certain is kept aside.

use conclave_catalog::files::{FilePath, Manifest};

/// Log entries after which the manifest may have forgotten what a path was; it keeps them longer.
const FORGETS_AFTER: u64 = 100_000;

/// Whether what is at `path`, and is none of the versions that the manifest keeps, can only be an edit: `shown` is the version up to which
/// this node had shown everything when it stopped.
pub(crate) fn is_edit(manifest: &Manifest, path: &FilePath, shown: u64) -> bool {
    if manifest.version().saturating_sub(shown) > FORGETS_AFTER {
        return false;
    }
    let changed_since = manifest.get(path).is_some_and(|live| live.version > shown)
        || manifest.past(path).next_back().is_some_and(|past| past.until > shown);
    if !changed_since {
        return true;
    }
    // What this node showed then is still kept, if it was anything; and it was compared.
    let oldest = manifest.past(path).next().map(|past| past.version);
    let kept_all = manifest.past(path).count() < conclave_catalog::files::PAST_PER_PATH;
    kept_all || oldest.is_some_and(|oldest| oldest <= shown)
}

#[cfg(test)]
mod tests {
    use conclave_catalog::files::{ContentHash, Entry, Expected, FileEntry, FilesCommand, Layout, Modified, Step};

    use super::*;

    #[test]
    fn only_what_is_certain_is_an_edit() {
        let (mut manifest, path) = (Manifest::default(), FilePath::new("tenant-resources/a").unwrap());
        let put = |number: u8| {
            let file = FileEntry {
                content: ContentHash([number; 32]),
                layout: Layout::Whole,
                size: 1,
                mode: 0o644,
                modified: Modified::default(),
            };
            let step = Step::Put {
                path: path.clone(),
                entry: Entry::File(file),
                expected: Expected::Anything,
            };
            FilesCommand::Change {
                set: None,
                steps: vec![step],
            }
        };
        assert!(is_edit(&manifest, &path, 0), "a new name");
        for index in 1..=30 {
            manifest.apply(u64::from(index), put(index)).unwrap();
        }
        assert!(is_edit(&manifest, &path, 30), "nothing has changed since");
        assert!(
            is_edit(&manifest, &path, 25),
            "what was shown is known, and it is not that"
        );
        assert!(
            !is_edit(&manifest, &path, 5),
            "what was shown is forgotten: it may be that"
        );
        manifest.apply(500_000, put(99)).unwrap();
        let other = FilePath::new("tenant-resources/b").unwrap();
        assert!(
            !is_edit(&manifest, &other, 30),
            "so long ago that anything may be forgotten"
        );
    }
}
