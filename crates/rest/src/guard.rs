//! Who calls, for which tenant, and whether they may.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use conclave_auth::{Credentials, Principal};
use conclave_store::TenantScope;

use crate::error::ApiError;
use crate::state::RestState;

/// A caller with proven credentials and an existing tenant. What it may do is asked by [`Caller::may`].
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    tenant: Option<String>,
    all_tenants: bool,
}

impl FromRequestParts<RestState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &RestState) -> Result<Self, ApiError> {
        let principal = state
            .authenticator
            .authenticate(&Credentials::from_headers(&parts.headers))
            .await?;
        let named = parts
            .headers
            .get("tenant")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let tenant = named.or_else(|| principal.execution.as_ref().map(|(_, tenant)| tenant.clone()));
        if let Some(tenant) = &tenant
            && !state.store.tenant_exists(tenant).await?
        {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "forbidden_error",
                format!("Authorization failed: unknown tenant `{tenant}`"),
            ));
        }
        let query = parts.uri.query().unwrap_or_default();
        let all_tenants = query
            .split('&')
            .any(|pair| pair.eq_ignore_ascii_case("_all_tenants=true"));
        Ok(Self {
            principal,
            tenant,
            all_tenants,
        })
    }
}

impl Caller {
    /// Refuses a caller without the permission, in the tenant of the request if it has one.
    pub(crate) fn may(&self, permission: &str) -> Result<(), ApiError> {
        Ok(self.principal.authorize(permission, self.tenant.as_deref())?)
    }

    /// The tenant to work in, for a caller with the permission there.
    pub(crate) fn tenant(&self, permission: &str) -> Result<&str, ApiError> {
        self.may(permission)?;
        let missing = || {
            ApiError::new(
                StatusCode::FORBIDDEN,
                "forbidden_error",
                "Authorization failed: tenant not provided",
            )
        };
        self.tenant.as_deref().ok_or_else(missing)
    }

    /// The tenants to list, for a caller with the permission.
    pub(crate) fn scope(&self, permission: &str) -> Result<TenantScope, ApiError> {
        self.may(permission)?;
        let user = &self.principal.user;
        let everywhere = self.principal.is_bootstrap_admin() || user.role == "sys_admin";
        Ok(match (&self.tenant, self.all_tenants) {
            (_, true) if everywhere => TenantScope::All,
            (_, true) => TenantScope::Of(user.tenants.keys().cloned().collect()),
            (Some(tenant), false) => TenantScope::Of(vec![tenant.clone()]),
            (None, false) => TenantScope::Of(Vec::new()),
        })
    }
}
