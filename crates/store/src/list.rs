//! Lists of objects as the REST API gives them (spec/rest-api.md, section 4): one implementation for all resources.

use tokio_postgres::types::ToSql;

use crate::{Store, StoreError};

/// A kind of object that is listed. Names of views and columns come from here alone, never from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    name: &'static str,
    view: &'static str,
    columns: &'static [&'static str],
    search: &'static str,
    order: &'static str,
    has_tenant: bool,
}

macro_rules! resource {
    ($(#[$doc:meta])* $constant:ident, $name:literal, $view:literal, search $search:literal, order $order:literal,
     tenant $tenant:literal, [$($column:literal),* $(,)?]) => {
        $(#[$doc])*
        pub const $constant: Resource = Resource {
            name: $name, view: $view, columns: &[$($column),*], search: $search, order: $order, has_tenant: $tenant,
        };
    };
}

impl Resource {
    resource!(
        /// Blueprints.
        BLUEPRINTS, "Blueprint", "api_blueprints", search "id", order "created_at", tenant true,
        ["id", "tenant_name", "created_at", "updated_at", "visibility", "state", "created_by", "main_file_name", "description"]
    );
    resource!(
        /// Deployments.
        DEPLOYMENTS, "Deployment", "api_deployments", search "id", order "created_at", tenant true,
        ["id", "tenant_name", "created_at", "updated_at", "visibility", "display_name", "site_name", "blueprint_id",
         "created_by", "latest_execution_status"]
    );
    resource!(
        /// Nodes of deployments.
        NODES, "Node", "api_nodes", search "id", order "created_at, deployment_id, position", tenant true,
        ["id", "tenant_name", "deployment_id", "blueprint_id", "type", "host_id", "created_by", "visibility",
         "number_of_instances"]
    );
    resource!(
        /// Node instances.
        NODE_INSTANCES, "Node instance", "api_node_instances", search "id", order "created_at, deployment_id, node_id, index",
        tenant true,
        ["id", "tenant_name", "deployment_id", "node_id", "host_id", "state", "index", "version", "visibility", "created_by"]
    );
    resource!(
        /// Executions.
        EXECUTIONS, "Execution", "api_executions", search "id", order "created_at", tenant true,
        ["id", "tenant_name", "workflow_id", "status", "status_display", "created_at", "started_at", "ended_at",
         "scheduled_for", "is_system_workflow", "visibility", "deployment_id", "blueprint_id", "created_by", "error",
         "is_dry_run"]
    );
    resource!(
        /// Events and logs.
        EVENTS, "Event", "api_events", search "message", order "reported_timestamp, timestamp, _storage_id", tenant true,
        ["_storage_id", "timestamp", "reported_timestamp", "type", "event_type", "logger", "level", "message", "operation",
         "node_instance_id", "node_id", "node_name", "source_id", "target_id", "manager_name", "agent_name", "execution_id",
         "execution_group_id", "deployment_id", "blueprint_id", "workflow_id"]
    );
    resource!(
        /// Stored tasks graphs.
        TASKS_GRAPHS, "Tasks graph", "api_tasks_graphs", search "name", order "created_at", tenant true,
        ["id", "name", "created_at", "execution_id"]
    );
    resource!(
        /// Operations of stored graphs.
        OPERATIONS, "Operation", "api_operations", search "name", order "created_at, position", tenant true,
        ["id", "name", "state", "type", "created_at", "graph_id", "execution_id"]
    );
    resource!(
        /// Tenants.
        TENANTS, "Tenant", "api_tenants", search "name", order "created_at, name", tenant false,
        ["name", "created_at"]
    );
    resource!(
        /// Users.
        USERS, "User", "api_users", search "username", order "created_at, username", tenant false,
        ["username", "role", "created_at", "active"]
    );
    resource!(
        /// API tokens, without their secrets.
        TOKENS, "Token", "api_tokens", search "id", order "created_at", tenant false,
        ["id", "username", "created_at"]
    );

    /// Whether objects of this kind belong to tenants.
    pub fn has_tenant(self) -> bool {
        self.has_tenant
    }

    /// Whether clients may filter and sort by this field.
    pub fn offers(self, field: &str) -> bool {
        self.columns.contains(&field)
    }

    fn column(self, field: &str) -> Result<&'static str, StoreError> {
        let found = self.columns.iter().find(|column| **column == field).copied();
        found.ok_or_else(|| {
            StoreError::BadQuery(format!(
                "Unknown field to filter by: {field}. Allowed values: {}",
                self.columns.join(", ")
            ))
        })
    }
}

/// Whose objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantScope {
    /// Every tenant's.
    All,
    /// Those of these tenants, and everybody's global ones.
    Of(Vec<String>),
}

/// What a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Whose objects.
    pub scope: TenantScope,
    /// Most items; `None` is all.
    pub size: Option<i64>,
    /// Items to skip.
    pub offset: i64,
    /// Fields to sort by, and whether downwards.
    pub sort: Vec<(String, bool)>,
    /// A field and the values of which it must have one.
    pub equal: Vec<(String, Vec<String>)>,
    /// A field and the ILIKE patterns that it must match.
    pub like: Vec<(String, String)>,
    /// A field, and the bounds of its time: from inclusive, to exclusive; an empty bound is none.
    pub range: Vec<(String, String, String)>,
    /// A part of the id.
    pub search: Option<String>,
}

