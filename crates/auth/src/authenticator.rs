//! Checks credentials against the record.

use std::sync::Arc;
use std::time::Duration;

use conclave_runtime::Tasks;
use conclave_store::{Store, TokenRow, UserRow};
use conclave_types::ExecutionId;
use tokio::sync::Semaphore;

use crate::password::{secret_hash, verify_password};
use crate::permissions::is_held;
use crate::recent::Recent;
use crate::together::Together;
use crate::{AuthError, Credentials};

/// The client sends its password with every request; a check takes tens of milliseconds, so a good one is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(120);
/// How exact the record of a token's last use is: noting each use would make every request a write.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);
/// Each check takes 19 MiB.
const CHECKS_AT_ONCE: usize = 4;
/// Wrong passwords before a user is locked, and for how many minutes.
const FAILED_LOGINS_MAX: i32 = 4;
const LOCK_MINUTES: i32 = 30;

/// Finds out who a request comes from. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    store: Store,
    checks: Arc<Semaphore>,
    passwords: Arc<Recent>,
    tokens_used: Arc<Recent>,
    users: Arc<Together<Option<UserRow>>>,
    tokens: Arc<Together<Option<TokenRow>>>,
    executions: Arc<Together<Option<(UserRow, ExecutionId, String)>>>,
    tasks: Tasks,
}

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserRow,
    /// Execution and its tenant, when the request acts for one.
    pub execution: Option<(ExecutionId, String)>,
}

impl Authenticator {
    /// An authenticator over this record. `tasks` own what is noted beside requests.
    pub fn new(store: Store, tasks: &Tasks) -> Self {
        let patience = store.patience();
        Self {
            store,
            checks: Arc::new(Semaphore::new(CHECKS_AT_ONCE)),
            passwords: Arc::new(Recent::new(REMEMBERED_FOR)),
            tokens_used: Arc::new(Recent::new(USE_NOTED_EVERY)),
            users: Arc::new(Together::new(patience)),
            tokens: Arc::new(Together::new(patience)),
            executions: Arc::new(Together::new(patience)),
            tasks: tasks.clone(),
        }
    }

    /// Who shows these credentials.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] when they prove nothing; [`AuthError::Store`] when the record cannot be asked.
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, AuthError> {
        match credentials {
            Credentials::None => Err(AuthError::Unauthorized("no authentication info provided")),
            Credentials::Malformed => Err(AuthError::Unauthorized("Invalid token structure")),
            Credentials::Execution(token) => {
                let (store, hash) = (self.store.clone(), secret_hash(token));
                let wanted = hash.clone();
                let find = move || async move { store.execution_token_find(&wanted).await };
                let found = self.executions.ask(&hash, find).await?;
                let (user, id, tenant) = found.ok_or(AuthError::Unauthorized("execution token is not valid"))?;
                Ok(Principal {
                    user: active(user)?,
                    execution: Some((id, tenant)),
                })
            }
            Credentials::Token { id, secret } => {
                let (store, wanted) = (self.store.clone(), id.clone());
                let find = move || async move { store.token_find(&wanted).await };
                let found = self.tokens.ask(id, find).await?;
                let token = found.ok_or(AuthError::Unauthorized("token is not valid"))?;
                if token.secret_hash != secret_hash(secret) {
                    return Err(AuthError::Unauthorized("token is not valid"));
                }
                if token.expired {
                    return Err(AuthError::Unauthorized("Token is expired"));
                }
                let user = active(token.user)?;
                self.note_use(id);
                Ok(Principal { user, execution: None })
            }
            Credentials::Basic { username, password } => self.check_password(username, password).await,
        }
    }

