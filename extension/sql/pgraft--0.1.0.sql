-- pgraft 0.1.0. This file must not change after the release. Later changes belong in an upgrade script (pgraft--0.1.0--<next>.sql).
\echo Use "CREATE EXTENSION pgraft" to load this file. \quit

-- Functions that change the cluster

CREATE FUNCTION pgraft_init() RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_init';
COMMENT ON FUNCTION pgraft_init() IS 'create a cluster with this server as its only member';

CREATE FUNCTION pgraft_add_node(node_id integer, address text, port integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_add_node';
COMMENT ON FUNCTION pgraft_add_node(integer, text, integer) IS 'add a node to the cluster; must run on the leader';

CREATE FUNCTION pgraft_remove_node(node_id integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_remove_node';
COMMENT ON FUNCTION pgraft_remove_node(integer) IS 'remove a node from the cluster permanently; must run on the leader';

CREATE FUNCTION pgraft_set_address(node_id integer, address text, port integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_set_address';
COMMENT ON FUNCTION pgraft_set_address(integer, text, integer) IS 'change the address of a member; must run on the leader';

CREATE FUNCTION pgraft_switchover(node_id integer) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_switchover';
COMMENT ON FUNCTION pgraft_switchover(integer) IS 'make another voter the primary; can run on any member';

CREATE FUNCTION pgraft_force_primary(node_id integer, accept_data_loss boolean DEFAULT false) RETURNS boolean
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'pgraft_force_primary';
COMMENT ON FUNCTION pgraft_force_primary(integer, boolean) IS
    'make a node the primary even though it may lack acknowledged writes; must run on the leader';

-- Functions that show the cluster

CREATE FUNCTION pgraft_get_leader() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgraft_get_leader_wrapper';
COMMENT ON FUNCTION pgraft_get_leader() IS 'node id of the Raft leader, or NULL if there is none';

CREATE FUNCTION pgraft_is_leader() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgraft_is_leader_wrapper';
COMMENT ON FUNCTION pgraft_is_leader() IS 'true if this node is the Raft leader';

CREATE FUNCTION pgraft_get_term() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'pgraft_get_term_wrapper';
COMMENT ON FUNCTION pgraft_get_term() IS 'current Raft term';

CREATE FUNCTION pgraft_get_nodes(OUT node_id integer, OUT address text, OUT port integer) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'pgraft_get_nodes_wrapper';
COMMENT ON FUNCTION pgraft_get_nodes() IS 'members of the cluster, including learners, as known to this node';

CREATE FUNCTION pgraft_status(
    OUT cluster_id uuid, OUT node_id integer, OUT state text, OUT term bigint, OUT leader integer, OUT epoch bigint,
    OUT primary_node integer, OUT commit_index bigint, OUT applied_index bigint, OUT gate text, OUT lease_remaining interval,
    OUT sync_standbys text, OUT sync_required integer, OUT voters integer, OUT quorum integer, OUT next_node_id integer
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'pgraft_status_wrapper';
COMMENT ON FUNCTION pgraft_status() IS 'status of this node and the cluster';

CREATE FUNCTION pgraft_failover(
    OUT phase text, OUT epoch bigint, OUT primary_node integer, OUT timeline integer, OUT step text, OUT waits_for integer[],
    OUT last_from integer, OUT last_to integer, OUT last_reason text, OUT last_began timestamptz, OUT last_ms bigint
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE ROWS 1 AS 'MODULE_PATHNAME', 'pgraft_failover_wrapper';
COMMENT ON FUNCTION pgraft_failover() IS 'state of failover on this node and the last change of the primary; no row if pgraft.failover is off';

CREATE FUNCTION pgraft_get_members(
    OUT node_id integer, OUT address text, OUT port integer, OUT role text, OUT is_leader boolean, OUT is_primary boolean,
    OUT reachable boolean, OUT last_contact interval, OUT match_index bigint, OUT lag_bytes bigint, OUT timeline integer,
    OUT flush_lsn pg_lsn, OUT zone text
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL SAFE ROWS 5 AS 'MODULE_PATHNAME', 'pgraft_get_members_wrapper';
COMMENT ON FUNCTION pgraft_get_members() IS 'members of the cluster with their state; use the view pgraft_members';

CREATE VIEW pgraft_members AS SELECT * FROM pgraft_get_members();
COMMENT ON VIEW pgraft_members IS 'members of the cluster with their state; reachable to flush_lsn are known to the leader only';

CREATE FUNCTION pgraft_log(
    OUT index bigint, OUT term bigint, OUT kind text, OUT data jsonb, OUT committed boolean, OUT applied_at timestamptz
) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'pgraft_log_wrapper';
COMMENT ON FUNCTION pgraft_log() IS 'latest entries of this node''s Raft log';

REVOKE EXECUTE ON FUNCTION pgraft_init(), pgraft_add_node(integer, text, integer), pgraft_remove_node(integer), pgraft_switchover(integer),
    pgraft_force_primary(integer, boolean), pgraft_failover(),
    pgraft_set_address(integer, text, integer), pgraft_get_nodes(), pgraft_status(), pgraft_get_members(), pgraft_log() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pgraft_get_nodes(), pgraft_status(), pgraft_failover(), pgraft_get_members(), pgraft_log() TO pg_monitor;
GRANT SELECT ON pgraft_members TO pg_monitor;
