-- The objects of the REST API (spec/rest-api.md, section 9), one view a resource: the columns that clients filter and sort
-- by, and the whole object as JSON with every documented key. Lists never touch a plan unless it is asked for.

CREATE FUNCTION api_time(at timestamptz) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

CREATE VIEW api_executions AS
SELECT e.id::text AS id, e.tenant_name, e.workflow_id, e.status, e.created_at, e.started_at, e.ended_at, e.scheduled_for,
    e.is_system_workflow, e.visibility, d.id AS deployment_id, coalesce(b.id, e.blueprint_id) AS blueprint_id,
    u.username AS created_by, e.error, e.is_dry_run,
    CASE e.status WHEN 'terminated' THEN 'completed' ELSE e.status END AS status_display,
    jsonb_build_object(
        'id', e.id, 'tenant_name', e.tenant_name, 'visibility', e.visibility, 'resource_availability', e.visibility,
        'private_resource', e.visibility = 'private', 'created_by', u.username, 'created_at', api_time(e.created_at),
        'workflow_id', e.workflow_id, 'deployment_id', d.id, 'deployment_display_name', d.display_name,
        'blueprint_id', coalesce(b.id, e.blueprint_id), 'status', e.status,
        'status_display', CASE e.status WHEN 'terminated' THEN 'completed' ELSE e.status END,
        'error', coalesce(e.error, ''), 'parameters', e.parameters, 'is_system_workflow', e.is_system_workflow,
        'started_at', api_time(e.started_at), 'ended_at', api_time(e.ended_at), 'scheduled_for', api_time(e.scheduled_for),
        'is_dry_run', e.is_dry_run, 'resume', e.resume, 'total_operations', e.total_operations,
        'finished_operations', e.finished_operations, 'allow_custom_parameters', e.allow_custom_parameters,
        'execution_group_id', NULL) AS object
FROM executions e
JOIN users u ON u.id = e.created_by
LEFT JOIN deployments d ON d.row_id = e.deployment_row_id
LEFT JOIN blueprints b ON b.row_id = d.blueprint_row_id;

CREATE VIEW api_blueprints AS
SELECT b.id, b.tenant_name, b.created_at, b.updated_at, b.visibility, b.state, u.username AS created_by, b.main_file_name,
    b.description,
    jsonb_build_object(
        'id', b.id, 'tenant_name', b.tenant_name, 'visibility', b.visibility, 'resource_availability', b.visibility,
        'private_resource', b.visibility = 'private', 'created_by', u.username, 'created_at', api_time(b.created_at),
        'updated_at', api_time(b.updated_at), 'main_file_name', b.main_file_name, 'description', b.description,
        'state', b.state, 'error', b.error, 'error_traceback', b.error_traceback, 'is_hidden', false, 'labels', b.labels,
        'requirements', NULL,
        'upload_execution', coalesce((SELECT x.object FROM api_executions x WHERE x.id = b.upload_execution_id::text), '{}')
    ) AS object
FROM blueprints b
JOIN users u ON u.id = b.created_by;

CREATE VIEW api_deployments AS
SELECT d.id, d.tenant_name, d.created_at, d.updated_at, d.visibility, d.display_name, d.site_name, b.id AS blueprint_id,
    u.username AS created_by, latest.status AS latest_execution_status,
    jsonb_build_object(
        'id', d.id, 'tenant_name', d.tenant_name, 'visibility', d.visibility, 'resource_availability', d.visibility,
        'private_resource', d.visibility = 'private', 'created_by', u.username, 'created_at', api_time(d.created_at),
        'updated_at', api_time(d.updated_at), 'blueprint_id', b.id, 'display_name', d.display_name,
        'description', d.description, 'inputs', d.inputs, 'outputs', d.outputs, 'capabilities', d.capabilities,
        'workflows', d.workflows, 'groups', d.groups, 'scaling_groups', d.scaling_groups,
        'policy_types', d.policy_types, 'policy_triggers', d.policy_triggers, 'permalink', NULL,
        'runtime_only_evaluation', d.runtime_only_evaluation, 'site_name', d.site_name, 'labels', d.labels,
        'resource_tags', d.resource_tags, 'deployment_groups', '[]'::jsonb,
        'installation_status', CASE WHEN instances.active THEN 'active' ELSE 'inactive' END,
        'deployment_status', CASE
            WHEN latest.status IN ('pending', 'started', 'queued', 'scheduled', 'cancelling', 'force_cancelling',
                'kill_cancelling') THEN 'in_progress'
            WHEN latest.status = 'failed' OR NOT instances.active THEN 'requires_attention'
            ELSE 'good' END,
        'latest_execution', latest.id, 'latest_execution_workflow_id', latest.workflow_id,
        'latest_execution_status', CASE latest.status
            WHEN 'terminated' THEN 'completed' WHEN 'failed' THEN 'failed' WHEN 'cancelled' THEN 'cancelled'
            ELSE CASE WHEN latest.status IS NULL THEN NULL ELSE 'in_progress' END END,
        'latest_execution_total_operations', latest.total_operations,
        'latest_execution_finished_operations', latest.finished_operations,
        'create_execution', d.create_execution_id, 'sub_services_status', NULL, 'sub_environments_status', NULL,
        'sub_services_count', 0, 'sub_environments_count', 0, 'environment_type', '', 'has_sub_deployments', false,
        'drifted_instances', 0, 'unavailable_instances', 0, 'workdir_zip', NULL) AS object
