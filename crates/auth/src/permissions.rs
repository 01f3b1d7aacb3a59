//! Roles and permissions as data (spec/rest-api.md, section 6).

/// A role and what kind it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: &'static str,
    /// `system_role` or `tenant_role`.
    pub kind: &'static str,
    /// For people.
    pub description: &'static str,
}

/// Every role.
pub const ROLES: &[Role] = &[
    Role {
        name: "sys_admin",
        kind: "system_role",
        description: "User that can manage the system",
    },
    Role {
        name: "manager",
        kind: "tenant_role",
        description: "User that can manage tenants",
    },
    Role {
        name: "user",
        kind: "tenant_role",
        description: "Regular user, can perform actions on tenants resources",
    },
    Role {
        name: "operations",
        kind: "tenant_role",
        description: "User that deploys and runs, and uploads nothing",
    },
    Role {
        name: "viewer",
        kind: "tenant_role",
        description: "User that can only view tenant resources",
    },
    Role {
        name: "default",
        kind: "system_role",
        description: "User that exists, and has no permissions of its own",
    },
];

const EVERYBODY: &[&str] = &["sys_admin", "manager", "user", "operations", "viewer", "default"];
const BUT_OPERATIONS: &[&str] = &["sys_admin", "manager", "user", "viewer", "default"];
const VIEWERS: &[&str] = &["sys_admin", "manager", "user", "operations", "viewer"];
const OPERATORS: &[&str] = &["sys_admin", "manager", "user", "operations"];
const USERS: &[&str] = &["sys_admin", "manager", "user"];
const MANAGERS: &[&str] = &["sys_admin", "manager"];
const ADMINS: &[&str] = &["sys_admin"];

