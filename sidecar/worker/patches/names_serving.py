"""Foreign names of devpi-server and pyramid that serving uses."""

from __future__ import annotations

from sidecar.worker.patches.patch import Patch

SERVING = (
    Patch(
        "main",
        ("serve",),
        "devpi-server's main runs in this process, with a server that can be drained instead of waitress.serve",
        "serving",
        {
            "devpi_server.main:_main": "(pluginmanager, argv)",
            "devpi_server.main:serve": "in wsgi_run",
            "waitress:serve": "(app, **kw)",
            "waitress.server:create_server": "(application, map, _start, _sock, _dispatcher, **kw)",
            "devpi_server.config:Config._secret_parameters": "",
            "devpi_server.config:Config.get_auth_secret": "(self)",
        },
    ),
    Patch(
        "nodeinfo",
        ("serve", "tools"),
        "devpi rewrites .nodeinfo at each start without fsync: after a power cut it may be empty",
        "nodeinfo",
        {
            "devpi_server.config:Config.write_nodeinfo": "(self)",
            "devpi_server.config:Config.nodeinfo": "",
            "devpi_server.config:Config.nodeinfo_path": "",
            "devpi_server.keyfs:.event_serial": "text of TxNotificationThread",
        },
    ),
    Patch(
        "durable",
        ("serve",),
        "devpi writes uploads, and SQLite ends commits, without fsync: a power cut can lose acknowledged uploads",
        "durable-files",
        {
            "devpi_server.filestore_fs:FSFactory.from_content": "(basedir, file_path_info, content_or_file)",
            "devpi_server.filestore_hash_hl:HashHLFactory.from_content": "(basedir, file_path_info, content_or_file)",
            "devpi_server.filestore_fs:DirtyFile.path": "in FSFactory.from_content",
            "devpi_server.filestore_fs:-tmp": "text of FSFactory.from_content",
        },
    ),
    Patch(
        "durable_commits",
        ("serve",),
        "a power cut can lose acknowledged commits; and after a commit fails on a full disk, no reader can connect",
        "sqlite-connections",
        {
            "devpi_server.keyfs_sqlite:BaseStorage._get_sqlconn_uri_kw": "(self, uri)",
            "devpi_server.keyfs_sqlite:BaseStorage.sqlpath": "in BaseStorage.__init__",
            "devpi_server.hookspecs:devpiserver_storage_backend": "(settings)",
            "devpi_server.config:storage": "in Config.storage",
            "devpi_server.keyfs_sqlite:?mode=": "text of BaseStorage.get_connection",
        },
    ),
    Patch(
        "unfinished",
        ("serve",),
        "after a kill, devpi never removes uncommitted files from +files",
        "durable-files",
        {
            "devpi_server.filestore:FileStore.get_file_entry": "(self, relpath)",
            "devpi_server.filestore:MutableFileEntry.validate": "(self, content_or_file)",
        },
    ),
    Patch(
        "mirrors",
        ("serve",),
        "devpi answers 404 for a project if the mirror's upstream fails, and clients install another version",
        "mirror-failures",
        {
            "devpi_server.model:BaseStage.op_sro_check_mirror_whitelist": "(self, opname, **kw)",
            "devpi_server.mirror:MirrorStage.get_simplelinks_perstage": "(self, project)",
            "devpi_server.mirror:MirrorStage._async_fetch_releaselinks": (
                "(self, newlinks_future, project, cache_serial, etag, _key_from_link)"
            ),
            "devpi_server.mirror:MirrorStage._update_simplelinks_in_future": "(self, newlinks_future, project, lock)",
            "devpi_server.mirror:MirrorStage.cache_retrieve_times": "",
            "devpi_server.mirror:MirrorStage.key_projsimplelinks": "(self, project)",
            "devpi_server.mirror:MirrorStage.timeout": "in MirrorStage.get_simplelinks_perstage",
            "devpi_server.main:XOM.create_task": "(self, coroutine)",
            "devpi_server.main:XOM.async_thread": "in XOM",
        },
    ),
    Patch(
        "mirror_client",
        ("serve",),
        "devpi's client for upstreams has no bounds, connects for each page, and follows redirects into the network",
        "mirror-client",
        {
            "devpi_server.mirror:MirrorStage.http": "",
            "devpi_server.mirror:MirrorHTTPClient.http": "in MirrorHTTPClient.async_get",
            "devpi_server.mirror:MirrorHTTPClient.async_get": "(self, url, *, allow_redirects, timeout, extra_headers)",
            "devpi_server.mirror:MirrorHTTPClient.stream": (
                "(self, cstack, method, url, *, allow_redirects, timeout, extra_headers)"
            ),
            "devpi_server.httpclient:FatalResponse": "(url, reason)",
            "devpi_server.views:should_fetch_remote_file": "(entry, headers)",
            "devpi_server.mirror:MirrorStage.mirror_url_authorization_header": "",
            "devpi_server.mirror:MirrorStage.mirror_url_without_auth": "",
            "devpi_server.mirror:SIMPLE_API_ACCEPT": "",
        },
    ),
    Patch(
        "mirror_serials",
        ("serve",),
        "after a change of mirror_url, devpi refuses pages with a lower X-PyPI-Last-Serial for ever",
        "mirror-serials",
        {"devpi_server.mirror:MirrorStage.ignore_serial_header": "in MirrorStage._async_fetch_releaselinks"},
    ),
    Patch(
        "mirror_list",
        ("serve",),
        "devpi holds an upstream's list of projects in memory, and takes a late or failed list for an empty one",
        "mirror-list",
        {
            "devpi_server.mirror:MirrorStage.has_project_perstage": "(self, project)",
            "devpi_server.mirror:MirrorStage.list_projects_perstage": "(self)",
            "devpi_server.mirror:MirrorStage._stale_list_projects_perstage": "(self)",
            "devpi_server.mirror:MirrorStage.is_project_cached": "(self, project)",
            "devpi_server.views:PyPIView.simple_list_all": "(self)",
        },
    ),
    Patch(
        "json",
        ("serve",),
        "devpi answers 500 and logs a traceback if a client's JSON has an unexpected type",
        "malformed-requests",
        {
            "devpi_server.views:getjson": "(request)",
            "devpi_server.views:abort": "(request, code, body)",
        },
    ),
    Patch(
        "admission",
        ("serve",),
        "anybody can request password checks, each of which takes 64 MiB and 0.2 s inside a transaction",
        "password-checks",
        {
            "devpi_server.auth:__devpiserver_user_validate_result": "text of Auth._validate",
            "devpi_server.auth:Auth.serializer": "in Auth.__init__",
            "devpi_server.auth:Auth.LOGIN_EXPIRATION": "",
            "devpi_server.view_auth:DevpiSecurityPolicy._get_credentials": "(self, request)",
            "devpi_server.view_auth:DevpiSecurityPolicy.auth": "in DevpiSecurityPolicy.__init__",
            "devpi_server.auth_basic:devpiserver_get_credentials": "(request)",
            "devpi_server.auth_devpi:devpiserver_get_credentials": "(request)",
            "devpi_server.views:tween_request_logging": "(handler, registry)",
            "devpi_server.views:tween_keyfs_transaction": "(handler, registry)",
            "pyramid.interfaces:ITweens": "",
            "pyramid.request:Request.POST": "",
        },
    ),
    Patch(
        "login_secret",
        ("serve",),
        "devpi reads its login secret once, but a changed password must invalidate earlier logins",
        "login-secret",
        {
            "devpi_server.config:Config.secret_path": "",
            "devpi_server.config:Config.basesecret": "",
            "devpi_server.config:args.secretfile": "in Config.secret_path",
            "devpi_server.config:Config._key_cache": "in Config.__init__",
        },
    ),
    Patch(
        "looks",
        ("serve",),
        "counting users, indexes and projects through devpi's caches would evict what clients need",
        "counting",
        {
            "devpi_server.keyfs:KeyFS.get_connection": "(self, closing, write, timeout)",
            "devpi_server.keyfs:KeyFS.get_current_serial": "(self)",
            "devpi_server.keyfs_sqlite:BaseConnection.db_read_typedkey": "(self, relpath)",
            "devpi_server.keyfs_sqlite:BaseConnection.db_read_last_changelog_serial": "(self)",
            "devpi_server.keyfs_sqlite:BaseConnection.get_raw_changelog_entry": "(self, serial)",
            "devpi_server.fileutil:loads": "(data)",
        },
    ),
    Patch(
        "repeats",
        ("serve",),
        "devpi's threads retry forever and log each attempt",
        "log",
        {
            "devpi_server.keyfs:[NOTI]": "text of TxNotificationThread",
            "devpi_server.replica:[REP]": "text of ReplicaThread",
            "devpi_server.replica:[FREP]": "text of FileReplicationThread",
        },
    ),
    Patch(
        "replica",
        ("serve",),
        "+status doesn't distinguish a primary that refuses from one that doesn't answer, and fails if a file failed",
        "replica-status",
        {
            "devpi_server.replica:ReplicaHTTPClient.stream": (
                "(self, cstack, method, url, *, allow_redirects, timeout, extra_headers)"
            ),
            "devpi_server.replica:ReplicationErrors": "()",
            "devpi_server.replica:ReplicationErrors.errors": "in ReplicationErrors.__init__",
            "devpi_server.replica:ReplicationErrors.add": "(self, error)",
            "devpi_server.replica:ReplicationErrors.remove": "(self, entry)",
            "devpi_server.replica:FileReplicationSharedData.ReplicationErrors": "in FileReplicationSharedData.__init__",
            "devpi_server.replica:Authorization malformed": "text of devpiserver_get_identity",
            "devpi_server.replica:Authorization expired": "text of devpiserver_get_identity",
            "devpi_server.replica:Replication protocol disabled": "text of PrimaryChangelogRequest",
            "devpi_server.replica:as primary_uuid": "text of PrimaryChangelogRequest",
            "devpi_server.replica:can only wait for next serial": "text of PrimaryChangelogRequest",
        },
    ),
    Patch(
        "changelog_waits",
        ("serve",),
        "a replica that waits for changes delays a stop by up to 30 s",
        "replica-waits",
        {
            "devpi_server.replica:PrimaryChangelogRequest._wait_for_serial": "(self, serial)",
            "devpi_server.replica:PrimaryChangelogRequest.MAX_REPLICA_BLOCK_TIME": "",
            "devpi_server.replica:PrimaryChangelogRequest.request": "in PrimaryChangelogRequest.__init__",
        },
        only_faster=True,
    ),
)

SEARCH_INDEX = Patch(
    "search_index",
    ("serve",),
    "a damaged search index ends devpi-server at each start, although it can be rebuilt",
    "search-index",
    {
        "devpi_web.main:get_indexer_from_config": "(config)",
        "devpi_web.whoosh_index:Index.ix": "(self, name)",
        "devpi_web.whoosh_index:Index.get_project_ix": "(self)",
        "devpi_web.whoosh_index:Index.query_projects": "(self, querystring, page)",
        "devpi_web.whoosh_index:Index.update_projects": "(self, projects, clear)",
        "devpi_web.whoosh_index:IndexerThread.tick": "(self)",
        "devpi_web.whoosh_index:IndexerThread.handler": "(self, is_from_mirror, serial, indexname, names)",
        "devpi_web.whoosh_index:IndexerThread.shared_data": "in IndexerThread.__init__",
        "devpi_web.whoosh_index:InitialQueueThread.thread_run": "(self)",
        "devpi_web.whoosh_index:IndexingSharedData.queue_projects": "(self, projects, at_serial, searcher)",
        "devpi_web.whoosh_index:iter_projects": "(xom, *, offline)",
    },
)
"""Optional like devpi-web: a miss is a warning, and the index isn't guarded."""
