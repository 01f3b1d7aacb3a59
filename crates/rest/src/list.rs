//! List parameters and envelopes (spec/rest-api.md, section 4).

use axum::Json;
use axum::http::StatusCode;
use conclave_store::{ListQuery, Resource, Store, TenantScope};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::error::ApiError;

const DEFAULT_SIZE: i64 = 1000;
/// Events come ten times as many a page.
const EVENTS_SIZE: i64 = 10_000;

/// What a request asks of a list.
pub(crate) struct Asked {
    pub(crate) query: ListQuery,
    include: Option<Vec<String>>,
    size: i64,
}

/// The pairs of a query string, in order; repeated names stay.
pub(crate) fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

/// A flag of a query string, in Python's or JSON's spelling.
pub(crate) fn flag(query: Option<&str>, name: &str) -> bool {
    pairs(query)
        .iter()
        .any(|(key, value)| key == name && value.eq_ignore_ascii_case("true"))
}

impl Asked {
    pub(crate) fn read(resource: Resource, scope: TenantScope, query: Option<&str>) -> Result<Self, ApiError> {
        let size = if resource == Resource::EVENTS {
            EVENTS_SIZE
        } else {
            DEFAULT_SIZE
        };
        let mut asked = Self {
            query: ListQuery::all(scope),
            include: None,
            size,
        };
        let mut all = false;
        for (key, value) in pairs(query) {
            asked.take(resource, &key, &value, &mut all)?;
        }
        asked.query.size = (!all).then_some(asked.size);
        Ok(asked)
    }

    fn take(&mut self, resource: Resource, key: &str, value: &str, all: &mut bool) -> Result<(), ApiError> {
        let number = || {
            let parsed = value.parse::<i64>().ok().filter(|number| *number >= 0);
            parsed.ok_or_else(|| ApiError::bad(format!("{key}: {value:?} is no number from 0 on")))
        };
        let field = |name: &str| name.trim_start_matches('@').replace("message.text", "message");
        match key {
            "_size" => self.size = number()?,
            "_offset" => self.query.offset = number()?,
            "_get_all_results" => *all = value.eq_ignore_ascii_case("true"),
            "_include" => self.include = Some(value.split(',').map(str::to_owned).collect()),
            "_sort" => {
                let (name, down) = match value.strip_prefix('-') {
                    Some(name) => (name, true),
                    None => (value.strip_prefix('+').unwrap_or(value), false),
                };
                self.query.sort.push((field(name), down));
            }
            "_search" => self.query.search = Some(value.to_owned()),
            "_range" => {
                let parts: Vec<&str> = value.splitn(3, ',').collect();
                let [name, from, to] = parts.as_slice() else {
                    return Err(ApiError::bad(
                        "_range: a field and two bounds are needed, separated by commas",
                    ));
                };
                self.query
                    .range
                    .push((field(name), (*from).to_owned(), (*to).to_owned()));
            }
            _ if key.starts_with('_') => {}
            "operation" | "message" | "message.text" if resource == Resource::EVENTS => {
                self.query.like.push((field(key), value.to_owned()));
            }
            _ => match self.query.equal.iter_mut().find(|(name, _)| name == key) {
                Some((_, values)) => values.push(value.to_owned()),
                None => self.query.equal.push((key.to_owned(), vec![value.to_owned()])),
            },
        }
        Ok(())
    }

    /// Keeps the fields that were asked for.
    pub(crate) fn shape(&self, object: Value) -> Result<Value, ApiError> {
        let (Some(fields), Value::Object(object)) = (&self.include, &object) else {
            return Ok(object);
        };
        let mut shaped = Map::new();
        for field in fields {
            let value = object.get(field).ok_or_else(|| {
                ApiError::new(
                    StatusCode::BAD_REQUEST,
                    "no_such_include_field_error",
                    format!("there is no field {field}"),
                )
            })?;
            shaped.insert(field.clone(), value.clone());
        }
        Ok(Value::Object(shaped))
    }

    /// The page and its envelope.
    pub(crate) async fn answer(&self, store: &Store, resource: Resource) -> Result<Json<Value>, ApiError> {
        self.answer_as(store, resource, |item| item).await
    }

    /// The page and its envelope, each object in the form that clients are shown.
    pub(crate) async fn answer_as(
        &self,
        store: &Store,
        resource: Resource,
        present: impl Fn(Value) -> Value,
    ) -> Result<Json<Value>, ApiError> {
        let page = store.list(resource, &self.query).await?;
        let items = page
            .items
            .into_iter()
            .map(|item| self.shape(present(item)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(envelope(items, page.total, self.size, self.query.offset))
    }

    /// The one object of an id.
    pub(crate) async fn one(self, store: &Store, resource: Resource, id: &str) -> Result<Value, ApiError> {
        // A single object takes only `_include`; other parameters of it are the caller's.
        let query = ListQuery {
            scope: self.query.scope.clone(),
            ..ListQuery::all(TenantScope::All)
        }
        .with("id", id);
        self.shape(store.one(resource, &query, id).await?)
    }
}

pub(crate) fn envelope(items: Vec<Value>, total: i64, size: i64, offset: i64) -> Json<Value> {
    let pagination = json!({"total": total, "size": size, "offset": offset});
    Json(json!({"items": items, "metadata": {"pagination": pagination, "filtered": null}}))
}

/// A whole list that is not paged.
pub(crate) fn whole(items: Vec<Value>) -> Json<Value> {
    let total = items.len() as i64;
    envelope(items, total, DEFAULT_SIZE, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_clients_send_them() {
        let scope = TenantScope::All;
        let query =
            "type=cloudify_event&type=cloudify_log&_sort=-%40timestamp&_offset=5&_include=id%2Cmessage&message=%25x%25";
        let asked = Asked::read(Resource::EVENTS, scope.clone(), Some(query)).unwrap();
        assert_eq!(
            asked.query.equal,
            [(
                "type".to_owned(),
                vec!["cloudify_event".to_owned(), "cloudify_log".to_owned()]
            )]
        );
        assert_eq!(asked.query.sort, [("timestamp".to_owned(), true)]);
        assert_eq!((asked.query.offset, asked.query.size), (5, Some(EVENTS_SIZE)));
        assert_eq!(asked.query.like, [("message".to_owned(), "%x%".to_owned())]);
        assert!(Asked::read(Resource::NODES, scope.clone(), Some("_size=-1")).is_err());
        assert!(Asked::read(Resource::NODES, scope, Some("_range=timestamp")).is_err());
    }

    #[test]
    fn an_unknown_field_cannot_be_included() {
        let asked = Asked::read(Resource::NODES, TenantScope::All, Some("_include=nope")).unwrap();
        assert!(asked.shape(json!({"id": "x"})).is_err());
    }
}
