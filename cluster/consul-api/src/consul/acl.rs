//! `/v1/acl/…`: one token, no policies (spec/consul-api.md, section 9).

use serde_json::json;

use super::Api;
use super::answer::Answer;
use super::call::Call;
use super::error::ApiError;

/// The caller's token, as Consul describes its own.
pub(super) fn token_self(api: &Api, call: &Call) -> Result<Answer, ApiError> {
    if !api.access.is_enforced(&api.state()) {
        return Err(ApiError::AclDisabled);
    }
    if !call.trusted {
        return Err(ApiError::UnknownToken);
    }
    call.json(&json!({
        "AccessorID": "00000000-0000-4000-8000-000000000000",
        "SecretID": api.access.token(),
        "Description": "the cluster's own token",
        "Policies": [{"ID": "00000000-0000-0000-0000-000000000001", "Name": "global-management"}],
        "Local": false,
        "CreateIndex": 1,
        "ModifyIndex": 1,
    }))
}

/// Tokens and policies of the client's own are not kept.
pub(super) fn refuse() -> Result<Answer, ApiError> {
    Err(ApiError::AclDisabled)
}
