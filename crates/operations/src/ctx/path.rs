//! Paths into nested values: `a.b[2].c`.

use serde_json::{Map, Value};

/// The path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("illegal path: {0}")]
pub(crate) struct IllegalPath(String);

/// The value at `path`.
pub(crate) fn get<'a>(root: &'a Map<String, Value>, path: &str) -> Result<&'a Value, IllegalPath> {
    let illegal = || IllegalPath(path.to_owned());
    let mut segments = path.split('.');
    let first = segments.next().unwrap_or_default();
    let mut current = step(root, first).ok_or_else(illegal)?;
    for segment in segments {
        current = current
            .as_object()
            .and_then(|map| step(map, segment))
            .ok_or_else(illegal)?;
    }
    Ok(current)
}

fn step<'a>(map: &'a Map<String, Value>, segment: &str) -> Option<&'a Value> {
    match indexed(segment) {
        Some((name, index)) => map.get(name)?.as_array()?.get(index),
        None => map.get(segment),
    }
}

/// Sets the value at `path`; mappings that are missing on the way are made. The last word is always a key, also when it
/// looks like an index: that is how the original behaves.
pub(crate) fn set(root: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), IllegalPath> {
    let illegal = || IllegalPath(path.to_owned());
    let mut segments: Vec<&str> = path.split('.').collect();
    let last = segments.pop().unwrap_or_default();
    let mut current = root;
    for segment in segments {
        let next = match indexed(segment) {
            Some((name, index)) => current
                .get_mut(name)
                .and_then(Value::as_array_mut)
                .and_then(|items| items.get_mut(index)),
            None => Some(current.entry(segment).or_insert_with(|| Value::Object(Map::new()))),
        };
        current = next.and_then(Value::as_object_mut).ok_or_else(illegal)?;
    }
    current.insert(last.to_owned(), value);
    Ok(())
}

/// `name[3]` as name and index.
fn indexed(segment: &str) -> Option<(&str, usize)> {
    let (name, index) = segment.strip_suffix(']')?.rsplit_once('[')?;
    if name.is_empty() || index.is_empty() || !index.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((name, index.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn reads_through_mappings_and_lists() {
        let root = map(json!({"a": {"b": [1, {"c": 2}]}}));
        assert_eq!(get(&root, "a.b[1].c").unwrap(), &json!(2));
        assert_eq!(get(&root, "a.b[0]").unwrap(), &json!(1));
        for path in [
            "a.b[2]",
            "a.x",
            "a[0]",
            "",
            "a.b.c",
            "a..b",
            "a.b[99999999999999999999]",
        ] {
            assert_eq!(
                get(&root, path).unwrap_err().to_string(),
                format!("illegal path: {path}")
            );
        }
    }

    #[test]
    fn sets_and_makes_what_is_missing() {
        let mut root = map(json!({"list": [{}], "text": "t"}));
        set(&mut root, "a.b.c", json!(1)).unwrap();
        set(&mut root, "list[0].x", json!(2)).unwrap();
        assert_eq!(
            Value::Object(root.clone()),
            json!({"list": [{"x": 2}], "text": "t", "a": {"b": {"c": 1}}})
        );
        assert!(set(&mut root, "text.x", json!(1)).is_err());
        assert!(set(&mut root, "list[7].x", json!(1)).is_err());
    }

    proptest! {
        #[test]
        fn what_was_set_is_read_back(path in "[a-z]{1,3}(\\.[a-z]{1,3}){0,3}", number in any::<i64>()) {
            let mut root = Map::new();
            set(&mut root, &path, json!(number)).unwrap();
            prop_assert_eq!(get(&root, &path).unwrap(), &json!(number));
        }

        #[test]
        fn no_path_panics(path in ".{0,20}") {
            let mut root = map(json!({"a": [1]}));
            let _ = get(&root, &path);
            let _ = set(&mut root, &path, json!(1));
        }
    }
}