FROM deployments d
JOIN blueprints b ON b.row_id = d.blueprint_row_id
JOIN users u ON u.id = d.created_by
LEFT JOIN LATERAL (
    SELECT e.* FROM executions e WHERE e.deployment_row_id = d.row_id ORDER BY e.created_at DESC LIMIT 1) latest ON true
CROSS JOIN LATERAL (
    SELECT coalesce(bool_and(i.state = 'started'), false) AS active
    FROM node_instances i WHERE i.deployment_row_id = d.row_id) instances;

CREATE VIEW api_nodes AS
SELECT n.id, d.tenant_name, d.id AS deployment_id, b.id AS blueprint_id, n.type, n.host_id, n.position, d.created_at,
    d.visibility, u.username AS created_by, n.number_of_instances,
    jsonb_build_object(
        'id', n.id, 'tenant_name', d.tenant_name, 'visibility', d.visibility, 'resource_availability', d.visibility,
        'private_resource', d.visibility = 'private', 'created_by', u.username, 'deployment_id', d.id,
        'deployment_display_name', d.display_name, 'blueprint_id', b.id, 'type', n.type,
        'type_hierarchy', n.type_hierarchy, 'host_id', n.host_id, 'properties', n.properties,
        'operations', n.operations, 'plugins', n.plugins, 'plugins_to_install', n.plugins_to_install,
        'relationships', n.relationships, 'number_of_instances', n.number_of_instances,
        'planned_number_of_instances', n.planned_number_of_instances,
        'deploy_number_of_instances', n.deploy_number_of_instances,
        'min_number_of_instances', n.min_number_of_instances, 'max_number_of_instances', n.max_number_of_instances,
        'actual_number_of_instances', (SELECT count(*) FROM node_instances i
            WHERE i.deployment_row_id = n.deployment_row_id AND i.node_id = n.id),
        'actual_planned_number_of_instances', n.planned_number_of_instances, 'drifted_instances', 0,
        'unavailable_instances', 0) AS object
FROM nodes n
JOIN deployments d ON d.row_id = n.deployment_row_id
JOIN blueprints b ON b.row_id = d.blueprint_row_id
JOIN users u ON u.id = d.created_by;

CREATE VIEW api_node_instances AS
SELECT i.id, i.tenant_name, d.id AS deployment_id, i.node_id, i.host_id, i.state, i.index, i.version, d.created_at,
    d.visibility, u.username AS created_by,
    jsonb_build_object(
        'id', i.id, 'tenant_name', i.tenant_name, 'visibility', d.visibility, 'resource_availability', d.visibility,
        'private_resource', d.visibility = 'private', 'created_by', u.username, 'node_id', i.node_id,
        'deployment_id', d.id, 'host_id', i.host_id, 'state', i.state, 'version', i.version, 'index', i.index,
        'runtime_properties', i.runtime_properties, 'system_properties', i.system_properties,
        'relationships', i.relationships, 'scaling_groups', i.scaling_groups, 'is_status_check_ok', true,
        'has_configuration_drift', false) AS object
FROM node_instances i
JOIN deployments d ON d.row_id = i.deployment_row_id
JOIN users u ON u.id = d.created_by;