    async fn check_password(&self, username: &str, password: &str) -> Result<Principal, AuthError> {
        const WRONG: AuthError =
            AuthError::Unauthorized("Authentication failed for this user: wrong credentials or locked account");
        let (store, wanted) = (self.store.clone(), username.to_owned());
        let find = move || async move { store.user_find(&wanted).await };
        let user = self.users.ask(username, find).await?.ok_or(WRONG)?;
        if user.locked {
            return Err(WRONG);
        }
        // The stored hash is part of the key: a changed password is forgotten at once.
        let key = secret_hash(&format!("{}\0{}\0{password}", user.id, user.password_hash));
        if !self.passwords.contains(&key) {
            let (given, stored) = (password.to_owned(), user.password_hash.clone());
            let permit = self.checks.acquire().await.map_err(|_| WRONG)?;
            let fits = tokio::task::spawn_blocking(move || verify_password(&given, &stored))
                .await
                .unwrap_or(false);
            drop(permit);
            if !fits {
                self.store
                    .user_login_failed(user.id, FAILED_LOGINS_MAX, LOCK_MINUTES)
                    .await?;
                return Err(WRONG);
            }
            self.store.user_login_succeeded(user.id).await?;
            self.passwords.insert(key);
        }
        Ok(Principal {
            user: active(user)?,
            execution: None,
        })
    }

    /// Beside the request, which neither waits for it nor fails with it.
    fn note_use(&self, id: &str) {
        if !self.tokens_used.insert(id.to_owned()) {
            return;
        }
        let (store, id, shutdown) = (self.store.clone(), id.to_owned(), self.tasks.shutdown());
        self.tasks.spawn("use of a token", async move {
            if let Some(Err(error)) = shutdown.run_until(store.token_used(&id)).await {
                tracing::debug!(%error, id, "the use of a token was not noted");
            }
        });
    }
}

fn active(user: UserRow) -> Result<UserRow, AuthError> {
    if user.active {
        Ok(user)
    } else {
        Err(AuthError::Unauthorized("the user is not active"))
    }
}

impl Principal {
    /// Whether the principal is the first administrator, who may do everything.
    #[must_use]
    pub fn is_bootstrap_admin(&self) -> bool {
        self.user.id == 0
    }

    /// Allows or refuses `permission`, in `tenant` when the request has one.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`].
    pub fn authorize(&self, permission: &str, tenant: Option<&str>) -> Result<(), AuthError> {
        let in_tenant = tenant
            .and_then(|tenant| self.user.tenants.get(tenant))
            .map(String::as_str);
        let roles: Vec<&str> = std::iter::once(self.user.role.as_str()).chain(in_tenant).collect();
        // A running execution works for its tenant with the rights of who operates there.
        let acting = self
            .execution
            .as_ref()
            .is_some_and(|(_, own)| tenant.is_none_or(|tenant| tenant == own));
        let by_execution = acting && is_held(permission, &["operations"]);
        if self.is_bootstrap_admin() || by_execution || is_held(permission, &roles) {
            return Ok(());
        }
        let place = tenant.map_or_else(String::new, |tenant| format!(" in the tenant {tenant}"));
        Err(AuthError::Forbidden(format!(
            "User `{}` is not permitted to perform the action {permission}{place}",
            self.user.username
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn principal(id: i32, role: &str, tenants: &[(&str, &str)]) -> Principal {
        let tenants = tenants
            .iter()
            .map(|(tenant, role)| ((*tenant).into(), (*role).into()))
            .collect::<BTreeMap<_, _>>();
        let user = UserRow {
            id,
            username: "u".into(),
            password_hash: String::new(),
            role: role.into(),
            active: true,
            locked: false,
            tenants,
        };
        Principal { user, execution: None }
    }

    #[test]
    fn a_tenants_role_counts_in_that_tenant_alone() {
        let user = principal(5, "default", &[("a", "user")]);
        assert!(user.authorize("blueprint_upload", Some("a")).is_ok());
        assert!(user.authorize("blueprint_upload", Some("b")).is_err());
        assert!(user.authorize("blueprint_upload", None).is_err());
        assert!(principal(0, "default", &[]).authorize("anything", None).is_ok());
        assert!(principal(6, "sys_admin", &[]).authorize("user_create", None).is_ok());
    }
}