impl ListQuery {
    /// Everything of these tenants.
    pub fn all(scope: TenantScope) -> Self {
        Self {
            scope,
            size: None,
            offset: 0,
            sort: Vec::new(),
            equal: Vec::new(),
            like: Vec::new(),
            range: Vec::new(),
            search: None,
        }
    }

    /// Narrows to the objects whose field has this value.
    #[must_use]
    pub fn with(mut self, field: &str, value: &str) -> Self {
        self.equal.push((field.to_owned(), vec![value.to_owned()]));
        self
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The objects, whole.
    pub items: Vec<serde_json::Value>,
    /// How many there are without paging.
    pub total: i64,
}

/// A WHERE clause in the making: text from our own fragments, values as parameters.
#[derive(Default)]
struct Conditions {
    clauses: Vec<String>,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Conditions {
    fn add<T: ToSql + Sync + Send + 'static>(&mut self, clause: impl FnOnce(usize) -> String, value: T) {
        self.values.push(Box::new(value));
        self.clauses.push(clause(self.values.len()));
    }

    fn text(&self) -> String {
        if self.clauses.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.clauses.join(" AND "))
        }
    }

    fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values
            .iter()
            .map(|value| value.as_ref() as &(dyn ToSql + Sync))
            .collect()
    }
}

fn conditions(resource: Resource, query: &ListQuery) -> Result<Conditions, StoreError> {
    let mut conditions = Conditions::default();
    if resource.has_tenant
        && let TenantScope::Of(tenants) = &query.scope
    {
        let global = if resource.offers("visibility") {
            " OR visibility = 'global'"
        } else {
            ""
        };
        conditions.add(|n| format!("(tenant_name = ANY(${n}){global})"), tenants.clone());
    }
    for (field, values) in &query.equal {
        let column = resource.column(field)?;
        conditions.add(|n| format!("{column}::text = ANY(${n})"), values.clone());
    }
    for (field, pattern) in &query.like {
        let column = resource.column(field)?;
        conditions.add(|n| format!("{column} ILIKE ${n}"), pattern.clone());
    }
    for (field, from, to) in &query.range {
        let column = resource.column(field)?;
        for (bound, operator) in [(from, ">="), (to, "<")]
            .into_iter()
            .filter(|(bound, _)| !bound.is_empty())
        {
            conditions.add(
                |n| format!("{column} {operator} ${n}::text::timestamptz"),
                bound.clone(),
            );
        }
    }
    if let Some(part) = &query.search {
        let escaped = part.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        conditions.add(|n| format!("{} ILIKE ${n}", resource.search), format!("%{escaped}%"));
    }
    Ok(conditions)
}

fn order(resource: Resource, sort: &[(String, bool)]) -> Result<String, StoreError> {
    let wanted = sort
        .iter()
        .map(|(field, down)| {
            Ok(format!(
                "{}{}",
                resource.column(field)?,
                if *down { " DESC" } else { "" }
            ))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let ties = resource
        .order
        .split(", ")
        .filter(|column| !sort.iter().any(|(field, _)| field == column));
    // Ties are broken in the direction of the first key, so that a list turned round is the same list.
    let downwards = sort.first().is_some_and(|(_, down)| *down);
    let ties = ties.map(|column| {
        if downwards {
            format!("{column} DESC")
        } else {
            column.to_owned()
        }
    });
    Ok(wanted.into_iter().chain(ties).collect::<Vec<_>>().join(", "))
}

impl Store {
    /// A page of objects.
    ///
    /// # Errors
    /// [`StoreError::BadQuery`] when a field is not offered.
    pub async fn list(&self, resource: Resource, query: &ListQuery) -> Result<Page, StoreError> {
        let conditions = conditions(resource, query)?;
        let (filter, parameters) = (conditions.text(), conditions.parameters());
        let limit = query.size.map_or_else(String::new, |size| format!(" LIMIT {size}"));
        let select = format!(
            "SELECT object FROM {}{filter} ORDER BY {}{limit} OFFSET {}",
            resource.view,
            order(resource, &query.sort)?,
            query.offset
        );
        let client = self.client().await?;
        let rows = client.query(&select, &parameters).await.map_err(bad_value)?;
        let items: Vec<serde_json::Value> = rows.into_iter().map(|row| row.get(0)).collect();
        let whole = query.offset == 0 && query.size.is_none_or(|size| (items.len() as i64) < size);
        let total = if whole {
            items.len() as i64
        } else {
            let count = format!("SELECT count(*) FROM {}{filter}", resource.view);
            client.query_one(&count, &parameters).await.map_err(bad_value)?.get(0)
        };
        Ok(Page { items, total })
    }

    /// The one object of a query.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    pub async fn one(&self, resource: Resource, query: &ListQuery, id: &str) -> Result<serde_json::Value, StoreError> {
        let query = ListQuery {
            size: Some(1),
            ..query.clone()
        };
        let item = self.list(resource, &query).await?.items.pop();
        item.ok_or_else(|| StoreError::NotFound(format!("Requested `{}` with ID `{id}`", resource.name)))
    }
}

/// A value that the column's type cannot read is the client's mistake.
fn bad_value(error: tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        Some(db) if db.code().code().starts_with("22") => StoreError::BadQuery(db.message().to_owned()),
        _ => StoreError::reading(error),
    }
}