CREATE VIEW api_events AS
SELECT v.storage_id AS _storage_id, v.timestamp, v.reported_timestamp, v.type, v.event_type, v.logger, v.level, v.message,
    v.operation, v.node_instance_id, v.node_name, v.source_id, v.target_id, v.manager_name, v.agent_name, v.tenant_name,
    v.execution_id::text AS execution_id, NULL::text AS execution_group_id, d.id AS deployment_id, b.id AS blueprint_id,
    e.workflow_id, v.node_name AS node_id,
    jsonb_build_object(
        '_storage_id', v.storage_id, 'timestamp', api_time(v.timestamp),
        'reported_timestamp', api_time(v.reported_timestamp), 'type', v.type, 'message', v.message,
        'blueprint_id', coalesce(b.id, e.blueprint_id), 'deployment_id', d.id, 'deployment_display_name', d.display_name,
        'execution_id', v.execution_id, 'execution_group_id', NULL, 'workflow_id', e.workflow_id,
        'operation', v.operation, 'node_name', v.node_name, 'node_instance_id', v.node_instance_id,
        'source_id', v.source_id, 'target_id', v.target_id, 'error_causes', v.error_causes,
        'manager_name', v.manager_name, 'agent_name', v.agent_name)
    || CASE v.type
        WHEN 'cloudify_event' THEN jsonb_build_object('event_type', v.event_type)
        ELSE jsonb_build_object('logger', v.logger, 'level', v.level) END AS object
FROM events v
JOIN executions e ON e.id = v.execution_id
LEFT JOIN deployments d ON d.row_id = e.deployment_row_id
LEFT JOIN blueprints b ON b.row_id = d.blueprint_row_id;

CREATE VIEW api_tasks_graphs AS
SELECT g.id::text AS id, g.name, g.created_at, g.execution_id::text AS execution_id, e.tenant_name,
    jsonb_build_object('id', g.id, 'name', g.name, 'execution_id', g.execution_id, 'created_at', api_time(g.created_at),
        'tenant_name', e.tenant_name) AS object
FROM tasks_graphs g
JOIN executions e ON e.id = g.execution_id;

CREATE VIEW api_operations AS
SELECT o.id::text AS id, o.name, o.state, o.type, o.position, o.created_at, g.id::text AS graph_id,
    g.execution_id::text AS execution_id, e.tenant_name,
    jsonb_build_object('id', o.id, 'name', o.name, 'state', o.state, 'type', o.type, 'dependencies', to_jsonb(o.dependencies),
        'parameters', o.parameters, 'tasks_graph_id', g.id, 'manager_name', o.manager_name, 'agent_name', o.agent_name,
        'created_at', api_time(o.created_at), 'tenant_name', e.tenant_name) AS object
FROM operations o
JOIN tasks_graphs g ON g.id = o.tasks_graph_id
JOIN executions e ON e.id = g.execution_id;

CREATE VIEW api_tenants AS
SELECT t.name, t.created_at,
    jsonb_build_object('name', t.name, 'groups', 0,
        'users', (SELECT count(*) FROM tenant_users m WHERE m.tenant_name = t.name), 'user_roles', NULL,
        'rabbitmq_vhost', NULL, 'rabbitmq_username', NULL, 'rabbitmq_password', NULL) AS object
FROM tenants t;

CREATE VIEW api_users AS
SELECT u.username, u.role, u.created_at, u.active, u.id,
    jsonb_build_object('username', u.username, 'role', u.role, 'active', u.active,
        'tenants', (SELECT count(*) FROM tenant_users m WHERE m.user_id = u.id), 'tenant_roles', NULL, 'groups', 0,
        'group_system_roles', '{}'::jsonb, 'created_at', api_time(u.created_at),
        'first_login_at', api_time(u.first_login_at), 'last_login_at', api_time(u.last_login_at),
        'is_locked', coalesce(u.locked_until > now(), false), 'show_getting_started', false,
        'password_hash', NULL) AS object
FROM users u;

CREATE VIEW api_tokens AS
SELECT t.id, u.username, t.created_at,
    jsonb_build_object('id', t.id, 'username', u.username, 'value', 'ctok-' || t.id || '-********', 'role', u.role,
        'expiration_date', api_time(t.expires_at), 'last_used', api_time(t.last_used_at),
        'description', t.description) AS object
FROM tokens t
JOIN users u ON u.id = t.user_id;