/// Every permission and the roles that hold it, sorted by name.
pub const PERMISSIONS: &[(&str, &[&str])] = &[
    ("administrators", MANAGERS),
    ("agent_create", OPERATORS),
    ("agent_get", VIEWERS),
    ("agent_list", VIEWERS),
    ("agent_replace_certs", ADMINS),
    ("agent_update", OPERATORS),
    ("all_tenants", ADMINS),
    ("audit_log_inject", ADMINS),
    ("audit_log_truncate", ADMINS),
    ("audit_log_view", ADMINS),
    ("blueprint_delete", USERS),
    ("blueprint_download", VIEWERS),
    ("blueprint_get", VIEWERS),
    ("blueprint_list", VIEWERS),
    ("blueprint_upload", USERS),
    ("broker_credentials", ADMINS),
    ("broker_get", EVERYBODY),
    ("broker_manage", ADMINS),
    ("cluster_config_update", ADMINS),
    ("cluster_node_config_update", ADMINS),
    ("cluster_node_get", ADMINS),
    ("cluster_node_list", ADMINS),
    ("cluster_node_remove", ADMINS),
    ("cluster_node_validate", ADMINS),
    ("cluster_start_or_join", ADMINS),
    ("cluster_status_get", VIEWERS),
    ("community_contact_create", ADMINS),
    ("create_global_resource", ADMINS),
    ("create_token", BUT_OPERATIONS),
    ("db_nodes_get", EVERYBODY),
    ("delete_token", BUT_OPERATIONS),
    ("deployment_capabilities", VIEWERS),
    ("deployment_create", OPERATORS),
    ("deployment_delete", OPERATORS),
    ("deployment_get", VIEWERS),
    ("deployment_group_create", OPERATORS),
    ("deployment_group_delete", OPERATORS),
    ("deployment_group_get", VIEWERS),
    ("deployment_group_list", VIEWERS),
    ("deployment_group_update", OPERATORS),
    ("deployment_list", VIEWERS),
    ("deployment_modification_finish", OPERATORS),
    ("deployment_modification_get", VIEWERS),
    ("deployment_modification_list", VIEWERS),
    ("deployment_modification_outputs", VIEWERS),
    ("deployment_modification_rollback", OPERATORS),
    ("deployment_modify", OPERATORS),
    ("deployment_set_site", OPERATORS),
    ("deployment_set_visibility", OPERATORS),
    ("deployment_update", OPERATORS),
    ("deployment_update_create", OPERATORS),
    ("deployment_update_get", VIEWERS),
    ("deployment_update_list", VIEWERS),
    ("deployment_update_update", OPERATORS),
    ("event_create", OPERATORS),
    ("event_delete", OPERATORS),
    ("event_list", VIEWERS),
    ("execute_global_workflow", MANAGERS),
    ("execution_cancel", OPERATORS),
    ("execution_delete", OPERATORS),
    ("execution_get", VIEWERS),
    ("execution_group_cancel", OPERATORS),
    ("execution_group_create", OPERATORS),
    ("execution_group_get", VIEWERS),
    ("execution_group_list", VIEWERS),
    ("execution_group_update", OPERATORS),
    ("execution_list", VIEWERS),
    ("execution_schedule_create", OPERATORS),
    ("execution_schedule_get", VIEWERS),
    ("execution_schedule_list", VIEWERS),
    ("execution_should_start", VIEWERS),
    ("execution_start", OPERATORS),
    ("execution_status_update", OPERATORS),
    ("file_server_auth", VIEWERS),
    ("filter_create", OPERATORS),
    ("filter_delete", OPERATORS),
    ("filter_get", VIEWERS),
    ("filter_list", VIEWERS),
    ("filter_update", OPERATORS),
    ("functions_evaluate", OPERATORS),
    ("get_password_hash", ADMINS),
    ("getting_started", ADMINS),
    ("identity_provider_get", EVERYBODY),
    ("inject_token", ADMINS),
    ("inter_deployment_dependency_create", OPERATORS),
    ("inter_deployment_dependency_delete", OPERATORS),
    ("inter_deployment_dependency_get", VIEWERS),
    ("inter_deployment_dependency_list", VIEWERS),
    ("inter_deployment_dependency_update", OPERATORS),
    ("labels_list", VIEWERS),
    ("ldap_set", ADMINS),
    ("ldap_status_get", EVERYBODY),
    ("license_list", EVERYBODY),
    ("license_remove", ADMINS),
    ("license_upload", ADMINS),
    ("list_token", BUT_OPERATIONS),
    ("log_bundle_create", ADMINS),
    ("log_bundle_delete", ADMINS),
    ("log_bundle_download", ADMINS),
    ("log_bundle_get", ADMINS),
    ("log_bundle_list", ADMINS),
    ("log_bundle_status_update", ADMINS),
    ("maintenance_mode_get", EVERYBODY),
    ("maintenance_mode_set", ADMINS),
    ("manage_others_tokens", ADMINS),
    ("manager_config_get", EVERYBODY),
    ("manager_config_put", MANAGERS),
    ("manager_get", VIEWERS),
    ("manager_manage", ADMINS),
    ("manager_rest_config_get", ADMINS),
    ("monitoring", ADMINS),
    ("node_delete", OPERATORS),
    ("node_instance_delete", OPERATORS),
    ("node_instance_get", VIEWERS),
    ("node_instance_list", VIEWERS),
    ("node_instance_update", OPERATORS),
    ("node_list", VIEWERS),
    ("node_update", OPERATORS),
    ("operations", VIEWERS),
    ("plugin_delete", USERS),
    ("plugin_download", VIEWERS),
    ("plugin_get", VIEWERS),
    ("plugin_list", VIEWERS),
    ("plugin_upload", USERS),
    ("plugins_update_create", OPERATORS),
    ("plugins_update_get", VIEWERS),
    ("plugins_update_list", VIEWERS),
    ("provider_context_create", EVERYBODY),
    ("provider_context_get", EVERYBODY),
    ("resource_set_global", ADMINS),
    ("resource_set_visibility", USERS),
    ("secret_create", USERS),
    ("secret_delete", USERS),
    ("secret_export", USERS),
    ("secret_get", VIEWERS),
    ("secret_import", USERS),
    ("secret_list", VIEWERS),
    ("secret_update", USERS),
    ("secrets_provider_create", USERS),
    ("secrets_provider_credentials", ADMINS),
    ("secrets_provider_delete", USERS),
    ("secrets_provider_get", VIEWERS),
    ("secrets_provider_list", VIEWERS),
    ("secrets_provider_update", USERS),
    ("set_execution_details", ADMINS),
    ("set_execution_group_details", ADMINS),
    ("set_owner", ADMINS),
    ("set_plugin_update_details", ADMINS),
    ("set_timestamp", ADMINS),
    ("site_create", USERS),
    ("site_delete", USERS),
    ("site_get", VIEWERS),
    ("site_list", VIEWERS),
    ("site_update", USERS),
    ("snapshot_create", ADMINS),
    ("snapshot_delete", ADMINS),
    ("snapshot_download", ADMINS),
    ("snapshot_get", ADMINS),
    ("snapshot_list", ADMINS),
    ("snapshot_restore", ADMINS),
    ("snapshot_status_update", ADMINS),
    ("snapshot_upload", ADMINS),
    ("ssl_get", ADMINS),
    ("ssl_set", ADMINS),
    ("stage_configure", ADMINS),
    ("stage_edit_mode", OPERATORS),
    ("stage_install_widgets", ADMINS),
    ("stage_maintenance_mode", ADMINS),
    ("stage_services_status", ADMINS),
    ("stage_template_management", ADMINS),
    ("status_get", EVERYBODY),
    ("tenant_add_group", ADMINS),
    ("tenant_add_user", ADMINS),
    ("tenant_create", ADMINS),
    ("tenant_delete", ADMINS),
    ("tenant_get", OPERATORS),
    ("tenant_list", EVERYBODY),
    ("tenant_list_get_data", ADMINS),
    ("tenant_rabbitmq_credentials", OPERATORS),
    ("tenant_remove_group", ADMINS),
    ("tenant_remove_user", ADMINS),
    ("tenant_update_group", ADMINS),
    ("tenant_update_user", ADMINS),
    ("token_get", EVERYBODY),
    ("user_create", ADMINS),
    ("user_delete", ADMINS),
    ("user_get", ADMINS),
    ("user_get_self", EVERYBODY),
    ("user_group_add_user", ADMINS),
    ("user_group_create", ADMINS),
    ("user_group_delete", ADMINS),
    ("user_group_get", ADMINS),
    ("user_group_list", ADMINS),
    ("user_group_remove_user", ADMINS),
    ("user_group_update", ADMINS),
    ("user_list", ADMINS),
    ("user_set_activated", ADMINS),
    ("user_token", ADMINS),
    ("user_unlock", ADMINS),
    ("user_update", ADMINS),
    ("version_get", EVERYBODY),
    ("widget_custom_admin", MANAGERS),
];

/// Whether one of the roles holds the permission. A permission that is not in the table is held by nobody but the
/// first administrator.
pub(crate) fn is_held(permission: &str, roles: &[&str]) -> bool {
    let row = PERMISSIONS.binary_search_by_key(&permission, |(name, _)| name);
    row.is_ok_and(|row| PERMISSIONS[row].1.iter().any(|role| roles.contains(role)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_known_roles() {
        assert!(PERMISSIONS.is_sorted_by_key(|(name, _)| name));
        let known = |role: &&str| ROLES.iter().any(|known| known.name == *role);
        assert!(PERMISSIONS.iter().all(|(_, roles)| roles.iter().all(known)));
    }

    #[test]
    fn roles_hold_what_the_table_says() {
        assert!(is_held("blueprint_upload", &["user"]));
        assert!(!is_held("blueprint_upload", &["operations"]));
        assert!(is_held("blueprint_list", &["viewer"]));
        assert!(!is_held("blueprint_list", &["default"]));
        assert!(!is_held("no_such_permission", &["sys_admin"]));
    }
}
